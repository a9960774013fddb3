//! Pure index: Kubernetes objects in, dataplane configuration out, no I/O.
