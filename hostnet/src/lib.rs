//! All that Podplane does to the node's kernel network: links, addresses, routes, rules, neighbours, namespaces,
//! sysctls, offloads, ingress drop, the routes and rules of the node's own traffic, and the take-over of an uplink.
//!
//! Everything is synchronous and speaks netlink itself: no `ip`, `ethtool` or `nft` is executed, so nothing but the
//! kernel must be present, and the errors are the kernel's own words.
//!
//! A [`Netlink`] handle belongs to the namespace it was opened in ([`Netlink::open`], [`Netlink::open_in`]) and may be
//! used from any thread; sysctls ([`sysctl`]) and [`ingress_drop`] act in the caller's namespace: see [`Netns::run`].
#![forbid(unsafe_code)]

pub mod addresses;
mod error;
pub mod ethtool;
pub mod events;
pub mod ingress_drop;
pub mod links;
mod mac;
pub mod neighbours;
mod netlink;
pub mod netns;
pub mod node_routes;
pub mod node_rules;
mod raw;
pub mod reserved_ports;
pub mod routes;
pub mod rules;
pub mod sysctl;
pub mod takeover;

pub use addresses::Address;
pub use error::{Error, Result};
pub use links::{Link, LinkChange, Peer, Veth};
pub use mac::{parse_mac, random_mac};
pub use neighbours::{NeighState, Neighbour};
pub use netlink::Netlink;
pub use netns::Netns;
pub use podplane_packet::id::Mac;
pub use routes::{NextHop, Route};
pub use rules::Rule;
