//! The conventions that every HTTP service of Sluice keeps, so that they answer alike without seeing each other: problem
//! details, bearer keys, times as text, request metrics, signatures.

pub mod auth;
pub mod meter;
pub mod problem;
pub mod retry_after;
pub mod rfc3339;
pub mod webhook;

pub use auth::{ApiKeySecurity, authenticate};
pub use meter::RouteMeter;
pub use problem::{FieldError, Problem, ProblemBody};
pub use rfc3339::Timestamp;
