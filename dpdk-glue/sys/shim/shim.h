/* The headers that are bound, and what bindgen cannot see in them: inline functions and computed constants. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <rte_acl.h>
#include <rte_bus.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_devargs.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_hash.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_thread.h>
#include <rte_version.h>
#include <rte_vect.h>
#include <rte_vhost.h>

int shim_errno(void);
unsigned int shim_lcore_id(void);
uint64_t shim_tsc(void);

struct rte_mbuf *shim_pktmbuf_alloc(struct rte_mempool *pool);
int shim_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count);
/* Returns to their rings what the calling lcore holds in the caches of all mempools. */
void shim_flush_caches(void);

void shim_pktmbuf_free(struct rte_mbuf *mbuf);
void shim_pktmbuf_attach(struct rte_mbuf *indirect, struct rte_mbuf *direct);

/* l2_len, l3_len, l4_len and tso_segsz as C reads them, 16 bits each: a test holds the Rust layout against it. */
uint64_t shim_tso_fields(const struct rte_mbuf *mbuf);

/* One burst through DPDK's own inline functions: what the Rust bursts are measured against. */
uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/* Offsets of the fields that dpdk-glue's own layout must agree with. */
enum shim_mbuf_layout {
	SHIM_MBUF_SIZE = sizeof(struct rte_mbuf),
	SHIM_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	SHIM_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	SHIM_MBUF_REFCNT = offsetof(struct rte_mbuf, refcnt),
	SHIM_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	SHIM_MBUF_PORT = offsetof(struct rte_mbuf, port),
	SHIM_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	SHIM_MBUF_PACKET_TYPE = offsetof(struct rte_mbuf, packet_type),
	SHIM_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	SHIM_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	SHIM_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci),
	SHIM_MBUF_HASH_RSS = offsetof(struct rte_mbuf, hash.rss),
	SHIM_MBUF_VLAN_TCI_OUTER = offsetof(struct rte_mbuf, vlan_tci_outer),
	SHIM_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	SHIM_MBUF_POOL = offsetof(struct rte_mbuf, pool),
	SHIM_MBUF_NEXT = offsetof(struct rte_mbuf, next),
	SHIM_MBUF_TX_OFFLOAD = offsetof(struct rte_mbuf, tx_offload),
	SHIM_MBUF_SHINFO = offsetof(struct rte_mbuf, shinfo),
	SHIM_MBUF_PRIV_SIZE = offsetof(struct rte_mbuf, priv_size),
	SHIM_MBUF_DYNFIELD1 = offsetof(struct rte_mbuf, dynfield1),
};

/* tx_offload is a word of bit fields: their widths, low bits first. */
enum shim_tx_offload_bits {
	SHIM_L2_LEN_BITS = RTE_MBUF_L2_LEN_BITS,
	SHIM_L3_LEN_BITS = RTE_MBUF_L3_LEN_BITS,
	SHIM_L4_LEN_BITS = RTE_MBUF_L4_LEN_BITS,
	SHIM_TSO_SEGSZ_BITS = RTE_MBUF_TSO_SEGSZ_BITS,
	SHIM_OUTL3_LEN_BITS = RTE_MBUF_OUTL3_LEN_BITS,
	SHIM_OUTL2_LEN_BITS = RTE_MBUF_OUTL2_LEN_BITS,
};

/* Macros with casts or RTE_BIT64, which bindgen leaves out. */
#define SHIM_U64(name) static const uint64_t SHIM_##name = RTE_##name
SHIM_U64(MBUF_F_RX_VLAN);
SHIM_U64(MBUF_F_RX_VLAN_STRIPPED);
SHIM_U64(MBUF_F_RX_RSS_HASH);
SHIM_U64(MBUF_F_RX_IP_CKSUM_MASK);
SHIM_U64(MBUF_F_RX_IP_CKSUM_GOOD);
SHIM_U64(MBUF_F_RX_IP_CKSUM_BAD);
SHIM_U64(MBUF_F_RX_L4_CKSUM_MASK);
SHIM_U64(MBUF_F_RX_L4_CKSUM_GOOD);
SHIM_U64(MBUF_F_RX_L4_CKSUM_BAD);
SHIM_U64(MBUF_F_RX_L4_CKSUM_NONE);
SHIM_U64(MBUF_F_RX_LRO);
SHIM_U64(MBUF_F_TX_VLAN);
SHIM_U64(MBUF_F_TX_IPV4);
SHIM_U64(MBUF_F_TX_IPV6);
SHIM_U64(MBUF_F_TX_IP_CKSUM);
SHIM_U64(MBUF_F_TX_L4_MASK);
SHIM_U64(MBUF_F_TX_TCP_CKSUM);
SHIM_U64(MBUF_F_TX_UDP_CKSUM);
SHIM_U64(MBUF_F_TX_SCTP_CKSUM);
SHIM_U64(MBUF_F_TX_TCP_SEG);
SHIM_U64(MBUF_F_TX_UDP_SEG);
SHIM_U64(MBUF_F_TX_OUTER_IPV4);
SHIM_U64(MBUF_F_TX_OUTER_IPV6);
SHIM_U64(MBUF_F_TX_OUTER_IP_CKSUM);
SHIM_U64(MBUF_F_TX_TUNNEL_VXLAN);
SHIM_U64(MBUF_F_INDIRECT);
SHIM_U64(MBUF_F_EXTERNAL);
SHIM_U64(ETH_RX_OFFLOAD_VLAN_STRIP);
SHIM_U64(ETH_RX_OFFLOAD_IPV4_CKSUM);
SHIM_U64(ETH_RX_OFFLOAD_UDP_CKSUM);
SHIM_U64(ETH_RX_OFFLOAD_TCP_CKSUM);
SHIM_U64(ETH_RX_OFFLOAD_TCP_LRO);
SHIM_U64(ETH_RX_OFFLOAD_SCATTER);
SHIM_U64(ETH_RX_OFFLOAD_RSS_HASH);
SHIM_U64(ETH_TX_OFFLOAD_VLAN_INSERT);
SHIM_U64(ETH_TX_OFFLOAD_IPV4_CKSUM);
SHIM_U64(ETH_TX_OFFLOAD_UDP_CKSUM);
SHIM_U64(ETH_TX_OFFLOAD_TCP_CKSUM);
SHIM_U64(ETH_TX_OFFLOAD_SCTP_CKSUM);
SHIM_U64(ETH_TX_OFFLOAD_TCP_TSO);
SHIM_U64(ETH_TX_OFFLOAD_UDP_TSO);
SHIM_U64(ETH_TX_OFFLOAD_OUTER_IPV4_CKSUM);
SHIM_U64(ETH_TX_OFFLOAD_VXLAN_TNL_TSO);
SHIM_U64(ETH_TX_OFFLOAD_MULTI_SEGS);
SHIM_U64(ETH_TX_OFFLOAD_MBUF_FAST_FREE);
SHIM_U64(ETH_RSS_IP);
SHIM_U64(ETH_RSS_TCP);
SHIM_U64(ETH_RSS_UDP);
SHIM_U64(ETH_RSS_SCTP);
