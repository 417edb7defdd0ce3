//! Bodies from upstream that break, stall, lie about their length or are not what they should be.

use std::time::Duration;

use larder_testkit::{Fault, Hub, Image, Listener};

use crate::support::{Download, End, Larder, NAME, TAG, blob, fetched, hub_with, image, manifest, pull};

const MIB: u64 = 1 << 20;

fn cdn() -> Fault {
    Fault::on(Listener::Cdn)
}

/// A hub with an image of one layer of four MiB, and a mirror of it. Stalls are noticed after a second.
async fn four_mib(seed: u64) -> (Image, Hub, Larder) {
    let image = image(seed, &[4 * MIB]);
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "timeouts.stall = '1s'").await;
    (image, hub, larder)
}

/// Case 15; fault matrix, 8, 9 and 12: the client sees a pause at most.
#[tokio::test]
async fn a_body_that_breaks_is_gone_on_with_where_it_broke() {
    for (seed, fault) in [
        cdn().once().cut_at(2 * MIB),
        cdn().once().reset_at(2 * MIB),
        cdn().once().misdeclare(-1000),
        cdn().once().hold_at(2 * MIB),
        cdn().once().cut_at(2 * MIB).close_delimited(),
        cdn().once().cut_at(2 * MIB).chunked(),
        // It never gets further than another MiB.
        cdn().cut_at(MIB),
    ]
    .into_iter()
    .enumerate()
    {
        let (image, hub, larder) = four_mib(600 + seed as u64).await;
        let layer = image.layers()[0].digest();
        larder.get(manifest(TAG)).await;
        hub.fault(fault.clone());
        let download = larder.download(blob(layer)).await;
        assert_eq!((download.head.status, download.end, &download.digest), (200, End::Complete, layer), "{fault:?}");
        larder.until_idle().await;
        assert!(larder.has(layer));
        let requests = fetched(&hub, layer);
        let resumed = requests.clone().filter(|record| record.headers.get("range").is_some()).status(206).count();
        assert!(resumed >= 1 && resumed == requests.count() - 1, "{fault:?}: {:?}", requests.lines());
        assert_eq!(larder.metrics().await.get("fill_resumes_total{upstream=\"docker.io\"}"), resumed as f64);
    }
}

/// Fault matrix, 13: whatever an upstream makes of the Range, no byte comes to stand in a wrong place.
#[tokio::test]
async fn a_resumption_that_is_answered_in_a_peculiar_way_is_never_spliced_wrongly() {
    for (seed, second) in [
        // These count only answers with a part, of which the resumption's is the first.
        cdn().once().ignore_range(),
        cdn().once().wrong_content_range(-7),
        cdn().once().other_range(-5),
        cdn().skip(1).once().status(500),
        cdn().skip(1).once().close(),
        cdn().skip(1).once().cut_at(10),
    ]
    .into_iter()
    .enumerate()
    {
        let (image, hub, larder) = four_mib(610 + seed as u64).await;
        let layer = image.layers()[0].digest();
        hub.fault(cdn().once().cut_at(2 * MIB));
        let second = hub.fault(second);
        let download = larder.download(blob(layer)).await;
        assert_eq!((download.end, &download.digest), (End::Complete, layer), "{second:?}");
        assert_eq!(second.fired(), 1);
    }
}

/// Promise P1: right offsets in the header, wrong bytes under them.
#[tokio::test]
async fn a_resumption_with_the_wrong_bytes_never_makes_a_complete_answer() {
    let (image, hub, larder) = four_mib(620).await;
    let layer = image.layers()[0].digest();
    hub.fault(cdn().once().cut_at(2 * MIB));
    hub.fault(cdn().wrong_offset(-1));
    assert_not_whole(&larder.download(blob(layer)).await);
    larder.until_idle().await;
    assert!(larder.cache_files().is_empty());
}

/// Design, section 3; case 15: a body that cannot be finished ends in an orderly way, and is not begun again at once.
#[tokio::test]
async fn a_body_that_cannot_be_finished_ends_by_fin_and_the_next_request_is_refused_at_once() {
    let (image, hub, larder) = four_mib(621).await;
    let layer = image.layers()[0].digest();
    hub.fault(cdn().cut_at(2 * MIB).once());
    let denied = hub.fault(cdn().skip(1).status(403));
    let download = larder.download(blob(layer)).await;
    assert_cut_short(&download);
    assert_eq!(download.head.header("content-length"), Some("4194304"));
    assert!(download.bytes > MIB, "what had arrived was sent: {} bytes", download.bytes);
    assert!(denied.fired() >= 1);

    larder.until_idle().await;
    let asked = hub.requests().count();
    for headers in [&[][..], &[("Range", "bytes=2097152-")]] {
        let refused = larder.ask("GET", &blob(layer), headers).await;
        assert_eq!(refused.error(), (503, "UNAVAILABLE".to_owned()));
    }
    assert_eq!(hub.requests().count(), asked);
    assert!(!larder.has(layer));
    assert_eq!(larder.metrics().await.fills("failed"), 1.0);

    // It is refused for some seconds only.
    hub.clear_faults();
    let healed = async {
        while larder.get(manifest(TAG)).await.status() != 200 || larder.head(blob(layer)).await.status() != 200 {}
        loop {
            let download = larder.download(blob(layer)).await;
            if download.head.status == 200 {
                return download;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let healed = tokio::time::timeout(Duration::from_secs(60), healed).await.unwrap();
    assert_eq!((healed.end, &healed.digest), (End::Complete, layer));
}

/// The same, when the upstream is gone for good in the middle of a body, with several clients.
#[tokio::test]
async fn an_upstream_that_vanishes_in_mid_body_cuts_all_readers_in_order() {
    let (image, hub, larder) = four_mib(622).await;
    let layer = image.layers()[0].digest();
    let gate = hub.fault(cdn().once().hold_at(2 * MIB));
    let mut readers = Vec::new();
    for _ in 0..5 {
        let mut reader = larder.connect().await;
        reader.request("GET", &blob(layer), &[]).await;
        reader.until_received(1 << 20).await;
        readers.push(reader);
    }
    gate.until_held(1).await;
    hub.stop_listening().await;
    for mut reader in readers {
        assert_cut_short(&reader.download().await);
    }
    let refused = larder.get(blob(layer)).await;
    assert!(matches!(refused.status(), 502 | 503), "{refused:?}");
    refused.error_code();
}

/// Case 17; promise P1; fault matrix, 11.
#[tokio::test]
async fn wrong_bytes_are_never_a_complete_answer_and_never_kept() {
    for (seed, size, offset) in [(630, 4 * MIB, 0), (631, 4 * MIB, 4 * MIB - 1), (632, 70_000, 100), (633, 10, 5)] {
        let image = image(seed, &[size]);
        let layer = image.layers()[0].digest();
        let hub = hub_with(&image).await;
        let larder = Larder::of(&hub).await;
        larder.get(manifest(TAG)).await;
        hub.fault(cdn().once().corrupt(offset));
        let download = larder.download(blob(layer)).await;
        assert_not_whole(&download);
        if download.head.status == 200 {
            assert!(
                download.bytes <= size.saturating_sub(64 << 10),
                "the tail is withheld, but {} of {size} came",
                download.bytes
            );
        }
        larder.until_idle().await;
        assert!(!larder.has(layer));
        assert_eq!(larder.metrics().await.get("verification_failures_total{upstream=\"docker.io\"}"), 1.0);
        assert!(larder.get(blob(layer)).await.status() >= 500);
    }
}

/// Fault matrix, 12: longer or shorter than the manifest says.
#[tokio::test]
async fn a_body_of_another_size_than_the_manifest_says_is_refused_before_it_begins() {
    for (seed, by) in [(640, -10), (641, 10)] {
        let (image, hub, larder) = four_mib(seed).await;
        let layer = image.layers()[0].digest();
        larder.get(manifest(TAG)).await;
        hub.fault(cdn().resize(by));
        let answer = larder.get(blob(layer)).await;
        assert_eq!(answer.status(), 502, "{by}");
        answer.error_code();
        larder.until_idle().await;
        assert!(!larder.has(layer));
    }
}

/// Nothing tells the size in advance, and the body is longer or shorter than what the digest stands for.
#[tokio::test]
async fn a_body_of_the_wrong_size_is_no_complete_answer_either() {
    for (seed, fault) in [(642, cdn().resize(-10)), (643, cdn().resize(10)), (644, cdn().resize(10).chunked())] {
        let (image, hub, larder) = four_mib(seed).await;
        hub.fault(fault);
        assert_not_whole(&larder.download(blob(image.layers()[0].digest())).await);
        larder.until_idle().await;
        assert!(larder.cache_files().is_empty());
    }
}

/// Fault matrix, 17.
#[tokio::test]
async fn a_body_that_never_ends_is_left_at_the_size_that_the_manifest_says() {
    let (image, hub, larder) = four_mib(645).await;
    let layer = image.layers()[0].digest();
    larder.get(manifest(TAG)).await;
    hub.fault(cdn().endless());
    // What comes after the last byte is nobody's; those before it are verified like any other.
    let download = larder.download(blob(layer)).await;
    assert_eq!((download.end, &download.digest), (End::Complete, layer));
    larder.until_idle().await;
    assert!(larder.has(layer));
    assert!(hub.requests().on(Listener::Cdn).body_bytes() < 64 * MIB);
}

/// Design, section 4: an upstream without Content-Length, Range or HEAD still works.
#[tokio::test]
async fn upstreams_that_tell_less_still_work() {
    let switches: [fn(&mut larder_testkit::Config); 5] = [
        |config| config.content_length = false,
        |config| config.ranges = false,
        |config| config.content_digest = false,
        |config| config.redirect_blobs = false,
        |config| {
            (config.head, config.ranges, config.content_length, config.content_digest) = (false, false, false, false);
        },
    ];
    for (seed, switch) in switches.into_iter().enumerate() {
        let (image, hub, larder) = four_mib(650 + seed as u64).await;
        let layer = &image.layers()[0];
        hub.configure(switch);
        let part = larder.get_range(blob(layer.digest()), "bytes=1000000-1000099").await;
        assert_eq!((part.status(), &part.body[..]), (206, &layer.bytes()[1_000_000..1_000_100]));
        hub.fault(cdn().once().cut_at(2 * MIB));
        assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
        hub.stop_listening().await;
        assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
    }
}

/// The size is only known at the end: the answer's end has to show there, and nowhere before.
#[tokio::test]
async fn a_cold_blob_of_unknown_size_is_streamed_and_ends_where_it_ends() {
    for (seed, fault) in [(660, cdn().chunked()), (661, cdn().close_delimited())] {
        let (image, hub, larder) = four_mib(seed).await;
        let layer = image.layers()[0].digest();
        hub.fault(fault);
        let download = larder.download(blob(layer)).await;
        assert_eq!((download.head.status, download.end, &download.digest), (200, End::Complete, layer));
        hub.fault(cdn().corrupt(100));
        let other = crate::support::image(seed + 5, &[MIB]);
        hub.edit(NAME, |repository| repository.put_image(&other));
        assert_not_whole(&larder.download(blob(other.layers()[0].digest())).await);
    }
}

/// Captive portals and misconfigured proxies answer everything with a page and 200.
#[tokio::test]
async fn a_web_page_is_taken_for_neither_a_manifest_nor_a_blob() {
    let (image, hub, larder) = four_mib(670).await;
    let layer = image.layers()[0].digest();
    hub.fault(Fault::on(Listener::Registry).html());
    for target in [manifest(TAG), manifest(&image.manifest().digest)] {
        assert_eq!(larder.get(&target).await.error(), (502, "MANIFEST_INVALID".to_owned()), "{target}");
    }
    let answer = larder.download(blob(layer)).await;
    assert!(answer.head.status >= 500 || answer.end == End::Fin, "{answer:?}");
    larder.until_idle().await;
    assert!(larder.cache_files().is_empty());
}

/// A manifest is what its digest says, whatever the header says.
#[tokio::test]
async fn a_wrong_digest_header_is_not_believed() {
    let (image, hub, larder) = four_mib(671).await;
    let registry = || Fault::on(Listener::Registry).path_contains("/manifests/");
    hub.configure(|config| config.head = false);
    hub.fault(registry().method("GET").wrong_digest());
    assert_eq!(larder.get(manifest(TAG)).await.error(), (502, "MANIFEST_INVALID".to_owned()));
    assert!(larder.cache_files().is_empty());
    hub.clear_faults();
    hub.fault(registry().method("GET").corrupt(10));
    for target in [manifest(TAG), manifest(&image.manifest().digest)] {
        assert_eq!(larder.get(&target).await.error(), (502, "MANIFEST_INVALID".to_owned()), "{target}");
    }
    assert!(larder.cache_files().is_empty());
    hub.clear_faults();
    pull(&larder, NAME, TAG).await;
}

/// Case 26: signed URLs expire in the middle of large layers.
#[tokio::test]
async fn an_expired_url_is_exchanged_for_a_new_one_and_the_body_goes_on() {
    let (image, hub, larder) = four_mib(680).await;
    let layer = image.layers()[0].digest();
    hub.fault(cdn().once().cut_at(2 * MIB));
    let expired = hub.fault(cdn().skip(1).once().answer(403, &[], "Request has expired"));
    let download = larder.download(blob(layer)).await;
    assert_eq!((download.end, &download.digest), (End::Complete, layer));
    assert_eq!(expired.fired(), 1);
    let redirects = hub.requests().on(Listener::Registry).path_contains(layer).status(307);
    assert_eq!(redirects.count(), 3);
    let last = fetched(&hub, layer).records().last().unwrap().clone();
    assert_eq!((last.status, last.headers.get("range").is_some()), (Some(206), true));
}

/// Case 25; fault matrix, 7: tokens are good for less time than a large layer takes.
#[tokio::test]
async fn a_token_that_expires_in_mid_pull_is_renewed_once() {
    let (image, hub, larder) = four_mib(681).await;
    let layer = image.layers()[0].digest();
    larder.get(manifest(TAG)).await;
    let gate = hub.fault(cdn().once().hold_at(2 * MIB));
    let (download, ()) = tokio::join!(larder.download(blob(layer)), async {
        gate.until_held(1).await;
        hub.revoke_tokens();
    });
    assert_eq!((download.end, &download.digest), (End::Complete, layer));
    assert_eq!(hub.requests().on(Listener::Token).count(), 2);
    assert_eq!(hub.auth_leaks().count(), 0);
}

/// A slow body is a body.
#[tokio::test]
async fn a_trickle_is_not_a_stall() {
    let image = image(682, &[300_000]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "timeouts.stall = '1s'").await;
    hub.fault(cdn().trickle(150_000));
    assert_eq!(&larder.download(blob(layer)).await.digest, layer);
    assert_eq!(fetched(&hub, layer).count(), 1);
}

/// An answer that began and did not come to its end: no client takes it for the whole, and none loses what it has read.
fn assert_cut_short(download: &Download) {
    assert_eq!((download.head.status, download.end), (200, End::Fin), "{download:?}");
}

/// An answer that was cut short, or was an error from the start because the fill had failed by then.
fn assert_not_whole(download: &Download) {
    if download.head.status < 500 {
        assert_cut_short(download);
    }
}
