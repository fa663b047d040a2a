//! A frame as tables of text, which both the screen and `--once` show.

use super::{
    figures::Latency,
    frame::{CarrierFigures, Figures, Frame, Node},
};

/// A table: what it is about, its columns and its rows. The first column is on the left, the others on the right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub title: &'static str,
    pub columns: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
    /// Rows that somebody should look at.
    pub bad: Vec<usize>,
    /// Lines below the table, for somebody to look at, too.
    pub notes: Vec<String>,
}

/// Every table, the most important first.
pub(super) fn sections(frame: &Frame) -> Vec<Section> {
    [nodes(frame), latencies(frame), carriers(frame), lags(frame)].into_iter().filter(|s| !s.rows.is_empty()).collect()
}

fn nodes(frame: &Frame) -> Section {
    let mut rows: Vec<Vec<String>> = frame.nodes.iter().map(node).collect();
    let bad = frame.nodes.iter().enumerate().filter(|(_, node)| !node.ready).map(|(n, _)| n).collect();
    if frame.nodes.len() > 1 {
        let up = frame.nodes.iter().filter(|node| node.up).count();
        rows.push(row("all", format!("{up} of {} up", frame.nodes.len()), &frame.total));
    }
    Section {
        title: "nodes",
        columns: vec![
            "node",
            "state",
            "accepted/s",
            "finished/s",
            "dead-lettered/s",
            "in flight",
            "refused/s",
            "5xx/s",
            "retries/s",
            "streams",
            "connections",
            "memory",
        ],
        rows,
        bad,
        notes: frame.nodes.iter().filter_map(why_away).collect(),
    }
}

fn node(node: &Node) -> Vec<String> {
    let name = node.url.trim_start_matches("http://");
    match &node.figures {
        Some(figures) => row(name, if node.ready { "ready".to_owned() } else { "not ready".to_owned() }, figures),
        None => vec![name.to_owned(), "away".to_owned()],
    }
}

fn why_away(node: &Node) -> Option<String> {
    Some(format!("{}: {}", node.url.trim_start_matches("http://"), node.problem.as_ref()?))
}

fn row(name: &str, state: String, figures: &Figures) -> Vec<String> {
    vec![
        name.to_owned(),
        state,
        rate(figures.accepted_per_s),
        rate(figures.finished_per_s),
        rate(figures.dead_lettered_per_s),
        number(figures.in_flight),
        rate(figures.refused_per_s),
        rate(figures.server_errors_per_s),
        rate(figures.retries_per_s),
        number(figures.streams),
        number(figures.connections),
        figures.memory_bytes.map_or_else(none, bytes),
    ]
}

fn latencies(frame: &Frame) -> Section {
    let row = |(what, latency): (&&'static str, &Latency)| {
        let mut row = vec![(*what).to_owned(), rate(Some(latency.per_s))];
        row.extend([milliseconds(latency.p50_ms), milliseconds(latency.p99_ms)]);
        row
    };
    Section {
        title: "how long it takes",
        columns: vec!["what", "per s", "p50", "p99"],
        rows: frame.latencies.iter().map(row).collect(),
        bad: Vec::new(),
        notes: Vec::new(),
    }
}

fn carriers(frame: &Frame) -> Section {
    let row = |(id, carrier): (&String, &CarrierFigures)| {
        let call = |of: fn(&Latency) -> f64| carrier.call.as_ref().map_or_else(none, |call| milliseconds(of(call)));
        vec![
            id.clone(),
            carrier.breaker_name().to_owned(),
            rate(carrier.accepted_per_s),
            rate(carrier.rejected_per_s),
            rate(carrier.failed_calls_per_s),
            number(Some(carrier.waiting)),
            number(Some(carrier.calls)),
            call(|call| call.p50_ms),
            call(|call| call.p99_ms),
        ]
    };
    Section {
        title: "carriers",
        columns: vec![
            "carrier",
            "breaker",
            "accepted/s",
            "rejected/s",
            "failed calls/s",
            "waiting",
            "calls",
            "call p50",
            "call p99",
        ],
        rows: frame.carriers.iter().map(row).collect(),
        bad: frame.carriers.values().enumerate().filter(|(_, c)| c.breaker > 0.0).map(|(n, _)| n).collect(),
        notes: Vec::new(),
    }
}

fn lags(frame: &Frame) -> Section {
    let row = |(what, value): (&String, &f64)| {
        let amount = if what.ends_with("_bytes") { bytes(*value) } else { number(Some(*value)) };
        vec![what.trim_end_matches("_bytes").replace('_', " "), amount]
    };
    Section {
        title: "what waits",
        columns: vec!["what", "now"],
        rows: frame.lags.iter().map(row).collect(),
        bad: Vec::new(),
        notes: Vec::new(),
    }
}

fn none() -> String {
    "–".to_owned()
}

/// Of a rate as much as matters: 0.3, 42, 12,345.
pub(super) fn rate(rate: Option<f64>) -> String {
    match rate {
        Some(rate) if rate > 0.0 && rate < 10.0 => format!("{rate:.1}"),
        other => number(other),
    }
}

fn number(number: Option<f64>) -> String {
    // What is measured is neither negative nor beyond what a u64 holds; a float that is, saturates.
    number.map_or_else(none, |number| crate::output::count(number.round() as u64))
}

fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

fn bytes(bytes: f64) -> String {
    match bytes / 1_024.0 {
        kib if kib < 1.0 => format!("{bytes:.0} B"),
        kib if kib < 1_024.0 => format!("{kib:.0} KiB"),
        kib if kib < 10_240.0 * 1_024.0 => format!("{:.0} MiB", kib / 1_024.0),
        kib => format!("{:.1} GiB", kib / 1_048_576.0),
    }
}

/// The frame as plain text.
pub(super) fn plain(frame: &Frame) -> String {
    let mut text = String::new();
    for section in sections(frame) {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.set_header(section.columns.clone());
        table.add_rows(section.rows);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
        if !text.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(&table.trim_fmt());
        section.notes.iter().for_each(|note| text.extend(["\n", note]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Look, tests::embedded};
    use super::*;

    #[test]
    fn amounts_are_as_short_as_they_may_be() {
        assert_eq!([0.0, 0.25, 9.96, 12.4, 12_345.6].map(|r| rate(Some(r))), ["0", "0.2", "10.0", "12", "12,346"]);
        assert_eq!((rate(None), number(None)), (none(), none()));
        assert_eq!(
            [0.05, 9.994, 12.0, 9_999.0, 30_000.0].map(milliseconds),
            ["0.05 ms", "9.99 ms", "12 ms", "9999 ms", "30.0 s"]
        );
        assert_eq!([512.0, 2_048.0, 1e8, 2e10].map(bytes), ["512 B", "2 KiB", "95 MiB", "18.6 GiB"]);
    }

    #[test]
    fn a_frame_as_text_has_every_table_and_what_is_away() {
        let (before, now) = (embedded(0, 1_000), embedded(10, 3_000));
        let here = Look { url: "http://a:1", before: Some(&before), now: Ok(&now) };
        let away = Look { url: "http://b:2", before: None, now: Err("can't connect") };
        let text = plain(&Frame::new(0, &[here, away]));
        for part in [
            "a:1",
            "ready",
            "200",
            "b:2: can't connect",
            "1 of 2 up",
            "100 MiB",
            "POST /v1/orders",
            "swift",
            "open",
            "4 KiB",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(!text.lines().any(|line| line.ends_with(' ')), "{text}");
    }
}
