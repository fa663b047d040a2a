//! The binary: see [`sluice::cli`].

use std::process::ExitCode;

/// Orders are allocated on one thread and freed on another, millions of times a second.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sluice::cli::main()
}
