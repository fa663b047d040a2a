//! What a terminal may be told: colours where they are wanted, and no control characters of others.

use std::borrow::Cow;

/// How a text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// As it is.
    Usual,
    /// Of little interest.
    Faint,
    /// It went well.
    Good,
    /// Somebody may want to know.
    Odd,
    /// Somebody must look.
    Bad,
}

/// Whether colours are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint(pub bool);

impl Paint {
    /// Appends `text`, which must be [`plain`].
    pub fn put(self, out: &mut String, look: Look, text: &str) {
        let code = match look {
            _ if !self.0 => "",
            Look::Usual => "",
            Look::Faint => "\x1b[2m",
            Look::Good => "\x1b[32m",
            Look::Odd => "\x1b[33m",
            Look::Bad => "\x1b[1;31m",
        };
        out.push_str(code);
        out.push_str(text);
        if !code.is_empty() {
            out.push_str("\x1b[0m");
        }
    }
}

/// `text` without what could steer a terminal or turn the direction of what follows: carriers and merchants wrote it.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    match text.contains(steers) {
        true => Cow::Owned(text.replace(steers, "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_only_where_they_are_wanted() {
        let painted = |on| {
            let mut out = String::new();
            for look in [Look::Usual, Look::Faint, Look::Good, Look::Odd, Look::Bad] {
                Paint(on).put(&mut out, look, "x");
            }
            out
        };
        assert_eq!(painted(false), "xxxxx");
        assert_eq!(painted(true), "x\x1b[2mx\x1b[0m\x1b[32mx\x1b[0m\x1b[33mx\x1b[0m\x1b[1;31mx\x1b[0m");
    }

    #[test]
    fn nobody_elses_text_steers_the_terminal() {
        assert_eq!(plain("too heavy ⚖, 12 kg"), "too heavy ⚖, 12 kg");
        assert_eq!(plain("a\x1b[2Jb\nc\u{202e}d\u{9b}"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\u{fffd}");
    }
}
