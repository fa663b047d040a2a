//! Chooses ports that stay free while a server that was killed is down.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

use crate::Missing;
use crate::error::io;

/// Lowest port drawn.
const LOWEST: u16 = 10_000;
/// Draws before any port that the system gives is taken.
const DRAWS: usize = 200;

/// `N` distinct ports of 127.0.0.1 that nobody listens on.
///
/// They lie below the range that the system takes for outgoing connections: while a killed server is down, its
/// clients connect to its port over and over, and one of those connections (or any other process's) could be given
/// that very port as its own, so that the server could not listen on it again.
pub(crate) fn free<const N: usize>() -> Result<[u16; N], Missing> {
    let mut ports = [0; N];
    // Held until all are chosen, so that they differ.
    let mut held = Vec::with_capacity(N);
    for port in &mut ports {
        let listener = below_outgoing()
            .map_or_else(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)), Ok)
            .map_err(io("binding a free port of 127.0.0.1"))?;
        *port = listener.local_addr().map_err(io("reading a port that was bound"))?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// Whether nobody listens on `port` of 127.0.0.1.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn below_outgoing() -> Option<TcpListener> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let end: u16 = range.split_whitespace().next()?.parse().ok()?;
    let width = u64::from(end.checked_sub(LOWEST).filter(|width| *width > 1_000)?);
    // Every RandomState has keys of its own: random enough, without a dependency.
    (0..DRAWS).find_map(|draw| {
        let offset = u16::try_from(RandomState::new().hash_one(draw) % width).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, LOWEST + offset)).ok()
    })
}
