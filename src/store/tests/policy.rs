//! The policy's decisions one by one. What comes of them all is in `eviction.rs`, and in the benchmark.

use crate::store::eviction::policy::*;

fn occupancy(bytes: [u64; 4]) -> Occupancy {
    let mut occupancy = Occupancy::default();
    Queue::ALL.into_iter().zip(bytes).for_each(|(queue, bytes)| *occupancy.bytes(queue) = bytes);
    occupancy
}

#[test]
fn queues_are_numbered_in_order() {
    for (index, queue) in Queue::ALL.into_iter().enumerate() {
        assert_eq!(queue.index(), index);
    }
}

#[test]
fn small_content_goes_first_beyond_its_share_and_last_within() {
    let next = |bytes| occupancy(bytes).next(1000).map(|queue| (queue.class, queue.stage));
    assert_eq!(next([0, 0, 0, 0]), None);
    assert_eq!(next([50, 0, 0, 900]), Some((Class::Large, Stage::Main)));
    assert_eq!(next([51, 0, 0, 900]), Some((Class::Small, Stage::Probation)));
    assert_eq!(next([2, 50, 0, 900]), Some((Class::Small, Stage::Main)));
    assert_eq!(next([0, 1, 0, 0]), Some((Class::Small, Stage::Main)), "nothing else is left");
}

#[test]
fn probation_goes_first_beyond_its_share() {
    let next = |bytes| occupancy(bytes).next(1000).map(|queue| queue.stage);
    assert_eq!(next([0, 0, 50, 950]), Some(Stage::Main));
    assert_eq!(next([0, 0, 51, 949]), Some(Stage::Probation));
    assert_eq!(next([0, 0, 10, 0]), Some(Stage::Probation));
}

#[test]
fn a_use_buys_a_round_in_the_main_queue_or_a_place_in_it_as_long_as_patience_lasts() {
    let [probation, main] = [Stage::Probation, Stage::Main].map(|stage| Queue::new(Class::Large, stage));
    assert_eq!(probation.verdict(0, 0), Verdict::Go { remember: true });
    assert_eq!(probation.verdict(3, PATIENCE - 1), Verdict::Stay { spent: 3 });
    assert_eq!(probation.verdict(3, PATIENCE), Verdict::Go { remember: true });
    assert_eq!(main.verdict(3, PATIENCE - 1), Verdict::Stay { spent: 1 });
    assert_eq!(main.verdict(3, PATIENCE), Verdict::Go { remember: false });
    assert_eq!(main.verdict(0, 0), Verdict::Go { remember: false });
}

#[test]
fn reads_close_together_are_one_use() {
    assert!(!is_use(1_000_000, 1_000_000 + 599_999));
    assert!(is_use(1_000_000, 1_600_000));
    assert!(is_use(1_000_000, 400_000), "the clock was set back");
}
