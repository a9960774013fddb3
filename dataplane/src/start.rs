//! From the command line to a running dataplane, and back: every step that fails undoes those before it.

use std::cell::Cell;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use dpdk_glue::{Eal, EalConfig, Hugepages, Pci};
use podplane_config::link::{self, Facts};
use podplane_config::trouble::StartTrouble;
use podplane_packet::id::{PortId, WorkerId};
use podplane_pipeline::{Engine, EngineConfig, Snapshot};
use podplane_tables::mem::Want;
use podplane_tables::reasm::Limits;
use sd_notify::NotifyState;

use crate::alone::Alone;
use crate::args::{Args, Uplink};
use crate::clock::{Clock, millis};
use crate::control::answers::{Answers, Constants};
use crate::control::compile::Base;
use crate::control::door::{Door, Hall, Welcome};
use crate::control::flows::FlowKeeper;
use crate::control::publish::Publisher;
use crate::control::table::Table;
use crate::control::uplink::UplinkWatch;
use crate::control::view::{Baseline, PortView, View};
use crate::control::{Control, Parts};
use crate::lcores::Crew;
use crate::memory::{self, Division};
use crate::ports::{Buffers, OpenedPort, Pkt, Pools, PortIo, PortOpener};
use crate::signals::Stop;
use crate::uplink::{HOST_HOME, Node, make_folders};
use crate::worker::Worker;
use crate::worker::shared::Shared;

/// The socket's name in the run folder.
const SOCKET: &str = "dataplane.sock";

/// Runs the dataplane until `stop` is requested. Everything is given back when it returns, also with an error; `started`
/// says whether it came as far as to forward packets.
///
/// # Errors
/// What could not be had, and the cure.
pub fn run(args: &Args, stop: Arc<Stop>, started: &Cell<bool>) -> Result<()> {
    args.check().map_err(anyhow::Error::msg)?;
    make_folders(&[&args.run_dir, &args.state_dir])?;
    // Before anything is touched: whether another dataplane runs here.
    let alone = Alone::claim()?;
    let socket = args.run_dir.join(SOCKET);
    let listener = link::listen(&socket)?;
    let division = Division::of(args.memory, args.workers);
    let is_free = || memory::is_free(args.memory);
    if args.no_huge {
        // Before EAL: it would map for half a minute what is not there.
        is_free()?;
    }
    let eal = start_eal(args, &division)?;
    if !eal.has_hugepages() {
        is_free()?;
    }
    let pools =
        Pools::create(&eal, &division.pools(eal.has_hugepages())).context("making the pools of packet buffers")?;
    let opener = PortOpener::new(args.workers, PortOpener::DEFAULT_SOCKET_MEMORY).with_ethdev_mtu(args.mtu);
    let node = Node::take(args, &opener, &pools)?;

    let base = Base {
        workers: args.workers,
        seed: random_seed()?,
        mac: node.mac(),
        mtu: node.mtu,
        table_limit: (args.service_memory as usize) << 20,
    };
    let snapshot = Snapshot::compile(&base.alone(), None)?;
    let shared = Shared::new(args.workers, snapshot, Clock::start())?;
    stop.wakes(&shared);
    let names_key = random_seed()?;
    let flows = FlowKeeper::make(args.workers, &division, base.seed, names_key, eal.has_hugepages(), shared.clock)?;
    let flow_file = flows.file();
    let workers = make_workers(args, &base, &shared, &pools)?;
    let crew = Crew::start(&eal, workers, args.lcores.as_ref(), &shared)?;

    let Node { uplink, host, facts, mtu, taken } = node;
    let own_ports =
        vec![own_port(PortId::UPLINK, &uplink, None, &base), own_port(PortId::HOST, &host, Some(HOST_HOME), &base)];
    let mut publisher = Publisher::new(&shared);
    publisher.attach(ends(uplink, host))?;

    let view = Arc::new(ArcSwap::from_pointee(View::default()));
    let constants = Constants {
        uplink: args.uplink.to_string(),
        mac: base.mac,
        host_ifname: facts.host_port.clone(),
        cpus: args.lcores.clone(),
        flow_capacity: flows.capacity(),
        service_table_limit: base.table_limit,
        hugepages: eal.has_hugepages(),
        hugepages_wanted: !args.no_huge,
        warnings: eal.warnings().to_vec(),
    };
    let answers = Arc::new(Answers::new(constants, Arc::clone(&shared), pools.clone(), Arc::clone(&view)));
    let hall = Arc::new(Hall::default());
    let current_mtu = Arc::new(AtomicU16::new(mtu));
    let reopens = match &args.uplink {
        Uplink::Iface(name) => Some(name.clone()),
        Uplink::Ethdev(_) | Uplink::Pci(_) => None,
    };
    let uplink_index = own_ports.first().and_then(|uplink| uplink.facts.ifindex);
    let watch = UplinkWatch::new(reopens, uplink_index, args.state_dir.clone(), args.mtu, &current_mtu);
    let mut control = Control::new(Parts {
        shared: Arc::clone(&shared),
        base,
        publisher,
        table: Table::new(opener, Arc::clone(&shared)),
        own_ports,
        flows,
        uplink: watch,
        host_index: facts.host_port_index,
        hall: Arc::clone(&hall),
        view,
        answers: Arc::clone(&answers),
        stop,
    })?;
    let told = Facts {
        version: podplane_version::line().to_owned(),
        uplink: args.uplink.to_string(),
        uplink_mtu: mtu,
        workers: args.workers,
        host_ifname: facts.host_port,
    };
    let welcome = Welcome { facts: told, mtu: current_mtu, flows: flow_file };
    let door =
        Door::open(listener, &socket, welcome, answers, hall, Arc::clone(&shared)).context("serving the socket")?;
    tracing::info!(uplink = %args.uplink, mac = %base.mac, mtu, workers = args.workers, "forwarding");
    started.set(true);
    StartTrouble::clear(&args.run_dir);
    notify(&[NotifyState::Ready]);

    let result = control.run();
    notify(&[NotifyState::Stopping]);
    // In this order: no new visitors, no more packets, ports closed with the workers, and the uplink to the kernel.
    drop(door);
    drop(control);
    drop(crew);
    drop(taken);
    drop(alone);
    result.map_err(Into::into)
}

fn start_eal(args: &Args, division: &Division) -> Result<Eal> {
    let config = EalConfig {
        program: "podplane-dataplane".to_owned(),
        memory_mib: division.eal_mib,
        hugepages: if args.no_huge { Hugepages::Off } else { Hugepages::Auto },
        pci: match &args.uplink {
            Uplink::Pci(device) => Pci::Allow(vec![device.clone()]),
            _ => Pci::Off,
        },
        // Several nodes of a lab run on one machine.
        extra: vec![format!("--file-prefix=podplane-{}", std::process::id())],
        ..EalConfig::default()
    };
    let eal = Eal::init(&config)?;
    for warning in eal.warnings() {
        tracing::warn!("{warning}");
    }
    tracing::info!(dpdk = dpdk_glue::dpdk_version(), hugepages = eal.has_hugepages(), "DPDK has started");
    Ok(eal)
}

/// The workers, without flow tables to speak of: those come with the first configuration, and before it there are no
/// flows.
fn make_workers(args: &Args, base: &Base, shared: &Arc<Shared>, pools: &Pools) -> Result<Vec<Worker>> {
    let mut workers = Vec::with_capacity(usize::from(args.workers));
    for me in (0..args.workers).map(WorkerId) {
        let mut engine: Engine<Pkt> = Engine::new(EngineConfig {
            worker: me,
            workers: args.workers,
            flow_capacity: 1,
            port_quota: 0,
            memory: Want::Base,
            fragments: Limits::default(),
            seed: base.seed,
            now: millis(shared.clock.nanos()),
            counters: Arc::clone(&shared.seat(me).counters),
        })?;
        engine.set_timeouts(args.timeouts());
        workers.push(Worker::new(me, shared, engine, Buffers::new(pools), args.busy_poll)?);
    }
    Ok(workers)
}

fn ends(uplink: OpenedPort, host: OpenedPort) -> Vec<(PortId, Vec<PortIo>)> {
    vec![(PortId::UPLINK, uplink.ends), (PortId::HOST, host.ends)]
}

fn own_port(id: PortId, opened: &OpenedPort, home: Option<WorkerId>, base: &Base) -> PortView {
    PortView {
        id,
        facts: opened.facts.clone(),
        monitor: opened.monitor.clone(),
        endpoint: String::new(),
        pod: String::new(),
        home,
        mac: base.mac,
        addresses: Vec::new(),
        policy: Default::default(),
        mtu: base.mtu,
        baseline: Arc::new(Baseline::default()),
    }
}

/// A key that nobody outside can guess.
fn random_seed() -> Result<[u64; 2]> {
    let mut bytes = [0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.context("reading /dev/urandom for the key of the flow tables")?;
    let bits = u128::from_ne_bytes(bytes);
    Ok([bits as u64, (bits >> 64) as u64])
}

/// Tells systemd, where it started us.
pub(crate) fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd does not listen");
    }
}
