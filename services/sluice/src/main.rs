//! The binary: see [`sluice::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    sluice::cli::main()
}
