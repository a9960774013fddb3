//! The node agent: Kubernetes objects in, dataplane configuration out; IPAM and the CNI server.
