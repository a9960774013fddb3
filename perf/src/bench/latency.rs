//! Round trips of one byte against the kernel's own way.

use anyhow::Result;

use super::Lab;
use crate::netns::{Kernel, SERVER};
use crate::rr::{Protocol, Server, median};
use crate::versus::{Comparison, Plan, Side, compare};

/// Round trips in one measurement.
const TRIPS: usize = 2000;

struct Trips<T> {
    server: Option<Server>,
    _alive: T,
    client: String,
    address: String,
    protocol: Protocol,
}

impl<T> Side for Trips<T> {
    fn measure(&mut self) -> Result<f64> {
        median(&self.client, &self.address, self.protocol, TRIPS)
    }
}

impl<T> Drop for Trips<T> {
    fn drop(&mut self) {
        // Before its namespace goes.
        self.server.take();
    }
}

/// Pods of one node (`nodes` 1) or of two, IPv4, against the kernel's bridge or VXLAN.
pub fn round_trip(nodes: u8, protocol: Protocol, plan: Plan, args: &[&str]) -> Result<Comparison> {
    let place = if nodes == 1 { "on one node" } else { "across nodes" };
    let name = format!("{} round trip of one byte {place}", protocol.name().to_uppercase());
    let start_ours = || {
        let lab = Lab::up("bench", &[&["--nodes", &nodes.to_string()], args].concat())?;
        let (client, server) = (lab.pod("default/client", 1)?, lab.pod("default/server", nodes)?);
        let [address, _] = server.addresses;
        Ok(Trips { server: Some(Server::start(&server.netns)?), _alive: lab, client: client.netns, address, protocol })
    };
    let start_peer = || {
        let kernel = if nodes == 1 { Kernel::bridge("bench-k", 1450)? } else { Kernel::vxlan("bench-k", 1500)? };
        let (client, server) = (kernel.a.name().to_owned(), Some(Server::start(kernel.b.name())?));
        Ok(Trips { server, _alive: kernel, client, address: SERVER[0].to_owned(), protocol })
    };
    compare(&name, "us", plan, start_ours, start_peer)
}
