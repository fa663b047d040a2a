//! Any bytes as a title: bounded, never a panic, and the same whichever way it is judged. Run with `fuzz/run goods_text`;
//! a test runs the kept corpus.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sluice_goods::{Model, check_text};

static MODEL: LazyLock<Model> = LazyLock::new(|| Model::embedded().expect("a test keeps the embedded model whole"));

fuzz_target!(|bytes: &[u8]| check_text(&MODEL, bytes));
