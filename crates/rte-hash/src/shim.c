#include <rte_hash.h>
#include <rte_hash_crc.h>

/* CRC32 in hardware: the fastest hash that the library has. Keys are 16 bytes, which it compares in one instruction. */
struct rte_hash *baton_rte_hash_create(const char *name, uint32_t entries, int lock_free)
{
	struct rte_hash_parameters parameters = {
		.name = name,
		.entries = entries,
		.key_len = 16,
		.hash_func = rte_hash_crc,
		.socket_id = SOCKET_ID_ANY,
		.extra_flag = lock_free ? RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF : 0,
	};
	return rte_hash_create(&parameters);
}
