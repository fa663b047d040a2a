//! Reading a rule file. Fields are taken by hand rather than by derive, so that an error can name the rule by its id.

use std::{collections::HashMap, io::Read, path::Path};

use sluice_domain::Handling;
use toml::{Table, Value};

use crate::{
    classifier::Fallback,
    rules::{Rule, reduce},
};

/// Bytes of a rule file.
const MAX_BYTES: u64 = 1 << 20;
/// Rules of a file.
const MAX_RULES: usize = 10_000;
/// Grams of one unit.
const MAX_WEIGHT_G: i64 = 1_000_000;
/// Bytes of a rule's id.
const MAX_ID: usize = 64;
/// Bytes of a rule's reason.
const MAX_REASON: usize = 200;
/// Bytes of a word or phrase.
const MAX_WORDS: usize = 100;

/// A rule file can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// The file can't be read.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The text is no TOML.
    #[error("rule file: {0}")]
    Syntax(#[from] toml::de::Error),
    /// Something outside the rules is wrong.
    #[error("rule file: {field}: {problem}")]
    File {
        /// Which field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A rule is wrong.
    #[error("rule {rule}: {field}: {problem}")]
    Rule {
        /// The rule's id, or its number from 1 while it has none.
        rule: String,
        /// Which field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// All words together make too large a table.
    #[error("rule file: too many words: {0}")]
    TooLarge(String),
}

/// What a file says.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) number: u32,
    pub(crate) fallback: Fallback,
    pub(crate) rules: Vec<Rule>,
}

/// A field and what is wrong with it, before it is known whose field it is.
type Wrong = (String, String);

fn wrong<T>(field: &str, problem: impl Into<String>) -> Result<T, Wrong> {
    Err((field.to_owned(), problem.into()))
}

pub(crate) fn read(path: &Path) -> Result<String, RulesError> {
    let io = |error| RulesError::Io { path: path.display().to_string(), error };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io(std::io::Error::other(format!("a rule file has at most {MAX_BYTES} bytes"))));
    }
    Ok(text)
}

pub(crate) fn parse(text: &str) -> Result<File, RulesError> {
    let table: Table = text.parse()?;
    let (number, fallback) = head(&table).map_err(|(field, problem)| RulesError::File { field, problem })?;
    let entries = match table.get("rule") {
        None => &[][..],
        Some(Value::Array(entries)) if entries.len() <= MAX_RULES => &entries[..],
        Some(_) => {
            let problem = format!("must be at most {MAX_RULES} tables [[rule]]");
            return Err(RulesError::File { field: "rule".to_owned(), problem });
        }
    };
    let mut seen = Seen::default();
    let mut rules = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let id = entry.get("id").and_then(Value::as_str).unwrap_or_default();
        let named = |(field, problem)| {
            let rule = if id.is_empty() { format!("number {}", index + 1) } else { id.to_owned() };
            RulesError::Rule { rule, field, problem }
        };
        rules.push(rule(entry, &mut seen).map_err(named)?);
    }
    Ok(File { number, fallback, rules })
}

fn head(table: &Table) -> Result<(u32, Fallback), Wrong> {
    only(table, &["version", "default", "rule"])?;
    let number = match table.get("version").and_then(Value::as_integer).map(u32::try_from) {
        Some(Ok(number @ 1..)) => number,
        _ => return wrong("version", format!("must be a whole number from 1 to {}", u32::MAX)),
    };
    let Some(Value::Table(default)) = table.get("default") else {
        return wrong("default", "must be a table with handling and weight_g");
    };
    let within = |(field, problem): Wrong| (format!("default.{field}"), problem);
    only(default, &["handling", "weight_g"]).map_err(within)?;
    let handling = handling(default).map_err(within)?;
    Ok((number, Fallback { handling, unit_weight_g: weight(default).map_err(within)? }))
}

/// What earlier rules have taken.
#[derive(Default)]
struct Seen {
    ids: HashMap<String, ()>,
    words: HashMap<String, String>,
}

fn rule(entry: &Value, seen: &mut Seen) -> Result<Rule, Wrong> {
    let Value::Table(table) = entry else { return wrong("rule", "must be a table") };
    only(table, &["id", "any", "handling", "weight_g", "review", "reason"])?;
    let id = match table.get("id").and_then(Value::as_str) {
        Some(id) if (1..=MAX_ID).contains(&id.len()) => id.to_owned(),
        _ => return wrong("id", format!("must be a text of 1 to {MAX_ID} bytes")),
    };
    if seen.ids.insert(id.clone(), ()).is_some() {
        return wrong("id", "is taken by an earlier rule");
    }
    let Some(Value::Array(any)) = table.get("any").filter(|a| a.as_array().is_some_and(|a| !a.is_empty())) else {
        return wrong("any", "must be a list of at least one word or phrase");
    };
    let any = any.iter().map(|word| words(word, &id, seen)).collect::<Result<_, _>>()?;
    let review = match table.get("review") {
        None => false,
        Some(Value::Boolean(review)) => *review,
        Some(_) => return wrong("review", "must be true or false"),
    };
    let reason = match table.get("reason") {
        None => None,
        Some(Value::String(reason)) if (1..=MAX_REASON).contains(&reason.len()) => Some(reason.clone()),
        Some(_) => return wrong("reason", format!("must be a text of 1 to {MAX_REASON} bytes")),
    };
    Ok(Rule { id, any, handling: handling(table)?, weight_g: weight(table)?, review, reason })
}

/// A word or phrase as titles are reduced.
fn words(value: &Value, id: &str, seen: &mut Seen) -> Result<String, Wrong> {
    let text = value.as_str().unwrap_or_default();
    let mut buffer = [0; _];
    let length = reduce(text, &mut buffer);
    let reduced = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
    if reduced.is_empty() || text.len() > MAX_WORDS {
        return wrong("any", format!("{value} must be a word or phrase of at most {MAX_WORDS} bytes"));
    }
    if let Some(earlier) = seen.words.insert(reduced.clone(), id.to_owned()) {
        return wrong("any", format!("{reduced:?} can never match: rule {earlier} has it already"));
    }
    Ok(reduced)
}

fn handling(table: &Table) -> Result<Handling, Wrong> {
    match table.get("handling").and_then(Value::as_str).and_then(Handling::from_name) {
        Some(handling) => Ok(handling),
        None => {
            let names: Vec<_> = Handling::ALL.into_iter().map(Handling::name).collect();
            wrong("handling", format!("must be one of {}", names.join(", ")))
        }
    }
}

fn weight(table: &Table) -> Result<u32, Wrong> {
    match table.get("weight_g").and_then(Value::as_integer) {
        Some(grams @ 1..=MAX_WEIGHT_G) => Ok(grams as u32),
        _ => wrong("weight_g", format!("must be a whole number of grams from 1 to {MAX_WEIGHT_G}")),
    }
}

/// A misspelt field would otherwise be a rule that silently does something else.
fn only(table: &Table, known: &[&str]) -> Result<(), Wrong> {
    match table.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => wrong(key, format!("is no field here; there are {}", known.join(", "))),
        None => Ok(()),
    }
}
