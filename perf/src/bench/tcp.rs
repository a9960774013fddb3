//! One TCP stream between two pods, of a node and of two nodes, against the kernel's own way.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Context, Result};

use super::{Family, Lab, Pod};
use crate::iperf::{Server, stream};
use crate::netns::{Kernel, SERVER};
use crate::stats::Summary;
use crate::versus::{Comparison, Plan, Side, compare};

/// How to stream.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Addresses of that family.
    pub family: Family,
    /// Length of each stream.
    pub seconds: u32,
}

/// Gbit for each CPU-second of the machine, of all streams of a side.
type PerCpu = Rc<RefCell<Vec<f64>>>;

/// A stream between two namespaces; what `T` holds keeps them alive.
struct Stream<T> {
    server: Option<Server>,
    _alive: T,
    client: String,
    address: String,
    seconds: u32,
    per_cpu: PerCpu,
}

impl<T> Stream<T> {
    fn start(alive: T, client: &str, server: &str, address: &str, how: How, per_cpu: PerCpu) -> Result<Self> {
        let server = Some(Server::start(server, 0)?);
        let (client, address) = (client.to_owned(), address.to_owned());
        Ok(Stream { server, _alive: alive, client, address, seconds: how.seconds, per_cpu })
    }
}

impl<T> Side for Stream<T> {
    fn measure(&mut self) -> Result<f64> {
        let got = stream(&self.client, &self.address, 1, self.seconds)?;
        self.per_cpu.borrow_mut().push(got.gbits_per_cpu);
        Ok(got.gbits)
    }
}

impl<T> Drop for Stream<T> {
    fn drop(&mut self) {
        // Before its namespace goes.
        self.server.take();
    }
}

/// What a comparison of streams gave.
#[derive(Debug)]
pub struct Streams {
    /// Gbit/s by the wall's clock.
    pub wall: Comparison,
    /// Gbit for each CPU-second of the whole machine: our median and the peer's.
    pub per_cpu: [f64; 2],
}

/// Two pods of one node against veth and a kernel bridge.
pub fn local(how: How, plan: Plan, args: &[&str]) -> Result<Streams> {
    let name = format!("TCP between pods of a node, {}", how.family.name());
    versus(&name, how, plan, 1, &[&["--nodes", "1"], args].concat(), || Kernel::bridge("bench-k", 1450))
}

/// Two pods of two nodes over `uplink` against the kernel's VXLAN on the same kind of veths.
pub fn remote(how: How, uplink: &str, plan: Plan, args: &[&str]) -> Result<Streams> {
    let name = format!("TCP between nodes over {uplink}, {}", how.family.name());
    let args = [&["--nodes", "2", "--uplink", uplink], args].concat();
    versus(&name, how, plan, 2, &args, || Kernel::vxlan("bench-k", 1500))
}

fn versus(
    name: &str,
    how: How,
    plan: Plan,
    server_node: u8,
    args: &[&str],
    start_kernel: impl Fn() -> Result<Kernel>,
) -> Result<Streams> {
    let (ours, peer) = (PerCpu::default(), PerCpu::default());
    let start_ours = || {
        let lab = Lab::up("bench", args)?;
        let (client, server) = (lab.pod("default/client", 1)?, lab.pod("default/server", server_node)?);
        let Pod { netns, addresses } = server;
        Stream::start(lab, &client.netns, &netns, &addresses[how.family.index()], how, ours.clone())
    };
    let start_peer = || {
        let kernel = start_kernel()?;
        let (client, server) = (kernel.a.name().to_owned(), kernel.b.name().to_owned());
        Stream::start(kernel, &client, &server, SERVER[how.family.index()], how, peer.clone())
    };
    let wall = compare(name, "Gbit/s", plan, start_ours, start_peer)?;
    let median = |values: &PerCpu| Summary::of(&values.borrow()).map(|s| s.median).context("no CPU time");
    Ok(Streams { wall, per_cpu: [median(&ours)?, median(&peer)?] })
}
