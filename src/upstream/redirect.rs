//! Where a redirect may lead, decided for each hop on its own. It never sends anything, and it never trusts a hop because the
//! one before was trusted.

use reqwest::header::HeaderValue;
use url::{Host, Url};

use super::address::is_public;
use super::error::Refusal;
use super::settings::has_userinfo;

/// The most redirects followed for one request.
pub(super) const MAX_REDIRECTS: usize = 5;

/// One place to send a request to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) url: Url,
    pub(super) reach: Reach,
}

/// What a place is to the upstream, and so what may be sent there and at which addresses it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// The registry itself: same scheme, host and port. `Authorization` goes here and nowhere else.
    Own,
    /// The registry's host at another port, or an origin that the operator trusts. It may be at any address.
    Known,
    /// Anywhere else: public addresses only.
    Foreign,
}

/// The rules of one upstream.
pub(super) struct Redirects {
    registry: Url,
    trusted: Vec<url::Origin>,
}

impl Redirects {
    pub(super) fn new(registry: Url, trusted: Vec<url::Origin>) -> Self {
        Self { registry, trusted }
    }

    /// The hop that `location` leads to, seen from `from`.
    ///
    /// # Errors
    /// [`Refusal::Redirect`] if it is no http(s) URL, names a user, or leads from https to http; [`Refusal::Address`] if it is a
    /// literal address inside some network, or this machine by name. Trusted origins may be in http and anywhere; the registry's
    /// own host anywhere, and in http if the registry is.
    pub(super) fn follow(&self, from: &Url, location: &HeaderValue) -> Result<Hop, Refusal> {
        let refuse = |host: &str, why| Err(Refusal::Redirect { host: host.to_owned(), why });
        let Some(url) = std::str::from_utf8(location.as_bytes()).ok().and_then(|text| from.join(text).ok()) else {
            return refuse("(none)", "it is no URL");
        };
        let (Some(host), "http" | "https") = (url.host(), url.scheme()) else {
            return refuse(url.host_str().unwrap_or("(none)"), "it is neither http nor https");
        };
        let name = host.to_string();
        if has_userinfo(&url) {
            return refuse(&name, "it names a user");
        }
        let trusted = self.trusted.contains(&url.origin());
        let same_host = self.registry.host() == url.host();
        let may_be_plain = trusted || (self.registry.scheme() == "http" && (same_host || from.scheme() == "http"));
        if url.scheme() == "http" && !may_be_plain {
            return refuse(&name, "it leads from https to http");
        }
        let reach = if url.origin() == self.registry.origin() {
            Reach::Own
        } else if trusted || same_host {
            Reach::Known
        } else {
            Reach::Foreign
        };
        let is_inside = match host {
            // Other names are judged by what they resolve to. This one would mean the proxy itself, if there is one (RFC 6761).
            Host::Domain(name) => name.trim_end_matches('.').rsplit('.').next() == Some("localhost"),
            Host::Ipv4(address) => !is_public(address.into()),
            Host::Ipv6(address) => !is_public(address.into()),
        };
        if reach == Reach::Foreign && is_inside {
            return Err(Refusal::Address { host: name });
        }
        Ok(Hop { url, reach })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(registry: &str) -> Redirects {
        let trusted: Url = "http://minio.lan:9000".parse().unwrap();
        Redirects::new(registry.parse().unwrap(), vec![trusted.origin()])
    }

    fn follow(registry: &str, from: &str, location: &str) -> Result<(String, Reach), Refusal> {
        let hop = rules(registry).follow(&from.parse().unwrap(), &HeaderValue::from_str(location).unwrap())?;
        Ok((hop.url.into(), hop.reach))
    }

    #[test]
    fn hops_are_told_apart() {
        let registry = "https://r.example.org/";
        let from = "https://r.example.org/v2/a/blobs/x";
        for (location, expected, reach) in [
            ("/elsewhere?x=1", "https://r.example.org/elsewhere?x=1", Reach::Own),
            ("y", "https://r.example.org/v2/a/blobs/y", Reach::Own),
            ("https://R.example.org:443/z", "https://r.example.org/z", Reach::Own),
            ("https://r.example.org:444/z", "https://r.example.org:444/z", Reach::Known),
            ("https://cdn.example.net/z?sig=1", "https://cdn.example.net/z?sig=1", Reach::Foreign),
            ("//cdn.example.net/z", "https://cdn.example.net/z", Reach::Foreign),
            ("https://8.8.8.8/z", "https://8.8.8.8/z", Reach::Foreign),
            ("http://minio.lan:9000/z", "http://minio.lan:9000/z", Reach::Known),
        ] {
            assert_eq!(follow(registry, from, location), Ok((expected.to_owned(), reach)), "{location}");
        }
    }

    #[test]
    fn hops_inside_or_in_the_clear_are_refused() {
        let registry = "https://r.example.org/";
        for location in [
            "https://127.0.0.1/canary",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://169.254.169.254/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://10.1.2.3/",
            "https://100.64.0.1/",
            "https://0.0.0.0/",
            "https://[fd00::1]/",
            "https://[fe80::1]/",
            "http://cdn.example.net/",
            "http://r.example.org/",
            "http://minio.lan:9001/",
            "https://canary@cdn.example.net/",
            "https://a:canary@r.example.org/",
            "ftp://cdn.example.net/",
            "file:///etc/passwd",
            "data:,canary",
            "https://localhost/",
            "https://LOCALHOST./",
            "https://a.localhost/",
            "https://",
        ] {
            let refused = follow(registry, registry, location).expect_err(location);
            assert!(!refused.to_string().contains("canary"), "{refused}");
        }
    }

    #[test]
    fn an_upstream_in_http_may_lead_back_to_itself_and_on_in_http() {
        let registry = "http://10.0.0.1:5000/";
        let reach = |from, to| follow(registry, from, to).map(|(_, reach)| reach);
        assert_eq!(reach(registry, "http://10.0.0.1:9000/x"), Ok(Reach::Known));
        assert_eq!(reach(registry, "http://cdn.example.net/x"), Ok(Reach::Foreign));
        assert_eq!(reach("https://cdn.example.net/", "http://10.0.0.1:5000/x"), Ok(Reach::Own));
        assert!(reach("https://cdn.example.net/", "http://cdn.example.net/x").is_err());
        assert!(reach(registry, "http://10.0.0.2/x").is_err());
    }

    #[test]
    fn a_trusted_hop_does_not_make_the_next_one_trusted() {
        let from = "http://minio.lan:9000/z";
        assert!(follow("https://r.example.org/", from, "http://other.example/").is_err());
        assert!(follow("https://r.example.org/", from, "https://10.0.0.1/").is_err());
    }
}
