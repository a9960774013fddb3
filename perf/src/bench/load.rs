//! How long it takes until ten thousand Services are in force.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Family;
use super::through::CLIENT_POD;
use crate::flood::{self, flood};
use crate::netns::Netns;
use crate::node::{Node, Start, pod_addresses};
use crate::routed;
use crate::services::{MEASURED, PORTS, SERVER_POD, SERVICES, measured, measured_address, others, short_rules};
use crate::stats::Summary;

/// Services of the first, smaller load of the kernel.
const FEW: u32 = 1000;

/// What loading took.
#[derive(Debug)]
pub struct Loaded {
    /// Seconds from the first message until every worker forwards by all 10,000 Services with 100,000 endpoints.
    pub seconds: Summary,
    /// How many Services nftables was given, and how long it took; `None`: longer than it was waited for.
    pub nftables: [(u32, Option<Duration>); 2],
}

/// Starts a dataplane as often as told and loads it in one transaction, IPv4; then loads nftables, for `within` at most.
pub fn load(starts: usize, within: Duration, start: Start) -> Result<Loaded> {
    let seconds = (0..starts).map(|_| once(start)).collect::<Result<Vec<f64>>>()?;
    let kernel = |services: u32| -> Result<(u32, Option<Duration>)> {
        let netns = Netns::new("bench-k")?;
        Ok((services, routed::load(&netns, &short_rules(Family::V4, services), within)?))
    };
    let nftables = [kernel(FEW)?, kernel(SERVICES)?];
    Ok(Loaded { seconds: Summary::of(&seconds).context("no start")?, nftables })
}

fn once(start: Start) -> Result<f64> {
    let mut node = Node::up("bench-o", 2, start)?;
    let mut objects = node.objects();
    objects.extend(others(Family::V4));
    objects.push(measured(Family::V4));
    let took = node.commit(true, objects)?;
    check(&node)?;
    Ok(took.as_secs_f64())
}

/// All are there, with their backends, and one of them answers.
fn check(node: &Node) -> Result<()> {
    let services = node.services()?;
    let frontends = SERVICES as usize - 1 + PORTS.len();
    if services.len() != frontends || services.iter().any(|service| service.inside.is_none()) {
        bail!("{} frontends are in force in place of {frontends}", services.len());
    }
    let port = PORTS[2].1;
    let server = flood::Server::start(node.pod(SERVER_POD)?, pod_addresses(SERVER_POD)[0], port)?;
    flood(node.pod(CLIENT_POD)?, SocketAddr::new(measured_address(Family::V4), port), &server, &node.threads()?, 0.1)?;
    if node.hits(MEASURED)? == 0 {
        bail!("the Service that answers has counted nothing");
    }
    Ok(())
}
