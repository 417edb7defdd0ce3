//! How much of an upstream's limit on pulls each client has had. One that has had more than is left for the others gets no more of
//! it in this window. It is told what is pulled and what is left, and decides; what the limit is, others know.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::Caller;

/// How many times what is left a client may have had that nobody else competes with: the rest is for who comes later.
const ALONE: u64 = 9;

/// How many clients are remembered. Of more, those are forgotten that have had least.
const CLIENTS: usize = 10_000;

/// What clients have had.
#[derive(Debug, Default)]
pub(super) struct Shares {
    spent: BTreeMap<Caller, Spent>,
    /// Pulls of clients that are not answered yet: what is left does not tell of them.
    under_way: u64,
}

#[derive(Debug)]
struct Spent {
    /// When the window began for it.
    since: Instant,
    pulls: u64,
}

/// What is left of a limit, and how long its window is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    pub(super) pulls: u64,
    pub(super) window: Duration,
}

impl Shares {
    /// Begins a pull on behalf of `caller`; `left` is what is known of the limit.
    ///
    /// # Errors
    /// That it has had its share; and how long it is until it has another one.
    pub(super) fn begin(&mut self, caller: Caller, left: Option<Left>, now: Instant) -> Result<(), Duration> {
        let caller = caller.party();
        if caller == Caller::Larder {
            return Ok(());
        }
        // Where nothing is left, the upstream says so itself, and until when.
        if let Some(left) = left.filter(|left| left.pulls > 0) {
            self.spent.retain(|_, spent| now - spent.since < left.window);
            if let Some(own) = self.spent.get(&caller) {
                let rest = left.pulls.saturating_sub(self.under_way);
                let is_alone = self.spent.len() == 1;
                if own.pulls > rest.saturating_mul(if is_alone { ALONE } else { 1 }) {
                    return Err(left.window.saturating_sub(now - own.since));
                }
            }
        }
        if self.spent.len() >= CLIENTS
            && !self.spent.contains_key(&caller)
            && let Some(least) = self.spent.iter().min_by_key(|(_, spent)| spent.pulls).map(|(least, _)| *least)
        {
            self.spent.remove(&least);
        }
        self.spent.entry(caller).or_insert(Spent { since: now, pulls: 0 }).pulls += 1;
        self.under_way += 1;
        Ok(())
    }

    /// Ends a pull that has begun. One that came to nothing is not counted.
    pub(super) fn end(&mut self, caller: Caller, has_pulled: bool) {
        let caller = caller.party();
        if caller == Caller::Larder {
            return;
        }
        self.under_way = self.under_way.saturating_sub(1);
        if !has_pulled && let Some(spent) = self.spent.get_mut(&caller) {
            spent.pulls = spent.pulls.saturating_sub(1);
            if spent.pulls == 0 {
                self.spent.remove(&caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(21_600);

    fn client(number: u32) -> Caller {
        Caller::Client(Ipv4Addr::from_bits(0x0a00_0000 + number).into())
    }

    /// A limit, as the upstream counts it.
    struct Case {
        shares: Shares,
        left: u64,
        now: Instant,
    }

    impl Case {
        fn new(left: u64) -> Self {
            Self { shares: Shares::default(), left, now: Instant::now() }
        }

        fn begin(&mut self, caller: Caller) -> Result<(), Duration> {
            self.shares.begin(caller, Some(Left { pulls: self.left, window: WINDOW }), self.now)
        }

        /// How many pulls a caller gets, one after the other.
        fn pull_all(&mut self, caller: Caller) -> u64 {
            let before = self.left;
            while self.left > 0 && self.begin(caller).is_ok() {
                self.left -= 1;
                self.shares.end(caller, true);
            }
            before - self.left
        }
    }

    #[test]
    fn nobody_has_more_than_is_left_for_the_others() {
        let mut case = Case::new(100);
        assert!(case.begin(client(9)).is_ok());
        case.shares.end(client(9), true);
        assert_eq!(case.pull_all(client(1)), 51);
        assert_eq!(case.begin(client(1)), Err(WINDOW));
        assert_eq!((case.pull_all(client(2)), case.pull_all(client(3))), (25, 13));
        assert!(case.begin(client(4)).is_ok(), "who has had nothing is not refused by us");
        case.shares.end(client(4), false);
        assert_eq!(case.pull_all(Caller::Larder), 11, "it has other bounds");
        assert!(case.begin(client(1)).is_ok(), "that nothing is left is for the upstream to say");
        case.shares.end(client(1), true);
        case.left = 1;
        assert!(case.begin(client(1)).is_err());
        case.now += WINDOW;
        case.left = 100;
        assert!(case.begin(client(1)).is_ok());
    }

    #[test]
    fn who_is_alone_leaves_a_tenth_for_who_comes_later() {
        let mut case = Case::new(100);
        assert_eq!(case.pull_all(client(1)), 91);
        assert_eq!(case.pull_all(client(2)), 5);
    }

    #[test]
    fn what_is_under_way_is_as_good_as_spent_and_what_came_to_nothing_is_not() {
        let mut case = Case::new(100);
        assert!(case.begin(client(2)).is_ok());
        let begun = (0..1000).filter(|_| case.begin(client(1)).is_ok()).count();
        assert_eq!(begun, 50);
        (0..50).for_each(|_| case.shares.end(client(1), false));
        assert_eq!((0..1000).filter(|_| case.begin(client(1)).is_ok()).count(), 50);
    }

    #[test]
    fn where_nothing_is_known_of_a_limit_there_are_no_shares_and_few_are_remembered() {
        let mut shares = Shares::default();
        for number in 0..20_000 {
            let caller = client(number % 15_000);
            assert_eq!(shares.begin(caller, None, Instant::now()), Ok(()));
            shares.end(caller, true);
        }
        assert_eq!(shares.spent.len(), CLIENTS);
    }
}
