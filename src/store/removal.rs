//! Removing what an operator names: images, repositories, all of an upstream, or one content from everywhere. What goes besides the
//! names is what nothing else that is cached refers to; nothing in here decides what is worth keeping.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::blobs::Blobs;
use super::catalog::holdings::{self, Holder};
use super::catalog::names::Place;
use super::catalog::{Kind, contents, edges, pins};
use super::error::StoreError;
use super::name::Name;
use crate::oci::{Digest, Reference, Tag};

/// How many of the names are told that share what stays.
const SHARERS: usize = 16;

/// What was removed, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// The names that are gone. What belongs to another image among them is not named itself.
    pub images: Vec<Name>,
    /// How many contents are gone.
    pub contents: u64,
    /// How many bytes they had. Of one that is being read, the room is free when its last reader has ended.
    pub bytes: u64,
    /// Contents that belong to what was removed, and stay, since something else refers to them.
    pub shared_contents: u64,
    pub shared_bytes: u64,
    /// By what names they can still be pulled; not more than a few.
    pub shared_with: Vec<Name>,
}

/// Why nothing was removed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RemovalError {
    #[error("nothing is cached of {0}; names are as `larder ls` prints them, the upstream first")]
    NotCached(Name),
    #[error("{0} is pinned: unpin it first, or remove it in spite of that with --force")]
    Pinned(Name),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is to be removed.
#[derive(Default)]
struct Plan {
    /// Repositories by their number.
    places: BTreeMap<i64, Place>,
    /// Those of which nothing stays.
    whole: BTreeSet<i64>,
    tags: BTreeMap<(i64, Tag), Digest>,
    manifests: BTreeSet<(i64, Digest)>,
    /// Named by their digest: that a manifest refers to them does not keep them.
    explicit: BTreeSet<Digest>,
    /// All that belongs to what is removed and that nothing else refers to, at rest or not.
    going: BTreeMap<Digest, Option<u64>>,
    removal: Removal,
}

/// Why a plan could not be made.
enum Failed {
    Refused(RemovalError),
    Catalog(rusqlite::Error),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Catalog(error)
    }
}

impl From<RemovalError> for Failed {
    fn from(error: RemovalError) -> Self {
        Self::Refused(error)
    }
}

/// Blocks.
impl Blobs {
    pub(super) fn remove_named(&self, names: &[Name], is_dry: bool, force: bool) -> Result<Removal, RemovalError> {
        let plan = |connection: &Connection| {
            // One state of the catalog for all of it.
            let snapshot = connection.unchecked_transaction()?;
            match Plan::make(&snapshot, names, force) {
                Ok(plan) => Ok(Ok(plan)),
                Err(Failed::Refused(refusal)) => Ok(Err(refusal)),
                Err(Failed::Catalog(error)) => Err(error),
            }
        };
        let plan = self.catalog.database.examine(plan).map_err(StoreError::from)??;
        if !is_dry {
            self.carry_out_removal(&plan)?;
        }
        Ok(plan.removal)
    }

    /// The names go first: what is left of a removal that is cut short is content that nobody names, and goes when room is needed.
    fn carry_out_removal(&self, plan: &Plan) -> Result<(), StoreError> {
        for (repository, tag) in plan.tags.keys() {
            self.catalog.remove_tag(&plan.places[repository], tag);
        }
        for (repository, digest) in &plan.manifests {
            self.catalog.unlink(&plan.places[repository], Kind::Manifest, digest);
        }
        let (whole, touched) = (plan.whole.clone(), plan.places.keys().copied().collect::<Vec<_>>());
        let going: Vec<Digest> = plan.going.keys().copied().collect();
        self.catalog.database.write(move |connection| {
            whole.iter().try_for_each(|repository| holdings::forget_repository(connection, *repository))?;
            for digest in &going {
                touched.iter().try_for_each(|repository| holdings::forget(connection, *repository, digest))?;
                holdings::forget_manifest(connection, digest)?;
            }
            Ok(())
        })?;
        for (digest, size) in &plan.going {
            self.parts.give_up(digest);
            if size.is_some() {
                self.remove(digest);
            }
        }
        Ok(())
    }
}

// === impl Plan ===

impl Plan {
    fn make(connection: &Connection, names: &[Name], force: bool) -> Result<Self, Failed> {
        let mut plan = Self::default();
        for name in names {
            if !plan.add(connection, name)? {
                return Err(RemovalError::NotCached(name.clone()).into());
            }
        }
        plan.add_parts_of_images(connection)?;
        plan.find_contents(connection)?;
        plan.name_images(connection)?;
        if !force {
            plan.refuse_pinned(connection)?;
        }
        Ok(plan)
    }

    /// Adds what has that name. Tells whether there is anything.
    fn add(&mut self, connection: &Connection, name: &Name) -> rusqlite::Result<bool> {
        let before = (self.tags.len(), self.manifests.len(), self.explicit.len());
        match name {
            Name::Upstream(_) | Name::Repository { .. } => {
                let mut found = false;
                for holder in holdings::repositories(connection, name)? {
                    let (tags, linked) = (holdings::tags(connection, holder.id)?, holdings::linked(connection, holder.id)?);
                    found |= !tags.is_empty() || !linked.is_empty();
                    self.tags.extend(tags.into_iter().map(|(tag, digest)| ((holder.id, tag), digest)));
                    let manifests = holdings::manifests(connection, holder.id)?;
                    self.manifests.extend(manifests.into_iter().map(|digest| (holder.id, digest)));
                    self.going.extend(linked.into_iter().map(|digest| (digest, None)));
                    self.whole.insert(holder.id);
                    self.places.insert(holder.id, holder.place);
                }
                return Ok(found);
            }
            Name::Image { reference, .. } => {
                for Holder { id, place } in holdings::repositories(connection, name)? {
                    let named = |tag: &Tag, digest: &Digest| match reference {
                        Reference::Tag(named) => tag == named,
                        Reference::Digest(named) => digest == named,
                    };
                    let tags = holdings::tags(connection, id)?.into_iter().filter(|(tag, digest)| named(tag, digest));
                    self.tags.extend(tags.map(|(tag, digest)| ((id, tag), digest)));
                    if let Reference::Digest(digest) = reference
                        && holdings::manifests(connection, id)?.contains(digest)
                    {
                        self.manifests.insert((id, *digest));
                        self.explicit.insert(*digest);
                    }
                    self.places.insert(id, place);
                }
            }
            Name::Content(digest) => {
                for (holder, tag) in holdings::tags_of(connection, digest)? {
                    self.tags.insert((holder.id, tag), *digest);
                    self.places.insert(holder.id, holder.place);
                }
                for holder in holdings::holders(connection, digest)? {
                    self.manifests.insert((holder.id, *digest));
                    self.places.insert(holder.id, holder.place);
                }
                if contents::get(connection, digest)?.is_some() || self.manifests.iter().any(|(_, named)| named == digest) {
                    self.explicit.insert(*digest);
                    return Ok(true);
                }
            }
        }
        Ok(before != (self.tags.len(), self.manifests.len(), self.explicit.len()) || self.has(name))
    }

    /// Whether what has that name is among what is removed already: it was named twice.
    fn has(&self, name: &Name) -> bool {
        let Name::Image { upstream, repository, reference } = name else { return false };
        let place = Place { upstream: upstream.clone(), repository: repository.clone() };
        let is_here = |id: &i64| self.places.get(id) == Some(&place);
        match reference {
            Reference::Tag(tag) => self.tags.keys().any(|(id, named)| is_here(id) && named == tag),
            Reference::Digest(digest) => self.manifests.iter().any(|(id, named)| is_here(id) && named == digest),
        }
    }

    /// With an image goes what belongs to it, such as the manifests of an index, unless it belongs to something else there as well.
    fn add_parts_of_images(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        for repository in self.places.keys().copied().filter(|repository| !self.whole.contains(repository)).collect::<Vec<_>>() {
            let of_tags = self.tags.iter().filter(|((id, _), _)| *id == repository).map(|(_, digest)| *digest);
            let of_manifests = self.manifests.iter().filter(|(id, _)| *id == repository).map(|(_, digest)| *digest);
            let candidates = edges::closure(connection, of_tags.chain(of_manifests))?;
            let manifests = holdings::manifests(connection, repository)?;
            let tags = holdings::tags(connection, repository)?;
            let staying_tags = tags.into_iter().filter(|(tag, _)| !self.tags.contains_key(&(repository, tag.clone())));
            let others = manifests.iter().copied().filter(|digest| !candidates.contains(digest));
            let staying = edges::closure(connection, staying_tags.map(|(_, digest)| digest).chain(others))?;
            let going = manifests.iter().filter(|digest| candidates.contains(digest) && !staying.contains(digest));
            self.manifests.extend(going.map(|digest| (repository, *digest)));
        }
        Ok(())
    }

    /// Finds which contents go, and which stay because something else refers to them.
    fn find_contents(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let named = self.tags.values().chain(self.manifests.iter().map(|(_, digest)| digest)).chain(&self.explicit);
        let mut candidates = edges::closure(connection, named.copied().collect::<Vec<_>>())?;
        candidates.extend(std::mem::take(&mut self.going).into_keys());
        let mut sharers = BTreeSet::new();
        for digest in candidates {
            let size = contents::get(connection, &digest)?.map(|row| row.size);
            match (self.keeper(connection, &digest)?, size) {
                (Some(name), Some(size)) => {
                    self.removal.shared_contents += 1;
                    self.removal.shared_bytes += size;
                    if sharers.len() < SHARERS && sharers.insert(name.to_string()) {
                        self.removal.shared_with.push(name);
                    }
                }
                (Some(_), None) => {}
                (None, size) => {
                    self.removal.contents += u64::from(size.is_some());
                    self.removal.bytes += size.unwrap_or(0);
                    self.going.insert(digest, size);
                }
            }
        }
        Ok(())
    }

    /// A name that stays, of the content itself or of something at rest that refers to it: a tag if there is one.
    fn keeper(&self, connection: &Connection, digest: &Digest) -> rusqlite::Result<Option<Name>> {
        let mut without_tag = None;
        let mut open = vec![*digest];
        let mut seen = BTreeSet::new();
        while let Some(digest) = open.pop() {
            if !seen.insert(digest) {
                continue;
            }
            if contents::get(connection, &digest)?.is_some() {
                match self.staying_name(connection, &digest)? {
                    Some(name @ Name::Image { reference: Reference::Tag(_), .. }) => return Ok(Some(name)),
                    name => without_tag = name.or(without_tag),
                }
            }
            if !self.explicit.contains(&digest) {
                open.extend(edges::parents(connection, &digest)?);
            }
        }
        Ok(without_tag)
    }

    fn staying_name(&self, connection: &Connection, digest: &Digest) -> rusqlite::Result<Option<Name>> {
        let tags = holdings::tags_of(connection, digest)?;
        if let Some((holder, tag)) = tags.into_iter().find(|(holder, tag)| !self.tags.contains_key(&(holder.id, tag.clone()))) {
            return Ok(Some(image(&holder.place, Reference::Tag(tag))));
        }
        let mut holders = holdings::holders(connection, digest)?.into_iter();
        let staying = holders.find(|holder| !self.manifests.contains(&(holder.id, *digest)));
        Ok(staying.map(|holder| image(&holder.place, Reference::Digest(*digest))))
    }

    /// Names the images that go: tags, and manifests that neither a tag nor another manifest that goes leads to.
    fn name_images(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let tags = self.tags.keys().map(|(id, tag)| image(&self.places[id], Reference::Tag(tag.clone())));
        let mut images: Vec<Name> = tags.collect();
        for (id, digest) in &self.manifests {
            let has_tag = self.tags.iter().any(|((other, _), named)| other == id && named == digest);
            let parents = edges::parents(connection, digest)?;
            if !has_tag && !parents.iter().any(|parent| self.manifests.contains(&(*id, *parent))) {
                images.push(image(&self.places[id], Reference::Digest(*digest)));
            }
        }
        images.sort_by_cached_key(ToString::to_string);
        self.removal.images = images;
        Ok(())
    }

    fn refuse_pinned(&self, connection: &Connection) -> Result<(), Failed> {
        let tags = self.tags.keys().map(|(id, tag)| (&self.places[id], Reference::Tag(tag.clone())));
        let manifests = self.manifests.iter().map(|(id, digest)| (&self.places[id], Reference::Digest(*digest)));
        for (place, reference) in tags.chain(manifests) {
            if pins::covers(connection, place, &reference)? {
                return Err(RemovalError::Pinned(image(place, reference)).into());
            }
        }
        for digest in self.going.keys() {
            if pins::is_pinned(connection, digest)? {
                return Err(RemovalError::Pinned(Name::Content(*digest)).into());
            }
        }
        Ok(())
    }
}

fn image(place: &Place, reference: Reference) -> Name {
    let Place { upstream, repository } = place.clone();
    Name::Image { upstream, repository, reference }
}
