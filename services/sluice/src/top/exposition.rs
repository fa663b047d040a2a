//! Reads what `/metrics` says: the text format of Prometheus, version 0.0.4, as far as counters, gauges and histograms need.

use std::collections::BTreeMap;

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample<'a> {
    /// Its name, such as `sluice_http_request_duration_seconds_bucket`.
    pub name: &'a str,
    /// Its labels by name.
    pub labels: BTreeMap<&'a str, String>,
    /// Its value; may be infinite or no number.
    pub value: f64,
}

impl Sample<'_> {
    /// The value of a label; empty if there is none.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// A line that is no sample.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of /metrics: expected {expected}")]
pub struct Unreadable {
    /// Counted from 1.
    line: usize,
    /// What is expected there.
    expected: &'static str,
}

/// Every sample of a text.
///
/// # Errors
/// [`Unreadable`] for the first line that isn't one: what answers there is no Sluice then.
pub(super) fn samples(text: &str) -> Result<Vec<Sample<'_>>, Unreadable> {
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.map(|(line, text)| sample(text).map_err(|expected| Unreadable { line, expected })).collect()
}

fn sample(line: &str) -> Result<Sample<'_>, &'static str> {
    let end = line.find(['{', ' ', '\t']).ok_or("a name and a value")?;
    let (name, rest) = line.split_at(end);
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':');
    if name.is_empty() || !name.bytes().all(legal) {
        return Err("the name of a metric");
    }
    let mut labels = BTreeMap::new();
    let rest = match rest.strip_prefix('{') {
        Some(rest) => read_labels(rest, &mut labels)?,
        None => rest,
    };
    // A time may follow.
    let value = rest.split_ascii_whitespace().next().ok_or("a value")?;
    Ok(Sample { name, labels, value: value.parse().map_err(|_| "a number")? })
}

/// Reads labels up to the closing brace, and gives what is behind it.
fn read_labels<'a>(mut rest: &'a str, labels: &mut BTreeMap<&'a str, String>) -> Result<&'a str, &'static str> {
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok(rest);
        }
        let (name, quoted) = rest.split_once("=\"").ok_or("a label and its value in quotes")?;
        let (value, behind) = unquote(quoted)?;
        labels.insert(name.trim(), value);
        rest = behind;
    }
}

/// The text up to the closing quote, and what is behind it.
fn unquote(quoted: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((value, &quoted[at + 1..])),
            '\\' => match letters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, letter @ ('"' | '\\'))) => value.push(letter),
                _ => return Err("\\\\, \\\" or \\n in the value of a label"),
            },
            letter => value.push(letter),
        }
    }
    Err("a closing quote")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let text = "# HELP a Something\n# TYPE a counter\na 1\n\na_total{} 2 1790000000000\n  b:c{x=\"1\",y=\"2\"}\t3e2\n\
                    h_bucket{le=\"+Inf\", route=\"GET /v1/orders/{id}\"} +Inf\nn NaN\n";
        let read = samples(text).unwrap();
        let plain: Vec<(&str, f64)> = read.iter().map(|s| (s.name, s.value)).collect();
        assert_eq!(plain[..3], [("a", 1.0), ("a_total", 2.0), ("b:c", 300.0)]);
        assert_eq!((read[2].label("x"), read[2].label("y"), read[2].label("z")), ("1", "2", ""));
        assert_eq!((read[3].label("le"), read[3].label("route")), ("+Inf", "GET /v1/orders/{id}"));
        assert!(read[3].value.is_infinite() && read[4].value.is_nan());
    }

    #[test]
    fn labels_may_say_anything() {
        let text = r#"a{x="q\"uo\\te\n, } {"} 1"#;
        assert_eq!(samples(text).unwrap()[0].label("x"), "q\"uo\\te\n, } {");
    }

    #[test]
    fn what_is_no_metric_is_named_by_line() {
        let error = |text: &str| samples(text).unwrap_err().to_string();
        assert_eq!(error("a 1\n<html>\n"), "line 2 of /metrics: expected a name and a value");
        assert_eq!(error("<html lang=\"en\">"), "line 1 of /metrics: expected the name of a metric");
        assert_eq!(error("a one"), "line 1 of /metrics: expected a number");
        assert_eq!(error("a{x=\"1\"}"), "line 1 of /metrics: expected a value");
        for wrong in ["a{x} 1", "a{x=\"1} 1", r#"a{x="\t"} 1"#, "a{x=\"1\"", "a"] {
            assert!(samples(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            metrics::counter!("a_total", "who" => "x\"y\\z\nw").increment(7);
            metrics::gauge!("b").set(1.5);
        });
        let text = handle.render();
        let read = samples(&text).unwrap();
        let a = read.iter().find(|s| s.name == "a_total").unwrap();
        assert_eq!((a.label("who"), a.value), ("x\"y\\z\nw", 7.0));
        assert!(read.iter().any(|s| s.name == "b" && s.value == 1.5));
    }

    proptest! {
        #[test]
        fn noise_is_no_panic(noise in ".{0,200}") {
            let _ = samples(&noise);
        }
    }
}
