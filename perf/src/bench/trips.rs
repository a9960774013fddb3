//! Round trips through a Service against the kernel's nftables: a byte on a connection that is there, and on one that is
//! opened for it.

use std::net::IpAddr;

use anyhow::Result;

use super::Family;
use super::through::{CLIENT_POD, Place, counted, start_kernel, start_ours};
use crate::node::Start;
use crate::rr::{Protocol, Server, median};
use crate::services::{SERVER_POD, measured_address};
use crate::versus::{Comparison, Plan, Side, compare};

/// Round trips in one measurement.
const TRIPS: usize = 2000;

/// A side; the server goes before its namespace.
struct Trips<P> {
    _server: Server,
    place: P,
    address: IpAddr,
    family: Family,
    protocol: Protocol,
}

impl<P: Place> Trips<P> {
    fn start(place: P, family: Family, protocol: Protocol) -> Result<Self> {
        let server = Server::start(place.pod(SERVER_POD)?.name())?;
        Ok(Trips { _server: server, place, address: measured_address(family), family, protocol })
    }
}

impl<P: Place> Side for Trips<P> {
    fn measure(&mut self) -> Result<f64> {
        let client = self.place.pod(CLIENT_POD)?.name();
        let connections = if self.protocol == Protocol::Connect { TRIPS as u64 } else { 1 };
        let trips = || median(client, &self.address.to_string(), self.protocol, TRIPS);
        counted(&self.place, self.family, connections, trips)
    }
}

/// The median round trip in microseconds, from pod to ClusterIP to pod on one node; `protocol` is [`Protocol::Tcp`] or
/// [`Protocol::Connect`].
pub fn through_service(family: Family, protocol: Protocol, plan: Plan, start: Start) -> Result<Comparison> {
    let what = match protocol {
        Protocol::Connect => "connection, byte and close",
        Protocol::Tcp | Protocol::Udp => "round trip of one byte",
    };
    let name = format!("{what} through a Service, {}", family.name());
    let ours = || Trips::start(start_ours(family, start)?, family, protocol);
    let kernel = || Trips::start(start_kernel(family)?, family, protocol);
    compare(&name, "us", plan, ours, kernel)
}
