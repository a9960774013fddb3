//! Podplane's packet path: the graph, its nodes and every drop reason; knows no device.
