//! What an upstream may be asked, how it is shared, and what is done where it is not answered: seen from both sides of the binary.

use std::time::{Duration, Instant};

use futures::future::join_all;
use larder_testkit::{Digest, Fault, Hub, Listener, Outcome, RateLimit};

use crate::support::{Answer, Larder, NAME, TAG, blob, counted, hub_with, image, manifest, prepare, pull};

/// A load balancer with nobody behind it accepts every connection, and closes it.
#[tokio::test]
async fn who_closes_every_connection_is_left_alone_and_the_next_endpoint_asked() {
    let image = image(1201, &[1_000]);
    let first = hub_with(&image).await;
    let second = Listener::ALL.iter().fold(prepare(&image), |hub, listener| hub.address(*listener, ([127, 0, 0, 2], 0)));
    let second = second.start().await.unwrap();
    let endpoints = format!("upstreams.'docker.io'.endpoints = [{:?}]", second.url());
    let larder = Larder::with(&first, &endpoints).await;
    first.fault(Fault::on(Listener::Registry).close());
    assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
    assert!(second.requests().on(Listener::Registry).count() > 0);

    let alone = Larder::of(&first).await;
    let open = "upstream_open{upstream=\"docker.io\"}";
    while alone.metrics().await.get(open) == 0.0 {
        assert_eq!(alone.get(manifest(TAG)).await.error(), (502, "UNAVAILABLE".to_owned()));
    }
    let asked = || first.requests().on(Listener::Registry).method("GET").count();
    let so_far = asked();
    for _ in 0..20 {
        assert_eq!(alone.get(manifest("other")).await.error(), (502, "UNAVAILABLE".to_owned()));
    }
    assert_eq!(asked(), so_far);
    first.clear_faults();
    alone.until_asking().await;
    assert_eq!(pull(&alone, NAME, TAG).await, image.manifest().digest.as_str());
}

/// Asks for so many tags that are not there, at once.
async fn ask_for_absent(larder: &Larder, count: usize) -> Vec<Answer> {
    join_all((0..count).map(|number| larder.get(manifest(format!("absent-{number}"))))).await
}

/// `concurrent_requests`: others wait for their turn, and have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_questions_are_asked_at_once_than_the_operator_allows() {
    let hub = hub_with(&image(1202, &[1_000])).await;
    hub.configure(|config| config.network.registry.latency = Duration::from_millis(40));
    let larder = Larder::with(&hub, "upstreams.'docker.io'.concurrent_requests = 2").await;
    let in_flight = || hub.requests().on(Listener::Registry).outcome(Outcome::InFlight).count();
    let (mut most, mut asking) = (0, Box::pin(ask_for_absent(&larder, 20)));
    let answers = loop {
        most = most.max(in_flight());
        if let Ok(answers) = tokio::time::timeout(Duration::from_millis(3), &mut asking).await {
            break answers;
        }
    };
    assert!(answers.iter().all(|answer| answer.status() == 404), "{answers:?}");
    assert_eq!(most, 2);
}

/// `requests_per_second`: a burst of twice that, and then one after the other. That is none of the upstream's doing.
#[tokio::test]
async fn questions_are_asked_at_the_rate_the_operator_allows_and_none_is_lost() {
    let hub = hub_with(&image(1203, &[1_000])).await;
    let larder = Larder::with(&hub, "upstreams.'docker.io'.requests_per_second = 5").await;
    let answers = ask_for_absent(&larder, 30).await;
    assert!(answers.iter().all(|answer| answer.status() == 404), "{answers:?}");
    let at: Vec<_> = hub.requests().records().iter().map(|record| record.at).collect();
    let took = at.last().unwrap().saturating_sub(at[0]);
    // Thirty questions and a token; ten of them may be at once.
    assert!(took > Duration::from_millis(3_500), "{} in {took:?}", at.len());
    assert_eq!(larder.metrics().await.get("upstream_open{upstream=\"docker.io\"}"), 0.0);
}

/// What would wait for longer than a client does is refused, by us and in time, as what it is.
#[tokio::test]
async fn who_would_wait_for_too_long_is_told_that_it_is_us_who_are_busy() {
    let hub = hub_with(&image(1204, &[1_000])).await;
    let settings = "timeouts.answer = '6s'\n upstreams.'docker.io'.requests_per_second = 1";
    let larder = Larder::with(&hub, settings).await;
    let answers = ask_for_absent(&larder, 30).await;
    let (had, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status() == 404);
    assert!(!had.is_empty() && refused.len() > 20, "{answers:?}");
    for answer in refused {
        assert_eq!((answer.error(), answer.header("retry-after")), ((503, "UNAVAILABLE".to_owned()), Some("1")));
    }
    let metrics = larder.metrics().await;
    assert!(metrics.get("upstream_refusals_total{upstream=\"docker.io\",reason=\"queue\"}") > 20.0);
    assert_eq!(metrics.get("upstream_open{upstream=\"docker.io\"}"), 0.0, "it has done nothing");
}

/// Takes pulls from a limit of ten until one is left, which is the reserve.
async fn until_one_is_left(larder: &Larder, hub: &Hub) {
    hub.configure(|config| config.rate_limit = Some(RateLimit::of(10)));
    pull(larder, NAME, TAG).await;
    for number in 0..8_u64 {
        let tag = format!("other-{number}");
        hub.edit(NAME, |repository| repository.set_tag(&tag, &image(1220 + number, &[100])));
        assert_eq!(larder.get(manifest(tag)).await.status(), 200);
    }
    assert_eq!(counted(hub).count(), 9);
}

/// `rate_limit_reserve`: the last pulls are for those who have nothing, whether a tag has moved or cannot be asked for with HEAD.
#[tokio::test]
async fn the_last_pulls_are_for_what_is_not_cached() {
    for head in [true, false] {
        let (old, new) = (image(1210, &[1_000]), image(1211, &[1_000]));
        let hub = hub_with(&old).await;
        let larder = Larder::with(&hub, "freshness.tags = '0s'").await;
        until_one_is_left(&larder, &hub).await;
        hub.configure(|config| config.head = head);
        hub.edit(NAME, |repository| {
            repository.set_tag(TAG, &new);
            repository.set_tag("absent", &image(1212, &[100]));
        });
        for _ in 0..3 {
            let answer = larder.get(manifest(TAG)).await;
            assert_eq!((answer.status(), &answer.body[..]), (200, &old.manifest().bytes[..]));
            assert_eq!(answer.cache_status(), "larder; fwd=stale; detail=stale-saving", "HEAD: {head}");
        }
        assert_eq!(counted(&hub).count(), 9, "nothing was spent on it; HEAD: {head}");
        assert_eq!(larder.get(manifest("absent")).await.status(), 200);
        assert_eq!(counted(&hub).count(), 10);
    }
}

/// A fill that waits for its place hears at once that nobody will be asked for it.
#[tokio::test]
async fn a_blob_that_waits_for_others_is_refused_when_their_upstream_is_left_alone() {
    let hub = hub_with(&image(1213, &[1_000])).await;
    let larder = Larder::with(&hub, "timeouts.headers = '2s'").await;
    hub.fault(Fault::on(Listener::Registry).hold());
    let start = Instant::now();
    let answers = join_all((0..500_u32).map(|number| larder.get(blob(&Digest::sha256(&number.to_le_bytes()))))).await;
    assert!(answers.iter().all(|answer| answer.error() == (504, "UNAVAILABLE".to_owned())), "{answers:?}");
    // A hundred at a time would be five times two seconds; to the end of the client's patience it would be 25.
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    assert!(answers.iter().all(|answer| answer.cache_status().starts_with("larder; fwd=")), "{answers:?}");
}

/// Fault 6: it is the token server that fails, and that is said.
#[tokio::test]
async fn a_token_server_that_fails_is_named() {
    let hub = hub_with(&image(1214, &[1_000])).await;
    let larder = Larder::of(&hub).await;
    hub.fault(Fault::on(Listener::Token).status(503));
    let refused = larder.get(manifest(TAG)).await;
    assert_eq!(refused.error(), (502, "UNAVAILABLE".to_owned()));
    assert!(String::from_utf8_lossy(&refused.body).contains("token server answered with status 503"), "{refused:?}");
    hub.clear_faults();
    larder.until_asking().await;
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
}

/// What the client's own deadline ends has been looked for, too.
#[tokio::test]
async fn who_waits_to_the_end_hears_what_the_cache_did() {
    let hub = hub_with(&image(1215, &[1_000])).await;
    let larder = Larder::with(&hub, "timeouts.answer = '1s'").await;
    hub.fault(Fault::on(Listener::Registry).hold());
    let refused = larder.get(blob(&Digest::sha256(b"x"))).await;
    assert_eq!((refused.error(), refused.cache_status()), ((504, "UNAVAILABLE".to_owned()), "larder; fwd=miss"));
}

/// Three questions that one restart cuts off are no reason to refuse those who see it: it is back in a moment.
#[tokio::test]
async fn who_sees_an_upstream_break_off_for_a_moment_is_served_all_the_same() {
    let images: Vec<_> = (0..4).map(|number| image(1230 + number, &[100])).collect();
    let hub = hub_with(&images[0]).await;
    hub.edit(NAME, |repository| {
        images.iter().enumerate().for_each(|(number, image)| repository.set_tag(format!("v{number}"), image));
    });
    let larder = Larder::of(&hub).await;
    assert_eq!(larder.get(manifest("v0")).await.status(), 200);
    // Each of them is cut off once, whoever comes first.
    for number in 1..4 {
        hub.fault(Fault::on(Listener::Registry).method("HEAD").path_contains(format!("manifests/v{number}")).once().close());
    }
    let answers = join_all((1..4).map(|number| larder.get(manifest(format!("v{number}"))))).await;
    assert!(answers.iter().all(|answer| answer.status() == 200), "{answers:?}");
}
