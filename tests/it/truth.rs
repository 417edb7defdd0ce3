//! Issue 5, "Truth": for every way in which an upstream fails, for all that may be cached of what is asked for, and for every way to
//! ask, the answer is the one of the design's section 3, and says what happened. The expectation is written down here once more.

use std::collections::HashMap;

use futures::future::join_all;
use larder_testkit::{Digest, Fault, Hub, Image, Listener};
use rustix::process::Signal;

use crate::support::{Answer, Larder, Metrics, NAME, TAG, blob, hub_with, image, manifest, pull};

/// The tag of an image that nobody has pulled.
const OTHER: &str = "2.0";

/// A way to fail.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Failure {
    /// Nobody listens.
    Refused,
    /// The registry's name has no address.
    NoName,
    /// What answers at the registry's port knows nothing of TLS.
    NoTls,
    /// The registry accepts and never answers.
    Silent,
    /// The registry closes the connection without an answer.
    Closed,
    /// The registry is there, and who gives the tokens for it is not.
    NoTokens,
    /// An answer of this status to whoever asks for a token.
    Token(u16),
    /// The operator wants nobody to be asked.
    Offline,
    /// An answer of this status to everything.
    Status(u16),
}

const FAILURES: [Failure; 20] = [
    Failure::Offline,
    Failure::Refused,
    Failure::Silent,
    Failure::Closed,
    Failure::NoTokens,
    Failure::NoName,
    Failure::NoTls,
    Failure::Token(401),
    Failure::Token(429),
    Failure::Token(503),
    Failure::Status(400),
    Failure::Status(401),
    Failure::Status(403),
    Failure::Status(404),
    Failure::Status(410),
    Failure::Status(429),
    Failure::Status(500),
    Failure::Status(502),
    Failure::Status(503),
    Failure::Status(504),
];

/// What is cached of what is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Fresh,
    Stale,
    Absent,
}

/// A way to ask.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Tag,
    Digest,
    Blob,
    /// The middle of the blob.
    Part,
}

impl Failure {
    async fn befall(self, hub: &Hub, larder: &mut Larder) {
        let all = || Fault::on(Listener::Registry);
        match self {
            Self::Offline => larder.restart_with("offline = true").await,
            Self::Refused => hub.stop_listening().await,
            Self::NoTokens => {
                hub.revoke_tokens();
                hub.stop_listening_on(Listener::Token).await;
            }
            // So long a name is none, which is known without asking anybody.
            Self::NoName => larder.restart_with(&upstream_at(&format!("http://{}.test", "a".repeat(64)))).await,
            Self::NoTls => larder.restart_with(&upstream_at(&hub.url().replacen("http:", "https:", 1))).await,
            Self::Token(status) => {
                hub.revoke_tokens();
                hub.fault(Fault::on(Listener::Token).answer(status, &[("Retry-After", "600")], "no"));
            }
            Self::Silent => drop(hub.fault(all().hold())),
            Self::Closed => drop(hub.fault(all().close())),
            Self::Status(429) => drop(hub.fault(all().answer(429, &[("Retry-After", "600")], "slow down"))),
            Self::Status(status) => drop(hub.fault(all().status(status))),
        }
    }

    /// The status and the code for a client for whom there is nothing.
    fn error(self, way: Way) -> (u16, &'static str) {
        match self {
            Self::Refused | Self::NoName | Self::NoTls | Self::NoTokens | Self::Closed => (502, "UNAVAILABLE"),
            Self::Status(400 | 500 | 502 | 504) | Self::Token(503) => (502, "UNAVAILABLE"),
            Self::Silent => (504, "UNAVAILABLE"),
            Self::Status(401 | 403) | Self::Token(401) => (403, "DENIED"),
            Self::Offline | Self::Status(404 | 410) if matches!(way, Way::Blob | Way::Part) => (404, "BLOB_UNKNOWN"),
            Self::Offline | Self::Status(404 | 410) => (404, "MANIFEST_UNKNOWN"),
            Self::Status(429) | Self::Token(429) => (503, "TOOMANYREQUESTS"),
            Self::Status(503) => (503, "UNAVAILABLE"),
            Self::Status(status) | Self::Token(status) => panic!("{status} is not in the table"),
        }
    }

    /// What an answer says that is stale because of it; `None` if it is an answer itself.
    fn staleness(self) -> Option<&'static str> {
        Some(match self {
            Self::Refused | Self::NoName | Self::NoTls | Self::NoTokens => "larder; fwd=stale; detail=stale-unreachable",
            Self::Silent => "larder; fwd=stale; detail=stale-timeout",
            Self::Closed => "larder; fwd=stale; detail=stale-server-error",
            Self::Status(401 | 403) | Self::Token(401) => "larder; fwd=stale; detail=stale-denied",
            Self::Status(429) | Self::Token(429) => "larder; fwd=stale; detail=stale-rate-limited",
            Self::Offline => "larder; hit; detail=stale-offline",
            Self::Status(404 | 410) => return None,
            Self::Status(_) | Self::Token(_) => "larder; fwd=stale; detail=stale-server-error",
        })
    }
}

/// The configuration of an upstream at this address.
fn upstream_at(url: &str) -> String {
    format!("upstreams.\"docker.io\".url = {url:?}")
}

impl Way {
    const ALL: [Self; 4] = [Self::Tag, Self::Digest, Self::Blob, Self::Part];

    fn target(self, image: &Image, tag: &str) -> String {
        match self {
            Self::Tag => manifest(tag),
            Self::Digest => manifest(&image.manifest().digest),
            Self::Blob | Self::Part => blob(image.layers()[0].digest()),
        }
    }

    /// The word for it in metrics.
    fn kind(self) -> &'static str {
        match self {
            Self::Tag | Self::Digest => "manifest",
            Self::Blob | Self::Part => "blob",
        }
    }

    async fn ask(self, larder: &Larder, method: &str, target: &str) -> Answer {
        let range: &[_] = if self == Self::Part { &[("Range", "bytes=100-199")] } else { &[] };
        larder.ask(method, target, range).await
    }

    /// The bytes that are asked for.
    fn bytes(self, image: &Image) -> Vec<u8> {
        match self {
            Self::Tag | Self::Digest => image.manifest().bytes.to_vec(),
            Self::Blob => image.layers()[0].bytes().to_vec(),
            Self::Part => image.layers()[0].bytes()[100..200].to_vec(),
        }
    }
}

/// Which upstream status went into the answer is told where one did, and is not what this test is about.
fn without_status(cache_status: &str) -> String {
    cache_status.split("; ").filter(|part| !part.starts_with("fwd-status=")).collect::<Vec<_>>().join("; ")
}

/// Asks in this way for `image`, and compares the answer with the table's. Gives the word that it is counted under.
async fn assert_row(larder: &Larder, failure: Failure, state: State, way: Way, method: &str, image: &Image) -> &'static str {
    let row = format!("{failure:?}, {state:?}, {method} {way:?}");
    let tag = if state == State::Absent { OTHER } else { TAG };
    let answer = way.ask(larder, method, &way.target(image, tag)).await;
    let hit = match (state, way) {
        (State::Absent, _) => None,
        (State::Stale, Way::Tag) => failure.staleness(),
        _ => Some("larder; hit"),
    };
    match hit {
        Some(cache_status) => {
            let is_part = way == Way::Part && method == "GET";
            assert_eq!(answer.status(), if is_part { 206 } else { 200 }, "{row}: {answer:?}");
            assert_eq!(without_status(answer.cache_status()), cache_status, "{row}");
            let bytes = way.bytes(image);
            assert!(method == "HEAD" || answer.body == bytes, "{row}: wrong bytes");
            let whole = if way == Way::Part { image.layers()[0].bytes().len() } else { bytes.len() };
            let length = if method == "HEAD" { whole } else { bytes.len() }.to_string();
            assert_eq!(answer.header("content-length"), Some(length.as_str()), "{row}");
            cache_status.rsplit_once("detail=").map_or("hit", |(_, detail)| detail)
        }
        None => {
            let (status, code) = failure.error(way);
            assert_eq!(answer.status(), status, "{row}: {answer:?}");
            let cache_status = without_status(answer.cache_status());
            let expected = if failure == Failure::Offline { "larder; detail=offline" } else { "larder; fwd=" };
            assert!(cache_status.starts_with(expected), "{row}: {cache_status}");
            assert_eq!(answer.header("www-authenticate"), None, "{row}");
            if method == "GET" {
                assert_eq!(answer.error_code(), code, "{row}");
            }
            let says_when = answer.header("retry-after").is_some();
            assert!(says_when || code != "TOOMANYREQUESTS", "{row}: when to come again is known");
            "error"
        }
    }
}

/// All rows of one failure.
async fn assert_table(failure: Failure, seed: u64) {
    let (cached, other) = (image(seed, &[3_000]), image(seed + 1, &[3_000]));
    let hub = hub_with(&cached).await;
    hub.edit(NAME, |repository| repository.set_tag(OTHER, &other));
    // Nothing of it is asked for twice within this time, so that each row meets the failure itself or what is known of it.
    let snippet = "freshness.tags = '1h'\n freshness.missing = '0s'\n timeouts.headers = '1s'\n timeouts.revalidation = '10s'";
    let mut larder = Larder::with(&hub, snippet).await;
    pull(&larder, NAME, TAG).await;
    failure.befall(&hub, &mut larder).await;
    hub.reset_records();
    for state in [State::Fresh, State::Stale, State::Absent] {
        if state == State::Stale {
            larder.restart_with("freshness.tags = '0s'").await;
        }
        let image = if state == State::Absent { &other } else { &cached };
        let before = larder.metrics().await;
        let mut counts = HashMap::new();
        for way in Way::ALL {
            // What was not there has been taken off the list by the time that it is asked for again.
            for method in ["GET", "HEAD"] {
                let word = assert_row(&larder, failure, state, way, method, image).await;
                *counts.entry((way.kind(), word)).or_insert(0.0) += 1.0;
            }
        }
        // An answer is counted when it is over, which may be a moment after the client has all of it.
        let counted = |now: &Metrics, (kind, word)| now.requests(kind, word) - before.requests(kind, word);
        larder.until(|now| counts.iter().all(|(series, count)| counted(now, *series) == *count)).await;
        if state == State::Fresh || failure == Failure::Offline {
            assert_eq!(hub.requests().count(), 0, "{failure:?}: what is fresh asks nobody");
        }
    }
    // It stands by all that, and is still there.
    assert_eq!(larder.admin_get("/readyz").await.status(), 200);
    let metrics = larder.metrics().await;
    assert_eq!(metrics.get("fills_in_flight"), 0.0);
    larder.stop(Signal::TERM);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failure_has_its_answer_for_all_that_is_cached_and_every_way_to_ask() {
    let tables = FAILURES.iter().zip(0..).map(|(failure, number)| tokio::spawn(assert_table(*failure, 700 + 2 * number)));
    for table in join_all(tables).await {
        table.unwrap();
    }
}

/// The upstream's bytes are not what the digest says: nobody gets them, and nobody is told that there is no such thing.
#[tokio::test]
async fn wrong_bytes_are_a_failure_of_the_upstream() {
    let (cached, other) = (image(760, &[3_000]), image(761, &[3_000]));
    let hub = hub_with(&cached).await;
    hub.edit(NAME, |repository| repository.set_tag(OTHER, &other));
    let larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    pull(&larder, NAME, TAG).await;
    hub.fault(Fault::on(Listener::Registry).path_contains("/manifests/").method("GET").corrupt(10));
    assert_eq!(larder.get(manifest(OTHER)).await.error(), (502, "MANIFEST_INVALID".to_owned()));
    // A tag that moved to it stays what it was.
    hub.edit(NAME, |repository| repository.set_tag(TAG, &other));
    let answer = larder.get(manifest(TAG)).await;
    assert_eq!((answer.status(), &answer.body[..]), (200, &cached.manifest().bytes[..]));
    assert_eq!(answer.cache_status(), "larder; fwd=stale; detail=stale-server-error");
    assert_eq!(larder.get(manifest(Digest::sha256(b"nothing"))).await.error(), (404, "MANIFEST_UNKNOWN".to_owned()));
}
