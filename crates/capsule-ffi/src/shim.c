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
static_assert(
    (RTE_ETH_RX_OFFLOAD_UDP_CKSUM | RTE_ETH_RX_OFFLOAD_TCP_CKSUM | RTE_ETH_RX_OFFLOAD_TCP_LRO) == 0x1c, "RX_OFFLOADS");
static_assert(
    (RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_TSO | RTE_ETH_TX_OFFLOAD_MULTI_SEGS) == 0x8028, "TX_OFFLOADS");

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

/* Of a packet received: how much data each segment that it is to be cut into has; 0 if it is to stay as it is. */
uint16_t _rte_pktmbuf_segment_size(const struct rte_mbuf *mbuf) {
    return mbuf->ol_flags & RTE_MBUF_F_RX_LRO ? mbuf->tso_segsz : 0;
}

/* Whether it came without its TCP or UDP checksum. */
int _rte_pktmbuf_unfinished(const struct rte_mbuf *mbuf) {
    return (mbuf->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_NONE;
}

const void *_rte_pktmbuf_read(const struct rte_mbuf *mbuf, uint32_t offset, uint32_t len, void *into) {
    return rte_pktmbuf_read(mbuf, offset, len, into);
}

/* Appends a packet of one segment, without its first bytes, to those of `head`, of which `last` is the last. */
void _rte_pktmbuf_join(struct rte_mbuf *head, struct rte_mbuf *last, struct rte_mbuf *next, uint16_t headers) {
    next->data_off += headers;
    next->data_len -= headers;
    last->next = next;
    head->nb_segs++;
    head->pkt_len += next->data_len;
}

/* Makes one of several segments a packet of its own again, with the bytes that it has lost. */
void _rte_pktmbuf_part(struct rte_mbuf *mbuf, uint16_t headers) {
    mbuf->data_off -= headers;
    mbuf->data_len += headers;
    mbuf->next = NULL;
    mbuf->nb_segs = 1;
    mbuf->pkt_len = mbuf->data_len;
    mbuf->ol_flags = 0;
}

/* To be sent as segments of TCP over IPv4 with so much data; the lengths are those of its headers. */
void _rte_pktmbuf_to_segment(struct rte_mbuf *mbuf, uint16_t l2, uint16_t l3, uint16_t l4, uint16_t size) {
    mbuf->ol_flags = RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_TCP_CKSUM;
    mbuf->l2_len = l2;
    mbuf->l3_len = l3;
    mbuf->l4_len = l4;
    mbuf->tso_segsz = size;
}
