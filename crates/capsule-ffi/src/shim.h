/* What capsule and baton call of DPDK. Its inline functions have no symbol to link to: shim.c gives them one. */

#include <numa.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* The names that capsule 0.1.5 asks for. */
int _rte_errno(void);
struct rte_mbuf *_rte_pktmbuf_alloc(struct rte_mempool *pool);
void _rte_pktmbuf_free(struct rte_mbuf *mbuf);
int _rte_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned count);
void _rte_mempool_put_bulk(struct rte_mempool *pool, void *const *objects, unsigned count);
uint16_t _rte_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t _rte_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/* Of baton. */
unsigned _rte_lcore_id(void);
uint16_t _rte_pktmbuf_segment_size(const struct rte_mbuf *mbuf);
int _rte_pktmbuf_unfinished(const struct rte_mbuf *mbuf);
const void *_rte_pktmbuf_read(const struct rte_mbuf *mbuf, uint32_t offset, uint32_t len, void *into);
void _rte_pktmbuf_join(struct rte_mbuf *head, struct rte_mbuf *last, struct rte_mbuf *next, uint16_t headers);
void _rte_pktmbuf_part(struct rte_mbuf *mbuf, uint16_t headers);
void _rte_pktmbuf_to_segment(struct rte_mbuf *mbuf, uint16_t l2, uint16_t l3, uint16_t l4, uint16_t size);
