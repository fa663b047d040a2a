//! The composition root: the only crate that sees every stage, engine and service.
//!
//! * [`config`]: what an operator can set; [`cli`]: what can be run; [`exit`]: how it ends.
//! * [`topology`]: the pipeline, wired in one function; [`knowledge`]: what it classifies goods by.
//! * [`serve`], [`demo`], [`load`], [`carrier_sim`], [`check`], [`top`], [`operator`], [`goods`]: the subcommands.

pub mod carrier_sim;
pub mod check;
pub mod cli;
mod clock;
pub mod cluster;
pub mod config;
pub mod demo;
pub mod exit;
pub mod goods;
pub mod knowledge;
pub mod load;
pub mod machine;
pub mod operator;
pub mod ops;
pub mod output;
mod patient;
pub mod reload;
pub mod serve;
mod server;
#[cfg(test)]
mod shipping_tests;
pub mod signals;
pub mod simulate;
pub mod telemetry;
pub mod tls;
pub mod top;
pub mod topology;
pub mod webhooks;
