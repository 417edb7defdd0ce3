//! Randomness that is the same on every machine and in every year, and the laws that the trace draws from. It knows nothing of
//! registries.

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): small, and good enough for a workload.
pub(crate) struct Dice(u64);

/// Zipf's law over ranks: rank `r`, from 0, is drawn in proportion to `(r + 1) ^ -exponent`.
pub(crate) struct Zipf {
    cumulated: Vec<f64>,
}

/// A law of sizes, given by some of its quantiles, log-linear between them.
pub(crate) struct SizeLaw(pub(crate) &'static [(f64, f64)]);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0..count.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        (self.unit() * count as f64) as usize
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// How many failures precede the first success, if each trial succeeds with probability `1 / (mean + 1)`.
    pub(crate) fn geometric(&mut self, mean: f64) -> usize {
        let failure = mean / (mean + 1.0);
        if failure <= 0.0 { 0 } else { ((1.0 - self.unit()).ln() / failure.ln()) as usize }
    }

    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -(1.0 - self.unit()).ln() * mean
    }

    /// Log-normal, by Box and Muller.
    pub(crate) fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        median * (sigma * radius * (std::f64::consts::TAU * self.unit()).cos()).exp()
    }
}

impl Zipf {
    pub(crate) fn new(ranks: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let cumulated = (1..=ranks).map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        });
        Self { cumulated: cumulated.collect() }
    }

    pub(crate) fn draw(&self, dice: &mut Dice) -> usize {
        let total = self.cumulated.last().copied().unwrap_or(0.0);
        let point = dice.unit() * total;
        self.cumulated.partition_point(|sum| *sum <= point).min(self.cumulated.len() - 1)
    }
}

impl SizeLaw {
    pub(crate) fn draw(&self, dice: &mut Dice) -> u64 {
        let point = dice.unit();
        let upper = self.0.iter().position(|(quantile, _)| *quantile > point).unwrap_or(self.0.len() - 1);
        let ((low, small), (high, large)) = (self.0[upper - 1], self.0[upper]);
        (small * (large / small).powf((point - low) / (high - low))) as u64
    }
}
