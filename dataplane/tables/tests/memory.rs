//! Flows that go on in another process: what one flow memory left is taken over by the next, and nothing in it is
//! believed.

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use podplane_packet::id::{PortId, WorkerId};
use podplane_tables::VtepIndex;
use podplane_tables::fib::NeighbourIndex;
use podplane_tables::flow::{
    Action, Addr, Adopted, Flags, FlowMemory, FlowTable, Half, HalfRef, Identity, InsertError, Key, MemoryConfig,
    OldFlows, Present, Rejected, Renumber, ResumeError, Rewrite, Slot, TimeoutClass, V4, V6, Verdict,
};
use podplane_tables::mem::Want;
use podplane_tables::quota::Quota;
use proptest::prelude::*;

const CAPACITY: usize = 50;
const WORKERS: u8 = 2;

fn config(origin: u64) -> MemoryConfig {
    let seed = [origin, 3];
    MemoryConfig { workers: WORKERS, capacity: CAPACITY, memory: Want::Base, seed, names_key: [5, origin], origin }
}

/// The tables of one process.
struct Process {
    memory: FlowMemory,
    v4: Vec<FlowTable<V4>>,
    v6: Vec<FlowTable<V6>>,
    quotas: Vec<Quota>,
}

impl Process {
    fn start(origin: u64) -> Process {
        let mut memory = FlowMemory::new(config(origin)).unwrap();
        let tables = |w| memory.tables(WorkerId(w), [origin, 9]).unwrap();
        let (v4, v6) = (0..WORKERS).map(tables).unzip();
        assert!(memory.tables(WorkerId(0), [0; 2]).is_err(), "a worker's entries are given once");
        let quotas = (0..WORKERS).map(|_| Quota::new(1000)).collect();
        Process { memory, v4, v6, quotas }
    }

    /// Dies; somebody else has kept its memory.
    fn die(self) -> OwnedFd {
        self.memory.file().expect("a memfd").try_clone_to_owned().unwrap()
    }

    fn resume(&mut self, old: &OldFlows, renumber: &Renumber) -> Result<[Adopted; 2], ResumeError> {
        let Process { v4, v6, quotas, .. } = self;
        let both = [
            old.pairs::<V4>(
                renumber,
                Flags(1 << 15),
                |pair| pair.adopt(|w, put| put(&mut v4[w.index()], &mut quotas[w.index()])),
                |_, _| {},
            )?,
            old.pairs::<V6>(
                renumber,
                Flags(1 << 15),
                |pair| pair.adopt(|w, put| put(&mut v6[w.index()], &mut quotas[w.index()])),
                |_, _| {},
            )?,
        ];
        v4.iter_mut().for_each(FlowTable::settle);
        v6.iter_mut().for_each(FlowTable::settle);
        Ok(both)
    }
}

fn half<A: Addr>(key: Key<A>, flags: Flags, port: u16) -> Half<A> {
    Half {
        key,
        verdict: Verdict { action: Action::Forward(PortId(port)), rewrite: None },
        generation: 77,
        last_seen: 5000,
        peer: None,
        flags,
        class: TimeoutClass::TcpEstablished,
        local_port: PortId(port),
        vtep: None,
    }
}

fn insert<A: Addr>(table: &mut FlowTable<A>, half: &Half<A>, quota: &mut Quota) -> Result<Slot, InsertError> {
    table.insert(table.hash(&half.key), half, quota)
}

/// Makes a connection whose initiator is worker 0's and whose replies are worker 1's, as the pipeline does.
fn connect<A: Addr>(
    tables: &mut [FlowTable<A>],
    quotas: &mut [Quota],
    initiator: Half<A>,
    reply: Half<A>,
) -> (HalfRef, HalfRef) {
    let mut put = |worker: u8, half: &Half<A>| {
        let w = usize::from(worker);
        let slot = insert(&mut tables[w], half, &mut quotas[w]).unwrap();
        tables[w].half_ref(WorkerId(worker), slot).unwrap()
    };
    let initiator_at = put(0, &initiator);
    let reply_at = put(1, &Half { peer: Some(initiator_at), ..reply });
    tables[0].get_mut(initiator_at.slot).unwrap().set_peer(Some(HalfRef { worker: WorkerId(1), ..initiator_at }));
    (initiator_at, reply_at)
}

fn key4(n: u8, zone: u8) -> Key<V4> {
    Key::new([10, 0, 0, n], [10, 0, 1, 1], u16::from(n), 80, 6, zone)
}

fn key6(n: u8, zone: u8) -> Key<V6> {
    Key::new([n; 16], [0xfd; 16], u16::from(n), 80, 6, zone)
}

/// A process with some connections of each kind: four of IPv4 (of which one to a peer, one to outside), one of IPv6.
fn busy(origin: u64) -> (Process, Vec<(HalfRef, HalfRef)>) {
    let mut p = Process::start(origin);
    p.memory.names().port(PortId(5), "a", WorkerId(1));
    p.memory.names().port(PortId(6), "b", WorkerId(0));
    p.memory.names().vtep(VtepIndex(3), [192, 0, 2, 3].into());
    p.memory.names().neighbour(NeighbourIndex(8), [198, 51, 100, 8].into());
    let actions = [
        Action::Forward(PortId(6)),
        Action::Encap(VtepIndex(3)),
        Action::Outside(NeighbourIndex(8)),
        Action::Forward(PortId::HOST),
    ];
    // Something that is freed again, so that slots and sequences differ from those of a fresh table.
    let gone = half(key4(99, 0), Flags::INITIATOR, 5);
    let slot = insert(&mut p.v4[0], &gone, &mut p.quotas[0]).unwrap();
    let mut made: Vec<_> = (1u8..)
        .zip(actions)
        .map(|(n, action)| {
            let mut there = half(key4(n, 0), Flags::INITIATOR, 5);
            there.verdict = Verdict {
                action,
                rewrite: Some(Rewrite { src: [10, 0, 0, n], dst: [10, 9, 9, 9], sport: n.into(), dport: 8080 }),
            };
            let back = half(Key::new([10, 9, 9, 9], [10, 0, 0, n], 8080, n.into(), 6, 2), Flags::REPLY, 5);
            connect(&mut p.v4, &mut p.quotas, there, back)
        })
        .collect();
    p.v4[0].free(slot, &mut p.quotas[0]);
    let six = (half(key6(1, 0), Flags::INITIATOR, 5), half(key6(1, 0).reversed(2), Flags::REPLY, 6));
    made.push(connect(&mut p.v6, &mut p.quotas, six.0, six.1));
    (p, made)
}

/// The next process numbers everything otherwise.
fn renumber(old: &OldFlows, origin: u64, now: u32, knows: &[&str]) -> Renumber {
    let ids: Vec<(Identity, u16)> = knows.iter().map(|id| (old.identity(id), id.as_bytes()[0].into())).collect();
    let port = move |id| ids.iter().find(|i| i.0 == id).map(|i| PortId(i.1));
    let vtep = |a: IpAddr| (a == IpAddr::from([192, 0, 2, 3])).then_some(VtepIndex(30));
    let neighbour = |a: IpAddr| (a == IpAddr::from([198, 51, 100, 8])).then_some(NeighbourIndex(80));
    Renumber::new(old, Present { origin, now, generation: 7 }, port, vtep, neighbour)
}

#[test]
fn flows_go_on_in_the_next_process() {
    let (first, made) = busy(1_000_000);
    let old = OldFlows::open(first.die(), &config(0)).unwrap();
    assert_eq!(old.seed(), [1_000_000, 3]);
    let homes: Vec<_> = old.ports().collect();
    assert_eq!((old.home("a"), old.home("c")), (Some(WorkerId(1)), None));
    assert_eq!(homes, [(PortId(5), old.identity("a"), WorkerId(1)), (PortId(6), old.identity("b"), WorkerId(0))]);

    // It starts 60 s later; its clock stands at 2 s.
    let mut next = Process::start(1_060_000);
    next.memory.set_seed(old.seed());
    let renumber = renumber(&old, 1_060_000, 2000, &["a", "b"]);
    let adopted = next.resume(&old, &renumber).unwrap();
    assert_eq!(adopted.map(|a| (a.taken, a.rejected)), [(4, [0; 3]), (1, [0; 3])]);

    let ports = [u16::from(b'a'), u16::from(b'b')].map(PortId);
    let expected = [
        Action::Forward(ports[1]),
        Action::Encap(VtepIndex(30)),
        Action::Outside(NeighbourIndex(80)),
        Action::Forward(PortId::HOST),
    ];
    for (n, (action, (there, back))) in (1u8..).zip(expected.into_iter().zip(&made)) {
        let key = key4(n, 0);
        let slot = next.v4[0].find(&key, next.v4[0].hash(&key)).expect("it is found");
        let entry = next.v4[0].get(slot).unwrap();
        let got = entry.half();
        assert_eq!((slot, entry.sequence()), (there.slot, there.sequence), "references to it stay true");
        assert_eq!(
            (got.verdict.action, got.local_port, got.peer),
            (action, ports[0], Some(HalfRef { worker: WorkerId(1), ..*there }))
        );
        assert_eq!(got.verdict.rewrite.unwrap().dport, 8080);
        assert_eq!((got.generation, got.class), (7, TimeoutClass::TcpEstablished), "it is judged anew");
        assert_eq!(2000u32.wrapping_sub(got.last_seen), 57_000, "the age is kept: it was seen at 5 s");
        assert_eq!(next.v4[1].get(next.v4[1].resolve(*back).unwrap()).unwrap().peer(), Some(*there));
    }
    assert_eq!(next.quotas[0].used(ports[0]), 5);
    let file = next.memory.file().unwrap().try_clone_to_owned().unwrap();
    assert_eq!(OldFlows::open(file, &config(0)).unwrap().seed(), old.seed(), "for the one after the next");
    assert_eq!(next.v6[1].len(), 1);

    // What is left of the table can be used whole.
    for n in 0..(CAPACITY - 4) as u8 {
        let half = half(key4(n, 7), Flags::NONE, 5 + u16::from(n % 8));
        insert(&mut next.v4[0], &half, &mut next.quotas[0]).unwrap();
    }
    let more = half(key4(200, 7), Flags::NONE, 5);
    assert_eq!(insert(&mut next.v4[0], &more, &mut next.quotas[0]), Err(InsertError::Full));
    for (there, _) in &made[..4] {
        assert!(next.v4[0].resolve(*there).is_some());
    }
}

#[test]
fn what_is_no_whole_connection_ends() {
    let (mut first, made) = busy(0);
    let Process { v4, quotas, .. } = &mut first;
    // 0: the initiator's half was retired. 1: its slot has another user. 2: it names another worker.
    v4[0].retire(made[0].0.slot);
    v4[0].free(made[1].0.slot, &mut quotas[0]);
    let stranger = half(key4(50, 0), Flags::INITIATOR, 5);
    insert(&mut v4[0], &stranger, &mut quotas[0]).unwrap();
    v4[0].get_mut(made[2].0.slot).unwrap().set_peer(Some(made[3].0));
    // A cached drop.
    let mut denied = half(key4(60, 0), Flags::INITIATOR, 5);
    denied.verdict.action = Action::Drop(3);
    insert(&mut v4[0], &denied, &mut quotas[0]).unwrap();

    let old = OldFlows::open(first.die(), &config(0)).unwrap();
    let mut next = Process::start(0);
    let [v4, v6] = next.resume(&old, &renumber(&old, 0, 9000, &["a"])).unwrap();
    assert_eq!((v4.taken, v4.rejected(Rejected::Unpaired)), (1, 3));
    assert_eq!((v6.taken, v6.rejected(Rejected::Gone)), (0, 1), "b is gone, and the replies' half is b's");
    assert_eq!((next.v4[0].len(), next.v4[1].len(), next.v6[0].len()), (1, 1, 0));
    assert!(next.v4[0].resolve(made[3].0).is_some());
}

#[test]
fn a_connection_without_room_for_both_halves_is_not_taken_by_half() {
    let (first, _) = busy(0);
    let old = OldFlows::open(first.die(), &config(0)).unwrap();
    let mut next = Process::start(0);
    next.quotas[1] = Quota::new(2);
    let [v4, _] = next.resume(&old, &renumber(&old, 0, 9000, &["a", "b"])).unwrap();
    assert_eq!((v4.taken, v4.rejected(Rejected::NoRoom)), (2, 2));
    assert_eq!((next.v4[0].len(), next.v4[1].len()), (2, 2));
}

#[test]
fn other_shapes_and_other_files_are_refused() {
    let (first, _) = busy(0);
    let file = first.die();
    let other = MemoryConfig { workers: 3, ..config(0) };
    let error = OldFlows::open(file.try_clone().unwrap(), &other).unwrap_err();
    assert!(matches!(error, ResumeError::Shape { theirs_workers: 2, ours_workers: 3, .. }), "{error}");
    let other = MemoryConfig { capacity: 51, ..config(0) };
    assert!(matches!(OldFlows::open(file, &other), Err(ResumeError::Shape { .. })));
    for path in ["/dev/zero", "/proc/self/exe"] {
        assert!(matches!(OldFlows::open(File::open(path).unwrap().into(), &config(0)), Err(ResumeError::Foreign)));
    }
    assert!(OldFlows::open(sealed(&[0; 64]), &config(0)).is_err());
    assert!(OldFlows::open(sealed(&[]), &config(0)).is_err());
    let short = &image()[..8192];
    assert!(matches!(OldFlows::open(sealed(short), &config(0)), Err(ResumeError::Foreign)), "it ends too early");
}

/// What a hostile keeper could give back.
fn sealed(bytes: &[u8]) -> OwnedFd {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let fd = memfd_create(c"test", MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = File::from(fd);
    file.write_all(bytes).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).unwrap();
    file.into()
}

/// All bytes that a busy process left.
fn image() -> Vec<u8> {
    let file = File::from(busy(0).0.die());
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Whatever was in the file: what was taken is whole, and everything can be freed again.
fn survives(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(old) = OldFlows::open(sealed(bytes), &config(0)) else { return Ok(()) };
    let mut next = Process::start(0);
    // All names lead somewhere.
    let present = Present { origin: 0, now: 9000, generation: 7 };
    let renumber =
        Renumber::new(&old, present, |_| Some(PortId(5)), |_| Some(VtepIndex(1)), |_| Some(NeighbourIndex(1)));
    let [v4, v6] = next.resume(&old, &renumber).expect("the file is long enough");
    let Process { v4: tables4, v6: tables6, quotas, .. } = &mut next;
    prop_assert_eq!(tables4.iter().map(FlowTable::len).sum::<usize>() as u64, 2 * v4.taken);
    prop_assert_eq!(tables6.iter().map(FlowTable::len).sum::<usize>() as u64, 2 * v6.taken);
    drain(tables4, quotas)?;
    drain(tables6, quotas)?;
    for quota in quotas {
        prop_assert_eq!(quota.used(PortId(5)), 0);
    }
    Ok(())
}

fn drain<A: Addr>(tables: &mut [FlowTable<A>], quotas: &mut [Quota]) -> Result<(), TestCaseError> {
    for w in 0..tables.len() {
        for slot in tables[w].live(1, CAPACITY).collect::<Vec<Slot>>() {
            let entry = tables[w].get(slot).unwrap();
            let peer = entry.peer().expect("every half has another");
            let (key, me) = (*entry.key(), tables[w].half_ref(WorkerId(w as u8), slot).unwrap());
            prop_assert_eq!(tables[w].find(&key, tables[w].hash(&key)), Some(slot));
            let other = &tables[peer.worker.index()];
            if entry.flags().has(Flags::REPLY) {
                let other = other.get(other.resolve(peer).expect("the other half is there")).unwrap();
                prop_assert!(other.flags().has(Flags::INITIATOR) && other.peer().unwrap().worker == me.worker);
            } else {
                prop_assert!(other.live(1, CAPACITY).any(|slot| other.get(slot).unwrap().peer() == Some(me)));
            }
        }
    }
    for (table, quota) in tables.iter_mut().zip(quotas) {
        for slot in table.live(1, CAPACITY).collect::<Vec<Slot>>() {
            prop_assert!(table.free(slot, quota));
        }
        prop_assert!(table.is_empty());
        prop_assert_eq!(table.stats().passed_by, 0);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn nothing_in_the_file_is_believed(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        words in proptest::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            Just(0x4c49_5645u32), 0u32..4, any::<u32>(),
        ]), 0..10),
    ) {
        let mut bytes = image();
        // Only the pages that hold something: the changes should meet it.
        let used: Vec<usize> = bytes.chunks(64).enumerate().filter(|(i, c)| *i > 0 && c.iter().any(|&b| b != 0)).map(|c| c.0 * 64).collect();
        for (at, value) in changes {
            bytes[used[at.index(used.len())] + usize::from(value) % 64] ^= value;
        }
        for (at, value) in words {
            let at = at.index(used.len() * 16);
            bytes[used[at / 16] + at % 16 * 4..][..4].copy_from_slice(&value.to_ne_bytes());
        }
        survives(&bytes)?;
    }

    #[test]
    fn noise_is_survived(seed: u64) {
        let mut bytes = image();
        let mut state = seed | 1;
        for word in bytes[64..].chunks_mut(8) {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            word.copy_from_slice(&(state >> 7).to_ne_bytes()[..word.len()]);
        }
        survives(&bytes)?;
    }

    /// Entries that are copied over others: the same key twice, one initiator for two replies.
    #[test]
    fn copies_are_survived(moves in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..30)) {
        let mut bytes = image();
        let used: Vec<usize> = bytes.chunks(64).enumerate().filter(|(i, c)| *i > 0 && c.iter().any(|&b| b != 0)).map(|c| c.0 * 64).collect();
        let blocks = bytes.len() / 64;
        for (from, to) in moves {
            let (from, to) = (used[from.index(used.len())], 64 + to.index(blocks - 1) * 64);
            let near = used[to % used.len()].max(64);
            bytes.copy_within(from..from + 64, to);
            bytes.copy_within(from..from + 64, near);
        }
        survives(&bytes)?;
    }
}
