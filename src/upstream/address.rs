//! Which addresses are out on the internet, and a resolver that gives no others. It keeps an upstream, and whoever can answer
//! for a name in DNS, from steering requests to this machine, its network or a cloud's metadata service.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use futures::FutureExt;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::connect;
use super::resolve::Resolver;

/// Resolves as others do and drops every address that is not public. The connection is made to an address that has
/// passed, without another look-up in between, so that a name whose addresses change (DNS rebinding) gains nothing.
pub(super) struct PublicOnly(pub(super) Resolver);

/// A name has no public address. Found in the source chain of the HTTP client's error.
#[derive(Debug)]
pub(super) struct NotPublic {
    pub(super) host: String,
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.0.clone();
        async move {
            let found = connect::while_resolving(resolver.addresses(name.as_str())).await?;
            let public = only_public(name.as_str(), found.iter().copied())?;
            let public = resolver.proven().order(name.as_str(), public).await;
            Ok(Box::new(public.into_iter()) as Addrs)
        }
        .boxed()
    }
}

/// The public ones among the addresses of `host`.
fn only_public(host: &str, found: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, NotPublic> {
    let public: Vec<_> = found.filter(|address| is_public(address.ip())).collect();
    if public.is_empty() { Err(NotPublic { host: host.to_owned() }) } else { Ok(public) }
}

/// Whether `address` belongs to the public internet, by the IANA special-purpose address registries (RFC 6890). An IPv6 address
/// that stands for an IPv4 one is judged by that.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        [0 | 10 | 127, ..] => true,                   // this network, private, loopback
        [100, 64..=127, ..] => true,                  // carrier-grade NAT
        [169, 254, ..] => true,                       // link-local, cloud metadata
        [172, 16..=31, ..] => true,                   // private
        [192, 0, 0 | 2, _] => true,                   // protocol assignments, documentation
        [192, 88, 99, _] => true,                     // 6to4 relays, deprecated
        [192, 168, ..] => true,                       // private
        [198, 18 | 19, ..] => true,                   // benchmarks
        [198, 51, 100, _] | [203, 0, 113, _] => true, // documentation
        [224..=255, ..] => true,                      // multicast, reserved, broadcast
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low), // IPv4-mapped
        [0, 0, 0, 0, 0xffff, 0, high, low] => embedded(high, low), // IPv4-translated
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low), // NAT64
        [0x2002, high, low, ..] => embedded(high, low),            // 6to4
        [0x2001, 0, ..] | [0x2001, 0xdb8, ..] => false,            // Teredo, documentation
        // Of all the rest only 2000::/3 is handed out: this leaves out ::, ::1, the local NAT64 prefix, fc00::/7, fe80::/10, ff00::/8.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has no public address", self.host)
    }
}

impl std::error::Error for NotPublic {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn special_addresses_are_not_public() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.8.9.10",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::8.8.8.8",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001:0:1::1",
            "2001:db8::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn ordinary_addresses_are_public() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.169.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_rebinding_name_keeps_its_public_addresses_only() {
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let mixed = [at("127.0.0.1:0"), at("93.184.216.34:0"), at("[::1]:0"), at("169.254.169.254:0")];
        assert_eq!(only_public("x.example", mixed.into_iter()).unwrap(), [at("93.184.216.34:0")]);
        let inside = [at("10.0.0.1:0"), at("[::ffff:10.0.0.1]:0")];
        assert_eq!(only_public("x.example", inside.into_iter()).unwrap_err().host, "x.example");
    }

    #[tokio::test]
    async fn the_resolver_does_not_give_this_machine_away() {
        let resolver = PublicOnly(Resolver::new(Duration::from_secs(30), Duration::from_secs(5)));
        let error = resolver.resolve("localhost".parse().unwrap()).await.err().expect("localhost is not public");
        assert!(error.is::<NotPublic>(), "{error}");
    }

    proptest! {
        #[test]
        fn a_mapped_address_is_judged_like_itself(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            prop_assert_eq!(is_public(v4.into()), is_public(v4.to_ipv6_mapped().into()));
        }

        #[test]
        fn what_the_standard_library_calls_special_is_not_public(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast()
                || v4.is_documentation() || v4.is_unspecified();
            prop_assert!(!(special && is_public(v4.into())));
        }
    }
}
