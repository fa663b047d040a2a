//! The conventions that every HTTP service of Sluice keeps, so that they answer alike without seeing each other: problem
//! details, bearer keys, idempotency keys, bodies within bounds, query strings, times as text, request metrics, signatures.

pub mod auth;
pub mod body;
pub mod key;
pub mod meter;
pub mod problem;
pub mod query;
pub mod responses;
pub mod retry_after;
pub mod rfc3339;
pub mod webhook;
pub mod whole;

pub use auth::{ApiKeySecurity, OperatorKeySecurity, authenticate, authenticate_operator, operator_name};
pub use key::idempotency_key;
pub use meter::RouteMeter;
pub use problem::{FieldError, Problem, ProblemBody, clip};
pub use rfc3339::Timestamp;
pub use whole::Whole;
