//! Who a URL belongs to, as far as its host tells. A name alone proves nothing; over TLS, its owner must have agreed.

use url::{Host, Url};

/// Whether whoever runs one of the hosts runs the other, too: they are one host, or names within one registrable domain, i.e. one
/// label below a public suffix.
pub fn same_party(one: &Url, other: &Url) -> bool {
    one.host().is_some() && one.host() == other.host()
        || registrable(one).is_some_and(|domain| registrable(other) == Some(domain))
}

/// The list has suffixes of international names in Unicode only and a URL has them in Punycode: no such name is within a domain.
fn registrable(url: &Url) -> Option<&str> {
    let Some(Host::Domain(name)) = url.host() else {
        return None;
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.split('.').any(|label| label.starts_with("xn--")) { None } else { psl::domain_str(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_party_is_told_from_two() {
        let same = |one: &str, other: &str| same_party(&one.parse().unwrap(), &other.parse().unwrap());
        for (one, other) in [
            ("https://r.example.org", "https://r.example.org:5000/x"),
            ("https://r.example.org", "https://eu.example.org."),
            ("http://127.0.0.1:1", "http://127.0.0.1:2"),
            ("http://registry", "https://registry"),
            ("https://r.xn--55qx5d.cn", "https://r.xn--55qx5d.cn"),
        ] {
            assert!(same(one, other) && same(other, one), "{one} {other}");
        }
        for (one, other) in [
            ("https://r.example.org", "https://r.example.com"),
            ("https://good.github.io", "https://evil.github.io"),
            ("https://good.co.uk", "https://evil.co.uk"),
            ("https://good.xn--55qx5d.cn", "https://evil.xn--55qx5d.cn"),
            ("http://127.0.0.1", "http://127.0.0.2"),
            ("http://registry", "http://registry2"),
            ("data:x", "data:x"),
        ] {
            assert!(!same(one, other) && !same(other, one), "{one} {other}");
        }
    }
}
