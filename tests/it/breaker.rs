//! An upstream that does not answer, or asks not to be asked, is left alone until it answers again; others know nothing of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use larder_testkit::{Digest, Fault, Hub, Listener, Repository};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Answer, Larder, NAME, TAG, blob, hub_with, image, manifest, prepare, pull};

/// A port at which connections are neither taken nor refused: its queue is full, and nobody takes anything out of it.
struct BlackHole {
    address: SocketAddr,
    _queue: (tokio::net::TcpListener, Vec<TcpStream>),
}

impl BlackHole {
    async fn open() -> BlackHole {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        let wait = Duration::from_millis(300);
        while let Ok(stream) = tokio::time::timeout(wait, TcpStream::connect(address)).await {
            queued.push(stream.unwrap());
        }
        BlackHole { address, _queue: (listener, queued) }
    }
}

/// How often Docker Hub was not asked for this reason.
async fn refusals(larder: &Larder, reason: &str) -> f64 {
    larder.metrics().await.get(&format!("upstream_refusals_total{{upstream=\"docker.io\",reason=\"{reason}\"}}"))
}

async fn gauge(larder: &Larder, name: &str) -> f64 {
    larder.metrics().await.get(&format!("{name}{{upstream=\"docker.io\"}}"))
}

/// All requests that clients have caused, but for looks whether the upstream answers again.
fn asked(hub: &Hub) -> usize {
    hub.requests().on(Listener::Registry).method("GET").count()
}

/// Clients wait for less here than the upstream is given: whoever gives up on it tells as much as its own deadline would.
#[tokio::test]
async fn an_upstream_that_outlasts_every_question_is_left_alone() {
    let hub = hub_with(&image(708, &[1_000])).await;
    let larder = Larder::with(&hub, "timeouts.answer = '1s'").await;
    let _hole = hub.fault(Fault::on(Listener::Registry).hold());
    for _ in 0..3 {
        assert_eq!(larder.get(manifest(TAG)).await.error(), (504, "UNAVAILABLE".to_owned()));
    }
    assert_eq!(gauge(&larder, "upstream_open").await, 1.0);
}

/// Fault matrix, 1 to 3: what is accepted and never answered.
#[tokio::test]
async fn an_upstream_that_never_answers_is_not_waited_for_again_and_found_by_itself() {
    let image = image(701, &[1_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "timeouts.headers = '500ms'").await;
    let before = larder.descriptors();
    let hole = hub.fault(Fault::on(Listener::Registry).hold());
    while gauge(&larder, "upstream_open").await == 0.0 {
        assert_eq!(larder.get(manifest(TAG)).await.error(), (504, "UNAVAILABLE".to_owned()));
    }
    let (so_far, unasked) = (asked(&hub), refusals(&larder, "suspended").await);
    for _ in 0..50 {
        let refused = larder.get(manifest("other")).await;
        assert_eq!(refused.error(), (504, "UNAVAILABLE".to_owned()));
        assert!(refused.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().unwrap() <= 15));
    }
    assert_eq!(asked(&hub), so_far);
    assert!(refusals(&larder, "suspended").await >= unasked + 50.0);
    assert_eq!(larder.log().matches("it is left alone until it does").count(), 1);

    hub.clear_faults();
    drop(hole);
    larder.until_asking().await;
    larder.until_logged("the upstream answers again").await;
    assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
    // One for the connection that the pull leaves open, to the registry, its token server and its CDN.
    larder.until_descriptors(before + 8).await;
}

/// Fault matrix, 1: packets vanish.
#[tokio::test]
async fn connections_that_lead_nowhere_are_tried_once() {
    let hole = BlackHole::open().await;
    let url = format!("upstreams.\"docker.io\".url = 'http://{}'\n timeouts.connect = '500ms'", hole.address);
    let larder = Larder::builder().config(&url).start().await;
    let before = larder.descriptors();
    let refused = larder.get(manifest(TAG)).await;
    assert_eq!(refused.error(), (504, "UNAVAILABLE".to_owned()));
    for target in [manifest(TAG), manifest(Digest::sha256(b"x")), blob(&Digest::sha256(b"x"))] {
        assert_eq!(larder.get(&target).await.error(), (504, "UNAVAILABLE".to_owned()), "{target}");
    }
    assert!(refusals(&larder, "suspended").await >= 3.0);
    assert_eq!(gauge(&larder, "upstream_open").await, 1.0);
    assert!(larder.log().contains("(connecting)"));
    larder.until_descriptors(before + 4).await;
}

/// The median of what fifty answers take, one after the other, each of which is as it should be.
async fn median(larder: &Larder, target: &str, is_right: impl Fn(&Answer) -> bool) -> Duration {
    let mut times = Vec::new();
    for _ in 0..50 {
        let asked = Instant::now();
        let answer = larder.get(target).await;
        times.push(asked.elapsed());
        assert!(is_right(&answer), "{answer:?}");
    }
    times.sort();
    times[times.len() / 2]
}

/// Issue 5, "Deadlines and breaker", with its own bounds.
#[tokio::test]
async fn behind_a_black_hole_what_is_cached_is_served_soon_and_then_at_once() {
    const SOON: Duration = Duration::from_secs(2);
    const AT_ONCE: Duration = Duration::from_millis(20);
    let image = image(712, &[1_000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    pull(&larder, NAME, TAG).await;
    let hole = BlackHole::open().await;
    let url = format!("upstreams.\"docker.io\".url = 'http://{}'", hole.address);
    let is_stale = |answer: &Answer| (answer.status(), answer.cache_status()) == (200, "larder; fwd=stale; detail=stale-timeout");
    // The fastest of three: what the machine does besides is no matter of the mirror.
    let mut first = Duration::MAX;
    for _ in 0..3 {
        larder.restart_with(&url).await;
        let asked = Instant::now();
        let answer = larder.get(manifest(TAG)).await;
        first = first.min(asked.elapsed());
        assert!(is_stale(&answer), "{answer:?}");
    }
    assert!(first <= SOON, "{first:?}");
    larder.until(|metrics| metrics.get("upstream_open{upstream=\"docker.io\"}") == 1.0).await;
    let stale = median(&larder, &manifest(TAG), is_stale).await;
    assert!(stale <= AT_ONCE, "{stale:?}");
    let is_late = |answer: &Answer| answer.error() == (504, "UNAVAILABLE".to_owned());
    let refused = median(&larder, &manifest("absent"), is_late).await;
    assert!(refused <= AT_ONCE, "{refused:?}");

    // What is not cached has the deadline of a question: two fifths of the answer's, 25 s by default.
    larder.restart().await;
    let asked = Instant::now();
    let answer = larder.get(manifest("absent")).await;
    assert!(is_late(&answer), "{answer:?}");
    assert!(asked.elapsed() < Duration::from_secs(25), "{:?}", asked.elapsed());

    larder.restart_with("offline = true").await;
    let is_unknown = |answer: &Answer| answer.error() == (404, "MANIFEST_UNKNOWN".to_owned());
    let offline = median(&larder, &manifest("absent"), is_unknown).await;
    assert!(offline <= AT_ONCE, "{offline:?}");
}

#[tokio::test]
async fn an_upstream_that_was_gone_is_asked_again_though_nobody_came_meanwhile() {
    let image = image(702, &[1_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    hub.stop_listening().await;
    assert_eq!(larder.get(manifest(TAG)).await.error(), (502, "UNAVAILABLE".to_owned()));
    assert_eq!(gauge(&larder, "upstream_open").await, 1.0);
    hub.resume().await.unwrap();
    larder.until_asking().await;
    assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
}

#[tokio::test]
async fn server_errors_in_a_row_are_reason_enough_and_some_among_answers_are_not() {
    let image = image(703, &[1_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    hub.fault(Fault::on(Listener::Registry).status(503));
    while gauge(&larder, "upstream_open").await == 0.0 {
        assert_eq!(larder.get(manifest(TAG)).await.error(), (503, "UNAVAILABLE".to_owned()));
    }
    let (so_far, unasked) = (asked(&hub), refusals(&larder, "suspended").await);
    for _ in 0..20 {
        assert_eq!(larder.get(manifest(TAG)).await.error(), (503, "UNAVAILABLE".to_owned()));
    }
    assert_eq!((asked(&hub), refusals(&larder, "suspended").await), (so_far, unasked + 20.0));
    hub.clear_faults();
    larder.until_asking().await;
    // Every other answer is none.
    for number in 0..20 {
        let fault = hub.fault(Fault::on(Listener::Registry).with_header("authorization").once().status(503));
        assert_eq!(larder.get(manifest(format!("absent-{number}"))).await.status(), 404);
        assert_eq!(fault.fired(), 1);
    }
    assert_eq!(refusals(&larder, "suspended").await, unasked + 20.0);
    assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
}

/// Fault matrix, 5: every other answer is an error, in no order.
#[tokio::test]
async fn who_comes_back_is_served_by_an_upstream_that_flaps() {
    let image = image(704, &[1_000, 2_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    hub.fault(Fault::on(Listener::Registry).probability(0.5, 7).status(503));
    let blobs = image.blobs().iter().map(|layer| blob(layer.digest()));
    for target in std::iter::once(manifest(TAG)).chain(blobs) {
        let mut tries = 0;
        while larder.get(&target).await.status() != 200 {
            tries += 1;
            assert!(tries < 100, "{target}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Fault matrix, 4.
#[tokio::test]
async fn after_a_429_nothing_at_all_is_asked_until_the_time_it_names() {
    let image = image(705, &[1_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    // Longer than a fill waits for.
    hub.fault(Fault::on(Listener::Registry).once().answer(429, &[("Retry-After", "8")], "slow down"));
    let refused = larder.get(manifest(TAG)).await;
    assert_eq!((refused.error(), refused.header("retry-after")), ((503, "TOOMANYREQUESTS".to_owned()), Some("8")));
    assert_eq!(hub.requests().count(), 1);
    for target in [manifest(TAG), manifest("other"), blob(&Digest::sha256(b"x")), format!("/v2/{NAME}/tags/list")] {
        let refused = larder.get(&target).await;
        assert_eq!(refused.error(), (503, "TOOMANYREQUESTS".to_owned()), "{target}");
        assert!((1..=8).contains(&refused.header("retry-after").unwrap().parse::<u64>().unwrap()));
    }
    assert!((1.0..=8.0).contains(&gauge(&larder, "upstream_limited_seconds").await));
    assert_eq!((hub.requests().count(), refusals(&larder, "limited").await), (1, 4.0));
    assert_eq!(larder.log().matches("the upstream limits the rate of requests; nothing is asked").count(), 1);
    larder.until_asking().await;
    assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
}

#[tokio::test]
async fn a_second_place_is_asked_while_the_first_cannot_be_and_never_gets_the_account() {
    let (one, two) = (image(706, &[1_000]), image(707, &[2_000]));
    let first = prepare(&one).user("ada", "canary").start().await.unwrap();
    let second = Listener::ALL.iter().fold(prepare(&one), |hub, listener| hub.address(*listener, ([127, 0, 0, 2], 0)));
    let second = second.start().await.unwrap();
    first.edit(NAME, |repository| repository.set_tag("2.0", &two));
    let account = "upstreams.'docker.io' = { username = 'ada', password = 'canary', open_to_all = true }";
    let endpoints = format!("upstreams.'docker.io'.endpoints = [{:?}]", second.url());
    let larder = Larder::builder().upstream("docker.io", &first).config(account).config(&endpoints).start().await;

    first.stop_listening().await;
    assert_eq!(pull(&larder, NAME, TAG).await, one.manifest().digest.as_str());
    assert!(second.requests().on(Listener::Registry).count() > 0);
    assert_eq!(gauge(&larder, "upstream_open").await, 0.0, "one of them answers");
    assert_eq!(second.requests().on(Listener::Token).with_header("authorization").count(), 0, "it is asked anonymously");
    // It does not have all that the first one has: that is no reason to say that it is nowhere.
    assert_eq!(larder.get(manifest("2.0")).await.error(), (502, "UNAVAILABLE".to_owned()));

    first.resume().await.unwrap();
    larder.until_logged("the upstream answers again").await;
    second.reset_records();
    assert_eq!(pull(&larder, NAME, "2.0").await, two.manifest().digest.as_str());
    assert_eq!(second.requests().count(), 0, "the first one is asked first again");

    first.stop_listening().await;
    second.stop_listening().await;
    assert_eq!(larder.get(manifest("3.0")).await.error(), (502, "UNAVAILABLE".to_owned()));
    assert_eq!(gauge(&larder, "upstream_open").await, 1.0);
}

/// Issue 5: nothing is sent, not even to ask for a token, and misses are said at once.
#[tokio::test]
async fn offline_nothing_is_sent_and_what_is_cached_is_served() {
    let image = image(708, &[1_000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    pull(&larder, NAME, TAG).await;
    for setting in ["offline = true", "offline = false\n upstreams.'docker.io'.offline = true"] {
        larder.restart_with(setting).await;
        hub.reset_records();
        assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
        assert_eq!(larder.get(manifest("absent")).await.status(), 404);
        assert_eq!(larder.get(blob(&Digest::sha256(b"absent"))).await.status(), 404);
        assert_eq!((hub.requests().count(), hub.traffic(Listener::Registry).accepted), (0, 0));
        assert_eq!(gauge(&larder, "upstream_offline").await, 1.0);
        assert!(refusals(&larder, "offline").await >= 3.0);
    }
    let others = larder.metrics().await.get("upstream_offline{upstream=\"quay.io\"}");
    assert_eq!(others, 0.0);
}

/// Issue 5: as many contents as can be fetched at once from one upstream are waited for in vain.
#[tokio::test]
async fn one_upstreams_trouble_does_not_hold_up_another() {
    let (here, there) = (image(709, &[1_000]), image(710, &[1_000]));
    let (stuck, well) = (hub_with(&here).await, hub_with(&there).await);
    let larder = Larder::builder().upstream("docker.io", &stuck).upstream("quay.io", &well).start().await;
    let hole = stuck.fault(Fault::on(Listener::Registry).hold());
    let in_vain = (0..600_u32).map(|number| larder.get(blob(&Digest::sha256(&number.to_le_bytes()))));
    let meanwhile = async {
        // What one client may ask at once: a quarter is for others.
        hole.until_held(75).await;
        let name = format!("quay.io/{NAME}");
        assert_eq!(pull_from(&larder, &name).await, there.manifest().bytes);
        let still_held = stuck.faults().iter().map(|fault| fault.held).sum::<usize>();
        assert!(still_held >= 75, "{still_held}");
        hole.release();
    };
    let (answers, ()) = tokio::join!(join_all(in_vain), meanwhile);
    assert_eq!(answers.len(), 600);
    assert!(well.requests().on(Listener::Registry).count() > 0);
}

/// The manifest and the layer of an image, fetched; gives the manifest.
async fn pull_from(larder: &Larder, name: &str) -> Vec<u8> {
    let manifest = larder.get(format!("/v2/{name}/manifests/{TAG}")).await;
    assert_eq!(manifest.status(), 200);
    let document: serde_json::Value = serde_json::from_slice(&manifest.body).unwrap();
    for layer in document["layers"].as_array().unwrap() {
        let download = larder.download(format!("/v2/{name}/blobs/{}", layer["digest"].as_str().unwrap())).await;
        assert_eq!(download.head.status, 200);
    }
    manifest.body
}

/// What one repository has that is broken is nothing to the others of the same upstream.
#[tokio::test]
async fn one_broken_repository_is_not_the_end_of_its_upstream() {
    let image = image(711, &[1_000]);
    let hub = hub_with(&image).await;
    hub.put(Repository::new("library/broken").tag(TAG, &image));
    let larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    pull(&larder, NAME, TAG).await;
    hub.fault(Fault::on(Listener::Registry).path_contains("library/broken").status(500));
    for _ in 0..5 {
        assert_eq!(larder.get(format!("/v2/library/broken/manifests/{TAG}")).await.status(), 502);
    }
    larder.until_asking().await;
    assert_eq!(larder.get(manifest(TAG)).await.cache_status(), "larder; fwd=stale; fwd-status=200; detail=revalidated");
}
