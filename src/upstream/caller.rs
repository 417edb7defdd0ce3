//! On whose behalf an upstream is asked: a client, by its address, or nobody. It is what shares are counted by; who it is that has
//! an address, and what it may read, is decided elsewhere.

use std::net::{IpAddr, Ipv6Addr};

/// On whose behalf upstreams are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Caller {
    /// A client, by its address.
    Client(IpAddr),
    /// Nobody: Larder itself, which bounds in other ways what it asks.
    Larder,
}

impl Caller {
    /// The caller as one whose share can be counted: of an IPv6 address the first 64 bits, since the rest is its own to choose
    /// (RFC 4291, section 2.5.1).
    pub fn party(self) -> Self {
        match self {
            Self::Client(address) => Self::Client(match address.to_canonical() {
                IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
                address => address,
            }),
            Self::Larder => Self::Larder,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_a_network_of_its_own() {
        let party = |text: &str| match Caller::Client(text.parse().unwrap()).party() {
            Caller::Client(address) => address.to_string(),
            Caller::Larder => panic!("it is a client"),
        };
        assert_eq!(party("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!((party("10.1.2.3"), party("::ffff:10.1.2.3")), ("10.1.2.3".to_owned(), "10.1.2.3".to_owned()));
        assert_eq!(Caller::Larder.party(), Caller::Larder);
    }
}
