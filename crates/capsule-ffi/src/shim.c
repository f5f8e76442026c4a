#include <assert.h>
#include <stddef.h>

#include "shim.h"

/* lib.rs writes struct rte_mbuf down by hand: this is what it relies on. */
#define AT(field, offset) static_assert(offsetof(struct rte_mbuf, field) == (offset), "struct rte_mbuf: " #field)
AT(buf_addr, 0);
AT(data_off, 16);
AT(refcnt, 18);
AT(nb_segs, 20);
AT(port, 22);
AT(ol_flags, 24);
AT(packet_type, 32);
AT(pkt_len, 36);
AT(data_len, 40);
AT(vlan_tci, 42);
AT(buf_len, 54);
AT(pool, 56);
static_assert(sizeof(struct rte_mbuf) == 128, "struct rte_mbuf: size");

/* And the constants that bindgen cannot evaluate. */
static_assert(RTE_ETH_MQ_RX_RSS == 1, "RTE_ETH_MQ_RX_RSS");
static_assert(RTE_ETH_RSS_IP == 0xa38c, "RTE_ETH_RSS_IP");
static_assert(RTE_ETH_RSS_TCP == 0x10410, "RTE_ETH_RSS_TCP");
static_assert(RTE_ETH_RSS_UDP == 0x20820, "RTE_ETH_RSS_UDP");
static_assert(RTE_ETH_RSS_SCTP == 0x1040, "RTE_ETH_RSS_SCTP");

int _rte_errno(void) {
    return rte_errno;
}

struct rte_mbuf *_rte_pktmbuf_alloc(struct rte_mempool *pool) {
    return rte_pktmbuf_alloc(pool);
}

void _rte_pktmbuf_free(struct rte_mbuf *mbuf) {
    rte_pktmbuf_free(mbuf);
}

int _rte_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned count) {
    return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

/* capsule calls this for mbufs that a full queue refused, and would put them back as they are, with the reference
 * count and the segments of their last use: the next user would find them so. They are freed properly instead. */
void _rte_mempool_put_bulk(struct rte_mempool *pool, void *const *objects, unsigned count) {
    (void)pool;
    rte_pktmbuf_free_bulk((struct rte_mbuf **)(uintptr_t)objects, count);
}

uint16_t _rte_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count) {
    return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t _rte_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count) {
    return rte_eth_tx_burst(port, queue, mbufs, count);
}

unsigned _rte_lcore_id(void) {
    return rte_lcore_id();
}
