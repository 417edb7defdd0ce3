//! Which token server an upstream may name. A challenge is the upstream's word, and what is sent to the realm is the operator's
//! credential: so the realm is pinned by configuration, or it must belong to whoever the upstream belongs to.

use url::Url;

use super::error::Refusal;
use super::settings::has_userinfo;
use crate::util::same_party;

/// The URL to ask for a token, given what a challenge says. A pinned realm is taken whatever the challenge says.
///
/// # Errors
/// [`Refusal::Realm`], naming the host only, unless the realm is on the upstream's own host or, over https, within the same
/// registrable domain (public suffix list). A realm over http is taken from an upstream over http only, and an IP address only
/// if it is the upstream's own host.
pub(super) fn trusted(challenged: Option<&str>, upstream: &Url, pinned: Option<&Url>) -> Result<Url, Refusal> {
    if let Some(pinned) = pinned {
        return Ok(pinned.clone());
    }
    let refuse = |host: &str, why| Err(Refusal::Realm { host: host.to_owned(), why });
    let Some(challenged) = challenged else {
        return refuse("(none)", "the challenge names no realm");
    };
    let Ok(mut realm) = upstream.join(challenged) else {
        return refuse("(none)", "it is no URL");
    };
    let Some(host) = realm.host_str() else {
        return refuse("(none)", "it names no host");
    };
    if has_userinfo(&realm) {
        return refuse(host, "it names a user");
    }
    match (realm.scheme(), upstream.scheme()) {
        ("https", _) | ("http", "http") => {}
        ("http", _) => return refuse(host, "it is not https"),
        _ => return refuse(host, "it is neither http nor https"),
    }
    if realm.host() != upstream.host() {
        if realm.scheme() != "https" {
            return refuse(host, "it is another host and not https");
        }
        if !same_party(&realm, upstream) {
            return refuse(host, "it is outside the upstream's domain");
        }
    }
    realm.set_fragment(None);
    Ok(realm)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(realm: &str, upstream: &str) -> Result<String, Refusal> {
        trusted(Some(realm), &upstream.parse().unwrap(), None).map(String::from)
    }

    #[test]
    fn realms_of_real_registries_are_trusted() {
        for (realm, upstream) in [
            ("https://auth.docker.io/token", "https://registry-1.docker.io/"),
            ("https://ghcr.io/token", "https://ghcr.io/"),
            ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com/"),
            ("https://quay.io/v2/auth", "https://quay.io/"),
            ("https://harbor.example.org:8443/service/token?x=1", "https://harbor.example.org/"),
            ("https://auth.corp.internal/t", "https://registry.corp.internal/"),
            ("http://127.0.0.1:5001/token", "http://127.0.0.1:5000/"),
            ("http://registry:5001/token", "http://registry:5000/"),
            ("https://registry:5001/token", "http://registry:5000/"),
            ("https://10.0.0.7/token", "https://10.0.0.7:5000/"),
            ("https://auth.docker.io./token", "https://registry-1.docker.io/"),
        ] {
            assert_eq!(ask(realm, upstream), Ok(realm.to_owned()));
        }
        assert_eq!(ask("/token?a=b#c", "https://r.example.org/x/").as_deref(), Ok("https://r.example.org/token?a=b"));
    }

    #[test]
    fn realms_elsewhere_are_refused_and_only_their_host_is_named() {
        for (realm, upstream, host) in [
            ("https://evil.example/token?canary", "https://registry-1.docker.io/", "evil.example"),
            ("http://auth.docker.io/token", "https://registry-1.docker.io/", "auth.docker.io"),
            ("https://canary:canary@auth.docker.io/token", "https://registry-1.docker.io/", "auth.docker.io"),
            ("https://canary@auth.docker.io/token", "https://registry-1.docker.io/", "auth.docker.io"),
            ("https://auth.docker.io@evil.example/canary", "https://registry-1.docker.io/", "evil.example"),
            ("https://127.0.0.1/canary", "https://registry-1.docker.io/", "127.0.0.1"),
            ("https://169.254.169.254/latest/canary", "https://registry-1.docker.io/", "169.254.169.254"),
            ("https://2852039166/canary", "https://registry-1.docker.io/", "169.254.169.254"),
            ("https://[::ffff:169.254.169.254]/canary", "https://registry-1.docker.io/", "[::ffff:a9fe:a9fe]"),
            ("https://localhost/canary", "https://registry-1.docker.io/", "localhost"),
            ("https://docker.io.evil.example/", "https://registry-1.docker.io/", "docker.io.evil.example"),
            ("//evil.example/canary", "https://registry-1.docker.io/", "evil.example"),
            ("https:\\\\evil.example\\canary", "https://registry-1.docker.io/", "evil.example"),
            // Two customers of one hosting company are not one party.
            ("https://evil.github.io/t", "https://good.github.io/", "evil.github.io"),
            ("https://evil.co.uk/t", "https://good.co.uk/", "evil.co.uk"),
            ("https://evil.xn--55qx5d.cn/t", "https://good.xn--55qx5d.cn/", "evil.xn--55qx5d.cn"),
            ("https://10.0.0.8/t", "https://10.0.0.7/", "10.0.0.8"),
            ("http://auth.example.org/t", "http://registry.example.org/", "auth.example.org"),
            ("http://registry2/t", "http://registry/", "registry2"),
            ("file:///etc/passwd", "https://registry-1.docker.io/", "(none)"),
            ("ftp://registry-1.docker.io/", "https://registry-1.docker.io/", "registry-1.docker.io"),
            ("https://", "https://registry-1.docker.io/", "(none)"),
        ] {
            let Err(Refusal::Realm { host: named, why }) = ask(realm, upstream) else {
                panic!("{realm} was trusted");
            };
            assert_eq!(named, host, "{realm}");
            assert!(!Refusal::Realm { host: named, why }.to_string().contains("canary"));
        }
        assert!(trusted(None, &"https://r.example.org".parse().unwrap(), None).is_err());
    }

    #[test]
    fn a_pinned_realm_is_taken_whatever_the_challenge_says() {
        let pinned: Url = "https://elsewhere.example/token".parse().unwrap();
        for challenged in [None, Some("https://evil.example/"), Some("::")] {
            assert_eq!(trusted(challenged, &"https://r.example.org".parse().unwrap(), Some(&pinned)), Ok(pinned.clone()));
        }
    }
}
