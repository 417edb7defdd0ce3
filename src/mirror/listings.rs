//! Tag lists and referrers: passed through, kept for a while, and served stale when the upstream fails.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::manifests::{Failure, collect};
use super::{CacheOutcome, Lookup, Mirror, MirrorError, MissingKey, Place};
use crate::oci::{Digest, MediaType, RepositoryName, Tag, UpstreamName};
use crate::store::ListingRecord;
use crate::upstream::{Answer, Method, Question, Target};

/// The largest page that is asked for, in tags: a client cannot make us or an upstream allocate more.
const PAGE_MAX: usize = 1000;

/// Which page of a list is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most this many tags.
    pub size: Option<usize>,
    /// Only tags after this one in lexical order.
    pub after: Option<Tag>,
}

/// A page of a repository's tags.
pub struct TagsAnswer {
    /// In lexical order.
    pub tags: Vec<Tag>,
    /// The page that follows, if there is one.
    pub next: Option<Page>,
    pub lookup: Lookup,
}

/// An index of the manifests that refer to another, as the upstream wrote it.
pub struct ReferrersAnswer {
    pub bytes: Bytes,
    /// `OCI-Filters-Applied` of the upstream.
    pub filters_applied: Option<String>,
    /// The query of the page that follows, if the upstream named one.
    pub next_query: Option<String>,
    pub lookup: Lookup,
}

/// What an upstream answered, and when.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) body: Bytes,
    link: Option<String>,
    filters_applied: Option<String>,
    checked_at: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    upstream: UpstreamName,
    repository: RepositoryName,
    question: String,
}

#[derive(Deserialize, Serialize)]
struct TagsDocument {
    /// Null from some registries when there are none.
    tags: Option<Vec<String>>,
}

impl Mirror {
    /// A page of the tags of `place`.
    ///
    /// # Errors
    /// [`MirrorError`] if the upstream has no such repository, or cannot be asked and nothing is cached.
    pub async fn tags(&self, place: &Place, page: &Page) -> Result<TagsAnswer, MirrorError> {
        let size = page.size.map(|size| size.min(PAGE_MAX));
        // No upstream is asked for a page of nothing: that one tag is there says the same.
        let mut query: Vec<String> = size.map(|size| format!("n={}", size.max(1))).into_iter().collect();
        query.extend(page.after.as_ref().map(|tag| format!("last={tag}")));
        let target = Target::Tags { query: query.join("&") };
        match self.listing(place, target).await {
            Ok((listing, lookup)) => {
                let document: TagsDocument = serde_json::from_slice(&listing.body)
                    .map_err(|error| MirrorError::Unacceptable(format!("not a list of tags: {error}")))?;
                let tags = document.tags.unwrap_or_default().iter().filter_map(|tag| tag.parse().ok()).collect();
                let next = listing.link.as_deref().and_then(next_page);
                Ok(cut(tags, size, page.after.as_ref(), next, lookup))
            }
            Err(error) => {
                // With the upstream out of reach, the tags that were pulled are the ones that can be pulled.
                let Some(cause) = error.permits_stale() else { return Err(error) };
                let known = self.shared.store.catalog().tags(&place.upstream.name, &place.repository).await;
                if known.is_empty() {
                    return Err(error);
                }
                Ok(cut(known, size, page.after.as_ref(), None, Lookup::stale(cause)))
            }
        }
    }

    /// The index of what refers to `digest`.
    ///
    /// # Errors
    /// [`MirrorError`] if the upstream has no such API or repository (clients then use the tag scheme), or cannot be asked.
    pub async fn referrers(
        &self,
        place: &Place,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<ReferrersAnswer, MirrorError> {
        let target = Target::Referrers { digest: *digest, artifact_type: artifact_type.map(str::to_owned) };
        let (listing, lookup) = self.listing(place, target).await?;
        Ok(ReferrersAnswer {
            bytes: listing.body.clone(),
            filters_applied: listing.filters_applied.clone(),
            next_query: listing.link.as_deref().and_then(next_query).map(str::to_owned),
            lookup,
        })
    }

    async fn listing(&self, place: &Place, target: Target) -> Result<(Arc<Listing>, Lookup), MirrorError> {
        let question = match &target {
            Target::Tags { query } => format!("tags?{query}"),
            Target::Referrers { digest, artifact_type } => {
                format!("referrers/{digest}?{}", artifact_type.as_deref().unwrap_or_default())
            }
            Target::Manifest(_) | Target::Blob(_) => unreachable!("content is not a listing"),
        };
        let key = Key { upstream: place.upstream.name.clone(), repository: place.repository.clone(), question };
        let cached = self.cached_listing(&key).await;
        if let Some(listing) = cached.as_ref().filter(|listing| self.is_fresh(listing.checked_at)) {
            return Ok((Arc::clone(listing), Lookup::of(CacheOutcome::Hit)));
        }
        if self.shared.missing.contains_key(&MissingKey::Listing(key.clone())) {
            return Err(MirrorError::Unknown(target.what()));
        }
        let work = || {
            let (mirror, place, key) = (self.clone(), place.clone(), key.clone());
            async move { mirror.fetch_listing(&place, &key, target).await }
        };
        let (result, joined) = self.shared.listing_fetches.run(key.clone(), work).await;
        match (result.unwrap_or_else(|| Err(MirrorError::abandoned())), cached) {
            (Ok(listing), _) => Ok((listing, Lookup::of(if joined { CacheOutcome::Joined } else { CacheOutcome::Miss }))),
            (Err(error), Some(cached)) => match error.permits_stale() {
                Some(cause) => Ok((cached, Lookup::stale(cause))),
                None => Err(error),
            },
            (Err(error), None) => Err(error),
        }
    }

    async fn cached_listing(&self, key: &Key) -> Option<Arc<Listing>> {
        if let Some(listing) = self.shared.listings.get(key) {
            return Some(listing);
        }
        let record = self.shared.store.catalog().listing(&key.upstream, &key.repository, &key.question).await?;
        let listing = Arc::new(Listing {
            body: record.body.into(),
            link: record.link,
            filters_applied: record.filters_applied,
            checked_at: record.checked_at,
        });
        self.shared.listings.insert(key.clone(), Arc::clone(&listing));
        Some(listing)
    }

    async fn fetch_listing(&self, place: &Place, key: &Key, target: Target) -> Result<Arc<Listing>, MirrorError> {
        let checked_at = self.shared.clock.unix_millis();
        let what = target.what();
        let is_index = matches!(target, Target::Referrers { .. });
        let question = Question { repository: place.repository.clone(), target, method: Method::Get };
        let absent = |error| {
            let error = MirrorError::from_upstream(error, what);
            if matches!(error, MirrorError::Unknown(_)) {
                self.shared.missing.insert(MissingKey::Listing(key.clone()), ());
            }
            error
        };
        let Answer { head, body } = self.ask(place, question).await.map_err(absent)?;
        let body = collect(body, &head).await.map_err(|failure| match failure {
            Failure::Upstream(error) => absent(error),
            Failure::Mirror(error) => error,
        })?;
        // Some registries answer a path that they do not know with a page of their own.
        if is_index && head.content_type.as_ref().is_none_or(|media_type| media_type.as_str() != MediaType::OCI_INDEX) {
            return Err(absent(crate::upstream::UpstreamError::NotFound));
        }
        let record = ListingRecord {
            body: body.to_vec(),
            link: head.link.clone(),
            filters_applied: head.filters_applied.clone(),
            checked_at,
        };
        self.shared.store.catalog().set_listing(&key.upstream, &key.repository, &key.question, record).await;
        let listing = Arc::new(Listing { body, link: head.link, filters_applied: head.filters_applied, checked_at });
        self.shared.listings.insert(key.clone(), Arc::clone(&listing));
        Ok(listing)
    }
}

impl Target {
    fn what(&self) -> &'static str {
        match self {
            Self::Manifest(_) => "manifest",
            Self::Blob(_) => "blob",
            Self::Tags { .. } => "repository",
            Self::Referrers { .. } => "referrers",
        }
    }
}

/// The page of `tags` that was asked for, in the specification's order, whatever the upstream made of the question.
fn cut(mut tags: Vec<Tag>, size: Option<usize>, after: Option<&Tag>, next: Option<Page>, lookup: Lookup) -> TagsAnswer {
    tags.sort();
    tags.dedup();
    tags.retain(|tag| after.is_none_or(|after| tag > after));
    let Some(size) = size.filter(|size| *size < tags.len()) else {
        return TagsAnswer { tags, next, lookup };
    };
    tags.truncate(size);
    let next = tags.last().map(|last| Page { size: Some(size), after: Some(last.clone()) });
    TagsAnswer { tags, next, lookup }
}

/// The query of the target of a `Link: <target>; rel="next"` (RFC 8288).
fn next_query(link: &str) -> Option<&str> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.split(';').any(|parameter| {
        parameter.trim().split_once('=').is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
        })
    });
    if !is_next {
        return None;
    }
    target.split_once('?').map(|(_, query)| query)
}

fn next_page(link: &str) -> Option<Page> {
    let query = next_query(link)?;
    let mut page = Page::default();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "n" => page.size = value.parse().ok(),
            "last" => page.after = value.parse().ok(),
            _ => {}
        }
    }
    page.after.is_some().then_some(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(list: &[&str]) -> Vec<Tag> {
        list.iter().map(|tag| tag.parse().unwrap()).collect()
    }

    #[test]
    fn a_page_is_cut_in_order_whatever_the_upstream_sent() {
        let lookup = Lookup::of(CacheOutcome::Miss);
        let answer = cut(tags(&["b", "a", "d", "c", "a"]), Some(2), Some(&"a".parse().unwrap()), None, lookup);
        assert_eq!(answer.tags, tags(&["b", "c"]));
        assert_eq!(answer.next, Some(Page { size: Some(2), after: Some("c".parse().unwrap()) }));
        let answer = cut(tags(&["a"]), Some(0), None, None, lookup);
        assert_eq!((answer.tags.len(), answer.next), (0, None));
    }

    #[test]
    fn the_next_page_is_read_from_a_link() {
        let link = r#"</v2/library/alpine/tags/list?last=3.19&n=50>; rel="next""#;
        assert_eq!(next_page(link), Some(Page { size: Some(50), after: Some("3.19".parse().unwrap()) }));
        for link in ["", "<x>", "<x?last=a>; rel=prev", "x?last=a; rel=next", r#"<x?n=1>; rel="next""#] {
            assert_eq!(next_page(link), None, "{link}");
        }
    }
}
