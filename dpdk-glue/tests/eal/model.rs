//! Random operations on a packet and on a vector of bytes must agree.

use dpdk_glue::{Eal, Mbuf, Mempool};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::packets::all;
use crate::pool;

const ROOM: u16 = 100;

#[derive(Clone, Debug)]
enum Op {
    Prepend(usize),
    Adj(usize),
    Append(usize),
    Trim(usize),
    Truncate(usize),
    Chain(usize),
    PullUp(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..140usize).prop_map(Op::Prepend),
        (0..120usize).prop_map(Op::Adj),
        (0..60usize).prop_map(Op::Append),
        (0..120usize).prop_map(Op::Trim),
        (0..300usize).prop_map(Op::Truncate),
        (0..80usize).prop_map(Op::Chain),
        (0..200usize).prop_map(Op::PullUp),
    ]
}

pub(crate) fn agrees_with_bytes(eal: &Eal) {
    let pool = pool(eal, "model", 1023, ROOM);
    let mut runner = TestRunner::new(Config { cases: 512, failure_persistence: None, ..Config::default() });
    let ops = (proptest::collection::vec(op(), 0..40), any::<u8>());
    runner.run(&ops, |(ops, seed)| run(&pool, &ops, seed)).unwrap();
    assert_eq!(pool.in_use(), 0, "buffers were lost");
}

fn run(pool: &Mempool, ops: &[Op], mut byte: u8) -> Result<(), TestCaseError> {
    let mut next = || {
        byte = byte.wrapping_mul(5).wrapping_add(7);
        byte
    };
    let mut packet = pool.alloc().unwrap();
    let mut model: Vec<u8> = Vec::new();
    for op in ops {
        let before = (packet.data_len(), packet.headroom(), packet.tailroom(), packet.segment_count());
        let (head, headroom, tailroom, segments) = before;
        match *op {
            Op::Prepend(n) => match packet.prepend(n) {
                Some(data) => {
                    prop_assert!(n <= headroom && data.len() == head + n);
                    data[..n].fill_with(&mut next);
                    model.splice(..0, data[..n].iter().copied());
                }
                None => prop_assert!(n > headroom),
            },
            Op::Adj(n) => {
                let done = packet.adj(n);
                prop_assert_eq!(done, n < head || n == 0);
                model.drain(..if done { n } else { 0 });
            }
            Op::Append(n) => match packet.append(n) {
                Some(data) => {
                    prop_assert!(n <= tailroom && data.len() == n);
                    data.fill_with(&mut next);
                    model.extend_from_slice(data);
                }
                None => prop_assert!(n > tailroom),
            },
            Op::Trim(n) => {
                prop_assert_eq!(packet.trim(n), n <= model.len());
                if n <= model.len() {
                    model.truncate(model.len() - n);
                }
            }
            Op::Truncate(n) => {
                packet.truncate(n);
                model.truncate(n);
            }
            Op::Chain(n) => {
                let mut tail = pool.alloc().unwrap();
                tail.append(n).unwrap().fill_with(&mut next);
                model.extend_from_slice(tail.data());
                prop_assert!(packet.chain(tail).is_ok());
                prop_assert_eq!(packet.segment_count(), segments + 1);
            }
            Op::PullUp(n) => {
                let fits = n <= model.len() && n - head.min(n) <= free_behind_head(&mut packet);
                prop_assert_eq!(packet.pull_up(n), n <= head || fits);
                prop_assert!(!(fits || n <= head) || packet.data_len() >= n);
            }
        }
        agree(&packet, &model)?;
    }
    drop(packet);
    prop_assert_eq!(pool.in_use(), 0);
    Ok(())
}

/// The first segment's tailroom.
fn free_behind_head(packet: &mut Mbuf) -> usize {
    let head = packet.data_len();
    packet.room().1 - head
}

fn agree(packet: &Mbuf, model: &[u8]) -> Result<(), TestCaseError> {
    prop_assert_eq!(packet.pkt_len(), model.len());
    prop_assert_eq!(all(packet), model);
    prop_assert_eq!(packet.data(), &model[..packet.data_len()]);
    prop_assert_eq!(packet.segments().count(), packet.segment_count());
    let (from, to) = (model.len() / 3, model.len() - model.len() / 4);
    let mut copy = vec![0; to - from];
    prop_assert!(packet.copy_to(from, &mut copy));
    prop_assert_eq!(&copy, &model[from..to]);
    prop_assert!(!packet.copy_to(from, &mut vec![0; model.len() - from + 1]));
    prop_assert!(packet.copy_to(model.len(), &mut []));
    prop_assert!(!packet.copy_to(model.len() + 1, &mut []));
    Ok(())
}
