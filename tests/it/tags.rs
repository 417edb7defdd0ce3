//! Tags: when the upstream is asked, and what is answered when it moves them, loses them or fails.

use std::time::Duration;

use futures::future::join_all;
use larder_testkit::{Fault, Hub, Listener};

use crate::support::{Answer, Larder, NAME, TAG, checked, counted, hub_with, image, index, manifest, pull};

/// Case 3.
#[tokio::test]
async fn an_index_costs_one_counted_request_for_each_of_its_manifests_and_none_the_second_time() {
    let index = index(1);
    let hub = hub_with(&index).await;
    let larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    pull(&larder, NAME, TAG).await;
    assert_eq!(counted(&hub).count(), index.manifests().len());
    hub.reset_records();
    pull(&larder, NAME, TAG).await;
    assert_eq!((counted(&hub).count(), checked(&hub).count()), (0, 1));
    assert_eq!(hub.requests().on(Listener::Cdn).count(), 0);
}

/// Case 4.
#[tokio::test]
async fn a_fresh_tag_asks_nobody_and_a_stale_one_asks_by_head() {
    let image = image(101, &[1_000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::with(&hub, "freshness.tags = '1h'").await;
    larder.get(manifest(TAG)).await;
    hub.reset_records();
    for _ in 0..50 {
        let answer = larder.get(manifest(TAG)).await;
        assert_eq!((answer.cache_status(), &answer.body[..]), ("larder; hit", &image.manifest().bytes[..]));
    }
    assert_eq!(hub.requests().count(), 0);

    larder.restart_with("freshness.tags = '0s'").await;
    let answer = larder.get(manifest(TAG)).await;
    assert_eq!((answer.status(), answer.body), (200, image.manifest().bytes.to_vec()));
    assert_eq!((checked(&hub).count(), counted(&hub).count()), (1, 0));
}

/// Case 5.
#[tokio::test]
async fn a_tag_that_moved_is_followed_and_what_it_left_is_still_there_by_digest() {
    let (old, new) = (image(102, &[1_000]), image(103, &[1_000]));
    let hub = hub_with(&old).await;
    let larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    pull(&larder, NAME, TAG).await;
    hub.edit(NAME, |repository| repository.set_tag(TAG, &new));
    hub.reset_records();
    assert_eq!(pull(&larder, NAME, TAG).await, new.manifest().digest.as_str());
    assert_eq!(counted(&hub).count(), 1);
    assert_eq!(pull(&larder, NAME, &old.manifest().digest).await, old.manifest().digest.as_str());
    assert_eq!(counted(&hub).count(), 1);

    hub.edit(NAME, |repository| repository.set_tag(TAG, &old));
    assert_eq!(pull(&larder, NAME, TAG).await, old.manifest().digest.as_str());
    assert_eq!(counted(&hub).count(), 1);
}

/// Promise P4.
#[tokio::test]
async fn fifty_clients_of_a_cold_tag_cost_one_token_one_check_and_one_manifest() {
    let image = image(104, &[1_000]);
    let hub = hub_with(&image).await;
    let gate = hub.fault(Fault::on(Listener::Registry).method("HEAD").with_header("authorization").once().hold());
    let larder = Larder::of(&hub).await;
    let clients = join_all((0..50).map(|_| larder.get(manifest(TAG))));
    let release = async {
        gate.until_held(1).await;
        larder.until(|metrics| metrics.get("connections") >= 50.0).await;
        gate.release();
    };
    let (answers, ()) = tokio::join!(clients, release);
    assert!(answers.iter().all(|answer| answer.body == image.manifest().bytes));
    assert_eq!((checked(&hub).count(), counted(&hub).count()), (1, 1));
    assert_eq!(hub.requests().on(Listener::Token).count(), 1);
}

/// Design, section 3: the cached tag is stale, and the upstream cannot say whether it moved.
#[tokio::test]
async fn whatever_keeps_the_upstream_from_answering_the_cached_manifest_is_served_and_marked_stale() {
    let image = image(105, &[1_000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::with(&hub, "freshness.tags = '0s'\n timeouts.headers = '1s'").await;
    pull(&larder, NAME, TAG).await;
    let heads = || Fault::on(Listener::Registry).method("HEAD").path_contains("/manifests/");
    for (fault, status, detail) in [
        (heads().answer(429, &[("Retry-After", "60")], ""), "; fwd-status=429", "stale-rate-limited"),
        (heads().status(500), "; fwd-status=500", "stale-server-error"),
        (heads().status(503), "; fwd-status=503", "stale-server-error"),
        (heads().status(401), "; fwd-status=401", "stale-denied"),
        (heads().status(403), "; fwd-status=403", "stale-denied"),
        (heads().close(), "", "stale-server-error"),
        (heads().reset(), "", "stale-server-error"),
        (heads().hold(), "", "stale-timeout"),
        (heads().redirect("http://169.254.169.254/"), "", "stale-refused"),
    ] {
        // What the last upstream's trouble was is not remembered across a restart.
        larder.restart().await;
        let fault = hub.fault(fault);
        for method in ["GET", "HEAD"] {
            let answer = larder.ask(method, &manifest(TAG), &[]).await;
            // Once the upstream is left alone there is no status of its to tell.
            let told = answer.cache_status().replace(status, "");
            assert_eq!((answer.status(), told), (200, format!("larder; fwd=stale; detail={detail}")), "{method}");
            assert_eq!(answer.header("docker-content-digest"), Some(image.manifest().digest.as_str()));
        }
        assert!(fault.fired() >= 1);
        hub.clear_faults();
    }
    hub.stop_listening().await;
    larder.restart().await;
    assert_eq!(larder.get(manifest(TAG)).await.cache_status(), "larder; fwd=stale; detail=stale-unreachable");
    hub.resume().await.unwrap();
    larder.until_asking().await;
    // Who asks first after the trouble is still served at once, and sets off the question that ends it.
    until_healed(&larder, |answer| answer.cache_status() == "larder; fwd=stale; fwd-status=200; detail=revalidated").await;
}

/// Fault matrix, 6: the registry answers, but who gives the tokens for it does not.
#[tokio::test]
async fn without_a_token_server_what_is_cached_is_served() {
    let image = image(106, &[1_000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    pull(&larder, NAME, TAG).await;
    hub.stop_listening_on(Listener::Token).await;
    larder.restart().await;
    let answer = larder.get(manifest(TAG)).await;
    assert_eq!((answer.status(), answer.cache_status()), (200, "larder; fwd=stale; detail=stale-unreachable"));
    assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
    assert_eq!(larder.get(manifest("absent")).await.error(), (502, "UNAVAILABLE".to_owned()));
}

/// Design, section 3: the cached tag is stale, and the upstream has none.
#[tokio::test]
async fn a_tag_that_the_upstream_has_no_more_is_gone_and_its_content_is_not() {
    let image = image(107, &[1_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    pull(&larder, NAME, TAG).await;
    hub.edit(NAME, |repository| repository.remove_tag(TAG));
    assert_eq!(larder.get(manifest(TAG)).await.error(), (404, "MANIFEST_UNKNOWN".to_owned()));
    assert_eq!(pull(&larder, NAME, &image.manifest().digest).await, image.manifest().digest.as_str());
    hub.stop_listening().await;
    assert_eq!(larder.get(manifest(TAG)).await.error(), (404, "MANIFEST_UNKNOWN".to_owned()));
}

/// Design, section 3: nothing is cached, and the upstream fails: that is what the client hears, and in its own words.
#[tokio::test]
async fn an_error_is_told_as_what_it_is() {
    let image = image(108, &[1_000]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let mut larder = Larder::with(&hub, "freshness.missing = '0s'\n timeouts.headers = '1s'").await;
    let all = || Fault::on(Listener::Registry);
    for (fault, status, code) in [
        (all().answer(429, &[("Retry-After", "7")], "slow down"), 503, "TOOMANYREQUESTS"),
        (all().status(401), 403, "DENIED"),
        (all().status(403), 403, "DENIED"),
        (all().status(500), 502, "UNAVAILABLE"),
        (all().status(503), 503, "UNAVAILABLE"),
        (all().status(504), 502, "UNAVAILABLE"),
        (all().close(), 502, "UNAVAILABLE"),
        (all().hold(), 504, "UNAVAILABLE"),
    ] {
        // What the last upstream's trouble was is not remembered across a restart.
        larder.restart().await;
        let fault = hub.fault(fault);
        for target in [manifest(TAG), manifest(&image.manifest().digest), format!("/v2/{NAME}/blobs/{layer}")] {
            let answer = larder.get(&target).await;
            assert_eq!(answer.error(), (status, code.to_owned()), "{target}");
            let retry_after = answer.header("retry-after").map_or(0, |seconds| seconds.parse::<u64>().unwrap());
            assert!((1..=7).contains(&retry_after) || code != "TOOMANYREQUESTS", "{retry_after}");
            let head = larder.head(&target).await;
            assert_eq!((head.status(), head.header("docker-distribution-api-version")), (status, Some("registry/2.0")));
        }
        assert!(fault.fired() >= 1);
        hub.clear_faults();
    }
    larder.restart().await;
    assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
}

/// Who has seen the upstream fail hears how, also when it is left alone for that before it is asked for the last time.
#[tokio::test]
async fn who_has_seen_the_upstream_fail_hears_how() {
    let image = image(119, &[1_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    let fault = hub.fault(Fault::on(Listener::Registry).status(503));
    let answer = larder.get(manifest(TAG)).await;
    assert_eq!((answer.status(), answer.cache_status()), (503, "larder; fwd=miss; fwd-status=503"));
    assert!(fault.fired() >= 3, "it was asked {} times", fault.fired());
    let answer = larder.get(manifest(TAG)).await;
    assert_eq!((answer.status(), answer.cache_status()), (503, "larder; fwd=miss"), "nobody was asked for this one");
}

/// What an upstream has not is what the client hears, whether its name is wrong or hidden.
#[tokio::test]
async fn not_found_is_told_as_not_found() {
    let hub = hub_with(&image(109, &[1_000])).await;
    let larder = Larder::of(&hub).await;
    let unknown = larder_testkit::Digest::sha256(b"unknown");
    for (target, code) in [
        (manifest("absent"), "MANIFEST_UNKNOWN"),
        (manifest(&unknown), "MANIFEST_UNKNOWN"),
        (format!("/v2/{NAME}/blobs/{unknown}"), "BLOB_UNKNOWN"),
        ("/v2/library/absent/manifests/1".to_owned(), "MANIFEST_UNKNOWN"),
        ("/v2/library/absent/tags/list".to_owned(), "NAME_UNKNOWN"),
    ] {
        assert_eq!(larder.get(&target).await.error(), (404, code.to_owned()), "{target}");
    }
    hub.configure(|config| config.hide_unknown = true);
    assert_eq!(larder.get("/v2/library/hidden/manifests/1").await.error(), (403, "DENIED".to_owned()));
}

/// Case 28, and clients that ask for signatures which are not there.
#[tokio::test]
async fn what_is_not_there_is_remembered_for_a_while() {
    let hub = hub_with(&image(110, &[1_000])).await;
    let mut larder = Larder::of(&hub).await;
    let target = manifest("sha256-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.sig");
    for _ in 0..20 {
        assert_eq!(larder.get(&target).await.error(), (404, "MANIFEST_UNKNOWN".to_owned()));
    }
    let asked = |hub: &Hub| hub.requests().on(Listener::Registry).path_contains(".sig").status(404).count();
    assert_eq!(asked(&hub), 1);
    larder.restart_with("freshness.missing = '0s'").await;
    larder.get(&target).await;
    larder.get(&target).await;
    assert_eq!(asked(&hub), 3);
}

/// Case 23: Podman, CRI-O and Skopeo choose their mirror at the first manifest, so that half an image is worse than none.
#[tokio::test]
async fn a_stale_manifest_is_refused_while_its_image_is_incomplete() {
    let image = image(111, &[100_000, 2_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    larder.get(manifest(TAG)).await;
    larder.download(format!("/v2/{NAME}/blobs/{}", image.layers()[0].digest())).await;
    larder.until_idle().await;
    hub.stop_listening().await;
    assert_eq!(larder.get(manifest(TAG)).await.error(), (503, "UNAVAILABLE".to_owned()));
    hub.resume().await.unwrap();
    larder.until_asking().await;
    let limit = Fault::on(Listener::Registry).method("HEAD").answer(429, &[("Retry-After", "3")], "");
    hub.fault(limit);
    let refused = larder.get(manifest(TAG)).await;
    assert_eq!((refused.error(), refused.header("retry-after")), ((503, "TOOMANYREQUESTS".to_owned()), Some("3")));
    hub.clear_faults();
    larder.until_asking().await;
    pull(&larder, NAME, TAG).await;
    hub.stop_listening().await;
    assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
}

/// Case 23, where nobody has to be asked for the manifest: by a tag that is fresh, and by digest.
#[tokio::test]
async fn a_manifest_that_is_here_is_refused_while_its_image_can_be_neither_served_nor_completed() {
    let (half, whole) = (image(119, &[100_000, 2_000]), image(120, &[1_000]));
    let hub = hub_with(&half).await;
    hub.edit(NAME, |repository| repository.set_tag("2.0", &whole));
    let mut larder = Larder::with(&hub, "freshness.tags = 'forever'").await;
    for tag in [TAG, "2.0"] {
        pull(&larder, NAME, tag).await;
    }
    let layer = half.layers()[0].digest();
    std::fs::remove_file(larder.blob_file(layer)).unwrap();
    // While it can be fetched, it is.
    assert_eq!(larder.get(manifest(TAG)).await.cache_status(), "larder; hit");
    hub.stop_listening().await;
    assert_eq!(larder.get(format!("/v2/{NAME}/blobs/{layer}")).await.status(), 502);
    let targets = [manifest(TAG), manifest(&half.manifest().digest)];
    for target in &targets {
        assert_eq!(larder.get(target).await.error(), (503, "UNAVAILABLE".to_owned()), "{target}");
        assert_eq!(larder.head(target).await.status(), 503, "{target}");
    }
    assert_eq!(pull(&larder, NAME, "2.0").await, whole.manifest().digest.as_str());

    larder.restart_with("offline = true").await;
    for target in &targets {
        let refused = larder.get(target).await;
        assert_eq!(refused.error(), (404, "MANIFEST_UNKNOWN".to_owned()), "{target}");
        assert_eq!(refused.cache_status(), "larder; detail=offline");
    }
    let missing = larder.tool(&["missing"]).said;
    assert!(missing.contains(&format!("{NAME}:{TAG} ")) && !missing.contains(":2.0"), "{missing}");
    assert_eq!(pull(&larder, NAME, "2.0").await, whole.manifest().digest.as_str());

    hub.resume().await.unwrap();
    larder.restart_with("offline = false").await;
    assert_eq!(pull(&larder, NAME, TAG).await, half.manifest().digest.as_str());
}

/// The registry is there, and where it has its blobs is not.
#[tokio::test]
async fn a_manifest_is_refused_while_the_blobs_of_its_image_are_out_of_reach() {
    let image = image(121, &[100_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "freshness.tags = '1h'").await;
    pull(&larder, NAME, TAG).await;
    let layer = image.layers()[0].digest();
    std::fs::remove_file(larder.blob_file(layer)).unwrap();
    hub.stop_listening_on(Listener::Cdn).await;
    assert_eq!(larder.get(format!("/v2/{NAME}/blobs/{layer}")).await.status(), 502);
    assert_eq!(larder.get(manifest(TAG)).await.error(), (503, "UNAVAILABLE".to_owned()));
    hub.resume().await.unwrap();
    until_healed(&larder, |answer| answer.cache_status() == "larder; hit").await;
    assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
}

/// The log has a line for a question that failed, not one for each client that is served stale for it.
#[tokio::test]
async fn the_log_tells_of_a_failure_once() {
    let hub = hub_with(&image(122, &[1_000])).await;
    let mut larder = Larder::with(&hub, "freshness.tags = '0s'\n timeouts.revalidation = '500ms'").await;
    pull(&larder, NAME, TAG).await;
    let lines = |larder: &Larder| larder.log().matches("serving a stale tag").count();
    let heads = || Fault::on(Listener::Registry).method("HEAD").path_contains("/manifests/");
    hub.fault(heads().answer(429, &[("Retry-After", "60")], ""));
    for _ in 0..20 {
        assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    }
    assert_eq!(larder.log().matches("the upstream limits the rate of requests").count(), 1);
    assert_eq!(lines(&larder), 0, "that was said once, for all tags");
    hub.clear_faults();
    larder.restart().await;
    let gate = hub.fault(heads().hold());
    for _ in 0..20 {
        assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    }
    assert_eq!(lines(&larder), 1);
    gate.release();
}

/// Docs, outages: whoever can be served a listing that is stale waits for it as for a tag.
#[tokio::test]
async fn a_stale_listing_is_served_soon_though_the_upstream_says_nothing() {
    let hub = hub_with(&image(123, &[1_000])).await;
    let larder = Larder::with(&hub, "freshness.tags = '0s'\n timeouts.revalidation = '500ms'").await;
    pull(&larder, NAME, TAG).await;
    let (list, page) = (format!("/v2/{NAME}/tags/list"), format!("/v2/{NAME}/tags/list?n=5"));
    assert_eq!(larder.get(&list).await.status(), 200);
    let gate = hub.fault(Fault::on(Listener::Registry).path_contains("/tags/list").hold());
    let begun = std::time::Instant::now();
    // One that was fetched, one made of what was pulled, and then those for which nobody is asked any more.
    for target in [&list, &page, &list, &page, &list, &page] {
        let answer = larder.get(target).await;
        assert_eq!((answer.status(), answer.cache_status()), (200, "larder; fwd=stale; detail=stale-timeout"), "{target}");
        assert_eq!(answer.json()["tags"], serde_json::json!([TAG]));
    }
    // A question has ten seconds.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    hub.clear_faults();
    gate.release();
    until_healed_at(&larder, &list, |answer| answer.cache_status() == "larder; fwd=uri-miss; stored").await;
}

/// Case 21: the limit of the hub is reached by pulling, and the cache goes on serving.
#[tokio::test]
async fn a_rate_limit_upstream_is_no_limit_on_what_is_cached() {
    let (one, two) = (image(112, &[1_000]), image(113, &[1_000]));
    let hub = hub_with(&one).await;
    hub.edit(NAME, |repository| repository.set_tag("2.0", &two));
    hub.configure(|config| config.rate_limit = Some(larder_testkit::RateLimit::of(1).retry_after(30)));
    let larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    for _ in 0..5 {
        pull(&larder, NAME, TAG).await;
    }
    let refused = larder.get(manifest("2.0")).await;
    assert_eq!(refused.error(), (503, "TOOMANYREQUESTS".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("30"));
    assert_eq!(larder.metrics().await.get("upstream_ratelimit_remaining{upstream=\"docker.io\"}"), 0.0);
    pull(&larder, NAME, TAG).await;
}

/// Design, section 3; fault matrix, 18: a late answer for an older digest never overwrites a newer one.
#[tokio::test]
async fn a_manifest_that_arrives_late_does_not_move_the_tag_back() {
    let [first, late, newest] = [114, 115, 116].map(|seed| image(seed, &[1_000]));
    let hub = hub_with(&first).await;
    let mut larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    pull(&larder, NAME, TAG).await;
    hub.edit(NAME, |repository| repository.set_tag(TAG, &late));
    let held = Fault::on(Listener::Registry).method("GET").path_contains(&late.manifest().digest).with_header("authorization");
    let gate = hub.fault(held.once().hold());
    let slow_target = manifest(TAG);
    let slow = larder.get(&slow_target);
    let overtaking = async {
        gate.until_held(1).await;
        hub.edit(NAME, |repository| repository.set_tag(TAG, &newest));
        assert_eq!(pull(&larder, NAME, TAG).await, newest.manifest().digest.as_str());
        gate.release();
    };
    let (slow, ()) = tokio::join!(slow, overtaking);
    assert_eq!(slow.body, late.manifest().bytes);
    hub.stop_listening().await;
    assert_eq!(pull(&larder, NAME, TAG).await, newest.manifest().digest.as_str());
    larder.kill9_and_restart().await;
    assert_eq!(pull(&larder, NAME, TAG).await, newest.manifest().digest.as_str());
}

/// The tag moved, but what it moved to could not be fetched: the image that is there is better than none.
#[tokio::test]
async fn a_tag_that_moved_to_what_cannot_be_had_still_gives_what_is_cached() {
    let (old, new) = (image(117, &[1_000]), image(118, &[1_000]));
    let hub = hub_with(&old).await;
    let mut larder = Larder::with(&hub, "freshness.tags = '0s'\ntimeouts.revalidation = '20s'").await;
    pull(&larder, NAME, TAG).await;
    hub.edit(NAME, |repository| repository.set_tag(TAG, &new));
    hub.fault(Fault::on(Listener::Registry).method("GET").path_contains(&new.manifest().digest).status(503));
    let answer = larder.get(manifest(TAG)).await;
    assert_eq!(answer.cache_status(), "larder; fwd=stale; fwd-status=503; detail=stale-server-error");
    assert_eq!(answer.body, old.manifest().bytes);
    hub.stop_listening().await;
    larder.restart().await;
    assert_eq!(pull(&larder, NAME, TAG).await, old.manifest().digest.as_str());
    hub.resume().await.unwrap();
    hub.clear_faults();
    until_healed(&larder, |answer| answer.body == new.manifest().bytes).await;
    assert_eq!(pull(&larder, NAME, TAG).await, new.manifest().digest.as_str());
}

/// Asks for the tag until the answer is as it should be once the upstream is itself again.
async fn until_healed(larder: &Larder, is_healed: impl Fn(&Answer) -> bool) {
    until_healed_at(larder, &manifest(TAG), is_healed).await;
}

async fn until_healed_at(larder: &Larder, target: &str, is_healed: impl Fn(&Answer) -> bool) {
    for _ in 0..200 {
        if is_healed(&larder.get(target).await) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the upstream is back, and its trouble is still remembered");
}
