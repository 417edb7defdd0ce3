//! The commands of `larder` besides `serve`, beside a running server and on the folder alone.

use rustix::process::Signal;

use larder_testkit::{Image, Repository, Synthetic};

use crate::support::{Larder, NAME, Run, TAG, blob, counted, fetched, hub_with, image, index, manifest, prepare, pull};

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
            (Some(0), Some("4 contents, 3.00 MB: all is as it should be")),
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
    assert_eq!(larder.tool(&["ls"]).said.lines().last(), Some("0 images; in all 0 B of content"));
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
        assert!(
            images[0]["stored_at"]
                .as_u64()
                .is_some_and(|at| at > 1_700_000_000 && at <= images[0]["pulled_at"].as_u64().unwrap())
        );
        let text = larder.tool(&["ls", "docker.io/library"]).said;
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with(&name) && line.contains("just now")), "{text}");
        assert_eq!(larder.tool(&["ls", "ghcr.io"]).said.lines().count(), 1);
    }
    // It gets older.
    let age = |larder: &Larder| {
        let text = larder.tool(&["ls"]).said;
        let lines: Vec<&str> = text.lines().collect();
        let column = lines[0].find(" AGE").unwrap() + 1;
        let cell = lines[1][column..].split("  ").next().unwrap().to_owned();
        (cell, listed(larder)[0]["stored_at"].as_u64().unwrap())
    };
    let (_, stored_at) = age(&larder);
    let manifest = std::fs::File::open(larder.blob_file(&image.manifest().digest)).unwrap();
    for (passed, words) in [(2 * 60 + 5, "2 min"), (3 * 3600 + 600, "3 h"), (50 * 86400 + 7200, "50 d")] {
        let then = std::time::SystemTime::now() - std::time::Duration::from_secs(passed);
        manifest.set_modified(then).unwrap();
        let then = then.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(age(&larder), (words.to_owned(), then));
        assert!(then < stored_at);
    }
    assert_eq!(larder.tool(&["ls"]).said.lines().last(), Some("1 image; in all 3.00 MB of content"));
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

fn json(run: &Run) -> serde_json::Value {
    serde_json::from_str(&run.said).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

fn lines(run: &Run) -> Vec<serde_json::Value> {
    run.said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {run:?}"))).collect()
}

/// Issue 4, "Tools": an image is removed with what nothing else needs, while the server runs and without it, and is fetched again.
#[tokio::test]
async fn what_is_removed_is_fetched_again_and_what_others_share_stays() {
    let shared = Synthetic::new(1_810_000, 2_000_000);
    let image = Image::builder().layer(shared).layer(Synthetic::new(1_810_001, 1_000_000)).build();
    let other = Image::builder().layer(shared).layer(Synthetic::new(1_810_002, 1000)).build();
    let hub = prepare(&image).repository(Repository::new("library/other").tag("1", &other)).start().await.unwrap();
    let mut larder = Larder::of(&hub).await;
    pull(&larder, "library/other", "1").await;
    let name = format!("docker.io/{NAME}:{TAG}");
    let own = [image.manifest().digest.clone(), image.layers()[1].digest().clone()];
    for runs in [true, false] {
        pull(&larder, NAME, TAG).await;
        let pulls = counted(&hub).count();
        pull(&larder, NAME, TAG).await;
        assert_eq!(counted(&hub).count(), pulls, "it is cached");
        if !runs {
            larder.stop(Signal::TERM);
        }
        let foretold = larder.tool(&["rm", "--dry-run", "--json", &name]);
        assert!(own.iter().all(|digest| larder.has(digest)));
        let run = larder.tool(&["rm", "--json", &name]);
        assert_eq!(run.status.code(), Some(0), "{run:?}");
        let (mut removed, foretold) = (json(&run), json(&foretold));
        removed["dry_run"] = true.into();
        assert_eq!(removed, foretold);
        assert_eq!(removed["images"], serde_json::json!([name]));
        assert_eq!((&removed["contents"], &removed["shared_contents"]), (&3.into(), &1.into()));
        assert_eq!(
            (&removed["shared_bytes"], &removed["shared_with"]),
            (&2_000_000.into(), &serde_json::json!(["docker.io/library/other:1"]))
        );
        assert!(own.iter().all(|digest| !larder.has(digest)) && larder.has(image.layers()[0].digest()));
        let again = larder.tool(&["rm", &name]);
        assert_eq!(again.status.code(), Some(1), "{again:?}");
        assert!(again.said.contains(&format!("nothing is cached of {name}")), "{again:?}");
        assert_eq!(larder.tool(&["ls", &name, "--json"]).said, "");
        if !runs {
            larder.start_again().await;
        }
        pull(&larder, NAME, TAG).await;
        assert_eq!(counted(&hub).count(), pulls + 1, "it is fetched again");
    }
    let layer = image.layers()[1].digest();
    assert_eq!(fetched(&hub, layer).count(), 3);
    let text = larder.tool(&["rm", &layer.to_string()]).said;
    assert_eq!(text, "0 images, 1 content: 1.00 MB removed\n");
    assert!(!larder.has(layer));
    let text = larder.tool(&["rm", "docker.io"]).said;
    assert!(
        text.starts_with(&format!("{name}\ndocker.io/library/other:1\n2 images, 6 contents: "))
            && text.ends_with(" MB removed\n"),
        "{text}"
    );
    assert_eq!(larder.metrics().await.get("cache_blobs"), 0.0);
    // A page in a browser on the same machine is not to remove anything.
    for path in ["/rm", "/pin", "/unpin", "/gc"] {
        let headers = [("Origin", "http://evil.example"), ("Content-Length", "0")];
        assert_eq!(larder.admin_ask("POST", path, &headers).await.status(), 403, "{path}");
        assert_eq!(larder.admin_ask("GET", path, &[]).await.status(), 405, "{path}");
        assert_eq!(larder.admin_ask("POST", path, &[("Content-Length", "0")]).await.status(), 400, "{path}");
    }
}

/// What was removed is not served stale from a memory of it, however the upstream is.
#[tokio::test]
async fn what_is_removed_is_not_served_stale() {
    let image = image(1811, &[1000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    let digest = pull(&larder, NAME, TAG).await;
    hub.stop_listening().await;
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    assert_eq!(larder.tool(&["rm", &format!("docker.io/{NAME}")]).status.code(), Some(0));
    for target in [manifest(TAG), manifest(digest), blob(image.layers()[0].digest())] {
        let status = larder.get(&target).await.status();
        assert!((502..=504).contains(&status), "{target}: {status}");
    }
}

/// Issue 4, "Tools": what is pinned is never evicted, whatever comes, after restarts and without the catalog, until it is unpinned.
#[tokio::test]
async fn what_is_pinned_stays() {
    let pinned = image(1812, &[3_000_000, 1_500_000]);
    let others: Vec<_> = (1813..1820).map(|seed| image(seed, &[4_000_000])).collect();
    let tags: Vec<String> = (0..others.len()).map(|number| format!("o{number}")).collect();
    let other = tags.iter().zip(&others).fold(Repository::new("library/other"), |other, (tag, image)| other.tag(tag, image));
    let hub = prepare(&pinned).repository(other).start().await.unwrap();
    let mut larder = Larder::with(&hub, "cache.max_size = \"15MB\"").await;
    let name = format!("docker.io/{NAME}:{TAG}");
    let run = larder.tool(&["pin", &name]);
    assert_eq!((run.status.code(), &*run.said), (Some(0), &*format!("{name}: pinned; nothing of it is cached\n")));
    pull(&larder, NAME, TAG).await;
    let size = pinned.manifest().bytes.len() as u64 + pinned.blobs().iter().map(|blob| blob.size()).sum::<u64>();
    let all_is_there = |larder: &Larder| pinned.blobs().iter().all(|blob| larder.has(blob.digest()));
    for round in 0..3 {
        for tag in &tags {
            pull(&larder, "library/other", tag).await;
        }
        assert!(all_is_there(&larder), "{round}");
        assert!(!others.iter().all(|other| larder.has(other.layers()[0].digest())), "there was pressure");
        assert_eq!(larder.metrics().await.get("cache_pinned_bytes"), size as f64);
        if round < 2 {
            larder.kill9();
        }
        if round == 1 {
            for file in ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"] {
                // The last two are there or not, as the kill has left it.
                let _ = std::fs::remove_file(larder.cache().join(file));
            }
        }
        if round < 2 {
            let listed = lines(&larder.tool(&["pin", "--json"]));
            assert_eq!(listed, [serde_json::json!({ "name": name, "contents": 4, "bytes": size })], "on the folder alone");
            larder.start_again().await;
        }
    }
    let images = lines(&larder.tool(&["ls", "--json"]));
    assert!(images.iter().all(|image| (image["name"] == *name) == (image["pinned"] == true)), "{images:?}");
    let refused = larder.tool(&["rm", "docker.io/library"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.said.contains(&format!("{name} is pinned")), "{refused:?}");

    let run = larder.tool(&["unpin", &name]);
    assert_eq!((run.status.code(), run.said.contains("not pinned any more; 4 contents")), (Some(0), true), "{run:?}");
    assert_eq!(larder.tool(&["unpin", &name]).status.code(), Some(1));
    assert_eq!(larder.tool(&["gc", "--free", "100%"]).status.code(), Some(0));
    assert!(!all_is_there(&larder));
    assert_eq!(larder.metrics().await.get("cache_blobs"), 0.0);

    for (names, words, code) in [
        (["docker.io"].as_slice(), "docker.io cannot be pinned", 1),
        (&["registry.example/a:1"], "there is no upstream registry.example", 1),
        (&["docker.io/A"], "is no name of something cached", 2),
    ] {
        let run = larder.tool(&[&["pin"], names].concat());
        assert_eq!((run.status.code(), run.said.contains(words)), (Some(code), true), "{run:?}");
    }
}

/// Issue 4, "Tools": what the next evictions would take is told, and then that is what they take; running or not.
#[tokio::test]
async fn what_would_go_is_foretold() {
    let first = image(1820, &[3_000_000]);
    let second = image(1821, &[2_000_000]);
    let hub = prepare(&first).repository(Repository::new("library/other").tag("1", &second)).start().await.unwrap();
    let mut larder = Larder::with(&hub, "cache.max_size = \"10MB\"").await;
    for runs in [true, false] {
        pull(&larder, NAME, TAG).await;
        pull(&larder, "library/other", "1").await;
        if !runs {
            larder.stop(Signal::TERM);
        }
        let nothing = json(&larder.tool(&["gc", "--json"]));
        assert_eq!((&nothing["evicted"], &nothing["free_after"]), (&serde_json::json!([]), &nothing["free_before"]));
        let foretold = json(&larder.tool(&["gc", "--dry-run", "--free", "7MB", "--json"]));
        assert!(larder.has(first.layers()[0].digest()), "nothing was done");
        let layer = serde_json::json!({
            "digest": first.layers()[0].digest().to_string(),
            "size": 3_000_000,
            "images": [format!("docker.io/{NAME}:{TAG}")],
        });
        assert!(foretold["evicted"].as_array().unwrap().contains(&layer), "{foretold}");
        let mut done = json(&larder.tool(&["gc", "--free", "7MB", "--json"]));
        done["dry_run"] = true.into();
        assert_eq!(done, foretold);
        assert!(!larder.has(first.layers()[0].digest()));
        if !runs {
            larder.start_again().await;
        }
    }
    let text = larder.tool(&["gc", "--dry-run", "--free", "100%"]).said;
    assert!(text.lines().any(|line| line.contains("would go;") && line.contains("would be incomplete")), "{text}");
}

/// Issue 4, "Tools": one screen, or one JSON object: how full it is, what it has saved, how its upstreams are.
#[tokio::test]
async fn the_numbers_are_on_one_screen() {
    let image = image(1822, &[3_000_000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::of(&hub).await;
    for _ in 0..4 {
        pull(&larder, NAME, TAG).await;
    }
    assert_eq!(larder.tool(&["pin", &format!("docker.io/{NAME}")]).status.code(), Some(0));
    let size = image.manifest().bytes.len() as u64 + image.blobs().iter().map(|blob| blob.size()).sum::<u64>();
    // A request is counted a moment after its last byte.
    larder.until(|metrics| ["manifest", "blob"].iter().map(|kind| metrics.requests(kind, "hit")).sum::<f64>() == 9.0).await;
    let stats = json(&larder.tool(&["stats", "--json"]));
    for (key, value) in
        [("used_bytes", size), ("pinned_bytes", size), ("contents", 3), ("images", 1), ("capacity_bytes", 4_000_000_000)]
    {
        assert_eq!(stats["cache"][key], value, "{key}: {stats}");
    }
    let server = &stats["server"];
    assert_eq!((&server["sent_bytes"], &server["trouble"]), (&(4 * size).into(), &serde_json::Value::Null), "{stats}");
    let (received, saved) = (server["received_bytes"].as_u64().unwrap(), server["saved_bytes"].as_u64().unwrap());
    assert!(received >= size && received + saved == 4 * size, "{stats}");
    assert_eq!(server["hit_ratio"], 0.75, "{stats}");
    let metrics = larder.metrics().await;
    let upstream = &server["upstreams"]["docker.io"];
    let blobs = metrics.get(r#"upstream_requests_total{upstream="docker.io",kind="blob",status="2xx"}"#);
    assert_eq!(
        (upstream["requests"]["blob"]["2xx"].as_f64(), &upstream["endpoints"][0]["trouble"]),
        (Some(blobs), &serde_json::Value::Null)
    );

    hub.stop_listening().await;
    larder.get("/v2/library/unknown/manifests/1").await;
    let text = larder.tool(&["stats"]).said;
    for words in ["75.0 % from the cache", "docker.io: ", "left alone for", "1 image, 3 contents"] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    assert_eq!(larder.admin_get("/stats").await.status(), 200);

    larder.stop(Signal::TERM);
    let alone = json(&larder.tool(&["stats", "--json"]));
    assert_eq!((&alone["cache"], &alone["server"]), (&stats["cache"], &serde_json::Value::Null));
    assert!(larder.tool(&["stats"]).said.ends_with("none has the cache at the moment\n"));
}

/// Root's tools leave nothing in another user's cache that this user cannot write.
#[tokio::test]
async fn what_root_does_to_the_cache_of_another_user_is_done_as_that_user() {
    const NOBODY: u32 = 65534;
    let image = image(1890, &[1000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::of(&hub).await;
    pull(&larder, NAME, TAG).await;
    larder.stop(Signal::TERM);
    let everything = || {
        let files = larder.all_files();
        let paths = files.iter().flat_map(|file| file.ancestors().map(std::path::Path::to_owned));
        paths.filter(|path| path.starts_with(larder.cache())).collect::<std::collections::BTreeSet<_>>()
    };
    // An upgrade makes a new catalog.
    std::fs::remove_file(larder.cache().join("catalog.sqlite")).unwrap();
    // It is empty.
    std::os::unix::fs::chown(larder.cache().join("ingest"), Some(NOBODY), Some(NOBODY)).unwrap();
    everything().iter().for_each(|path| std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap());
    for tool in [&["stats"][..], &["pin", "docker.io/library/app:latest"], &["ls"], &["verify"], &["rm", "docker.io"]] {
        let run = larder.tool(tool);
        assert!(matches!(run.status.code(), Some(0 | 1)), "{run:?}");
        for path in everything() {
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            let owner = std::os::unix::fs::MetadataExt::uid(&metadata);
            assert_eq!(owner, NOBODY, "{tool:?}: {}", path.display());
        }
    }
    assert!(larder.cache().join("refs/docker.io/library/app/_pins").exists());
}
