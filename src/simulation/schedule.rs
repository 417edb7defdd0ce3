//! What a seed decides before anything runs: which images there are and who has them, who comes when and wants what, and what goes
//! wrong. What goes wrong with a single answer or a single step on the disk is decided when it comes to it.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::client::{Asked, Client, Errand, Manner};
use super::dice::Dice;
use super::disk::{Stop, Trouble};
use super::library::{IMAGES, LIBRARY, SMALL_IMAGES};
use super::registry::Network;
use crate::fill::{Lanes, Limits};
use crate::oci::{Digest, RepositoryName, Tag};

/// A budget that all content of the world fits into several times.
const ROOMY: u64 = 1 << 30;

#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) network: Network,
    pub(super) limits: Limits,
    /// How many questions may wait for their answers at a time.
    pub(super) concurrent_requests: NonZeroUsize,
    /// Whether what a manifest names is fetched before it is asked for.
    pub(super) prefetches: bool,
    /// For how long a tag is fresh.
    pub(super) fresh: Duration,
    pub(super) max_bytes: u64,
    /// What each repository has: indexes of the library's images. The first one has all that are in play.
    pub(super) holdings: Vec<(RepositoryName, Vec<usize>)>,
    pub(super) tags: Vec<Tagging>,
    pub(super) runs: Vec<Run>,
    pub(super) is_fair: bool,
}

/// A tag of the repository with that index begins to point to an image.
#[derive(Clone, Debug)]
pub(super) struct Tagging {
    pub(super) place: usize,
    pub(super) tag: Tag,
    pub(super) image: usize,
}

/// What happens between a start of the machine and its stop. All times are from the start on.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) clients: Vec<Client>,
    /// How long the walk through the folder that follows the start is held up.
    pub(super) walk_waits: Option<Duration>,
    pub(super) moves: Vec<(Duration, Tagging)>,
    /// From when, for how long, and whether connections are refused, rather than nothing being heard.
    pub(super) outages: Vec<(Duration, Duration, bool)>,
    pub(super) disk: Vec<(Duration, Duration, Trouble)>,
    pub(super) end: End,
    pub(super) stop: (Stop, CatalogFate),
    /// How long the machine is off then.
    pub(super) off: Duration,
}

/// When the machine stops.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// When everybody has been served.
    Served,
    At(Duration),
    /// At a change of the disk; if it does not come to that many, as [`End::Served`].
    AtStep(u64),
}

/// What a stop leaves of the catalog's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CatalogFate {
    Kept,
    /// The last transactions are lost: its log ends after a part, in thousandths.
    LogCut(u64),
    Deleted,
    Garbage,
}

impl Schedule {
    pub(super) fn roll(dice: &mut Dice) -> Self {
        let is_fair = dice.one_in(4);
        let has_large = dice.one_in(50);
        let rough_disk = !is_fair && dice.one_in(3);
        let rough_network = !is_fair && (!rough_disk || dice.one_in(2));
        let is_tight = !is_fair && dice.one_in(8);
        let images = images(dice, has_large);
        let holdings = vec![
            ("library/app".parse().expect("a name"), images.clone()),
            ("team/tool".parse().expect("a name"), images.iter().copied().filter(|image| image % 2 == 0).collect()),
        ];
        let tags = tags(dice, &holdings);
        let runs = 1 + dice.within(0..3);
        let mut runs: Vec<Run> = (0..runs).map(|_| Run::roll(dice, &holdings, &tags, rough_network, rough_disk)).collect();
        if let Some(last) = runs.last_mut() {
            last.end = End::Served;
            // What was not written because the disk failed, the catalog alone may know.
            if rough_disk {
                last.stop.1 = CatalogFate::Kept;
            }
        }
        let chunk = if has_large { 64 << 10..512 << 10 } else { 1..*dice.pick(&[8 << 10, 32 << 10, 128 << 10]) };
        Self {
            network: Network {
                latency: 1..*dice.pick(&[3, 50, 400]),
                bandwidth: *dice.pick(&[200_000, 1_000_000, 10_000_000]) * if has_large { 20 } else { 1 },
                chunk,
                tells_digests: !dice.one_in(5),
                misfortunes: rough_network.then(|| *dice.pick(&[2, 4, 10])),
            },
            limits: Limits {
                lanes: Lanes {
                    for_speed: *dice.pick(&[1, 1, 4]),
                    for_readers: *dice.pick(&[1, 2, 4]),
                    extra_per_upstream: *dice.pick(&[0, 4, 64]),
                    extra_overall: 64,
                },
                unread_bytes: *dice.pick(&[0, 50_000, 64 << 20]),
            },
            concurrent_requests: NonZeroUsize::new(*dice.pick(&[1, 3, 100])).expect("none of them is zero"),
            prefetches: dice.one_in(2),
            fresh: Duration::from_secs(*dice.pick(&[1, 30, 300])),
            max_bytes: if is_tight { dice.within(1000..600_000) } else { ROOMY },
            holdings,
            tags,
            runs,
            is_fair,
        }
    }

    pub(super) fn is_roomy(&self) -> bool {
        self.max_bytes == ROOMY
    }
}

impl Run {
    fn roll(
        dice: &mut Dice,
        holdings: &[(RepositoryName, Vec<usize>)],
        tags: &[Tagging],
        rough_network: bool,
        rough_disk: bool,
    ) -> Self {
        let count = 1 + dice.within(0..8);
        let gathering = dice.millis(0..3000);
        let clients = (0..usize::try_from(count).expect("a few")).map(|number| {
            // Many come at once; the others whenever they do.
            let arrives = if dice.one_in(2) { gathering } else { dice.millis(0..6000) };
            let (place, errand) = errand(dice, holdings, tags);
            Client { number, arrives, place, errand, manner: manner(dice) }
        });
        let clients = clients.collect();
        let some = |dice: &mut Dice, is_rough: bool| if is_rough { dice.within(0..3) } else { 0 };
        let moves = (0..dice.within(0..3)).map(|_| {
            let Tagging { place, tag, .. } = dice.pick(tags).clone();
            let image = *dice.pick(&holdings[place].1);
            (dice.millis(0..6000), Tagging { place, tag, image })
        });
        let moves = moves.collect();
        let outages = (0..some(dice, rough_network)).map(|_| (dice.millis(0..5000), dice.millis(10..20_000), dice.one_in(2)));
        let outages = outages.collect();
        let disk = (0..some(dice, rough_disk)).map(|_| {
            let errors = *dice.pick(&[None, Some(3), Some(10), Some(40)]);
            (dice.millis(0..5000), dice.millis(1..10_000), Trouble { errors, full: errors.is_none() || dice.one_in(4) })
        });
        let disk = disk.collect();
        let end = match dice.within(0..4) {
            0 => End::Served,
            1 => End::At(dice.millis(0..8000)),
            _ => End::AtStep(1 + dice.within(0..150)),
        };
        let walk_waits = dice.one_in(3).then(|| dice.millis(0..5000));
        Self { clients, walk_waits, moves, outages, disk, end, stop: stop(dice), off: dice.millis(0..400_000) }
    }

    /// A run in which nothing is asked and nothing happens by itself.
    pub(super) fn quiet(dice: &mut Dice) -> Self {
        let walk_waits = dice.one_in(2).then(|| dice.millis(0..60_000));
        let stop = (Stop::Kill, CatalogFate::Kept);
        let none = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (clients, moves, outages, disk) = none;
        Self { clients, walk_waits, moves, outages, disk, end: End::Served, stop, off: Duration::ZERO }
    }
}

fn images(dice: &mut Dice, has_large: bool) -> Vec<usize> {
    let large = has_large.then(|| usize::try_from(dice.within(SMALL_IMAGES as u64..IMAGES as u64)).expect("an index"));
    let mut images: Vec<usize> = large.into_iter().collect();
    for _ in 0..1 + dice.within(0..3) {
        let image = usize::try_from(dice.within(0..SMALL_IMAGES as u64)).expect("an index");
        // Never in two repositories with one of them knowing only a part: who has an index has what is in it.
        for image in [Some(image), LIBRARY.images[image].child].into_iter().flatten() {
            if !images.contains(&image) {
                images.push(image);
            }
        }
    }
    images
}

fn tags(dice: &mut Dice, holdings: &[(RepositoryName, Vec<usize>)]) -> Vec<Tagging> {
    let mut tags = Vec::new();
    for (place, (_, images)) in holdings.iter().enumerate().filter(|(_, (_, images))| !images.is_empty()) {
        for tag in ["latest", "v1"] {
            tags.push(Tagging { place, tag: tag.parse::<Tag>().expect("a tag"), image: *dice.pick(images) });
        }
    }
    tags
}

fn stop(dice: &mut Dice) -> (Stop, CatalogFate) {
    let stop = if dice.one_in(3) { Stop::Kill } else { Stop::PowerLoss };
    let fate = match dice.within(0..8) {
        0 => CatalogFate::Deleted,
        1 => CatalogFate::Garbage,
        2 | 3 if stop == Stop::PowerLoss => CatalogFate::LogCut(dice.within(0..1000)),
        _ => CatalogFate::Kept,
    };
    (stop, fate)
}

fn errand(dice: &mut Dice, holdings: &[(RepositoryName, Vec<usize>)], tags: &[Tagging]) -> (usize, Errand) {
    let Tagging { place, tag, .. } = dice.pick(tags).clone();
    let image = &LIBRARY.images[*dice.pick(&holdings[0].1)];
    let blob = |dice: &mut Dice| -> Option<Digest> { (!image.blobs.is_empty()).then(|| *dice.pick(&image.blobs)) };
    let errand = match (dice.within(0..12), blob(dice)) {
        (0..=2, _) => Errand::Pull(tag),
        (3, _) => Errand::Tag(tag),
        (4, _) => Errand::TagHead(tag),
        (5, _) => Errand::Manifest(image.digest),
        (6, Some(blob)) if dice.one_in(2) => Errand::BlobHead(blob),
        (7, Some(blob)) => Errand::Resume(blob),
        (8, Some(blob)) => Errand::Part(blob, part(dice, LIBRARY.blob(&blob).len() as u64)),
        (9, Some(blob)) => Errand::Part(blob, part(dice, LIBRARY.blob(&blob).len() as u64)),
        (10.., Some(blob)) => Errand::Blob(blob),
        (_, _) => Errand::ManifestHead(image.digest),
    };
    // By digest, now and then, from a repository that has not got it.
    let place = match errand {
        Errand::Pull(_) | Errand::Tag(_) | Errand::TagHead(_) => place,
        _ => usize::from(dice.one_in(4)),
    };
    (place, errand)
}

fn part(dice: &mut Dice, size: u64) -> Asked {
    let position = |dice: &mut Dice| match dice.within(0..4) {
        0 => 0,
        // Around the withheld tail.
        1 => size.saturating_sub(65_530 + dice.within(0..12)),
        2 => size.saturating_sub(dice.within(0..20)),
        _ => dice.within(0..size + 10),
    };
    let first = position(dice);
    match dice.within(0..3) {
        0 => Asked::From { first, last: None },
        1 => Asked::From { first, last: Some(first + dice.within(0..size + 10)) },
        _ => Asked::Suffix(1 + size.saturating_sub(first)),
    }
}

fn manner(dice: &mut Dice) -> Manner {
    match dice.within(0..8) {
        0 => Manner::Slow(dice.millis(1..20_000)),
        1 => Manner::LeavesAfter(1 + dice.within(0..100_000)),
        2 => Manner::LeavesAt(dice.millis(0..2000)),
        _ => Manner::Eager,
    }
}
