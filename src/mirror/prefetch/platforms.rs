//! Which platforms the clients of an upstream ask for, learnt from what they ask for after an index. In memory only, and bounded,
//! whatever indexes list and whoever asks.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::oci::{Digest, Manifest, Platform, UpstreamName};

/// How many manifests it is remembered of what platform they are for.
const MANIFESTS: u64 = 10_000;

/// How many manifests of one index are remembered. Those that exist list some dozen.
const MANIFESTS_OF_AN_INDEX: usize = 128;

/// How many requests count, of those that an upstream's clients made last.
const LATELY: usize = 32;

/// What is known of the clients of all upstreams.
pub(super) struct Platforms {
    /// What the manifests are for that indexes listed.
    listed: moka::sync::Cache<(UpstreamName, Digest), Platform>,
    /// What clients asked for, oldest first.
    asked: Mutex<HashMap<UpstreamName, VecDeque<Platform>>>,
}

impl Platforms {
    pub(super) fn new() -> Self {
        // By use alone: an index that is new counts for more than one that was popular.
        let policy = moka::policy::EvictionPolicy::lru();
        let listed = moka::sync::Cache::builder().max_capacity(MANIFESTS).eviction_policy(policy).build();
        Self { listed, asked: Mutex::default() }
    }

    /// Notes what the manifests are for that `index` lists.
    pub(super) fn learn(&self, upstream: &UpstreamName, index: &Manifest) {
        for child in index.manifests.iter().take(MANIFESTS_OF_AN_INDEX) {
            if let Some(platform) = &child.platform {
                self.listed.insert((upstream.clone(), child.digest), platform.clone());
            }
        }
    }

    /// Notes that a client asked for this manifest.
    pub(super) fn asked(&self, upstream: &UpstreamName, manifest: &Digest) {
        let Some(platform) = self.listed.get(&(upstream.clone(), *manifest)) else { return };
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = asked.entry(upstream.clone()).or_default();
        if asked.len() == LATELY {
            asked.pop_front();
        }
        asked.push_back(platform);
    }

    /// The platform that the clients of `upstream` asked for most lately; of two, the one that was asked for last.
    pub(super) fn most_asked(&self, upstream: &UpstreamName) -> Option<Platform> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = asked.get(upstream)?;
        let times = |platform: &Platform| asked.iter().filter(|other| *other == platform).count();
        // `max_by_key` gives the last one of those that are equal.
        asked.iter().max_by_key(|platform| times(platform)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::MediaType;

    const ARCHITECTURES: [&str; 3] = ["amd64", "arm64", "s390x"];

    fn hub() -> UpstreamName {
        "docker.io".parse().unwrap()
    }

    /// The manifest of an image.
    fn child(index: &str, architecture: &str) -> Digest {
        Digest::sha256(format!("{index} for {architecture}").as_bytes())
    }

    fn learn(platforms: &Platforms, index: &str) {
        let image = |architecture: &str, os: &str| {
            let digest = child(index, architecture);
            format!(r#"{{"digest":"{digest}","platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#)
        };
        let mut images: Vec<_> = ARCHITECTURES.iter().map(|architecture| image(architecture, "linux")).collect();
        images.push(image("unknown", "unknown"));
        let text = format!(r#"{{"manifests":[{}]}}"#, images.join(","));
        let index = Manifest::inspect(text.as_bytes(), &MediaType::OCI_INDEX.parse().unwrap()).unwrap();
        platforms.learn(&hub(), &index);
    }

    fn most_asked(platforms: &Platforms) -> Option<String> {
        platforms.most_asked(&hub()).map(|platform| platform.to_string())
    }

    #[test]
    fn nothing_is_known_until_a_listed_image_is_asked_for() {
        let platforms = Platforms::new();
        assert_eq!(most_asked(&platforms), None);
        platforms.asked(&hub(), &child("a", "arm64"));
        assert_eq!(most_asked(&platforms), None, "no index lists it");
        learn(&platforms, "a");
        assert_eq!(most_asked(&platforms), None, "that it is listed does not mean that anybody wants it");
        platforms.asked(&hub(), &child("a", "unknown"));
        assert_eq!(most_asked(&platforms), None, "an attestation is for no platform");
        platforms.asked(&hub(), &child("a", "arm64"));
        assert_eq!(most_asked(&platforms).as_deref(), Some("linux/arm64"));
    }

    #[test]
    fn the_clients_of_one_upstream_say_nothing_of_those_of_another() {
        let platforms = Platforms::new();
        let other = "quay.io".parse().unwrap();
        learn(&platforms, "a");
        platforms.asked(&other, &child("a", "arm64"));
        platforms.asked(&hub(), &child("a", "amd64"));
        assert_eq!(most_asked(&platforms).as_deref(), Some("linux/amd64"));
        assert_eq!(platforms.most_asked(&other), None);
    }

    #[test]
    fn what_is_asked_for_most_counts_and_the_past_is_forgotten() {
        let platforms = Platforms::new();
        learn(&platforms, "a");
        let asked = |architecture: &str, times: usize| {
            for _ in 0..times {
                platforms.asked(&hub(), &child("a", architecture));
            }
        };
        asked("amd64", 1000);
        asked("s390x", 1);
        assert_eq!(most_asked(&platforms).as_deref(), Some("linux/amd64"), "one client among many decides nothing");
        asked("arm64", LATELY / 2 - 1);
        assert_eq!(most_asked(&platforms).as_deref(), Some("linux/amd64"));
        asked("arm64", 1);
        assert_eq!(most_asked(&platforms).as_deref(), Some("linux/arm64"), "the site has moved on");
        asked("s390x", LATELY / 2);
        assert_eq!(most_asked(&platforms).as_deref(), Some("linux/s390x"), "of two, the later one");
    }

    #[test]
    fn memory_is_bounded_whatever_is_listed_and_asked_for() {
        let platforms = Platforms::new();
        for index in 0..5_000 {
            learn(&platforms, &index.to_string());
            platforms.asked(&hub(), &child(&index.to_string(), "amd64"));
        }
        platforms.listed.run_pending_tasks();
        assert!(platforms.listed.entry_count() <= MANIFESTS);
        assert_eq!(platforms.asked.lock().unwrap()[&hub()].len(), LATELY);
        platforms.asked(&hub(), &child("4999", "arm64"));
        assert!(platforms.asked.lock().unwrap()[&hub()].back().is_some_and(|last| last.to_string() == "linux/arm64"));
    }
}
