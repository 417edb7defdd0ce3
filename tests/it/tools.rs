//! The commands of `larder` besides `serve`, beside a running server and on the folder alone.

use rustix::process::Signal;

use crate::support::{Larder, NAME, TAG, blob, fetched, hub_with, image, index, manifest, pull};

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

/// Issue 4, "Tools": what is cached, with sizes, last pull and age; beside a running server, on the folder alone, and for scripts.
#[tokio::test]
async fn what_is_cached_is_listed_by_its_names() {
    let image = image(1802, &[3_000_000, 1000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::of(&hub).await;
    assert_eq!(larder.tool(&["ls"]).said.lines().last(), Some("0 images; in all 0.00 GB of content"));
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    let name = format!("docker.io/{NAME}:{TAG}");
    let listed = |larder: &Larder| {
        let run = larder.tool(&["ls", "--json"]);
        assert_eq!(run.status.code(), Some(0), "{run:?}");
        run.said.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>()
    };
    let images = listed(&larder);
    assert_eq!((images.len(), &images[0]["name"], &images[0]["missing"]), (1, &name.clone().into(), &3.into()));
    let digest = pull(&larder, NAME, TAG).await;
    for runs in [true, false] {
        if !runs {
            larder.kill9();
        }
        let images = listed(&larder);
        assert_eq!(images.len(), 1);
        let size = image.manifest().bytes.len() as u64 + image.blobs().iter().map(|blob| blob.size()).sum::<u64>();
        let expected: [(&str, serde_json::Value); 4] =
            [("name", name.clone().into()), ("digest", digest.clone().into()), ("size", size.into()), ("missing", 0.into())];
        for (key, value) in expected {
            assert_eq!(images[0][key], value, "{key}");
        }
        assert!(images[0]["pulled_at"].as_u64().is_some_and(|at| at > 1_700_000_000) && images[0]["checked_at"].is_u64());
        let text = larder.tool(&["ls", "docker.io/library"]).said;
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with(&name) && line.contains("just now")), "{text}");
        assert_eq!(larder.tool(&["ls", "ghcr.io"]).said.lines().count(), 1);
    }
    assert_eq!(larder.tool(&["ls"]).said.lines().last(), Some("1 image; in all 0.00 GB of content"));
}

/// An index is one image, with what is here of it; a manifest that was pulled by its digest is one as well.
#[tokio::test]
async fn an_index_is_listed_as_one_image_with_the_platforms_that_are_here() {
    let index = index(1803);
    let hub = hub_with(&index).await;
    let larder = Larder::of(&hub).await;
    let amd64 = &index.children()[0];
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    assert_eq!(larder.get(manifest(&amd64.manifest().digest)).await.status(), 200);
    for layer in amd64.blobs() {
        assert_eq!(larder.get(blob(layer.digest())).await.status(), 200);
    }
    larder.until_idle().await;
    let text = larder.tool(&["ls", "--json"]).said;
    let images: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let size = [&index, amd64].map(|image| image.manifest().bytes.len() as u64).iter().sum::<u64>()
        + amd64.blobs().iter().map(|blob| blob.size()).sum::<u64>();
    assert_eq!((images.len(), &images[0]["missing"], &images[0]["size"]), (1, &0.into(), &size.into()), "{text}");

    let other = Larder::of(&hub).await;
    let digest = &amd64.manifest().digest;
    assert_eq!(other.get(manifest(digest)).await.status(), 200);
    let text = other.tool(&["ls", "--json"]).said;
    assert!(text.contains(&format!("\"name\":\"docker.io/{NAME}@{digest}\"")), "{text}");
}
