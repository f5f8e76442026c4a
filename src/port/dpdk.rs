//! Ports on DPDK's queues, set up through capsule.
