/* DPDK's inline functions under names that can be linked. */
#include "shim.h"

int shim_errno(void) { return rte_errno; }

unsigned int shim_lcore_id(void) { return rte_lcore_id(); }

uint64_t shim_tsc(void) { return rte_rdtsc(); }

struct rte_mbuf *shim_pktmbuf_alloc(struct rte_mempool *pool) { return rte_pktmbuf_alloc(pool); }

int shim_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

static void flush_cache(struct rte_mempool *pool, void *arg)
{
	struct rte_mempool_cache *cache = rte_mempool_default_cache(pool, rte_lcore_id());

	(void)arg;
	if (cache != NULL)
		rte_mempool_cache_flush(cache, pool);
}

void shim_flush_caches(void) { rte_mempool_walk(flush_cache, NULL); }

void shim_pktmbuf_free(struct rte_mbuf *mbuf) { rte_pktmbuf_free(mbuf); }

void shim_pktmbuf_attach(struct rte_mbuf *indirect, struct rte_mbuf *direct) { rte_pktmbuf_attach(indirect, direct); }

uint64_t shim_tso_fields(const struct rte_mbuf *mbuf)
{
	return (uint64_t)mbuf->l2_len << 48 | (uint64_t)mbuf->l3_len << 32 | (uint64_t)mbuf->l4_len << 16 | mbuf->tso_segsz;
}

uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}
