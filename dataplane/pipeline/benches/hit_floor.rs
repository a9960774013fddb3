//! The least that a packet of a known flow costs, and one that opens a flow, measured so that it holds on a machine that does other things too.
//!
//! A block is 16 bursts of 32 UDP packets, short enough that some of many blocks run undisturbed; the quickest block
//! counts. Only the engine is timed, not the writing of packets. Pin it: `taskset -c 1 cargo bench --bench hit_floor`.
//! Arguments: the cases to run, by the start of their names. `BLOCKS=n`: so many blocks for each (20,000).

#[path = "../tests/bare/mod.rs"]
mod bare;

use std::hint::black_box;
use std::time::{Duration, Instant};

use bare::Bare;

const BURSTS: u32 = 16;
const SERVICES: u32 = 10_000;
const RULES: u32 = 1000;

#[derive(Clone, Copy)]
enum Case {
    Local,
    Vxlan,
    Service,
    /// Local and into the tunnel between pods with rules.
    Policy,
    VxlanPolicy,
    /// First packets between pods with so many rules at each end.
    First(u32),
}

impl Case {
    fn bare(self, flows: u32) -> Bare {
        let capacity = 2 * flows as usize + 64;
        match self {
            Case::Local => Bare::new(capacity, false),
            Case::Vxlan => Bare::new(capacity, true),
            Case::Service => Bare::with_services(capacity, SERVICES),
            Case::First(rules) => {
                let mut bare = Bare::new(2 * capacity, false);
                if rules > 0 {
                    bare.obey(rules);
                }
                bare
            }
            Case::Policy | Case::VxlanPolicy => {
                let mut bare = Bare::new(capacity, matches!(self, Case::VxlanPolicy));
                bare.obey(RULES);
                bare
            }
        }
    }

    fn write(self, bare: &mut Bare, flow: impl Fn(u32) -> u32) {
        match self {
            Case::Local | Case::Vxlan | Case::Policy | Case::VxlanPolicy | Case::First(_) => bare.write(flow),
            Case::Service => bare.write_to_services(flow),
        }
    }
}

/// The quickest block.
fn floor(case: Case, flows: u32, blocks: u32) -> Duration {
    let mut bare = case.bare(flows);
    for first in (0..flows).step_by(32) {
        case.write(&mut bare, |i| first + i);
        bare.run();
    }
    let mut at = 0u32;
    let block = |_| {
        if matches!(case, Case::First(_)) {
            end_all(&mut bare);
        }
        (0..BURSTS).fold(Duration::ZERO, |spent, _| {
            at = at.wrapping_add(32);
            // Flows in no order that a prefetcher could learn.
            case.write(&mut bare, |i| (at + i).wrapping_mul(2_654_435_761) % flows);
            let start = Instant::now();
            black_box(&mut bare).run();
            spent + start.elapsed()
        })
    };
    (0..blocks).map(block).min().unwrap_or_default()
}

/// Lets all flows end.
fn end_all(bare: &mut Bare) {
    bare.env.now = bare.env.now.wrapping_add(60_000);
    while bare.flows() > 0 {
        bare.housekeep();
        bare.env.now = bare.env.now.wrapping_add(100);
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let blocks = std::env::var("BLOCKS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let cases = [
        ("local", Case::Local),
        ("policy", Case::Policy),
        ("vxlan", Case::Vxlan),
        ("vxlan-policy", Case::VxlanPolicy),
        ("service", Case::Service),
        ("first", Case::First(0)),
        ("first-policy-1000", Case::First(RULES)),
        ("first-policy-10000", Case::First(10 * RULES)),
    ];
    for (name, case) in cases {
        for flows in [1u32 << 10, 1 << 16] {
            let name = format!("{name}/{flows}");
            if wanted.is_empty() || wanted.iter().any(|w| name.starts_with(w.as_str())) {
                let least = floor(case, flows, blocks).as_nanos() as f64 / f64::from(BURSTS * 32);
                println!("{name:<24}{least:8.1} ns a packet");
            }
        }
    }
}
