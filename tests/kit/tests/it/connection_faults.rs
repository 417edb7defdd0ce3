//! Faults of time and of connections: waiting, cutting, gates; and which requests a rule applies to.

use std::time::{Duration, Instant};

use larder_testkit::{Fault, Hub, Image, Listener, Outcome, Repository};

use crate::client::{Connection, End, NAME, ask, blob_url, get, get_as, manifest_url, plain_hub, token};

const REGISTRY: Listener = Listener::Registry;
const SIZE: u64 = 1_000_000;

#[tokio::test]
async fn a_status_is_answered_as_often_as_the_rule_says() {
    let (hub, ..) = plain_hub(1).await;
    let fault = Fault::on(REGISTRY).path_contains("/manifests/").skip(1).times(2);
    let fault = hub.fault(fault.answer(503, &[("Retry-After", "1")], "busy"));
    let mut seen = Vec::new();
    for _ in 0..4 {
        let answer = get(&manifest_url(&hub, "1")).await;
        if answer.status == 503 {
            assert_eq!((answer.header("retry-after"), &answer.body[..]), (Some("1"), &b"busy"[..]));
        }
        seen.push(answer.status);
    }
    assert_eq!(seen, [200, 503, 503, 200]);
    assert_eq!((fault.matched(), fault.fired()), (4, 2));
}

#[tokio::test]
async fn rules_apply_only_to_what_they_name() {
    let (hub, _, layer) = plain_hub(1).await;
    let fault = Fault::on(REGISTRY).method("GET").path_contains("/blobs/");
    let fault = fault.path_contains(layer.digest()).with_header("range").query_contains("ns=");
    let fault = hub.fault(fault.status(500));
    let url = blob_url(&hub, &layer);
    let range = [("Range", "bytes=0-")];
    assert_eq!(get(&url).await.status, 200);
    assert_eq!(ask("GET", &url, &range).await.status, 206);
    let url = format!("{url}?ns=docker.io");
    assert_eq!(ask("HEAD", &url, &range).await.status, 206);
    assert_eq!(fault.matched(), 0);
    assert_eq!(ask("GET", &url, &range).await.status, 500);
    assert!(hub.remove_fault(fault.id()));
    assert_eq!(ask("GET", &url, &range).await.status, 206);
}

#[tokio::test]
async fn a_chance_is_the_same_for_the_same_seed() {
    let (hub, ..) = plain_hub(1).await;
    let mut runs = Vec::new();
    for _ in 0..2 {
        let fault = hub.fault(Fault::on(REGISTRY).probability(0.5, 42).status(500));
        let mut run = Vec::new();
        for _ in 0..40 {
            run.push(get(&manifest_url(&hub, "1")).await.status);
        }
        assert!((5..35).contains(&fault.fired()), "{}", fault.fired());
        hub.clear_faults();
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
}

#[tokio::test]
async fn a_body_fault_is_not_used_up_by_a_challenge_or_a_redirect() {
    let image = Image::builder().layer("content").build();
    let repository = Repository::new(NAME).tag("1", &image);
    let hub = Hub::builder().repository(repository).start().await.unwrap();
    let fault = hub.fault(Fault::on(REGISTRY).once().cut_at(3));
    assert_eq!(get(&manifest_url(&hub, "1")).await.status, 401);
    let token = token(&hub, None).await;
    assert_eq!(get_as(&blob_url(&hub, &image.layers()[0]), &token).await.status, 307);
    assert_eq!(fault.matched(), 0);
    assert_eq!(get_as(&manifest_url(&hub, "1"), &token).await.end, End::Fin);
    assert_eq!(fault.fired(), 1);
}

#[tokio::test]
async fn cut_with_fin_sends_exactly_so_much() {
    let (hub, _, layer) = plain_hub(SIZE).await;
    let fault = hub.fault(Fault::on(REGISTRY).once().cut_at(400_001));
    let answer = get(&blob_url(&hub, &layer)).await;
    assert_eq!((answer.status, answer.end), (200, End::Fin));
    assert_eq!(answer.body, layer.bytes()[..400_001]);
    assert_eq!(answer.header("content-length"), Some("1000000"));
    assert_eq!(fault.fired(), 1);
    assert_eq!(hub.requests().outcome(Outcome::Broken).body_bytes(), 400_001);
    assert_eq!(get(&blob_url(&hub, &layer)).await.end, End::Complete);
}

#[tokio::test]
async fn cut_with_rst_is_seen_as_such() {
    let (hub, _, layer) = plain_hub(SIZE).await;
    hub.fault(Fault::on(REGISTRY).once().reset_at(400_001));
    let answer = get(&blob_url(&hub, &layer)).await;
    assert_eq!((answer.status, answer.end), (200, End::Reset));
    assert!(answer.body.len() <= 400_001);
}

#[tokio::test]
async fn a_cut_past_the_end_of_a_body_never_fires() {
    let (hub, _, layer) = plain_hub(10).await;
    let fault = hub.fault(Fault::on(REGISTRY).cut_at(11));
    assert_eq!(get(&blob_url(&hub, &layer)).await.end, End::Complete);
    assert_eq!((fault.matched(), fault.fired()), (1, 0));
}

#[tokio::test]
async fn close_and_reset_come_instead_of_an_answer() {
    let (hub, ..) = plain_hub(1).await;
    hub.fault(Fault::on(REGISTRY).once().close());
    let answer = get(&manifest_url(&hub, "1")).await;
    assert_eq!((answer.status, answer.end), (0, End::Fin));
    hub.fault(Fault::on(REGISTRY).once().reset());
    let answer = get(&manifest_url(&hub, "1")).await;
    assert_eq!((answer.status, answer.end), (0, End::Reset));
}

#[tokio::test]
async fn a_gate_holds_at_a_byte_until_it_is_released() {
    let (hub, _, layer) = plain_hub(SIZE).await;
    let gate = hub.fault(Fault::on(REGISTRY).once().hold_at(300_000));
    let url = blob_url(&hub, &layer);
    let pull = tokio::spawn(async move { get(&url).await });
    gate.until_held(1).await;
    let record = hub.requests().records()[0].clone();
    assert_eq!((record.body_bytes, record.outcome), (300_000, Outcome::InFlight));
    gate.release();
    let answer = pull.await.unwrap();
    assert_eq!((answer.end, &answer.body[..]), (End::Complete, &layer.bytes()[..]));
    assert_eq!((gate.held(), gate.fired()), (0, 1));
}

#[tokio::test]
async fn a_brown_out_holds_requests_and_notices_who_leaves() {
    let (hub, ..) = plain_hub(1).await;
    let brown_out = hub.fault(Fault::on(REGISTRY).hold());
    let connection = Connection::open(&hub.address(REGISTRY).to_string()).await;
    connection.leave_after("/v2/").await;
    hub.until(|requests| requests.clone().outcome(Outcome::Broken).count() == 1).await;

    let url = manifest_url(&hub, "1");
    let held = tokio::spawn(async move { get(&url).await });
    brown_out.until_held(1).await;
    assert_eq!(hub.requests().records()[1].status, None);
    hub.clear_faults();
    assert_eq!(held.await.unwrap().status, 200);
}

#[tokio::test]
async fn delays_stalls_latency_and_rates_take_their_time() {
    let (hub, _, layer) = plain_hub(10_000).await;
    let url = blob_url(&hub, &layer);
    let time = Duration::from_millis(200);
    let on = || Fault::on(REGISTRY).once();
    for fault in [on().delay(time), on().stall_at(5000, time), on().trickle(45_000)] {
        hub.fault(fault.clone());
        let began = Instant::now();
        let answer = get(&url).await;
        assert!(began.elapsed() >= Duration::from_millis(190), "{fault:?}");
        assert_eq!((answer.end, &answer.body[..]), (End::Complete, &layer.bytes()[..]));
    }
    for (latency, own, shared) in [(200, None, None), (0, Some(45_000), None), (0, None, Some(45_000))] {
        hub.configure(|config| {
            config.network.registry.latency = Duration::from_millis(latency);
            config.network.registry.connection_rate = own;
            config.network.registry.total_rate = shared;
        });
        let began = Instant::now();
        assert_eq!(get(&url).await.body, layer.bytes());
        assert!(began.elapsed() >= Duration::from_millis(180), "{latency} {own:?} {shared:?}");
    }
}

#[tokio::test]
async fn a_total_rate_is_shared_by_all_connections() {
    let (hub, _, layer) = plain_hub(10_000).await;
    hub.configure(|config| config.network.registry.total_rate = Some(50_000));
    let url = blob_url(&hub, &layer);
    let began = Instant::now();
    let (one, two) = tokio::join!(get(&url), get(&url));
    assert_eq!((one.body.len(), two.body.len()), (10_000, 10_000));
    assert!(began.elapsed() >= Duration::from_millis(350), "{:?}", began.elapsed());
}
