//! The CNI plugin: wires a pod's namespace to the dataplane.
