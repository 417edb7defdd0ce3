//! One client that asks without end, and another one that pulls meanwhile: issue 5, "per client, so that one noisy client can't starve
//! others or spend the budget". All settings are the defaults.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use larder_testkit::{Digest, Hub, Image, RateLimit};

use crate::support::{Answer, Connection, Larder, NAME, blob, counted, image, manifest, prepare};

const NOISY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
const VICTIM: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 78));

/// How many requests the noisy client has open at a time.
const AT_ONCE: usize = 480;

async fn hub_with_tags(images: &[Image]) -> Hub {
    let hub = prepare(&images[0]).start().await.unwrap();
    hub.edit(NAME, |repository| images.iter().enumerate().for_each(|(number, image)| repository.set_tag(tag(number), image)));
    hub
}

fn tag(number: usize) -> String {
    format!("v{number}")
}

/// Asks for ever, over one connection.
async fn ask_for_ever(larder: std::net::SocketAddr, connection: usize) {
    let mut client = Connection::open_from(NOISY, larder).await;
    for number in 0.. {
        let answer = client.ask("GET", &format!("/v2/random/r{connection}-{number}/manifests/latest"), &[]).await;
        assert!(matches!(answer.status(), 404 | 503), "{answer:?}");
    }
}

/// A pull as the victim makes it; gives how long its slowest request took.
async fn pull_as_victim(larder: &Larder, tag: &str, image: &Image) -> Duration {
    let mut slowest = Duration::ZERO;
    let targets = image.blobs().iter().map(|layer| blob(layer.digest())).collect::<Vec<_>>();
    for target in std::iter::once(manifest(tag)).chain(targets) {
        let start = Instant::now();
        let answer = larder.get_from(VICTIM, &target).await;
        assert_eq!(answer.status(), 200, "{target}: {answer:?}");
        slowest = slowest.max(start.elapsed());
    }
    slowest
}

/// Random repositories cost two requests each, a token and a HEAD: as many as the noisy client may ask for are all that are asked in a
/// second. Hundreds of them wait; whoever else comes waits for a few.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_one_client_does_not_hold_up_another_ones_pulls() {
    let images: Vec<_> = (0..4).map(|number| image(1300 + number, &[1_000, 2_000])).collect();
    let hub = hub_with_tags(&images).await;
    let larder = Larder::of(&hub).await;
    let start = Instant::now();
    let flood: Vec<_> = (0..AT_ONCE).map(|number| tokio::spawn(ask_for_ever(larder.address(), number))).collect();
    // As many as go at once, and more: all others are in line by then.
    while hub.requests().count() < 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut slowest = Duration::ZERO;
    for (number, image) in images.iter().enumerate() {
        slowest = slowest.max(pull_as_victim(&larder, &tag(number), image).await);
    }
    // In one line with the flood the first pull takes nine seconds, if its turn comes at all.
    assert!(slowest < Duration::from_secs(4), "{slowest:?}");
    let (asked, seconds) = (hub.requests().count(), start.elapsed().as_secs_f64());
    // The rate is that of requests, tokens and redirects included; what was begun at once is paid for later.
    assert!((asked as f64) < 50.0 * (seconds + 1.0) + 300.0, "{asked} in {seconds} s");
    flood.iter().for_each(tokio::task::JoinHandle::abort);
    let metrics = larder.metrics().await;
    assert_eq!(metrics.get("upstream_open{upstream=\"docker.io\"}"), 0.0, "a healthy upstream is not left alone");
}

/// Existing tags are worse than random ones: each is a pull, and there are a hundred in six hours.
#[tokio::test]
async fn one_client_does_not_spend_the_pulls_of_all() {
    let images: Vec<_> = (0..100).map(|number| image(1400 + number, &[100])).collect();
    let hub = hub_with_tags(&images).await;
    hub.configure(|config| config.rate_limit = Some(RateLimit::of(100)));
    let larder = Larder::of(&hub).await;
    let get = async |client, number: usize| larder.get_from(client, manifest(tag(number))).await;
    assert_eq!(get(VICTIM, 99).await.status(), 200);
    let mut refused: Option<Answer> = None;
    for number in 0..90 {
        let answer = get(NOISY, number).await;
        match answer.status() {
            200 => assert!(refused.is_none(), "it has had its share"),
            _ => refused = Some(answer),
        }
    }
    let refused = refused.expect("it is not all for one");
    assert_eq!(refused.error(), (503, "TOOMANYREQUESTS".to_owned()));
    assert!(refused.header("retry-after").is_some() && String::from_utf8_lossy(&refused.body).contains("share"));
    assert_eq!(counted(&hub).count(), 1 + 50);
    assert_eq!(larder.metrics().await.get("upstream_refusals_total{upstream=\"docker.io\",reason=\"share\"}"), 40.0);
    // What is cached costs nothing, and what is not there is no pull.
    assert_eq!(get(NOISY, 0).await.status(), 200);
    assert_eq!(larder.get_from(NOISY, manifest(Digest::sha256(b"x"))).await.status(), 503);
    for number in 80..90 {
        assert_eq!(get(VICTIM, number).await.status(), 200);
    }
}

/// Who joins what another client has asked for waits in that one's line at first, and is not refused with it.
#[tokio::test]
async fn who_joins_a_question_that_waits_too_long_has_a_turn_of_its_own() {
    let image = image(1320, &[1_000]);
    let (layer, config) = (image.layers()[0].digest(), manifest(&image.manifest().digest));
    let hub = hub_with_tags(std::slice::from_ref(&image)).await;
    let settings = "timeouts.answer = '10s'\n upstreams.'docker.io'.requests_per_second = 4";
    let larder = Larder::with(&hub, settings).await;
    let absent = (0..100_u32).map(|number| blob(&Digest::sha256(&number.to_le_bytes())));
    let flood = join_all(absent.map(|target| larder.get_from(NOISY, target)));
    // When all of those are in the line, not merely sent.
    let last = async {
        tokio::time::sleep(Duration::from_millis(250)).await;
        tokio::join!(larder.get_from(NOISY, blob(layer)), larder.get_from(NOISY, &config))
    };
    let victim = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        tokio::join!(larder.get_from(VICTIM, blob(layer)), larder.get_from(VICTIM, &config))
    };
    let (flood, last, (layer, document)) = tokio::join!(flood, last, victim);
    assert!(flood.iter().filter(|answer| answer.status() == 503).count() > 50, "there was a line");
    // Refused with the line, or else they have joined the victim's questions in their turn.
    assert!([last.0.status(), last.1.status()].iter().all(|status| matches!(status, 200 | 503)), "{last:?}");
    assert_eq!((layer.status(), document.status()), (200, 200));
}
