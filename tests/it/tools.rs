//! The commands of `larder` besides `serve`, beside a running server and on the folder alone.

use rustix::process::Signal;

use crate::support::{Larder, NAME, TAG, fetched, hub_with, image, pull};

/// Issue 4, "Scrub": a flipped bit is found and dropped, the next pull heals it; scripts can read it.
#[tokio::test]
async fn all_that_is_cached_is_verified_on_demand() {
    let image = image(1800, &[3_000_000, 1000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::of(&hub).await;
    let digest = pull(&larder, NAME, TAG).await;
    let layer = &image.layers()[0];
    let mut rotten = layer.bytes().to_vec();
    rotten[2_999_999] ^= 0x80;
    for runs in [true, false] {
        if !runs {
            larder.stop(Signal::TERM);
        }
        let run = larder.tool(&["verify"]);
        assert_eq!(
            (run.status.code(), run.said.lines().last()),
            (Some(0), Some("4 contents, 0.00 GB: all is as it should be")),
            "{run:?}"
        );

        larder.spoil(layer.digest(), &rotten);
        let run = larder.tool(&["verify", "--json"]);
        assert_eq!(run.status.code(), Some(1), "{run:?}");
        let damaged = format!("{{\"damaged\":{{\"digest\":\"{}\",\"size\":3000000}}}}", layer.digest());
        assert!(run.said.lines().any(|line| line == damaged), "{run:?}");
        let done = run.said.lines().rfind(|line| line.starts_with('{')).unwrap();
        let done: serde_json::Value = serde_json::from_str(done).unwrap();
        assert_eq!((&done["done"]["contents"], &done["done"]["damaged"]), (&4.into(), &1.into()));
        assert!(!larder.has(layer.digest()));

        if !runs {
            larder.start_again().await;
        }
        assert_eq!(pull(&larder, NAME, TAG).await, digest);
    }
    assert_eq!(fetched(&hub, layer.digest()).count(), 3);
    // A page in a browser on the same machine is not to make the disks work.
    assert_eq!(
        larder.admin_ask("POST", "/verify", &[("Origin", "http://evil.example"), ("Content-Length", "0")]).await.status(),
        403
    );
    assert_eq!(larder.admin_ask("GET", "/verify", &[]).await.status(), 405);
}

/// What cannot be looked at is not said to be good.
#[tokio::test]
async fn a_folder_that_is_not_there_is_not_good() {
    let image = image(1801, &[1000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::of(&hub).await;
    larder.stop(Signal::TERM);
    std::fs::remove_dir_all(larder.cache()).unwrap();
    let run = larder.tool(&["verify"]);
    assert_eq!(run.status.code(), Some(3), "{run:?}");
    assert!(run.said.contains("there is no cache at"), "{run:?}");
    assert!(!larder.cache().exists());
}
