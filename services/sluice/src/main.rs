//! The binary: see [`sluice::cli`].

use std::process::ExitCode;

/// Kafka's client frees on its threads what others allocated: with the system's allocator a node takes 5 % more CPU an
/// order and 6 % more memory (`sluice-bench kafka-streams`, either allocator, in turns).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    sluice::cli::main()
}
