//! How long after one endpoint's change the first packet goes to the new one, while 65,536 flows run; and whether anything
//! that was established breaks. The Service that changes has one endpoint, so that one new flow shows which set is in
//! force.

mod flows;
mod probe;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use podplane_config::v1::Object;

use super::Family;
use crate::node::{Node, Start, pod_addresses};
use crate::services::{MEASURED, PORTS, measured_address, others, service};
use crate::stats::quantile;
use flows::{Background, Established};
use probe::{Arrival, Prober};

/// The pods that are the changing Service's endpoint by turns.
const SERVERS: [u8; 2] = [2, 3];
/// The pods between which the other flows run.
const BUSY_PODS: std::ops::RangeInclusive<u8> = 4..=11;
/// How long the first packet may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long probes go on after the first at the new set: none may go back.
const AFTER: Duration = Duration::from_millis(3);

/// What the changes gave.
#[derive(Clone, Copy, Debug)]
pub struct Changed {
    /// Changes made.
    pub changes: usize,
    /// From the transaction's first message to the first new flow that the new endpoint saw, in milliseconds: median and
    /// 99th percentile.
    pub to_first_packet_ms: [f64; 2],
    /// From the same to the word that all workers forward by it, in milliseconds.
    pub to_applied_ms: [f64; 2],
    /// Flows in the table while it went on.
    pub flows: u64,
    /// Round trips on connections that were established before; none failed and none saw another server.
    pub established_trips: u64,
}

/// Changes one endpoint `changes` times.
pub fn change(changes: usize, start: Start) -> Result<Changed> {
    // Flow tables are an eighth of the memory: twice as large as is needed, since one pod has a part of it only.
    let start = Start { memory: start.memory.max(1024), ..start };
    let mut node = Node::up("bench-o", *BUSY_PODS.end(), start)?;
    let mut objects = node.objects();
    objects.extend(others(Family::V4));
    objects.extend(flows::services());
    objects.push(changing(0));
    node.commit(true, objects)?;

    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Over(&over);
        let (tell, arrivals) = channel();
        for pod in SERVERS {
            probe::serve(scope, node.pod(pod)?, pod, &tell, &over)?;
            flows::serve_tcp(scope, node.pod(pod)?, pod, &over)?;
        }
        let background = Background::start(scope, &node, &over)?;
        let prober = Prober::start(scope, node.pod(1)?, target(PORTS[2].1), &over)?;
        let client = node.pod(1)?.open()?;
        let established = Established::connect(&client, target(PORTS[1].1), SERVERS[0])?;
        let run = established.run(scope, &over);
        background.fill(&node)?;
        let mut first = Vec::with_capacity(changes);
        let mut applied = Vec::with_capacity(changes);
        for change in 1..=changes {
            let (seen, said) = once(&mut node, change, &prober, &arrivals)?;
            first.push(seen.as_secs_f64() * 1e3);
            applied.push(said.as_secs_f64() * 1e3);
        }
        let flows = background.check(&node)?;
        over.store(true, Ordering::Relaxed);
        let trips = run.join().map_err(|_| anyhow::anyhow!("the client of established connections panicked"))??;
        if node.hits(MEASURED)? < changes as u64 {
            bail!("the Service counted fewer flows than there were changes");
        }
        Ok(Changed {
            changes,
            to_first_packet_ms: quantiles(first),
            to_applied_ms: quantiles(applied),
            flows,
            established_trips: trips,
        })
    })
}

/// Ends all threads also when the measurement fails: the scope waits for them.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn target(port: u16) -> SocketAddr {
    SocketAddr::new(measured_address(Family::V4), port)
}

fn endpoint(change: usize) -> u8 {
    SERVERS[change % SERVERS.len()]
}

/// The Service after so many changes.
fn changing(change: usize) -> Object {
    let backend: IpAddr = pod_addresses(endpoint(change))[0];
    service(MEASURED, measured_address(Family::V4), &PORTS, &[backend])
}

/// One change: when its first packet was seen, and when it was said to be in force.
fn once(
    node: &mut Node,
    change: usize,
    prober: &Prober<'_>,
    arrivals: &Receiver<Arrival>,
) -> Result<(Duration, Duration)> {
    prober.probe(change);
    let began = Instant::now();
    let said = node.commit(false, vec![changing(change)])?;
    let is_new = |arrival: &Arrival| arrival.change == change && arrival.pod == endpoint(change);
    let first = loop {
        let left = (began + PATIENCE).saturating_duration_since(Instant::now());
        let arrival = arrivals.recv_timeout(left).context("no packet went to the new set")?;
        if is_new(&arrival) {
            break arrival;
        }
    };
    std::thread::sleep(AFTER);
    prober.pause();
    // What was sent after one had arrived at the new set must not go to the old one.
    let back = |arrival: Arrival| arrival.change == change && !is_new(&arrival) && arrival.sent > first.at;
    if arrivals.try_iter().any(back) {
        bail!("a new flow went to the old endpoint after another had gone to the new one");
    }
    Ok((first.at.saturating_duration_since(began), said))
}

fn quantiles(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [quantile(&values, 0.5), quantile(&values, 0.99)]
}
