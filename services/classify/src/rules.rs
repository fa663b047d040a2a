//! Words in a title as a classifier, for goods that the catalogue doesn't know.
//!
//! A title is brought to its normal form, so that neither case nor accents nor look-alike letters hide a word, and reduced to
//! its words (letters and digits, ASCII letters upper-cased); all words and phrases of all
//! rules are looked for in one pass; of the rules that match, the first in the file wins.
//!
//! How good is the embedded file? On the titles of the catalogue's 92,331 products, whose classes were set by hand from
//! departments and categories that rules don't see, 93.6 % of the products get their class and the mean F1 of the ten
//! classes is 0.891; 15.6 % match no rule and are right only if the default, `ambient_general`, is. Weakest are
//! `non_goods` (recall 0.38, on purpose: what is taken for no goods is never sent) and `chilled` (0.82, much of the
//! rest being titles like "ENHANCED" that say nothing). The rules were written with these titles at hand and others are
//! worded otherwise, so take these figures as an upper bound. Weights are a guess per rule, for titles that say no size.

use std::path::Path;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use sluice_domain::{Handling, limits::MAX_TITLE};
use sluice_goods::text::Normal;
use sluice_schemas::order::Line;

use crate::{
    classifier::{Classified, Classifier, Fallback, Fnv, Source},
    rule_file::{self, RulesError},
};

/// Bytes of a title that are looked at; checkout takes no longer ones.
pub(crate) const SEEN: usize = MAX_TITLE;

/// One rule of the file.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) id: String,
    /// Reduced words and phrases.
    pub(crate) any: Vec<String>,
    pub(crate) handling: Handling,
    pub(crate) weight_g: u32,
    /// A person must look at what it matches.
    pub(crate) review: bool,
    /// Why there is the rule, for people.
    pub(crate) reason: Option<String>,
}

/// Which rule decided, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched<'a> {
    /// The rule's id.
    pub rule: &'a str,
    /// Why there is the rule, if its file says so.
    pub reason: Option<&'a str>,
    /// The words of the title, as they are compared.
    pub phrase: String,
    /// What the goods need by it.
    pub handling: Handling,
    /// A person must look at what it matches.
    pub review: bool,
}

/// A rule file, ready to match.
#[derive(Debug)]
pub struct Rules {
    number: u32,
    version: u32,
    fallback: Fallback,
    rules: Vec<Rule>,
    finder: AhoCorasick,
    /// For each pattern of `finder` the rule it belongs to.
    owner: Vec<u16>,
}

impl Rules {
    /// The rule file that is part of this build.
    ///
    /// # Errors
    /// [`RulesError`] if it is wrong, which a test rules out.
    pub fn embedded() -> Result<Self, RulesError> {
        Self::parse(include_str!("../rules.toml"))
    }

    /// Reads the rule file at `path`, at most 1 MiB.
    ///
    /// # Errors
    /// [`RulesError`] if it can't be read, or as [`Rules::parse`].
    pub fn load(path: &Path) -> Result<Self, RulesError> {
        Self::parse(&rule_file::read(path)?)
    }

    /// Reads a rule file. `rules.toml` of this crate describes the format.
    ///
    /// # Errors
    /// [`RulesError`] naming the rule and the field that is wrong.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        let file = rule_file::parse(text)?;
        let pattern = |words: &String| format!(" {words} ");
        let patterns: Vec<String> = file.rules.iter().flat_map(|rule| rule.any.iter().map(pattern)).collect();
        let finder = AhoCorasick::builder().kind(Some(AhoCorasickKind::DFA)).build(&patterns);
        let finder = finder.map_err(|e| RulesError::TooLarge(e.to_string()))?;
        let owner =
            file.rules.iter().enumerate().flat_map(|(i, rule)| rule.any.iter().map(move |_| i as u16)).collect();
        let mut hash = Fnv::default();
        hash.write(text.as_bytes());
        Ok(Self {
            number: file.number,
            version: (hash.finish() >> 32) as u32,
            fallback: file.fallback,
            rules: file.rules,
            finder,
            owner,
        })
    }

    /// The version number that the file gives itself, for people.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// What the file takes a line for that no rule matches.
    #[must_use]
    pub fn fallback(&self) -> Fallback {
        self.fallback
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rule that decides on a title, and the words by which it was found; for people.
    #[must_use]
    pub fn matched(&self, title: &str) -> Option<Matched<'_>> {
        let mut buffer = [0; SEEN + 2];
        let length = reduce(title, &mut buffer);
        let text = &buffer[..length];
        let found = self.finder.find_overlapping_iter(text);
        let of = |found: aho_corasick::Match| Some((*self.owner.get(found.pattern().as_usize())?, found.range()));
        let (first, range) = found.filter_map(of).min_by_key(|(rule, range)| (*rule, range.start))?;
        let rule = self.rules.get(usize::from(first))?;
        let phrase = String::from_utf8_lossy(text.get(range)?).trim().to_owned();
        Some(Matched {
            rule: &rule.id,
            reason: rule.reason.as_deref(),
            phrase,
            handling: rule.handling,
            review: rule.review,
        })
    }

    fn first_match(&self, title: &str) -> Option<&Rule> {
        let mut buffer = [0; SEEN + 2];
        let length = reduce(title, &mut buffer);
        let found = self.finder.find_overlapping_iter(&buffer[..length]);
        let first = found.filter_map(|m| self.owner.get(m.pattern().as_usize())).min()?;
        self.rules.get(usize::from(*first))
    }
}

impl Classifier for Rules {
    /// A hash of the whole file, so that an edit counts even if its author forgot to raise the number.
    fn version(&self) -> u32 {
        self.version
    }

    fn classify(&self, line: &Line<'_>) -> Option<Classified<'_>> {
        self.first_match(line.title).map(|rule| Classified {
            handling: rule.handling,
            department: None,
            unit_weight_g: rule.weight_g,
            estimated: true,
            source: Source::Rule(&rule.id),
            confidence: 0,
            hold: rule.review,
        })
    }
}

/// Writes the normal form of `text` as words between single spaces, with a space before the first and behind the last, and
/// returns the length. Bytes above ASCII count as letters. What goes beyond the buffer is left out.
pub(crate) fn reduce(text: &str, out: &mut [u8; SEEN + 2]) -> usize {
    out[0] = b' ';
    let mut length = 1;
    for &byte in Normal::of(text).bytes().iter().take(SEEN) {
        let byte = if byte.is_ascii_alphanumeric() || byte >= 0x80 { byte.to_ascii_uppercase() } else { b' ' };
        if byte != b' ' || out[length - 1] != b' ' {
            out[length] = byte;
            length += 1;
        }
    }
    if out[length - 1] != b' ' {
        out[length] = b' ';
        length += 1;
    }
    length
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
