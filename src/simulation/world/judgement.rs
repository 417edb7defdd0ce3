//! What is asked of a schedule once it can be seen whole: whether everybody is served when nothing goes wrong any more, whether all is
//! kept, what was left behind, how often the upstream was read, and whether the disk holds what its names say.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::World;
use crate::mirror::Want;
use crate::oci::{Algorithm, Digest, Reference};
use crate::simulation::client::{Manner, Site, Unserved, Visit};
use crate::simulation::disk::{Stop, Trouble};
use crate::simulation::library::{LIBRARY, short};
use crate::simulation::schedule::Tagging;
use crate::store::PartMap;

/// After this, nothing is remembered any more of what went wrong: neither by the mirror nor by the fills. The gate has looked before.
const FORGOTTEN: Duration = Duration::from_secs(301);

/// How long fills that nobody waits for may take to end, in fair weather.
const LANDING: Duration = Duration::from_secs(600);

impl World {
    /// When nothing goes wrong any more everybody is served, with what is true now; and all is kept, and nothing left behind.
    pub(super) async fn check_fair(&self, site: &Site) {
        sleep(Duration::from_secs(60)).await;
        self.registry.end_misfortunes();
        self.registry.set_down(None);
        self.disk.set_trouble(Trouble::default());
        sleep(FORGOTTEN.max(self.schedule.fresh)).await;
        self.pull_everything(site, "after all went well again", true).await;

        let store = site.mirror.store();
        let landed = async {
            while site.mirror.fills().count() > 0 {
                sleep(Duration::from_secs(1)).await;
            }
        };
        if timeout(LANDING, landed).await.is_err() {
            self.journal.violation(format_args!("{} fills never end", site.mirror.fills().count()));
        }
        // Parts are removed behind the back of those who wait.
        sleep(Duration::from_secs(5)).await;
        let stats = store.stats();
        self.journal.note(format_args!("the store: {stats:?}"));
        if stats.bytes + stats.reserved > stats.max_bytes {
            self.journal.violation(format_args!("P6: more than the budget is taken: {stats:?}"));
        }
        if self.disk.failures() > 0 || !self.schedule.is_roomy() {
            return;
        }
        if stats.reserved > 0 {
            self.journal.violation(format_args!("{} bytes stay reserved", stats.reserved));
        }
        let left = self.disk.files("ingest");
        if !left.is_empty() {
            self.journal
                .violation(format_args!("parts are left behind: {:?}", left.iter().map(|(path, _)| path).collect::<Vec<_>>()));
        }
        for digest in self.everything() {
            if store.get(&digest).await.is_none() {
                self.journal.violation(format_args!("{} was fetched and is not in the cache", short(&digest)));
            }
        }
    }

    /// P3: with the upstream gone, what was kept is served, by tag and by digest.
    pub(super) async fn check_dark(&self, site: &Site) {
        self.registry.set_down(Some(true));
        if self.schedule.is_roomy() {
            self.pull_everything(site, "P3: while the upstream is down", false).await;
        }
    }

    /// Pulls every tag, and every image that no tag has brought, from every repository that has it; and every manifest by its digest.
    async fn pull_everything(&self, site: &Site, when: &str, must_be_current: bool) {
        let mut pulled = HashSet::new();
        for Tagging { place, tag, .. } in &self.schedule.tags {
            let visit = Visit { site, place: &site.places[*place], manner: Manner::Eager };
            let right = LIBRARY.images[self.registry.tagged(&visit.place.repository, tag)].digest;
            match self.pull(&visit, &Reference::Tag(tag.clone())).await {
                Ok(digest) if must_be_current && digest != right => {
                    self.journal.violation(format_args!("{when}, {tag} is {}, not {}", short(&digest), short(&right)));
                }
                Ok(digest) => drop(pulled.insert((*place, digest))),
                Err(unserved) => self.journal.violation(format_args!("{when}, {tag} cannot be pulled: {unserved:?}")),
            }
        }
        for (place, (_, images)) in self.schedule.holdings.iter().enumerate() {
            let visit = Visit { site, place: &site.places[place], manner: Manner::Eager };
            for digest in images.iter().map(|image| LIBRARY.images[*image].digest) {
                let reference = Reference::Digest(digest);
                let got = match pulled.contains(&(place, digest)) {
                    true => visit.manifest(&reference, Want::Body).await,
                    false => self.pull(&visit, &reference).await,
                };
                if let Err(unserved) = got {
                    self.journal.violation(format_args!("{when}, {} cannot be pulled: {unserved:?}", short(&digest)));
                }
            }
        }
    }

    /// Pulls, and again where it turns out that wrong bytes which the upstream has sent are in a part that was kept. That shows once
    /// in each blob.
    async fn pull(&self, visit: &Visit<'_>, reference: &Reference) -> Result<Digest, Unserved> {
        for _ in 0..self.registry.count_tainted() {
            match visit.pull(reference).await {
                Err(Unserved::BadPart) => {}
                got => return got,
            }
        }
        visit.pull(reference).await
    }

    /// All content that is in play.
    fn everything(&self) -> Vec<Digest> {
        let images = self.schedule.holdings[0].1.iter().flat_map(|image| LIBRARY.pulled_with(*image));
        let mut all: Vec<Digest> = images.flat_map(|image| image.blobs.iter().chain([&image.digest])).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// P4: what is at rest is not read again, and what nothing goes wrong with is read once.
    pub(super) fn check_accounts(&self) {
        let accounts = self.registry.settle_accounts();
        if self.disk.failures() > 0 || !self.schedule.is_roomy() {
            return;
        }
        for (digest, account) in accounts {
            let name = short(&digest);
            if self.at_rest.contains(&digest) && account.bytes > 0 {
                self.journal.violation(format_args!("P4: {name} is at rest and was read again: {account:?}"));
            }
            let size = LIBRARY.bytes(&digest).map_or(0, |bytes| bytes.len() as u64);
            // A manifest is asked for once by each repository that wants it; a blob may be asked for in parts, each of which may
            // end in the middle of what the connection brings at a time.
            let is_manifest = LIBRARY.image(&digest).is_some();
            let part = self.parts.get(&digest);
            let most = match part {
                _ if is_manifest => size * self.schedule.holdings.len() as u64,
                None => size,
                // Wrong bytes of an upstream that tells no size may be more than the content has. The last byte is asked for even if it
                // is there: to give it is the upstream's word that it has the content.
                Some(bytes) => size.saturating_sub(*bytes) + 1,
            };
            if part.is_some_and(|bytes| *bytes > size) && !self.registry.is_tainted(&digest) {
                self.journal.violation(format_args!("P1: {part:?} bytes were kept of {name}, which has {size}"));
            }
            let waste = if is_manifest { 0 } else { account.reads.saturating_sub(1) * self.registry.largest_chunk() };
            if account.misfortunes == 0 && !self.registry.is_tainted(&digest) && account.bytes > most + waste {
                self.journal
                    .violation(format_args!("P4: {name} of {size} bytes was read more than once: {account:?}, after {part:?}"));
            }
        }
    }

    /// P1 and P2: after every stop, what has a name among the blobs is what the name says.
    pub(super) fn check_disk(&mut self) {
        self.at_rest.clear();
        for (path, bytes) in self.disk.files("blobs") {
            let name = path.rsplit('/').next().unwrap_or_default();
            let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.hex_len() == name.len());
            let digest = algorithm.and_then(|algorithm| Digest::from_hex(algorithm, name).ok());
            // Comparing is cheaper than hashing.
            match digest.filter(|digest| LIBRARY.bytes(digest).is_some_and(|right| *right == bytes)) {
                Some(digest) if LIBRARY.image(&digest).is_none() => drop(self.at_rest.insert(digest)),
                Some(_) => {}
                None => self.journal.violation(format_args!("P1: {path} is not what its name says: {} bytes", bytes.len())),
            }
        }
    }

    /// P4: what had arrived when the process was killed is not read again. Notes how much that is.
    pub(super) fn look_at_parts(&mut self, stop: Stop) {
        self.parts.clear();
        if stop == Stop::PowerLoss {
            return;
        }
        let files: HashMap<String, _> = self.disk.files("ingest").into_iter().collect();
        for (path, bytes) in &files {
            let Some(name) = path.strip_suffix("map").filter(|name| files.contains_key(&format!("{name}part"))) else { continue };
            let hex = name.trim_start_matches("ingest/").split('.').next().unwrap_or_default();
            let digest = self.everything().into_iter().find(|digest| digest.hex() == hex);
            if let (Some(digest), Ok(map)) = (digest, serde_json::from_slice::<PartMap>(bytes)) {
                let bytes = self.parts.entry(digest).or_default();
                *bytes = map.bytes().max(*bytes);
            }
        }
    }
}
