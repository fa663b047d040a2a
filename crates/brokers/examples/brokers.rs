//! Starts a Kafka broker and a store and keeps them until standard input closes, for programs that read their
//! addresses from the environment.
//!
//! ```sh
//! cargo run -p sluice-brokers --example brokers          # prints `export …` lines; ends with Ctrl-D
//! cargo run -p sluice-brokers --example brokers -- DIR   # keeps the data in DIR
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the addresses are this program's output")]

use std::io::Read;
use std::process::ExitCode;

use sluice_brokers::{Brokers, KAFKA, Options, STORE};

fn main() -> ExitCode {
    let folder = std::env::args_os().nth(1).map(Into::into);
    let brokers = match Brokers::start(&Options { folder, ..Options::default() }) {
        Ok(brokers) => brokers,
        Err(missing) => {
            eprintln!("{missing}");
            return ExitCode::FAILURE;
        }
    };
    println!("export {KAFKA}={}", brokers.kafka());
    println!("export {STORE}={}", brokers.store());
    println!("# {}", brokers.describe());
    println!("# process ids: {:?}", brokers.pids());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    ExitCode::SUCCESS
}
