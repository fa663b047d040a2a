//! Everything between Sluice and the carriers: which one is asked ([`routing`]), how it is asked ([`notifier`]), how
//! both sides know each other ([`webhook`]), what they tell on their own ([`events`]), and carriers to try it on
//! ([`simulated`]).

pub mod events;
pub mod notifier;
pub mod routing;
pub mod simulated;

pub use sluice_http::webhook;
