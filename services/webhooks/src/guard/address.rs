//! What an address is: public, or not to be called.
//!
//! IANA's special-purpose registries of IPv4 and IPv6, read the strict way: a block that is global in one corner is refused as a
//! whole, and of IPv6 nothing but today's global unicast, 2000::/3, is good.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    bits: u8,
}

/// A text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network such as 10.0.0.0/8 or fd00::/8, with nothing set behind its prefix")]
pub struct NetworkError(String);

impl Network {
    const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Self {
        Self { base: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits }
    }

    const fn v6(a: u16, b: u16, c: u16, bits: u8) -> Self {
        Self { base: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), bits }
    }

    /// True if `address` lies in it. An IPv6 address that holds an IPv4 one lies in no network of IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let differ = base.to_bits() ^ address.to_bits();
                self.bits == 0 || differ >> (32 - u32::from(self.bits)) == 0
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let differ = base.to_bits() ^ address.to_bits();
                self.bits == 0 || differ >> (128 - u32::from(self.bits)) == 0
            }
            _ => false,
        }
    }

    fn is_canonical(&self) -> bool {
        match self.base {
            IpAddr::V4(base) => base.to_bits().checked_shl(self.bits.into()).unwrap_or(0) == 0,
            IpAddr::V6(base) => base.to_bits().checked_shl(self.bits.into()).unwrap_or(0) == 0,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// Reads `address/bits`; an address alone is a network of one.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError(text.chars().take(64).collect());
        let (base, bits) = text.split_once('/').map_or((text, None), |(base, bits)| (base, Some(bits)));
        let base: IpAddr = base.parse().map_err(|_| wrong())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => bits.parse().map_err(|_| wrong())?,
            Some(_) => return Err(wrong()),
        };
        let network = Self { base, bits };
        if bits <= most && network.is_canonical() { Ok(network) } else { Err(wrong()) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// What of IPv4 isn't public.
const SPECIAL_V4: [Network; 20] = [
    Network::v4(0, 0, 0, 0, 8),          // this network
    Network::v4(10, 0, 0, 0, 8),         // private
    Network::v4(100, 64, 0, 0, 10),      // carriers' NAT
    Network::v4(127, 0, 0, 0, 8),        // loopback
    Network::v4(169, 254, 0, 0, 16),     // link-local, and most clouds' metadata
    Network::v4(172, 16, 0, 0, 12),      // private
    Network::v4(192, 0, 0, 0, 24),       // protocol assignments
    Network::v4(192, 0, 2, 0, 24),       // documentation
    Network::v4(192, 31, 196, 0, 24),    // AS112
    Network::v4(192, 52, 193, 0, 24),    // multicast tunnels
    Network::v4(192, 88, 99, 0, 24),     // 6to4 relays
    Network::v4(192, 168, 0, 0, 16),     // private
    Network::v4(192, 175, 48, 0, 24),    // AS112
    Network::v4(198, 18, 0, 0, 15),      // benchmarks
    Network::v4(198, 51, 100, 0, 24),    // documentation
    Network::v4(203, 0, 113, 0, 24),     // documentation
    Network::v4(224, 0, 0, 0, 4),        // multicast
    Network::v4(240, 0, 0, 0, 4),        // reserved, and broadcast
    Network::v4(168, 63, 129, 16, 32),   // a cloud's host agent, at a public address
    Network::v4(100, 100, 100, 200, 32), // a cloud's metadata
];

/// What of IPv6 is public …
const GLOBAL_V6: Network = Network::v6(0x2000, 0, 0, 3);

/// … but for these. Outside of it are unspecified, loopback, mapped and compatible IPv4, NAT64 (64:ff9b::/96 and
/// 64:ff9b:1::/48), discard-only, unique local, link-local, site-local, segment routing, and multicast.
const SPECIAL_V6: [Network; 6] = [
    Network::v6(0x2001, 0, 0, 23), // protocol assignments: Teredo, benchmarks, ORCHID and others
    Network::v6(0x2001, 0xdb8, 0, 32), // documentation
    Network::v6(0x2002, 0, 0, 16), // 6to4: an IPv4 address of anybody's choice
    Network::v6(0x2620, 0x4f, 0x8000, 48), // AS112
    Network::v6(0x3ffe, 0, 0, 16), // the test network that was
    Network::v6(0x3fff, 0, 0, 20), // documentation
];

/// Where clouds hand out their machines' credentials: not even an operator's list opens these.
const METADATA: [IpAddr; 9] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// True for an address that anybody in the internet has, and none of whose kin is translated on the way.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => !SPECIAL_V4.iter().any(|network| network.contains(address)),
        IpAddr::V6(_) => GLOBAL_V6.contains(address) && !SPECIAL_V6.iter().any(|network| network.contains(address)),
    }
}

/// True for a cloud's metadata service.
#[must_use]
pub fn is_metadata(address: IpAddr) -> bool {
    METADATA.contains(&address)
}
