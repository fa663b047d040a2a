//! Every stored or public format of Sluice, in one place and free of I/O: whoever changes a byte here changes
//! what a journal of yesterday means, so each format carries a version and has frozen fixtures beside it.
//!
//! * [`order`]: the order record, written once to the log and never rewritten.
//! * [`delta`]: what later stages add to an order; a row is the concatenation of an order's deltas.
//! * [`frame`]: what one Kafka record of an internal topic holds.
//! * [`word`]: what is said about an order that is in the log, an input of its partition; [`outcome`]: a carrier's answer,
//!   the first of them; [`command`]: a merchant's wish.
//! * [`event`]: what other systems are told about an order, one Kafka record per decision.
//! * [`milestone`]: the rank table behind a status that only moves forward.

#[cfg(test)]
mod codec_tests;
pub mod command;
pub mod delta;
pub mod event;
#[cfg(test)]
mod fixtures_tests;
pub mod frame;
pub mod milestone;
pub mod order;
pub mod outcome;
pub mod wire;
pub mod word;

/// The bytes don't hold what their format says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} is malformed or cut short")]
pub struct CodecError {
    /// The field that could not be read.
    pub what: &'static str,
}
