//! All that Podplane does to the node's kernel network: links, addresses, routes, rules, neighbours, namespaces, ingress drop, take-over.
