//! TCP streams and small datagrams through a Service, one of ten thousand, against the kernel's nftables; and what the
//! Service costs beside the same traffic without it.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use podplane_config::v1::Protocol;

use super::Family;
use crate::cpu::Threads;
use crate::flood::{self, flood};
use crate::iperf::{self, stream};
use crate::netns::Netns;
use crate::node::{Node, Start, pod_addresses};
use crate::routed::Routed;
use crate::services::{MEASURED, PORTS, SERVER_POD, measured, measured_address, others};
use crate::stats::Summary;
use crate::versus::{Comparison, Plan, Side, compare};

/// The client's pod.
pub(super) const CLIENT_POD: u8 = 1;

/// A started side: two pods and ten thousand Services.
pub(super) trait Place {
    /// The namespace of a pod.
    fn pod(&self, i: u8) -> Result<&Netns>;
    /// Connections that went through the measured Service.
    fn hits(&self, family: Family) -> Result<u64>;
    /// Threads in which all forwarding is done, from now on.
    fn threads(&self) -> Result<Threads>;
}

impl Place for Node {
    fn pod(&self, i: u8) -> Result<&Netns> {
        Node::pod(self, i)
    }

    fn hits(&self, _: Family) -> Result<u64> {
        Node::hits(self, MEASURED)
    }

    fn threads(&self) -> Result<Threads> {
        Node::threads(self)
    }
}

impl Place for Routed {
    fn pod(&self, i: u8) -> Result<&Netns> {
        Routed::pod(self, i)
    }

    fn hits(&self, family: Family) -> Result<u64> {
        Routed::hits(self, family)
    }

    fn threads(&self) -> Result<Threads> {
        self.in_threads()
    }
}

/// Our side with all Services in force.
pub(super) fn start_ours(family: Family, start: Start) -> Result<Node> {
    let mut node = Node::up("bench-o", 2, start)?;
    let mut objects = node.objects();
    objects.extend(others(family));
    objects.push(measured(family));
    node.commit(true, objects)?;
    Ok(node)
}

/// The kernel's side with all Services loaded.
pub(super) fn start_kernel(family: Family) -> Result<Routed> {
    Routed::with_services("bench-k", 2, family)
}

/// Does something that goes through the measured Service; an error unless its count of connections grew by `least`.
pub(super) fn counted<T>(
    place: &impl Place,
    family: Family,
    least: u64,
    what: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let before = place.hits(family)?;
    let done = what()?;
    let grew = place.hits(family)? - before;
    if grew < least {
        bail!("the traffic went around the Service: it counted {grew} connections in place of {least}");
    }
    Ok(done)
}

/// What traffic to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// One TCP stream; Gbit/s, and nanoseconds of the whole machine's CPU time per KiB.
    Stream,
    /// Small datagrams; thousands a second, and for each nanoseconds of CPU time of the threads that forward: our worker,
    /// and the kernel's threaded NAPI.
    Datagrams,
}

impl Traffic {
    /// Of what a CPU cost is given.
    pub fn each(self) -> &'static str {
        match self {
            Traffic::Stream => "ns of the machine's CPU per KiB",
            Traffic::Datagrams => "ns of the forwarding threads' CPU per packet",
        }
    }
}

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Addresses of that family.
    pub family: Family,
    /// Of that traffic.
    pub traffic: Traffic,
    /// Length of each stream or flood.
    pub seconds: u32,
}

/// The servers in a place's second pod.
#[derive(Debug)]
struct Servers {
    _iperf: Option<iperf::Server>,
    flood: Option<(flood::Server, Threads)>,
}

impl Servers {
    fn start(place: &impl Place, how: How) -> Result<Servers> {
        let pod = place.pod(SERVER_POD)?;
        let mut servers = Servers { _iperf: None, flood: None };
        match how.traffic {
            Traffic::Stream => servers._iperf = Some(iperf::Server::start(pod.name(), 0)?),
            Traffic::Datagrams => {
                let server = flood::Server::start(pod, server(how.family), DATAGRAM_PORT)?;
                servers.flood = Some((server, place.threads()?));
            }
        }
        Ok(servers)
    }

    /// The rate, and the CPU time for each unit in nanoseconds.
    fn run(&self, place: &impl Place, address: IpAddr, seconds: u32) -> Result<[f64; 2]> {
        let pod = place.pod(CLIENT_POD)?;
        if let Some((server, threads)) = &self.flood {
            let got = flood(pod, SocketAddr::new(address, DATAGRAM_PORT), server, threads, f64::from(seconds))?;
            return Ok([got.kpps, got.cpu_ns]);
        }
        let got = stream(pod.name(), &address.to_string(), 1, seconds)?;
        Ok([got.gbits, NS_GBIT_PER_KIB / got.gbits_per_cpu])
    }
}

const DATAGRAM_PORT: u16 = PORTS[2].1;
const _: () = assert!(matches!(PORTS[2].0, Protocol::Udp));
/// Nanoseconds per second times Gbit per KiB.
const NS_GBIT_PER_KIB: f64 = 8192.0;

fn server(family: Family) -> IpAddr {
    pod_addresses(SERVER_POD)[family.index()]
}

/// CPU costs of one unit of traffic in nanoseconds, of all measurements of a side.
#[derive(Debug, Default)]
struct Costs {
    service: Vec<f64>,
    /// Each less that without the Service.
    over_direct: Vec<f64>,
    /// Each less that where there are no rules at all.
    over_plain: Vec<f64>,
}

/// A side; the servers go before the namespaces.
struct Through<P> {
    servers: Servers,
    place: P,
    plain: Option<(Servers, Routed)>,
    how: How,
    turn: usize,
    costs: Rc<RefCell<Costs>>,
}

impl<P: Place> Through<P> {
    fn start(place: P, plain: Option<Routed>, how: How, costs: &Rc<RefCell<Costs>>) -> Result<Self> {
        let servers = Servers::start(&place, how)?;
        let plain = plain.map(|place| anyhow::Ok((Servers::start(&place, how)?, place))).transpose()?;
        Ok(Through { servers, place, plain, how, turn: 0, costs: costs.clone() })
    }

    fn service(&self, seconds: u32) -> Result<[f64; 2]> {
        let family = self.how.family;
        let through = || self.servers.run(&self.place, measured_address(family), seconds);
        counted(&self.place, family, 1, through)
    }

    fn direct(&self, seconds: u32) -> Result<f64> {
        let [_, cost] = self.servers.run(&self.place, server(self.how.family), seconds)?;
        Ok(cost)
    }
}

impl<P: Place> Side for Through<P> {
    fn measure(&mut self) -> Result<f64> {
        // Floods are cheap to start: many short pairs cancel what drifts better than one long one.
        let How { traffic, seconds, .. } = self.how;
        let (pieces, length) = if traffic == Traffic::Datagrams { (seconds, 1) } else { (1, seconds) };
        let rates = (0..pieces).map(|_| self.piece(length)).collect::<Result<Vec<f64>>>()?;
        Ok(summary(&rates)?.median)
    }
}

impl<P: Place> Through<P> {
    /// One pair, and the kernel's third where there is one, of so many seconds each; the rate through the Service.
    fn piece(&mut self, seconds: u32) -> Result<f64> {
        self.turn += 1;
        // What comes first differs from turn to turn: what drifts touches both.
        let ([rate, cost], direct) = if self.turn.is_multiple_of(2) {
            let direct = self.direct(seconds)?;
            (self.service(seconds)?, direct)
        } else {
            (self.service(seconds)?, self.direct(seconds)?)
        };
        let mut costs = self.costs.borrow_mut();
        costs.service.push(cost);
        costs.over_direct.push(cost - direct);
        if let Some((servers, place)) = &self.plain {
            let [_, plain] = servers.run(place, server(self.how.family), seconds)?;
            costs.over_plain.push(cost - plain);
        }
        Ok(rate)
    }
}

/// What a comparison gave.
#[derive(Debug)]
pub struct Passed {
    /// Rates through the Service.
    pub rate: Comparison,
    /// CPU time of the machine for one unit through the Service, in nanoseconds: ours and the kernel's.
    pub cost: [Summary; 2],
    /// The same less that of one unit without the Service in the same place: flows are tracked there, too.
    pub own_part: [Summary; 2],
    /// The kernel's less that of one unit in a place without any rules; where it was measured.
    pub over_plain: Option<Summary>,
}

impl Passed {
    /// Our own part over one of the kernel's, and how far that may be off; `None`: the kernel's is lost in its spread, or ours
    /// is so that nothing can be said of the goal, a tenth.
    pub fn ratio_to(&self, kernel: &Summary) -> Option<[f64; 2]> {
        let ours = &self.own_part[0];
        let error = 2.0 * ours.error().max(kernel.error()) / kernel.median;
        let told = kernel.median > 2.0 * kernel.error() && error <= 0.1;
        told.then_some([ours.median / kernel.median, error])
    }
}

/// Traffic from pod to ClusterIP to pod on one node, of ten thousand Services.
pub fn through(how: How, plan: Plan, start: Start) -> Result<Passed> {
    let [ours, kernel] = [(); 2].map(|()| Rc::<RefCell<Costs>>::default());
    let begin_ours = || Through::start(start_ours(how.family, start)?, None, how, &ours);
    let begin_kernel = || {
        let plain = (how.traffic == Traffic::Datagrams).then(|| Routed::plain("bench-kp", 2)).transpose()?;
        Through::start(start_kernel(how.family)?, plain, how, &kernel)
    };
    let (name, unit) = match how.traffic {
        Traffic::Stream => ("TCP through a Service", "Gbit/s"),
        Traffic::Datagrams => ("small datagrams through a Service", "kpps"),
    };
    let rate = compare(&format!("{name}, {}", how.family.name()), unit, plan, begin_ours, begin_kernel)?;
    let (ours, kernel) = (ours.borrow(), kernel.borrow());
    let both =
        |of: fn(&Costs) -> &Vec<f64>| -> Result<[Summary; 2]> { Ok([summary(of(&ours))?, summary(of(&kernel))?]) };
    Ok(Passed {
        rate,
        cost: both(|costs| &costs.service)?,
        own_part: both(|costs| &costs.over_direct)?,
        over_plain: Summary::of(&kernel.over_plain),
    })
}

fn summary(values: &[f64]) -> Result<Summary> {
    Summary::of(values).context("no CPU time")
}
