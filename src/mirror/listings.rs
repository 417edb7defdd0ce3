//! Tag lists and referrers: passed through, kept for a while, and served stale when the upstream fails.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::manifests::Failure;
use super::slow::Waited;
use super::{Asked, CacheOutcome, Caller, Lookup, Mirror, MirrorError, Place, StaleReason};
use crate::oci::{Digest, MediaType, RepositoryName, Tag, UpstreamName};
use crate::store::ListingRecord;
use crate::upstream::{Answer, Method, Phase, Question, Target, UpstreamError};

/// The longest query that is passed on, in bytes.
const QUERY_MAX_BYTES: usize = 1024;

/// The largest listing that is read, in bytes. Some registries send all tags at once, with more about each than its name.
const LISTING_MAX_BYTES: usize = 16 << 20;

/// The largest page that is asked for, in tags: a client cannot make us or an upstream allocate more.
const PAGE_MAX: usize = 1000;

/// Which page of a list is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most this many entries.
    pub size: Option<usize>,
    /// What else the query says, encoded: `last=…`, or whatever an upstream put into the link to its next page.
    pub rest: String,
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
    /// The page that follows, if the upstream named one.
    pub next: Option<Page>,
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
    pub async fn tags(&self, place: &Place, page: &Page, caller: Caller) -> Result<TagsAnswer, MirrorError> {
        let size = page.size.map(|size| size.min(PAGE_MAX));
        let target = Target::Tags { query: page.query() };
        let (listing, lookup) = self.listing(place, target, caller).await?;
        let document: TagsDocument = serde_json::from_slice(&listing.body)
            .map_err(|error| MirrorError::Unacceptable(format!("not a list of tags: {error}")))?;
        let tags = document.tags.unwrap_or_default().iter().filter_map(|tag| tag.parse().ok()).collect();
        let next = listing.link.as_deref().and_then(next_page);
        Ok(cut(tags, size, page.after().as_deref(), next, lookup))
    }

    /// The index of what refers to `digest`.
    ///
    /// # Errors
    /// [`MirrorError`] if the upstream has no such API or repository (clients then use the tag scheme), or cannot be asked.
    pub async fn referrers(
        &self,
        place: &Place,
        digest: &Digest,
        page: &Page,
        caller: Caller,
    ) -> Result<ReferrersAnswer, MirrorError> {
        let target = Target::Referrers { digest: *digest, query: page.query() };
        let (listing, lookup) = self.listing(place, target, caller).await?;
        Ok(ReferrersAnswer {
            bytes: listing.body.clone(),
            filters_applied: listing.filters_applied.clone(),
            next: listing.link.as_deref().and_then(next_page),
            lookup,
        })
    }

    async fn listing(&self, place: &Place, target: Target, caller: Caller) -> Result<(Arc<Listing>, Lookup), MirrorError> {
        let question = match &target {
            Target::Tags { query } => format!("tags?{query}"),
            Target::Referrers { digest, query } => format!("referrers/{digest}?{query}"),
            Target::Manifest(_) | Target::Blob(_) => unreachable!("content is not a listing"),
        };
        let key = Key { upstream: place.upstream.name.clone(), repository: place.repository.clone(), question };
        let cached = self.cached_listing(&key).await;
        if let Some(listing) = cached.as_ref().filter(|listing| self.is_listing_fresh(listing.checked_at)) {
            return Ok((Arc::clone(listing), Lookup::of(CacheOutcome::Hit)));
        }
        let cached = cached.as_ref();
        let asked = match self.not_denied(&Asked::Listing(key.clone())) {
            Ok(()) => self.ask_for_listing(place, &key, &target, cached, caller).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(found) => Ok(found),
            Err(error) => self.stale_listing(&key, &target, cached, &error).await.ok_or(error),
        }
    }

    /// The listing as the upstream has it now; or the cached one if it takes too long to hear of that.
    async fn ask_for_listing(
        &self,
        place: &Place,
        key: &Key,
        target: &Target,
        cached: Option<&Arc<Listing>>,
        caller: Caller,
    ) -> Result<(Arc<Listing>, Lookup), MirrorError> {
        let stale_after = |phase| async move {
            let late = MirrorError::Upstream(UpstreamError::Timeout { phase });
            self.stale_listing(key, target, cached, &late).await
        };
        let ask = || {
            let (mirror, place, key, target) = (self.clone(), place.clone(), key.clone(), target.clone());
            async move { mirror.fetch_listing(&place, &key, target, caller).await }
        };
        // Who was not answered a moment ago is not waited for while there is something to serve.
        if self.is_slow(&place.upstream.name)
            && let Some(stale) = stale_after(Phase::Headers).await
        {
            self.probe(place, || {
                let (mirror, key, ask) = (self.clone(), key.clone(), ask());
                async move { drop(mirror.shared.listing_fetches.run(key, || ask).await) }
            });
            return Ok(stale);
        }
        if !self.shared.listing_fetches.is_under_way(key) {
            // How long a client's own line is says nothing of the upstream.
            match self.wait(self.turn(place, caller), stale_after(Phase::Queue)).await {
                Waited::Ended(turn) => turn?,
                Waited::Late(stale) => return Ok(stale),
            }
            // Who waited may have been one of several, of whom the first has asked for all.
            if let Some(listing) = self.shared.listings.get(key).filter(|listing| self.is_listing_fresh(listing.checked_at)) {
                return Ok((listing, Lookup::of(CacheOutcome::Joined)));
            }
        }
        let (result, joined) =
            match self.wait(self.shared.listing_fetches.run(key.clone(), ask), stale_after(Phase::Headers)).await {
                Waited::Ended(ended) => ended,
                Waited::Late(stale) => {
                    self.note_slow(&place.upstream.name);
                    return Ok(stale);
                }
            };
        let result = result.unwrap_or_else(|| Err(MirrorError::abandoned()));
        if !joined && cached.is_none() {
            self.note_in_vain(caller, &result);
        }
        Ok((result?, Lookup::of(if joined { CacheOutcome::Joined } else { CacheOutcome::Miss })))
    }

    /// What can be served although the upstream failed with `error`: the cached listing, or what is known to be true.
    async fn stale_listing(
        &self,
        key: &Key,
        target: &Target,
        cached: Option<&Arc<Listing>>,
        error: &MirrorError,
    ) -> Option<(Arc<Listing>, Lookup)> {
        if let Some(cached) = cached
            && let Some(cause) = self.stale_listing_cause(error, Some(cached.checked_at))
        {
            return Some((Arc::clone(cached), Lookup::stale(&cause)));
        }
        let cause = self.stale_listing_cause(error, None).filter(|_| matches!(target, Target::Tags { .. }))?;
        // With the upstream out of reach, the tags that were pulled are the ones that can be pulled.
        let known = self.shared.store.catalog().tags(&key.upstream, &key.repository).await;
        let tags = Some(known.iter().map(|tag| tag.as_str().to_owned()).collect());
        let body = serde_json::to_vec(&TagsDocument { tags }).ok().filter(|_| !known.is_empty())?;
        let checked_at = self.shared.clock.unix_millis();
        let listing = Listing { body: body.into(), link: None, filters_applied: None, checked_at };
        Some((Arc::new(listing), Lookup::stale(&cause)))
    }

    /// The failure in spite of which a listing that was checked at `checked_at`, or is made of what is known to be true, is served, if
    /// it may be.
    fn stale_listing_cause(&self, error: &MirrorError, checked_at: Option<i64>) -> Option<UpstreamError> {
        let cause = error.stale_cause()?;
        let general = &self.shared.timing.freshness.general;
        // That there is none is an answer, which clients rely on: `keep_missing` is about tags.
        let is_answer = matches!(cause, UpstreamError::NotFound);
        let checked_at = checked_at.unwrap_or_else(|| self.shared.clock.unix_millis());
        (!is_answer && self.may_be_stale(general, checked_at, StaleReason::from(&cause))).then_some(cause)
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

    async fn fetch_listing(&self, place: &Place, key: &Key, target: Target, caller: Caller) -> Result<Arc<Listing>, MirrorError> {
        let checked_at = self.shared.clock.unix_millis();
        let what = target.what();
        let is_index = matches!(target, Target::Referrers { .. });
        let question = Question { repository: place.repository.clone(), target, method: Method::Get, caller };
        let absent = |error| {
            let error = MirrorError::from_upstream(error, what);
            self.note_denial(|| Asked::Listing(key.clone()), &error);
            error
        };
        let Answer { head, body } = self.ask(place, question).await.map_err(absent)?;
        let body = self.collect(body, &head, LISTING_MAX_BYTES).await.map_err(|failure| match failure {
            Failure::Upstream(error) => absent(error),
            Failure::Mirror(error) => error,
        })?;
        // Some registries answer a path that they do not know with a page of their own.
        if is_index && head.content_type.as_ref().is_none_or(|media_type| media_type.as_str() != MediaType::OCI_INDEX) {
            return Err(absent(UpstreamError::NotFound));
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

impl Page {
    /// The page that comes after `last`.
    fn following(last: &Tag, size: usize) -> Self {
        Self { size: Some(size), rest: format!("last={last}") }
    }

    /// The query to ask an upstream with.
    fn query(&self) -> String {
        // No upstream is asked for a page of nothing: that there is an entry says the same.
        let size = self.size.map(|size| format!("n={}", size.clamp(1, PAGE_MAX)));
        let rest = (!self.rest.is_empty()).then(|| self.rest.clone());
        size.into_iter().chain(rest).collect::<Vec<_>>().join("&")
    }

    /// The tag that the page comes after, if that is said in the specification's way.
    fn after(&self) -> Option<String> {
        let mut pairs = url::form_urlencoded::parse(self.rest.as_bytes());
        pairs.find_map(|(name, value)| (name == "last").then(|| value.into_owned()))
    }
}

/// The page of `tags` that was asked for, in the specification's order, whatever the upstream made of the question.
fn cut(mut tags: Vec<Tag>, size: Option<usize>, after: Option<&str>, next: Option<Page>, lookup: Lookup) -> TagsAnswer {
    tags.sort();
    tags.dedup();
    // An upstream that knows no pages sends them all, and it is for us to page.
    let is_paged = size.is_none_or(|size| tags.len() <= size) && !tags.iter().any(|tag| Some(tag.as_str()) == after);
    if !is_paged {
        tags.retain(|tag| after.is_none_or(|after| tag.as_str() > after));
    }
    let Some(size) = size.filter(|size| *size < tags.len()) else {
        return TagsAnswer { tags, next, lookup };
    };
    tags.truncate(size);
    let next = tags.last().map(|last| Page::following(last, size));
    TagsAnswer { tags, next, lookup }
}

/// The page that `Link: <target>; rel="next"` leads to (RFC 8288).
fn next_page(link: &str) -> Option<Page> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.split(';').any(|parameter| {
        parameter.trim().split_once('=').is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
        })
    });
    let (_, query) = target.split_once('?').filter(|_| is_next)?;
    Page::parse(query)
}

impl Page {
    /// Reads the query of a request, or of an upstream's link. What is not about pages is left out.
    ///
    /// Gives `None` for a size that is no number, and for more than a query of this kind can need.
    pub fn parse(query: &str) -> Option<Self> {
        let mut size = None;
        let mut rest = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "ns" => {}
                "n" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                    // More digits than fit are a number all the same, and capped like any other.
                    size = Some(value.parse().unwrap_or(usize::MAX));
                }
                "n" => return None,
                _ if value.is_empty() => {}
                _ => {
                    rest.append_pair(&name, &value);
                }
            }
        }
        let rest = rest.finish();
        (rest.len() <= QUERY_MAX_BYTES).then_some(Self { size, rest })
    }
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
        let answer = cut(tags(&["b", "a", "d", "c", "a"]), Some(2), Some("a"), None, lookup);
        assert_eq!(answer.tags, tags(&["b", "c"]));
        assert_eq!(answer.next, Some(Page { size: Some(2), rest: "last=c".to_owned() }));
        let answer = cut(tags(&["a"]), Some(0), None, None, lookup);
        assert_eq!((answer.tags.len(), answer.next), (0, None));
    }

    #[test]
    fn an_upstreams_own_page_is_left_whole() {
        let next = Some(Page { size: Some(2), rest: "token=x".to_owned() });
        // Its order is not ours: what it sends after `b` is what comes after `b` there.
        let answer = cut(tags(&["Z", "a"]), Some(2), Some("b"), next.clone(), Lookup::of(CacheOutcome::Miss));
        assert_eq!((answer.tags, answer.next), (tags(&["Z", "a"]), next));
    }

    #[test]
    fn the_next_page_is_read_from_a_link() {
        let link = r#"</v2/library/alpine/tags/list?last=3.19&n=50>; rel="next""#;
        assert_eq!(next_page(link), Some(Page { size: Some(50), rest: "last=3.19".to_owned() }));
        let opaque = r#"<https://reg/v2/x/tags/list?next_page=a%2Fb&ns=y>; rel="next""#;
        assert_eq!(next_page(opaque), Some(Page { size: None, rest: "next_page=a%2Fb".to_owned() }));
        for link in ["", "<x>", "<x?last=a>; rel=prev", "x?last=a; rel=next"] {
            assert_eq!(next_page(link), None, "{link}");
        }
    }

    #[test]
    fn sizes_are_capped_and_nonsense_is_refused() {
        assert_eq!(Page::parse("n=99999999999999999999999&ns=x").unwrap().query(), "n=1000");
        assert_eq!(Page::parse("n=0").unwrap().query(), "n=1");
        assert_eq!(Page::parse("last=&ns=docker.io").unwrap(), Page::default());
        assert_eq!(Page::parse("last=b").unwrap().after().as_deref(), Some("b"));
        for query in ["n=-1", "n=x", "n=", &format!("last={}", "x".repeat(2000))] {
            assert_eq!(Page::parse(query), None, "{query}");
        }
    }
}
