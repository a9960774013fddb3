use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proptest::prelude::*;
use std::os::fd::AsFd;

use super::*;

type Flow = (usize, usize);

/// A packet of the test: its flow and its number within it.
#[derive(Clone, Copy, Debug)]
struct Numbered {
    flow: Flow,
    number: u32,
}

/// Worker `me` originates `flows` flows to each other worker, `packets` each, by hand-over, and sends a half-entry
/// before the first packet of each flow. It checks what arrives: order within each flow, and the half before the
/// packets. It sleeps whenever it has nothing to do, and it returns once everybody has received everything.
fn work(mesh: Arc<Mesh<Numbered, Flow>>, me: u8, packets: u32, arrived: Arc<AtomicUsize>, total: usize) -> usize {
    let workers = mesh.workers;
    let mut end = MeshEnd::new(&mesh, WorkerId(me));
    let others: Vec<usize> = (0..workers).filter(|&w| w != usize::from(me)).collect();
    let mut backlog: VecDeque<(usize, Numbered)> = (0..packets)
        .flat_map(|number| others.iter().map(move |&to| (to, Numbered { flow: (usize::from(me), to), number })))
        .collect();
    let mut next = vec![0u32; workers];
    let mut halves = vec![false; workers];
    let mut sleeps = 0;
    let deadline = Instant::now() + Duration::from_secs(120);
    while arrived.load(Ordering::Acquire) < total {
        assert!(Instant::now() < deadline, "worker {me} waits for ever: {next:?}");
        let mut work = false;
        for _ in 0..32 {
            let Some(&(to, packet)) = backlog.front() else { break };
            if packet.number == 0 && end.send_half(WorkerId(to as u8), packet.flow).is_err() {
                break;
            }
            if end.send_packet(WorkerId(to as u8), packet).is_err() {
                assert!(packet.number > 0, "room for the half, but not for the first packet");
                break;
            }
            backlog.pop_front();
            work = true;
        }
        let mut burst = Vec::new();
        end.take_packets(32, |p| burst.push(p));
        for (from, seen) in halves.iter_mut().enumerate() {
            for _ in 0..end.halves_from(WorkerId(from as u8)) {
                let flow = end.pop_half(WorkerId(from as u8)).expect("the observed tail");
                assert_eq!(flow, (from, usize::from(me)));
                *seen = true;
            }
        }
        for packet in &burst {
            let from = packet.flow.0;
            assert!(halves[from], "a packet before its half");
            assert_eq!(packet.number, next[from], "order within flow {:?}", packet.flow);
            next[from] += 1;
        }
        end.ring();
        if !burst.is_empty() && arrived.fetch_add(burst.len(), Ordering::AcqRel) + burst.len() == total {
            mesh.wake_all();
        }
        if burst.is_empty() && !work {
            sleeps += usize::from(nap(&end, backlog.is_empty(), || arrived.load(Ordering::Acquire) < total));
        }
    }
    sleeps
}

/// Sleeps for ever if there is nothing to send, else until the peers may have made room.
fn nap(end: &MeshEnd<Numbered, Flow>, for_ever: bool, unfinished: impl Fn() -> bool) -> bool {
    let timeout = if for_ever { PollTimeout::from(60_000u16) } else { PollTimeout::from(1u8) };
    let _doze = end.sleeper().doze();
    if !end.is_idle() || !unfinished() {
        return false;
    }
    let mut fds = [PollFd::new(end.sleeper().bell().as_fd(), PollFlags::POLLIN)];
    // Other tests of this process use net_tap, whose signal interrupts whoever waits.
    let rung = poll(&mut fds, timeout);
    assert!(rung != Ok(0) || !for_ever, "nobody rang for a minute");
    end.sleeper().bell().hush();
    true
}

fn run(workers: u8, packets: u32, capacity: Capacity) {
    let mesh = Mesh::new(workers, capacity).unwrap();
    let arrived = Arc::new(AtomicUsize::new(0));
    let total = usize::from(workers) * usize::from(workers - 1) * packets as usize;
    let threads: Vec<_> = (0..workers)
        .map(|me| {
            let (mesh, arrived) = (mesh.clone(), arrived.clone());
            std::thread::spawn(move || work(mesh, me, packets, arrived, total))
        })
        .collect();
    threads.into_iter().for_each(|t| {
        t.join().unwrap();
    });
    assert_eq!(arrived.load(Ordering::Acquire), total);
}

#[test]
fn eight_workers_on_any_machine_keep_order_and_never_oversleep() {
    run(8, 2_000, Capacity { packets: 64, halves: 64 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn order_holds_for_any_number_of_workers_and_any_capacity(
        workers in 2u8..12, packets in 1u32..200, room in 1usize..40,
    ) {
        run(workers, packets, Capacity { packets: room, halves: room.max(2) });
    }
}

#[test]
fn queues_stay_within_their_memory() {
    for workers in [1, 2, 4, 16, 64] {
        let capacity = Capacity::for_workers(workers, 16, 128);
        let pairs = usize::from(workers) * usize::from(workers - 1);
        assert!(capacity.packets >= 64 && capacity.halves >= 64);
        assert!(pairs * (capacity.packets * 24 + capacity.halves * 136) <= 64 << 20, "{workers}: {capacity:?}");
    }
}

#[test]
fn nobody_hands_anything_to_itself_or_to_nobody() {
    let mesh = Mesh::<u32, u32>::new(2, Capacity { packets: 1, halves: 1 }).unwrap();
    let mut end = MeshEnd::new(&mesh, WorkerId(0));
    assert_eq!(end.send_packet(WorkerId(0), 1), Err(1));
    assert_eq!(end.send_half(WorkerId(2), 1), Err(1));
    assert_eq!(end.send_packet(WorkerId(1), 1), Ok(()));
    assert_eq!(end.send_packet(WorkerId(1), 2), Err(2), "full");
    assert_eq!((end.touched, end.is_idle()), (0b10, true));
    end.ring();
    assert!(!MeshEnd::new(&mesh, WorkerId(1)).is_idle());
}
