//! Issue 5, "Freshness": how long what is known of a tag is taken as true, what is served of it afterwards, and what one client may
//! cost the others.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use larder_testkit::{Fault, Hub, Image, Listener, Repository};

use crate::support::{Answer, Larder, NAME, TAG, checked, counted, hub_with, image, manifest, prepare, pull};

const REVALIDATING: &str = "larder; hit; detail=stale-while-revalidate";

/// Whatever asks what a tag points to.
fn checks() -> Fault {
    Fault::on(Listener::Registry).method("HEAD").path_contains("/manifests/")
}

/// How often it was asked what a tag points to, whatever came of it.
fn heads(hub: &Hub) -> usize {
    hub.requests().method("HEAD").path_contains("/manifests/").with_header("authorization").count()
}

async fn pulled(image: &Image, snippet: &str) -> (Hub, Larder) {
    let hub = hub_with(image).await;
    let larder = Larder::with(&hub, snippet).await;
    pull(&larder, NAME, TAG).await;
    hub.reset_records();
    (hub, larder)
}

fn summary(answer: &Answer) -> (u16, String) {
    (answer.status(), answer.cache_status().to_owned())
}

#[tokio::test]
async fn a_thousand_pulls_of_a_fresh_tag_cost_nothing() {
    let (hub, larder) = pulled(&image(500, &[1_000]), "freshness.tags = '1h'").await;
    for _ in 0..10 {
        let answers = join_all((0..100).map(|_| larder.get(manifest(TAG)))).await;
        assert!(answers.iter().all(|answer| summary(answer) == (200, "larder; hit".to_owned())));
    }
    assert_eq!(hub.requests().count(), 0);
}

#[tokio::test]
async fn any_number_of_clients_of_a_stale_tag_cost_one_check() {
    let (hub, larder) = pulled(&image(501, &[1_000]), "freshness.tags = '0s'\n timeouts.revalidation = '20s'").await;
    let gate = hub.fault(checks().once().hold());
    let clients = join_all((0..100).map(|_| larder.get(manifest(TAG))));
    let release = async {
        gate.until_held(1).await;
        larder.until(|metrics| metrics.get("connections") >= 100.0).await;
        gate.release();
    };
    let (answers, ()) = tokio::join!(clients, release);
    assert!(answers.iter().all(|answer| answer.status() == 200));
    assert_eq!((checked(&hub).count(), counted(&hub).count()), (1, 0));
}

#[tokio::test]
async fn a_little_stale_tag_is_served_at_once_and_asked_about_meanwhile() {
    let (old, new) = (image(502, &[1_000]), image(503, &[1_000]));
    let (hub, larder) = pulled(&old, "freshness.tags = '0s'\n freshness.stale_while_revalidate = '1h'").await;
    hub.edit(NAME, |repository| repository.set_tag(TAG, &new));
    let gate = hub.fault(checks().once().hold());
    for _ in 0..3 {
        assert_eq!(summary(&larder.get(manifest(TAG)).await), (200, REVALIDATING.to_owned()));
    }
    gate.until_held(1).await;
    assert_eq!(heads(&hub), 1, "all of them share the question");
    gate.release();
    // What it found is there for those who come later, and is fetched when one does.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = larder.get(manifest(TAG)).await;
        if answer.body == new.manifest().bytes {
            break;
        }
        assert_eq!(summary(&answer), (200, REVALIDATING.to_owned()));
        assert!(Instant::now() < deadline, "the tag never moved");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn who_asks_an_upstream_that_is_silent_is_served_what_there_is_and_the_next_at_once() {
    let (hub, larder) = pulled(&image(504, &[1_000]), "freshness.tags = '0s'\n timeouts.revalidation = '1s'").await;
    let gate = hub.fault(checks().hold());
    let (first, begun) = (larder.get(manifest(TAG)).await, Instant::now());
    assert_eq!(summary(&first), (200, "larder; fwd=stale; detail=stale-timeout".to_owned()));
    for _ in 0..5 {
        assert_eq!(summary(&larder.get(manifest(TAG)).await).0, 200);
    }
    // Each of them would have waited for a second; a loaded machine takes its time, too.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    // What is not cached has nothing to serve in its place, and waits for longer.
    let absent = larder.get(manifest("absent"));
    tokio::pin!(absent);
    assert!(tokio::time::timeout(Duration::from_millis(1500), &mut absent).await.is_err());
    hub.clear_faults();
    gate.release();
    assert_eq!(absent.await.status(), 404);
}

#[tokio::test]
async fn patterns_say_for_how_long_which_tags_are_fresh() {
    let image = image(505, &[1_000]);
    let hub = hub_with(&image).await;
    for tag in ["1.2.3", "1.2", "edge"] {
        hub.edit(NAME, |repository| repository.set_tag(tag, &image));
    }
    let rules = format!(
        "[tags.\"docker.io/**:{{semver}}\"]\n fresh_for = 'forever'\n \
         [tags.\"docker.io/{NAME}\"]\n fresh_for = '1h'\n \
         [tags.\"docker.io/{NAME}:edge\"]\n fresh_for = '0s'"
    );
    let larder = Larder::builder().upstream("docker.io", &hub).config("freshness.tags = '0s'").config(&rules).start().await;
    for tag in ["1.2.3", "1.2", "edge"] {
        larder.get(manifest(tag)).await;
    }
    hub.reset_records();
    for (tag, asks) in [("1.2.3", 0), ("1.2", 0), ("edge", 1)] {
        larder.get(manifest(tag)).await;
        assert_eq!(checked(&hub).path_contains(tag).count(), asks, "{tag}");
    }
}

#[tokio::test]
async fn the_operator_says_with_which_failures_and_for_how_long_a_tag_is_served_stale() {
    let image = image(506, &[1_000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    pull(&larder, NAME, TAG).await;
    for (policy, fault, expected) in [
        ("freshness.refuse_stale = ['server-error']", checks().status(503), (503, "UNAVAILABLE")),
        ("freshness.refuse_stale = ['denied']", checks().status(403), (403, "DENIED")),
        (
            "freshness.refuse_stale = ['rate-limited']",
            checks().answer(429, &[("Retry-After", "60")], ""),
            (503, "TOOMANYREQUESTS"),
        ),
        ("freshness.stale_for = '1ms'", checks().status(503), (503, "UNAVAILABLE")),
        (
            "freshness.stale_for = 'forever'\n freshness.refuse_stale = ['timeout']\n timeouts.answer = '2s'",
            checks().hold(),
            (504, "UNAVAILABLE"),
        ),
    ] {
        larder.restart_with(&format!("freshness.tags = '0s'\n {policy}")).await;
        let fault = hub.fault(fault);
        let (status, code) = larder.get(manifest(TAG)).await.error();
        assert_eq!((status, code.as_str()), expected, "{policy}");
        hub.clear_faults();
        fault.release();
        // Another kind of failure is another matter.
        larder.restart_with(&format!("freshness.tags = '0s'\n {policy}")).await;
        let _fault = hub.fault(checks().status(if policy.contains("denied") { 502 } else { 401 }));
        let status = larder.get(manifest(TAG)).await.status();
        assert_eq!(status, if policy.contains("1ms") { 403 } else { 200 }, "{policy}");
        hub.clear_faults();
    }
}

/// The one class of failure that no answer and no silence is.
#[tokio::test]
async fn a_tag_may_not_be_served_stale_for_an_upstream_that_cannot_be_reached() {
    let (hub, mut larder) =
        pulled(&image(510, &[1_000]), "freshness.tags = '0s'\n freshness.refuse_stale = ['unreachable']").await;
    hub.stop_listening().await;
    // The second time it is left alone: that is the same failure.
    for _ in 0..2 {
        assert_eq!(larder.get(manifest(TAG)).await.error(), (502, "UNAVAILABLE".to_owned()));
    }
    larder.restart_with("freshness.refuse_stale = ['timeout', 'server-error', 'rate-limited', 'denied']").await;
    let unreachable = (200, "larder; fwd=stale; detail=stale-unreachable".to_owned());
    assert_eq!(summary(&larder.get(manifest(TAG)).await), unreachable);
}

#[tokio::test]
async fn a_tag_that_is_gone_upstream_is_kept_where_the_operator_wants_that() {
    let image = image(507, &[1_000]);
    let (hub, mut larder) = pulled(&image, "freshness.tags = '0s'\n freshness.keep_missing = true").await;
    hub.edit(NAME, |repository| repository.remove_tag(TAG));
    for _ in 0..2 {
        let answer = larder.get(manifest(TAG)).await;
        assert_eq!(summary(&answer), (200, "larder; fwd=stale; fwd-status=404; detail=stale-missing".to_owned()));
        assert_eq!(answer.body, image.manifest().bytes);
    }
    assert_eq!(heads(&hub), 1, "that it is gone is remembered");
    larder.restart().await;
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200, "and that it was there as well");
    assert_eq!(larder.get(manifest("absent")).await.status(), 404);
    larder.restart_with("freshness.keep_missing = false").await;
    assert_eq!(larder.get(manifest(TAG)).await.status(), 404);
}

/// Fault matrix, security 21: one client that guesses tags neither starves the others nor spends what all share.
#[tokio::test]
async fn a_client_that_asks_for_what_is_not_there_waits_for_itself_alone() {
    let image = image(508, &[1_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "limits.misses_per_client = 2\n timeouts.answer = '5s'").await;
    let noisy = IpAddr::from(Ipv4Addr::new(127, 0, 0, 77));
    let guess = |number: usize| {
        let larder = &larder;
        async move { larder.get_from(noisy, manifest(format!("guess-{number}"))).await }
    };
    for number in 0..8 {
        assert_eq!(guess(number).await.status(), 404);
    }
    let guesses = join_all((8..40).map(guess)).await;
    let refused: Vec<_> = guesses.iter().filter(|answer| answer.status() != 404).collect();
    assert!(!refused.is_empty() && refused.iter().all(|answer| answer.error() == (503, "TOOMANYREQUESTS".to_owned())));
    assert!(refused.iter().all(|answer| answer.header("retry-after").is_some()));
    let asked = heads(&hub);
    assert_eq!(asked, 40 - refused.len());
    // There are forty at once. Eight have cost four each; of those that came together, each pays for some of them.
    assert!((9..=25).contains(&asked), "{asked}");

    // Others have their own, and what is cached costs nobody anything.
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    for _ in 0..100 {
        assert_eq!(larder.get_from(noisy, manifest(TAG)).await.status(), 200);
    }
}

/// Several of one client wait for their turns to ask for the same: the first of them asks for all.
#[tokio::test]
async fn who_waits_for_a_turn_hears_what_another_has_been_told_meanwhile() {
    const OTHER: &str = "library/other";
    let image = image(512, &[1_000]);
    let digest = &image.manifest().digest;
    let layer = image.layers()[0].digest();
    let blob = format!("/v2/{OTHER}/blobs/{layer}");
    for (target, asked) in [
        (manifest(TAG), vec![("HEAD", TAG), ("GET", digest.as_str())]),
        (manifest(digest), vec![("GET", digest.as_str())]),
        (format!("/v2/{NAME}/tags/list"), vec![("GET", "tags/list")]),
        // It is cached, and not known to be this repository's.
        (blob, vec![("HEAD", "other/blobs/")]),
    ] {
        let hub = prepare(&image).repository(Repository::new(OTHER).tag(TAG, &image)).start().await.unwrap();
        let larder = Larder::with(&hub, "limits.misses_per_client = 2").await;
        if target.contains(OTHER) {
            pull(&larder, NAME, TAG).await;
        }
        for number in 0..10 {
            assert_eq!(larder.get(manifest(format!("guess-{number}"))).await.status(), 404);
        }
        let answers = join_all((0..5).map(|_| larder.get(&target))).await;
        assert!(answers.iter().all(|answer| answer.status() == 200), "{answers:?}");
        let asked_with_token = || hub.requests().with_header("authorization");
        let count = |(method, part): &(&str, &str)| asked_with_token().method(method).path_contains(part).count();
        assert_eq!(asked.iter().map(count).collect::<Vec<_>>(), vec![1; asked.len()], "{target}");
    }
}

/// Docker Hub denies what it does not have. Who guesses the names of repositories has as few turns as who guesses tags.
#[tokio::test]
async fn a_client_that_guesses_repositories_waits_for_itself_alone() {
    let image = image(509, &[1_000]);
    let hub = hub_with(&image).await;
    hub.configure(|config| config.hide_unknown = true);
    let larder = Larder::with(&hub, "freshness.tags = '0s'\n limits.misses_per_client = 4\n timeouts.answer = '5s'").await;
    let noisy = IpAddr::from(Ipv4Addr::new(127, 0, 0, 77));
    let guess = |number: usize| {
        let larder = &larder;
        async move { larder.get_from(noisy, format!("/v2/guess/number-{number}/manifests/1")).await }
    };
    assert_eq!(guess(0).await.error(), (403, "DENIED".to_owned()));
    let asked = |hub: &Hub| hub.requests().on(Listener::Registry).method("HEAD").path_contains("guess/").count();
    let once = asked(&hub);
    for _ in 0..20 {
        assert_eq!(guess(0).await.error(), (403, "DENIED".to_owned()));
    }
    assert_eq!(asked(&hub), once, "a denial is remembered");
    for number in 1..20 {
        assert_eq!(guess(number).await.status(), 403);
    }
    let guesses = join_all((20..300).map(guess));
    let victim = async {
        for _ in 0..5 {
            let pulled = larder.get(manifest(TAG)).await;
            assert_eq!(pulled.status(), 200);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (guesses, ()) = tokio::join!(guesses, victim);
    let refused = guesses.iter().filter(|answer| answer.status() != 403).count();
    assert!(guesses.iter().all(|answer| matches!(answer.status(), 403 | 503)));
    // There are eighty at once. Twenty have cost four each; of those that came together, each pays for some of them.
    let asked = 280 - refused;
    assert!((1..=60).contains(&asked), "{asked}");
}
