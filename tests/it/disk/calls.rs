//! System calls of the mirror fail, once the mirror runs; and bits flip on the disk.

use std::time::Duration;

use larder_testkit::{Fault, Hub, Image, Listener};
use rustix::process::Signal;

use crate::support::{End, Larder, NAME, TAG, blob, fetched, hub_with, image, pull};

const READS: &str = "preadv2,pread64";

/// Larger than what a connection holds back: who takes nothing keeps the rest of it from being read.
const LARGE: u64 = 24 << 20;

/// Cases 28 to 30: whatever step of storing fails, a pull gets its bytes; that shows, and is over when the disk is well.
#[tokio::test]
async fn whatever_call_fails_pulls_go_on_and_are_kept_again_afterwards() {
    let first = image(2200, &[2_000_000, 1000]);
    let hub = hub_with(&first).await;
    let larder = Larder::of(&hub).await;
    pull(&larder, NAME, TAG).await;
    let faults = [
        ("pwrite64,pwritev", "error=EIO"),
        ("fdatasync", "error=EIO"),
        ("?rename,?renameat,renameat2", "error=EIO"),
        ("fsync", "error=EIO"),
        ("fallocate", "error=EDQUOT"),
        ("pwrite64,pwritev", "error=ENOSPC"),
        ("?open,openat", "error=EMFILE"),
        ("?open,openat", "error=EROFS"),
    ];
    for (seed, (calls, fault)) in (2201..).zip(faults) {
        let (image, next) = (image(seed, &[2_000_000, 1000]), image(seed + 20, &[2_000_000, 1000]));
        hub.edit(NAME, |repository| {
            repository.set_tag("broken", &image);
            repository.set_tag("well", &next);
        });
        let injection = larder.inject(calls, fault, None).await;
        assert_eq!(pull(&larder, NAME, &image.manifest().digest).await, image.manifest().digest.as_str(), "{calls} {fault}");
        // Once a second it finds out whether that is over.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert_eq!(larder.metrics().await.get("cache_degraded"), 1.0, "{calls} {fault}");
        let (status, said) = larder.readiness().await;
        assert!(status == 200 && said.starts_with("ready, but nothing can be stored"), "{calls} {fault}: {said}");
        assert_eq!(pull(&larder, NAME, TAG).await, first.manifest().digest.as_str(), "{calls} {fault}");
        drop(injection);
        pull(&larder, NAME, &next.manifest().digest).await;
        assert!(next.layers().iter().all(|layer| larder.has(layer.digest())), "{calls} {fault}");
        assert_eq!(larder.readiness().await.1, "ready\n", "{calls} {fault}");
    }
    assert_eq!(larder.metrics().await.get("cache_reserved_bytes"), 0.0);
}

/// Case 29: the disk fails in the middle of a body that is written and read at once. The same answer comes to its end.
#[tokio::test]
async fn a_body_goes_on_where_the_disk_takes_no_more() {
    let (hub, image, larder) = bed(2240).await;
    let layer = image.layers()[0].digest();
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer).once().hold_at(LARGE / 2));
    let mut client = larder.connect().await;
    client.request("GET", &blob(layer), &[]).await;
    client.until_received(1 << 20).await;
    gate.until_held(1).await;
    let injection = larder.inject("pwrite64,pwritev", "error=EIO", None).await;
    gate.release();
    let download = client.download().await;
    assert_eq!((download.head.status, download.end, &download.digest), (200, End::Complete, layer));
    larder.until_idle().await;
    assert!(!larder.has(layer));
    drop(injection);
}

/// Case 29: "EIO on a hit: fetched again transparently". The tail comes when the whole is verified, and all is well afterwards.
#[tokio::test]
async fn a_body_goes_on_where_the_disk_gives_no_more() {
    let (hub, image, larder) = bed(2250).await;
    let layer = image.layers()[0].digest();
    pull(&larder, NAME, TAG).await;
    for range in [None, Some("bytes=5-24999999")] {
        let mut client = larder.connect().await;
        let headers = range.map(|range| ("Range", range));
        client.request("GET", &blob(layer), headers.as_slice()).await;
        client.until_received(1 << 20).await;
        let injection = larder.inject(READS, "error=EIO", Some(&larder.blob_file(layer))).await;
        let answer = client.answer("GET").await;
        assert_eq!(answer.end, End::Complete);
        let begin = if range.is_some() { 5 } else { 0 };
        assert!(answer.body[..] == image.layers()[0].bytes()[begin..begin + answer.body.len()]);
        assert_eq!(answer.body.len() as u64, if range.is_some() { 24_999_995 } else { LARGE });
        drop(injection);
        larder.until_idle().await;
    }
    assert!(larder.metrics().await.get("disk_errors_total") >= 2.0);
    assert!(fetched(&hub, layer).count() >= 3);
    hub.stop_listening().await;
    let download = larder.download(blob(layer)).await;
    assert_eq!((download.end, &download.digest), (End::Complete, layer));
}

/// What is at rest goes to the socket without being read. Where the system refuses that, or gives up in the middle, it is read.
#[tokio::test]
async fn what_the_system_does_not_send_is_read() {
    let (hub, image, larder) = bed(2255).await;
    let layer = image.layers()[0].digest();
    pull(&larder, NAME, TAG).await;
    hub.stop_listening().await;
    // The calls of each thread are counted for themselves.
    for fault in ["error=EINVAL", "error=EIO:when=3", "retval=0:when=4+5"] {
        let injection = larder.inject("sendfile", fault, None).await;
        let download = larder.download(blob(layer)).await;
        assert_eq!((download.end, &download.digest), (End::Complete, layer), "{fault}");
        let part = larder.get_range(blob(layer), "bytes=77777-9999999").await;
        assert!(part.body[..] == image.layers()[0].bytes()[77_777..10_000_000], "{fault}");
        assert!(injection.end() > 0, "{fault}: the system was not asked to send");
    }
    assert_eq!(larder.metrics().await.get("disk_errors_total"), 0.0);
    assert!(larder.has(layer));
}

/// A disk that gives nothing at all any more, neither to the system nor to us.
#[tokio::test]
async fn a_body_goes_on_where_the_disk_gives_neither_to_the_system_nor_to_us() {
    let (hub, image, larder) = bed(2256).await;
    let layer = image.layers()[0].digest();
    pull(&larder, NAME, TAG).await;
    let mut client = larder.connect().await;
    client.request("GET", &blob(layer), &[]).await;
    client.until_received(1 << 20).await;
    let calls = format!("sendfile,{READS}");
    let injection = larder.inject(&calls, "error=EIO", Some(&larder.blob_file(layer))).await;
    let download = client.download().await;
    assert_eq!((download.end, &download.digest), (End::Complete, layer));
    assert!(injection.end() >= 1);
    larder.until_idle().await;
    assert!(larder.metrics().await.get("disk_errors_total") >= 1.0);
    assert!(fetched(&hub, layer).count() >= 2);
    assert!(larder.has(layer));
}

/// Promise P1 holds for a body that is healed: what the upstream sends then is verified as well.
#[tokio::test]
async fn a_body_that_is_healed_with_wrong_bytes_ends_short() {
    let (hub, image, larder) = bed(2260).await;
    let layer = image.layers()[0].digest();
    pull(&larder, NAME, TAG).await;
    hub.fault(Fault::on(Listener::Cdn).path_contains(layer).corrupt(LARGE - 10));
    let mut client = larder.connect().await;
    client.request("GET", &blob(layer), &[]).await;
    client.until_received(1 << 20).await;
    let injection = larder.inject(READS, "error=EIO", Some(&larder.blob_file(layer))).await;
    let download = client.download().await;
    assert_eq!(download.end, End::Fin);
    assert!(download.bytes <= LARGE - (64 << 10), "{} bytes", download.bytes);
    drop(injection);
    hub.clear_faults();
    larder.until_idle().await;
    assert!(!larder.has(layer));
}

/// While the upstream is gone, what cannot be read is lost: the body ends short, and the next request hears it at once.
#[tokio::test]
async fn what_cannot_be_read_nor_fetched_again_ends_short() {
    let (hub, image, larder) = bed(2270).await;
    let layer = image.layers()[0].digest();
    pull(&larder, NAME, TAG).await;
    hub.stop_listening().await;
    let mut client = larder.connect().await;
    client.request("GET", &blob(layer), &[]).await;
    client.until_received(1 << 20).await;
    let injection = larder.inject(READS, "error=EIO", Some(&larder.blob_file(layer))).await;
    assert_eq!(client.download().await.end, End::Fin);
    drop(injection);
    larder.until_idle().await;
    assert!(matches!(larder.get(blob(layer)).await.status(), 502 | 503));
}

/// Case 32: a flipped bit in the first, a middle and the last block of a file is found by whoever looks, and the next pull heals it.
#[tokio::test]
async fn a_flipped_bit_is_found_wherever_it_is() {
    let (hub, image, larder) = bed(2280).await;
    let layer = &image.layers()[0];
    let digest = pull(&larder, NAME, TAG).await;
    for (found, offset) in (1..).zip([0, LARGE as usize / 2, LARGE as usize - 1]) {
        let mut rotten = layer.bytes().to_vec();
        rotten[offset] ^= 4;
        larder.spoil(layer.digest(), &rotten);
        assert_eq!(larder.tool(&["verify"]).status.code(), Some(1), "at {offset}");
        assert!(!larder.has(layer.digest()));
        assert_eq!(larder.metrics().await.get("cache_damaged_total"), f64::from(found));
        assert_eq!(pull(&larder, NAME, TAG).await, digest);
        assert_eq!(larder.tool(&["verify"]).status.code(), Some(0), "at {offset}");
    }
    assert_eq!(fetched(&hub, layer.digest()).count(), 4);
}

/// Case 35: a process that was stopped for longer than a stall may last goes on where it was.
#[tokio::test]
async fn a_process_that_was_stopped_goes_on() {
    let image = image(2290, &[LARGE]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "timeouts.stall = '1s'").await;
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer).once().hold_at(LARGE / 2));
    let mut client = larder.connect().await;
    client.request("GET", &blob(layer), &[]).await;
    client.until_received(1 << 20).await;
    gate.until_held(1).await;
    larder.signal(Signal::STOP);
    gate.release();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    larder.signal(Signal::CONT);
    let download = client.download().await;
    assert_eq!((download.head.status, download.end, &download.digest), (200, End::Complete, layer));
    larder.until_idle().await;
    assert!(larder.has(layer));
}

/// A mirror in front of a hub that has an image with one large layer.
async fn bed(seed: u64) -> (Hub, Image, Larder) {
    let image = image(seed, &[LARGE]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    (hub, image, larder)
}
