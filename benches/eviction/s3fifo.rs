//! S3-FIFO (Yang et al., SOSP'23) by bytes, with everything that could be otherwise as a setting: as the paper has it, and to show
//! what each of Larder's choices is worth. Larder itself is not in here: see `model.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use super::policy::PATIENCE;
use super::replay::Policy;
use super::workload::Trace;

const MAX_USES: u8 = 3;
const SMALL: u64 = 1 << 20;

/// Of how many images that an object belongs to is looked at.
const IMAGES: usize = 8;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// The share of the capacity that objects below 1 MiB have to themselves, in queues of their own; 0 for none.
    pub(crate) small: f64,
    /// The share of its class that probation may have.
    pub(crate) probation: f64,
    /// How many bytes are remembered, as a share of the capacity.
    pub(crate) memory: f64,
    /// How many uses on probation are enough to stay.
    pub(crate) enough: u8,
    /// When one layer goes, those go that belong to no other image which is still complete.
    pub(crate) whole_images: bool,
    /// How many may stay, one after the other, before one goes however much it was used.
    pub(crate) patience: u32,
}

impl Settings {
    pub(crate) const PAPER: Self =
        Self { small: 0.0, probation: 0.1, memory: 0.9, enough: 2, whole_images: false, patience: u32::MAX };
    pub(crate) const LARDER: Self =
        Self { small: 0.05, probation: 0.05, memory: 1.0, enough: 1, whole_images: false, patience: PATIENCE };
}

pub(crate) struct S3Fifo {
    settings: Settings,
    capacity: u64,
    used: u64,
    classes: [Class; 2],
    known: HashMap<u32, Known>,
    arrivals: u64,
    images: Images,
}

/// Probation and main queue by arrival, and what went from the first.
#[derive(Default)]
struct Class {
    queues: [BTreeMap<u64, u32>; 2],
    bytes: [u64; 2],
    gone: u64,
    remembered: HashMap<u32, u64>,
    order: VecDeque<(u32, u64)>,
}

#[derive(Clone, Copy)]
struct Known {
    class: usize,
    queue: usize,
    arrival: u64,
    uses: u8,
}

#[derive(Default)]
struct Images {
    of: HashMap<u32, Vec<u32>>,
    seen: HashSet<u32>,
    torn: HashSet<u32>,
}

const PROBATION: usize = 0;
const MAIN: usize = 1;

impl S3Fifo {
    pub(crate) fn new(capacity: u64, settings: Settings) -> Self {
        let (classes, known, images) = (Default::default(), HashMap::new(), Images::default());
        // Room before the first arrival, for what is put at the front.
        Self { settings, capacity, used: 0, classes, known, arrivals: 1 << 60, images }
    }

    fn class(&self, trace: &Trace, object: u32) -> usize {
        usize::from(self.settings.small == 0.0 || trace.size(object) >= SMALL)
    }

    fn insert(&mut self, trace: &Trace, object: u32, known: Known) {
        let class = &mut self.classes[known.class];
        class.queues[known.queue].insert(known.arrival, object);
        class.bytes[known.queue] += trace.size(object);
        self.known.insert(object, known);
    }

    fn remove(&mut self, trace: &Trace, object: u32) -> Known {
        let known = self.known.remove(&object).expect("it is there");
        let class = &mut self.classes[known.class];
        class.queues[known.queue].remove(&known.arrival);
        class.bytes[known.queue] -= trace.size(object);
        known
    }

    fn append(&mut self, trace: &Trace, object: u32, class: usize, queue: usize, uses: u8) {
        self.arrivals += 1;
        self.insert(trace, object, Known { class, queue, arrival: self.arrivals, uses });
    }

    fn evict(&mut self, trace: &Trace) {
        for spared in 0.. {
            let is_patient = spared < self.settings.patience;
            let bytes = |class: usize| self.classes[class].bytes.iter().sum::<u64>();
            let small_share = (self.settings.small * self.capacity as f64) as u64;
            let class = usize::from(bytes(1) > 0 && bytes(0) <= small_share);
            let [probation, main] = self.classes[class].bytes;
            let most = (self.settings.probation * (probation + main) as f64) as u64;
            let queue = if main == 0 || probation > most { PROBATION } else { MAIN };
            let object = *self.classes[class].queues[queue].values().next().expect("it has bytes");
            let known = self.remove(trace, object);
            match queue {
                PROBATION if known.uses >= self.settings.enough && is_patient => self.append(trace, object, class, MAIN, 0),
                MAIN if known.uses > 0 && is_patient => self.append(trace, object, class, MAIN, known.uses - 1),
                _ => {
                    self.used -= trace.size(object);
                    if queue == PROBATION {
                        let share = if class == 0 { self.settings.small } else { 1.0 - self.settings.small };
                        let window = self.settings.memory * share * self.capacity as f64;
                        self.classes[class].remember(object, trace.size(object), window as u64);
                    }
                    self.tear(trace, object);
                    return;
                }
            }
        }
    }

    /// Puts at the front what is left of images that were complete up to now, unless other images need it.
    fn tear(&mut self, trace: &Trace, gone: u32) {
        if !self.settings.whole_images {
            return;
        }
        let images: Vec<u32> = self.images.of.get(&gone).into_iter().flatten().rev().take(IMAGES).copied().collect();
        self.images.torn.extend(&images);
        let parts = images.iter().flat_map(|image| &trace.images[*image as usize]);
        for &part in parts.filter(|part| self.class(trace, **part) == 1).collect::<BTreeSet<_>>() {
            if self.known.contains_key(&part) && self.images.of[&part].iter().all(|image| self.images.torn.contains(image)) {
                let known = self.remove(trace, part);
                let first = self.classes[1].queues[PROBATION].keys().next().map_or(1 << 60, |first| first - 1);
                self.insert(trace, part, Known { queue: PROBATION, arrival: first, uses: 0, ..known });
            }
        }
    }
}

impl Class {
    fn remember(&mut self, object: u32, size: u64, window: u64) {
        self.gone += size;
        self.remembered.insert(object, self.gone);
        self.order.push_back((object, self.gone));
        while let Some(&(oldest, gone)) = self.order.front()
            && self.gone - gone > window
        {
            if self.remembered.get(&oldest) == Some(&gone) {
                self.remembered.remove(&oldest);
            }
            self.order.pop_front();
        }
    }
}

impl Policy for S3Fifo {
    fn request(&mut self, trace: &Trace, number: usize) -> bool {
        let object = trace.requests[number].object;
        if let Some(known) = self.known.get_mut(&object) {
            known.uses = MAX_USES.min(known.uses + 1);
            return true;
        }
        let size = trace.size(object);
        if size <= self.capacity {
            while self.used + size > self.capacity {
                self.evict(trace);
            }
            let class = self.class(trace, object);
            let queue = if self.classes[class].remembered.remove(&object).is_some() { MAIN } else { PROBATION };
            self.used += size;
            self.append(trace, object, class, queue, 0);
        }
        false
    }

    fn pulled(&mut self, trace: &Trace, number: usize) {
        if !self.settings.whole_images {
            return;
        }
        let image = trace.pulls[number].image;
        self.images.torn.remove(&image);
        if self.images.seen.insert(image) {
            for object in &trace.images[image as usize] {
                self.images.of.entry(*object).or_default().push(image);
            }
        }
    }
}
