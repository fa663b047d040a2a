//! The one place that prints: results on standard output, everything for the person at the terminal on standard error.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where printing is done")]

use std::{
    fmt::Display,
    io::{IsTerminal, Write},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

/// A result, on standard output. A reader that has gone away is no error of ours.
pub fn result(text: impl Display) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Lines of a result, each with its end, on standard output at once. False if their reader has gone away.
pub fn lines(text: &[u8]) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).is_ok()
}

/// Whether anybody may still read standard output: a pipe tells when its other end is closed. A file is always read.
#[must_use]
pub fn is_read() -> bool {
    let out = std::io::stdout();
    let mut asked = [PollFd::new(&out, PollFlags::empty())];
    let told = poll(&mut asked, Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
    !(told && asked[0].revents().contains(PollFlags::ERR))
}

/// Whether a person sees standard output, and wants colours there: <https://no-color.org>.
#[must_use]
pub fn is_coloured() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    std::io::stdout().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// A result as one line of JSON, on standard output.
pub fn json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => result(text),
        Err(error) => fault(format_args!("the result can't be written as JSON: {error}")),
    }
}

/// Something to know meanwhile, on standard error.
pub fn note(text: impl Display) {
    eprintln!("{text}");
}

/// Why it doesn't go on, on standard error.
pub fn fault(text: impl Display) {
    eprintln!("error: {text}");
}

/// Whether a person sees standard error.
#[must_use]
pub fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// A number with its thousands apart.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }
}
