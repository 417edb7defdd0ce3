//! A trace of what clients ask a mirror for, made from a seed and the parameters below. `docs/eviction.md` says where each of them
//! comes from; no policy was looked at when they were chosen.

use std::collections::{HashMap, VecDeque};

use super::dice::{Dice, SizeLaw, Zipf};

const DAY: f64 = 24.0 * 3600.0;

/// What the workload is like.
#[derive(Clone, Debug)]
pub(crate) struct Parameters {
    pub(crate) seed: u64,
    /// How many pulls there are, and over how many days they are spread.
    pub(crate) pulls: usize,
    pub(crate) days: f64,
    /// Repositories, and the exponent of Zipf's law over their popularity.
    pub(crate) repositories: usize,
    pub(crate) skew: f64,
    /// The probability that a repository has a new version since it was pulled last.
    pub(crate) churn: f64,
    /// The share of pulls that want an older version than the newest, and how many versions back they go on average.
    pub(crate) old: f64,
    pub(crate) back: f64,
    /// Clients, and how many contents each of them has: of more, it forgets what it used longest ago.
    pub(crate) clients: usize,
    pub(crate) memory: usize,
    /// The share of pulls that nobody ever repeats: half of them throw-away images of CI, half a crawler's, which come in runs.
    pub(crate) one_off: f64,
    pub(crate) crawl: usize,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            seed: 1,
            pulls: 120_000,
            days: 75.0,
            repositories: 2500,
            skew: 0.95,
            churn: 0.03,
            old: 0.15,
            back: 3.0,
            clients: 250,
            memory: 250,
            one_off: 0.10,
            crawl: 100,
        }
    }
}

/// Sizes of layers in bytes. 65 % are below 1 MB and 80 % below 10 MB (FAST'18); the tail above is an assumption.
const LAYERS: SizeLaw = SizeLaw(&[
    (0.0, 100.0),
    (0.30, 2e3),
    (0.50, 100e3),
    (0.65, 1e6),
    (0.80, 10e6),
    (0.95, 80e6),
    (0.99, 300e6),
    (0.999, 1e9),
    (1.0, 5e9),
]);
const CONFIGS: SizeLaw = SizeLaw(&[(0.0, 1e3), (0.5, 6e3), (1.0, 30e3)]);
const MANIFESTS: SizeLaw = SizeLaw(&[(0.0, 500.0), (0.5, 1.6e3), (1.0, 8e3)]);

/// Layers of an image: the median is below 8 and the 90th percentile 18 (CLUSTER'19), the most are 120.
const LAYERS_MEDIAN: f64 = 7.5;
const LAYERS_SIGMA: f64 = 0.68;
const LAYERS_MAX: usize = 120;

/// Base images: how many, how skewed, how many layers on average beyond the first, and how often each is made anew.
const BASES: usize = 80;
const BASE_SKEW: f64 = 0.9;
const BASE_MORE_LAYERS: f64 = 1.5;
const BASE_DAYS: f64 = 30.0;

/// How many layers change with a version on average, beyond the last one.
const CHANGED_MORE_LAYERS: f64 = 1.0;

/// Index, manifest and configuration come before the layers of an image.
pub(crate) const BEFORE_LAYERS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A manifest or an index.
    Manifest,
    /// A configuration or a layer.
    Blob,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Object {
    pub(crate) kind: Kind,
    /// Bytes.
    pub(crate) size: u64,
}

/// One client asks for one object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// Milliseconds since the beginning.
    pub(crate) at: i64,
    pub(crate) object: u32,
}

/// One client pulls one image, and asks for what it does not have of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pull {
    pub(crate) image: u32,
    /// Where in the requests it begins and ends.
    pub(crate) first: usize,
    pub(crate) end: usize,
}

#[derive(Default)]
pub(crate) struct Trace {
    pub(crate) objects: Vec<Object>,
    /// All that belongs to each image, in the order in which it is asked for: index, manifest, configuration, layers.
    pub(crate) images: Vec<Vec<u32>>,
    pub(crate) requests: Vec<Request>,
    pub(crate) pulls: Vec<Pull>,
}

struct Base {
    layers: Vec<u32>,
    renewed_at: f64,
}

struct Repository {
    base: usize,
    /// The versions so far, the newest last.
    versions: Vec<u32>,
    own_layers: Vec<u32>,
}

struct Client {
    known: HashMap<u32, u64>,
    /// What was used when, the latest last; all but the latest use of each object is out of date.
    order: VecDeque<(u32, u64)>,
    turn: u64,
}

struct Generator<'a> {
    parameters: &'a Parameters,
    dice: Dice,
    trace: Trace,
    bases: Vec<Base>,
    base_law: Zipf,
    now: f64,
}

impl Trace {
    pub(crate) fn generate(parameters: &Parameters) -> Self {
        let mut generator = Generator {
            parameters,
            dice: Dice::new(parameters.seed),
            trace: Self::default(),
            bases: Vec::new(),
            base_law: Zipf::new(BASES, BASE_SKEW),
            now: 0.0,
        };
        generator.run();
        generator.trace
    }

    pub(crate) fn size(&self, object: u32) -> u64 {
        self.objects[object as usize].size
    }
}

impl Client {
    fn new() -> Self {
        Self { known: HashMap::new(), order: VecDeque::new(), turn: 0 }
    }

    /// Whether the client has the object; it has it from now on, and forgets what it has not used for longest.
    fn has(&mut self, object: u32, memory: usize) -> bool {
        self.turn += 1;
        let had = self.known.insert(object, self.turn).is_some();
        self.order.push_back((object, self.turn));
        while self.known.len() > memory {
            let (oldest, turn) = self.order.pop_front().expect("what is known is in order");
            if self.known.get(&oldest) == Some(&turn) {
                self.known.remove(&oldest);
            }
        }
        had
    }
}

impl Generator<'_> {
    fn run(&mut self) {
        for _ in 0..BASES {
            let layers = self.base_layers();
            let renewed_at = -self.dice.unit() * BASE_DAYS * DAY;
            self.bases.push(Base { layers, renewed_at });
        }
        let mut repositories: Vec<Repository> = (0..self.parameters.repositories).map(|_| self.repository()).collect();
        let mut clients: Vec<Client> = (0..self.parameters.clients).map(|_| Client::new()).collect();
        let popularity = Zipf::new(repositories.len(), self.parameters.skew);
        let pause = self.parameters.days * DAY / self.parameters.pulls as f64;
        let mut crawl = 0;
        while self.trace.pulls.len() < self.parameters.pulls {
            self.now += self.dice.exponential(pause);
            let ci = self.parameters.one_off / 2.0;
            if crawl == 0 && self.dice.chance(ci / self.parameters.crawl as f64) {
                crawl = self.parameters.crawl;
            }
            let client = self.dice.below(clients.len());
            if crawl > 0 {
                crawl -= 1;
                let image = self.throw_away();
                // A crawler keeps nothing.
                self.pull(image, &mut Client::new());
            } else if self.dice.chance(ci) {
                let image = self.throw_away();
                self.pull(image, &mut clients[client]);
            } else {
                let repository = &mut repositories[popularity.draw(&mut self.dice)];
                if repository.versions.is_empty() || self.dice.chance(self.parameters.churn) {
                    self.release(repository);
                }
                let back =
                    if self.dice.chance(self.parameters.old) { 1 + self.dice.geometric(self.parameters.back - 1.0) } else { 0 };
                let newest = repository.versions.len() - 1;
                let image = repository.versions[newest.saturating_sub(back)];
                self.pull(image, &mut clients[client]);
            }
        }
    }

    fn object(&mut self, kind: Kind, law: &SizeLaw) -> u32 {
        let size = law.draw(&mut self.dice);
        self.trace.objects.push(Object { kind, size });
        (self.trace.objects.len() - 1) as u32
    }

    fn base_layers(&mut self) -> Vec<u32> {
        let count = 1 + self.dice.geometric(BASE_MORE_LAYERS);
        (0..count).map(|_| self.object(Kind::Blob, &LAYERS)).collect()
    }

    /// The layers that an image has beyond those of a base of `base` layers.
    fn own_layers(&mut self, base: usize) -> Vec<u32> {
        let all = self.dice.log_normal(LAYERS_MEDIAN, LAYERS_SIGMA).round() as usize;
        let count = all.min(LAYERS_MAX).saturating_sub(base).max(1);
        (0..count).map(|_| self.object(Kind::Blob, &LAYERS)).collect()
    }

    fn repository(&mut self) -> Repository {
        let base = self.base_law.draw(&mut self.dice);
        let own_layers = self.own_layers(self.bases[base].layers.len());
        Repository { base, versions: Vec::new(), own_layers }
    }

    /// A new version: some of the last layers change, and all that lies on a base that was made anew.
    fn release(&mut self, repository: &mut Repository) {
        let base = repository.base;
        let mut changed = 1 + self.dice.geometric(CHANGED_MORE_LAYERS);
        if self.now - self.bases[base].renewed_at > BASE_DAYS * DAY {
            self.bases[base] = Base { layers: self.base_layers(), renewed_at: self.now };
        }
        let layers = self.bases[base].layers.clone();
        let on_same_base = repository
            .versions
            .last()
            .is_some_and(|last| self.trace.images[*last as usize][BEFORE_LAYERS..].starts_with(&layers));
        if !on_same_base {
            changed = repository.own_layers.len();
        }
        let kept = repository.own_layers.len().saturating_sub(changed);
        for layer in &mut repository.own_layers[kept..] {
            *layer = self.object(Kind::Blob, &LAYERS);
        }
        let own = repository.own_layers.clone();
        repository.versions.push(self.image(&layers, &own));
    }

    /// An image that is made for one pull.
    fn throw_away(&mut self) -> u32 {
        let base = self.base_law.draw(&mut self.dice);
        let layers = self.bases[base].layers.clone();
        let own = self.own_layers(layers.len());
        self.image(&layers, &own)
    }

    fn image(&mut self, base: &[u32], own: &[u32]) -> u32 {
        let mut objects = vec![
            self.object(Kind::Manifest, &MANIFESTS),
            self.object(Kind::Manifest, &MANIFESTS),
            self.object(Kind::Blob, &CONFIGS),
        ];
        objects.extend(base.iter().chain(own));
        self.trace.images.push(objects);
        (self.trace.images.len() - 1) as u32
    }

    /// A client asks what the tag is, always; and for what it does not have.
    fn pull(&mut self, image: u32, client: &mut Client) {
        let first = self.trace.requests.len();
        let at = (self.now * 1000.0) as i64;
        let objects = self.trace.images[image as usize].clone();
        for (place, object) in objects.into_iter().enumerate() {
            let had = client.has(object, self.parameters.memory);
            if !had || place == 0 {
                self.trace.requests.push(Request { at, object });
            }
        }
        self.trace.pulls.push(Pull { image, first, end: self.trace.requests.len() });
    }
}
