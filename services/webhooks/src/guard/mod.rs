//! Keeps merchants' URLs from reaching what isn't theirs: the operator's own networks, this machine, a cloud's metadata.
//!
//! Three gates, each of which fails closed:
//!
//! * [`target`]: what a URL says. Parsed once, as browsers do, so that decimal, octal, hexadecimal and full-width spellings of
//!   an address are that address before anything is decided about them.
//! * [`address`]: what an address is. Only global unicast is good; whatever embeds another address, or is translated to one on
//!   the way, isn't.
//! * [`Guard::admit`]: what a name leads to. It is resolved once for each connection; every address that the answer has must be
//!   good, and the connection goes to one of exactly those. Redirects are never followed.

pub mod address;
pub mod target;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use sluice_pipeline::BoxFuture;

pub use address::{Network, NetworkError};
pub use target::{Target, UrlError, host_of};

/// Addresses of one answer that are looked at; an answer with more is refused.
pub const MAX_ADDRESSES: usize = 32;

/// Resolves names.
pub trait Resolver: Send + Sync {
    /// Every address that `host` has now.
    ///
    /// # Errors
    /// What the system says.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect()) })
    }
}

/// Why a connection is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The name can't be resolved, or to nothing.
    #[error("the name can't be resolved")]
    Unresolved,
    /// One of the addresses isn't a public one. It isn't said which: that would tell about networks that aren't the merchant's.
    #[error("the name leads to an address that isn't public")]
    Address,
    /// More than [`MAX_ADDRESSES`].
    #[error("the name has more than {MAX_ADDRESSES} addresses")]
    TooMany,
}

/// What may be called.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// Networks that may be called although they aren't public, and without TLS. Empty unless an operator says so.
    pub allowed: Vec<Network>,
}

impl Guard {
    /// Resolves the target and checks every address.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn admit(&self, target: &Target, resolver: &dyn Resolver) -> Result<Vec<IpAddr>, Refused> {
        let addresses = match target.address {
            Some(address) => vec![address],
            None => resolver.resolve(&target.host).await.map_err(|_| Refused::Unresolved)?,
        };
        self.check(target, addresses)
    }

    /// `addresses`, if every single one may be called as `target` says.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check(&self, target: &Target, addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, Refused> {
        match addresses.len() {
            0 => return Err(Refused::Unresolved),
            1..=MAX_ADDRESSES => {}
            _ => return Err(Refused::TooMany),
        }
        let good =
            |address: &IpAddr| self.is_allowed(*address) || (target.is_for_public() && address::is_public(*address));
        if addresses.iter().all(good) { Ok(addresses) } else { Err(Refused::Address) }
    }

    /// True if the operator lets it be called, public or not.
    #[must_use]
    pub fn is_allowed(&self, address: IpAddr) -> bool {
        !address::is_metadata(address) && self.allowed.iter().any(|network| network.contains(address))
    }
}
