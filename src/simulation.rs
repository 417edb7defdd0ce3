//! A simulation of a machine with Larder on it: its disk, its clock, its network and its upstream follow from a seed, and so does
//! everything that happens. Tens of thousands of schedules are run, and after each it is asked whether the promises held.

mod client;
mod clock;
mod dice;
mod disk;
mod journal;
mod library;
mod machine;
mod registry;
mod schedule;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many schedules are run unless told otherwise.
const SEEDS: u64 = 300;

/// Sets how many schedules are run.
const SEEDS_VARIABLE: &str = "LARDER_SIMULATION_SEEDS";

/// Names the one schedule that is run, and shown.
const SEED_VARIABLE: &str = "LARDER_SIMULATION_SEED";

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Runs a seed once more, to tell what happened in it.
fn tell(seed: u64) -> String {
    let world::Report { violations, events, .. } = world::run(seed, true);
    format!(
        "seed {seed}\n{}\n\nwhat was not as it should be in seed {seed}:\n  {}\n\nto replay it:\n  {SEED_VARIABLE}={seed} cargo test --lib simulation -- --nocapture\n",
        events.join("\n"),
        violations.join("\n  "),
    )
}

#[test]
fn the_promises_hold() {
    if let Some(seed) = variable(SEED_VARIABLE) {
        let told = tell(seed);
        println!("{told}");
        assert!(world::run(seed, false).violations.is_empty(), "see above");
        return;
    }
    let seeds = variable(SEEDS_VARIABLE).unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        // Twice as many as there are cores: each waits now and then for the threads of its store.
        for _ in 0..2 * std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while failed.lock().unwrap().is_empty() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    if !world::run(seed, false).violations.is_empty() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    if let Some(seed) = failed.into_inner().unwrap().into_iter().min() {
        panic!("{}", tell(seed));
    }
}

#[test]
fn a_seed_is_a_schedule() {
    for seed in 0..20 {
        let [first, second] = [world::run(seed, false), world::run(seed, false)];
        assert_eq!(first.hash, second.hash, "seed {seed}");
    }
    assert_ne!(world::run(1, false).hash, world::run(2, false).hash);
}
