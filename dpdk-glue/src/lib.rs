//! A safe layer over DPDK: EAL, mempool, mbuf, ethdev, timers.
