//! Issue 5, "Truth", where it is a limit of Larder's own that a question meets: what is cached is served, and what is not is refused
//! with the reason, in time.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use larder_testkit::{Digest, Fault, Hub, Listener, RateLimit};

use crate::support::{Answer, Larder, NAME, TAG, blob, checked, counted, hub_with, image, manifest, pull};

const CONFIRMED: &str = "larder; fwd=stale; fwd-status=200; detail=revalidated";

fn assert_refused(answer: &Answer, code: &str) {
    assert_eq!(answer.error(), (503, code.to_owned()));
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}

/// Questions to the hub about this tag take so long.
fn slow(hub: &Hub, tag: &str, time: Duration) {
    hub.fault(Fault::on(Listener::Registry).path_contains(format!("/manifests/{tag}")).with_header("authorization").delay(time));
}

/// Waits until the hub has one of them.
async fn until_slow(hub: &Hub) {
    while hub.faults().iter().all(|fault| fault.fired == 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn who_finds_the_queue_full_is_told_so() {
    let image = image(950, &[1_000]);
    let hub = hub_with(&image).await;
    let own =
        "upstreams.\"docker.io\".concurrent_requests = 1\n timeouts = { answer = '25s', headers = '10s', revalidation = '1s' }";
    let larder = Larder::with(&hub, &format!("freshness.tags = '0s'\n {own}")).await;
    pull(&larder, NAME, TAG).await;
    // It keeps the one place for longer than anybody waits for it (8 s), and is answered (within 10 s).
    slow(&hub, "slow", Duration::from_millis(9_300));
    let occupy = larder.get(manifest("slow"));
    let ask = async {
        until_slow(&hub).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let targets = [manifest("absent"), manifest(Digest::sha256(b"absent")), blob(&Digest::sha256(b"absent")), manifest(TAG)];
        join_all(targets.iter().map(|target| larder.get(target))).await
    };
    let (occupant, answers) = tokio::join!(occupy, ask);
    assert_eq!(occupant.status(), 404);
    for answer in &answers[..3] {
        assert_refused(answer, "UNAVAILABLE");
    }
    let stale = &answers[3];
    assert_eq!((stale.status(), stale.cache_status()), (200, "larder; fwd=stale; detail=stale-timeout"));
    assert_eq!(larder.metrics().await.requests("manifest", "stale-timeout"), 1.0);
}

/// One client's line is no matter of the others, nor of the upstream.
#[tokio::test]
async fn a_client_that_waits_for_its_own_turn_makes_no_upstream_slow() {
    let image = image(951, &[1_000]);
    let hub = hub_with(&image).await;
    let own = "limits.misses_per_client = 1\n timeouts = { answer = '10s', revalidation = '1s' }";
    let larder = Larder::with(&hub, &format!("freshness.tags = '0s'\n {own}")).await;
    pull(&larder, NAME, TAG).await;
    let noisy = IpAddr::from(Ipv4Addr::new(127, 0, 0, 78));
    let ask = |target: String| {
        let larder = &larder;
        async move { larder.get_from(noisy, target).await }
    };
    let guesses = join_all((0..30).map(|number| ask(manifest(format!("guess-{number}")))));
    let meanwhile = async {
        // Its burst is used up when no more are asked for a moment: how much of it the pull took hangs on what was fetched ahead.
        let begun = Instant::now();
        let mut before = 0;
        while asked(&hub) < 10 || asked(&hub) > before {
            assert!(begun.elapsed() < Duration::from_secs(60), "{} were asked", asked(&hub));
            before = asked(&hub);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let stale = ask(manifest(TAG)).await;
        assert_eq!((stale.status(), stale.cache_status()), (200, "larder; fwd=stale; detail=stale-timeout"));
        let other = larder.get(manifest(TAG)).await;
        assert_eq!((other.status(), other.cache_status()), (200, CONFIRMED), "another client is not served stale for that");
        // At once: one after the other, they would take so long that there is a turn for the second one.
        let absent = [manifest(Digest::sha256(b"absent")), blob(&Digest::sha256(b"absent"))];
        for answer in join_all(absent.map(ask)).await {
            assert_refused(&answer, "TOOMANYREQUESTS");
        }
    };
    tokio::join!(guesses, meanwhile);
}

/// How often it was asked what a tag points to.
fn asked(hub: &Hub) -> usize {
    hub.requests().method("HEAD").path_contains("/manifests/").with_header("authorization").count()
}

/// What is left of the upstream's limit is for those who have nothing.
#[tokio::test]
async fn the_reserve_is_spent_on_what_is_not_cached_alone() {
    let [old, new, other] = [952, 953, 954].map(|seed| image(seed, &[1_000]));
    let hub = hub_with(&old).await;
    hub.configure(|config| config.rate_limit = Some(RateLimit::of(10)));
    let larder = Larder::with(&hub, "freshness.tags = '0s'\n upstreams.\"docker.io\".rate_limit_reserve = '9'").await;
    pull(&larder, NAME, TAG).await;
    hub.edit(NAME, |repository| {
        repository.set_tag(TAG, &new);
        repository.set_tag("2.0", &other);
    });
    for _ in 0..2 {
        let saved = larder.get(manifest(TAG)).await;
        assert_eq!((saved.status(), saved.cache_status()), (200, "larder; fwd=stale; detail=stale-saving"));
        assert_eq!(saved.body, old.manifest().bytes);
    }
    assert_eq!(larder.metrics().await.requests("manifest", "stale-saving"), 2.0);
    assert_eq!(larder.log().matches("serving a stale tag").count(), 0, "no question has failed");
    assert_eq!(counted(&hub).count(), 1);
    let spent = larder.get(manifest("2.0")).await;
    assert_eq!((spent.status(), counted(&hub).count()), (200, 2));
}

/// The time that a client has is over before any question's is.
#[tokio::test]
async fn who_waits_to_the_end_is_told_that_there_was_no_answer() {
    let image = image(955, &[1_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "timeouts.answer = '1s'").await;
    hub.fault(Fault::on(Listener::Registry).path_contains("/blobs/").with_header("authorization").hold());
    let layer = image.layers()[0].digest();
    let answer = larder.get(blob(layer)).await;
    assert_eq!(answer.error(), (504, "UNAVAILABLE".to_owned()));
    // It was asked for in vain all the same.
    larder.until_missing(&[format!("docker.io/{NAME}@{layer}")]).await;
}

/// Clients that share a question are counted as what they are.
#[tokio::test]
async fn confirmations_are_counted_once_for_who_asked_and_once_for_who_joined() {
    let hub = hub_with(&image(956, &[1_000])).await;
    let larder = Larder::with(&hub, "freshness.tags = '0s'\n timeouts.revalidation = '20s'").await;
    pull(&larder, NAME, TAG).await;
    hub.reset_records();
    let gate = hub.fault(Fault::on(Listener::Registry).method("HEAD").path_contains("/manifests/").once().hold());
    let clients = join_all((0..20).map(|_| larder.get(manifest(TAG))));
    let release = async {
        gate.until_held(1).await;
        larder.until(|metrics| metrics.get("connections") >= 20.0).await;
        gate.release();
    };
    let (answers, ()) = tokio::join!(clients, release);
    let asked = answers.iter().filter(|answer| answer.cache_status() == CONFIRMED).count();
    let joined = "larder; fwd=stale; fwd-status=200; collapsed; detail=revalidated";
    let joined = answers.iter().filter(|answer| answer.cache_status() == joined).count();
    assert_eq!((asked, asked + joined), (checked(&hub).count(), 20));
    assert!(joined > 0);
    let counts = [("revalidated", asked), ("revalidated-joined", joined)];
    larder.until(|metrics| counts.iter().all(|(word, count)| metrics.requests("manifest", word) == *count as f64)).await;
}
