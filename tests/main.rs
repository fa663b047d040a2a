//! The one integration binary: http, crash, simulation, architecture.
