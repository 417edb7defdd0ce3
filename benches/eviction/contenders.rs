//! What is compared: by name, a way to replay a trace at some capacity. It holds no opinion on the outcome.

use super::bound;
use super::model::Model;
use super::ranked::Ranked;
use super::replay::{Outcome, Policy};
use super::s3fifo::{S3Fifo, Settings};
use super::sieve::Sieve;
use super::workload::{Kind, Trace};

/// A trace with what is needed to replay it.
pub(crate) struct Stage {
    pub(crate) trace: Trace,
    pub(crate) next: Vec<Option<usize>>,
    /// Bytes of all objects that are asked for.
    pub(crate) footprint: u64,
}

pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) replay: fn(&Stage, u64) -> Outcome,
}

pub(crate) const LARDER: Contender =
    Contender { name: "**Larder**", replay: |stage, capacity| stage.outcome(Larder(Model::new(capacity))) };
pub(crate) const LRU: Contender =
    Contender { name: "LRU", replay: |stage, capacity| stage.outcome(Ranked::lru(capacity, &stage.next)) };
const FIFO: Contender = Contender { name: "FIFO", replay: |stage, capacity| stage.outcome(Ranked::fifo(capacity, &stage.next)) };
const SIEVE: Contender = Contender { name: "SIEVE", replay: |stage, capacity| stage.outcome(Sieve::new(capacity)) };
const GDSF: Contender = Contender { name: "GDSF", replay: |stage, capacity| stage.outcome(Ranked::gdsf(capacity, &stage.next)) };
const S3_FIFO: Contender =
    Contender { name: "S3-FIFO", replay: |stage, capacity| stage.outcome(S3Fifo::new(capacity, Settings::PAPER)) };
const BEFORE: Contender = Contender {
    name: "LRU, small content last",
    replay: |stage, capacity| stage.outcome(Ranked::lru_small_last(capacity, &stage.next)),
};
const BELADY_SIZE: Contender = Contender {
    name: "Belady × size (knows the future)",
    replay: |stage, capacity| stage.outcome(Ranked::belady_size(capacity, &stage.next)),
};

/// All policies, from the simplest to the one that knows the future.
pub(crate) const ALL: [Contender; 8] = [FIFO, LRU, BEFORE, SIEVE, S3_FIFO, GDSF, LARDER, BELADY_SIZE];

/// Those that other workloads are replayed against.
pub(crate) const FEW: [Contender; 4] = [LRU, S3_FIFO, GDSF, LARDER];

macro_rules! larder_but {
    ($name:literal, $($setting:ident: $value:expr)?) => {
        Contender {
            name: $name,
            replay: |stage, capacity| stage.outcome(S3Fifo::new(capacity, Settings { $($setting: $value,)? ..Settings::LARDER })),
        }
    };
}

/// Larder's policy with one choice made otherwise.
pub(crate) const CHOICES: [Contender; 12] = [
    LARDER,
    larder_but!("every read is a use, however soon",),
    larder_but!("no class of small content", small: 0.0),
    larder_but!("small content: 3 % of the capacity", small: 0.03),
    larder_but!("small content: 10 %", small: 0.1),
    larder_but!("probation: 10 %", probation: 0.1),
    larder_but!("two uses to leave probation", enough: 2),
    larder_but!("no memory of what went", memory: 0.0),
    larder_but!("half the memory", memory: 0.5),
    larder_but!("at most 16 in a row stay", patience: 16),
    larder_but!("all stay that have been used", patience: u32::MAX),
    larder_but!("with a layer, what is left of its images", whole_images: true),
];

struct Larder(Model<u32>);

impl Policy for Larder {
    fn request(&mut self, trace: &Trace, number: usize) -> bool {
        let request = trace.requests[number];
        let is_hit = self.0.read(&request.object, request.at);
        if !is_hit {
            let object = &trace.objects[request.object as usize];
            self.0.store(request.object, object.size, object.kind == Kind::Manifest, request.at);
        }
        is_hit
    }
}

impl Stage {
    pub(crate) fn new(trace: Trace) -> Self {
        let next = bound::next_requests(&trace);
        // The last request for each object stands for it.
        let last = trace.requests.iter().zip(&next).filter(|(_, next)| next.is_none());
        let footprint = last.map(|(request, _)| trace.size(request.object)).sum();
        Self { trace, next, footprint }
    }

    fn outcome(&self, mut policy: impl Policy) -> Outcome {
        Outcome::of(&self.trace, &mut policy)
    }
}
