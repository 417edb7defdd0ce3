//! Randomness for pauses, so that many who failed at the same moment do not come back at the same moment.

use std::time::Duration;

/// A duration between half of `pause` and all of it.
pub fn jitter(pause: Duration) -> Duration {
    // Without randomness all wait for the longest: slower, and as correct.
    pause.mul_f64(random().map_or(1.0, |random| 0.5 + f64::from(random) / 510.0))
}

fn random() -> Option<u8> {
    #[cfg(test)]
    if let Some(random) = super::simulated::random() {
        return Some(random.to_le_bytes()[0]);
    }
    let mut random = [0; 1];
    getrandom::fill(&mut random).ok()?;
    Some(random[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_shortened_by_half_at_the_most() {
        let pause = Duration::from_secs(8);
        let pauses: Vec<_> = (0..1000).map(|_| jitter(pause)).collect();
        assert!(pauses.iter().all(|jittered| (pause / 2..=pause).contains(jittered)));
        assert!(pauses.iter().any(|jittered| *jittered != pauses[0]));
    }
}
