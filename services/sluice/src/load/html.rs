//! The report of a run as one page that needs nothing else: plots inline, no scripts, light or dark as its reader has it.

use std::fmt::Write as _;

use super::{
    plot::{Axis, Curve, Plot, Scale},
    report::LoadReport,
    series::{Series, Step},
    tally::{Latencies, LatencySummary},
};
use crate::output::count;

/// What plots are drawn from, besides the figures of the report.
#[derive(Debug, Clone, Default)]
pub struct Curves {
    /// The run over time.
    pub series: Series,
    /// From the intended send time to the acknowledgement.
    pub ack: Latencies,
    /// From placed to the last parcel that a carrier took.
    pub carrier: Latencies,
    /// Of reading one order back.
    pub read: Latencies,
}

/// Where a report comes from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The command, without keys.
    pub command: String,
    /// The machine that sent.
    pub machine: String,
    /// When the run ended, for people.
    pub at: String,
}

/// How pages look.
pub(crate) const STYLE: &str = "\
:root{color-scheme:light dark;--back:#fff;--text:#1b1f24;--soft:#57606a;--line:#d8dee4;--good:#1a7f37;--bad:#cf222e;\
--c0:#0969da;--c1:#1a7f37;--c2:#cf222e;--c3:#8250df;--c4:#9a6700}\
@media(prefers-color-scheme:dark){:root{--back:#0d1117;--text:#e6edf3;--soft:#9198a1;--line:#30363d;--good:#3fb950;\
--bad:#f85149;--c0:#58a6ff;--c1:#3fb950;--c2:#f85149;--c3:#bc8cff;--c4:#d29922}}\
body{margin:2rem auto;max-width:60rem;padding:0 1rem;background:var(--back);color:var(--text);font:15px/1.5 system-ui,sans-serif}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}.verdict{font-weight:600}.good{color:var(--good)}.bad{color:var(--bad)}\
table{border-collapse:collapse}td,th{padding:.2rem 1rem .2rem 0;text-align:left;border-bottom:1px solid var(--line);\
font-variant-numeric:tabular-nums}th{font-weight:400;color:var(--soft)}\
figure{margin:1.5rem 0}figcaption{font-weight:600}svg{width:100%;height:auto}svg text{font-size:12px;fill:var(--soft)}\
.end{text-anchor:end}.middle{text-anchor:middle}.grid{stroke:var(--line);fill:none}\
.curve{fill:none;stroke-width:2;stroke-linecap:round;stroke-linejoin:round}\
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}\
.legend{list-style:none;display:flex;gap:1.5rem;padding:0;margin:0;color:var(--soft)}\
.legend li[class]::before{content:'';display:inline-block;width:1rem;height:.25rem;margin-right:.4rem;vertical-align:middle}\
.legend .c0::before{background:var(--c0)}.legend .c1::before{background:var(--c1)}.legend .c2::before{background:var(--c2)}\
.legend .c3::before{background:var(--c3)}.legend .c4::before{background:var(--c4)}\
pre{overflow-x:auto;padding:.5rem;border:1px solid var(--line)}";

/// The page.
#[must_use]
pub fn page(report: &LoadReport, origin: &Origin) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>sluice load</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>sluice load</h1>\n{}",
        verdict(report)
    );
    page.push_str(&figures(report));
    for plot in [rates(&report.curves), latencies(&report.curves), distribution(&report.curves)] {
        page.push_str(&plot.svg());
    }
    section(&mut page, "What became of the orders", &outcomes(report));
    section(&mut page, "Effects at carriers", &effects(report));
    section(&mut page, "What went wrong", &problems(report));
    let _ = write!(
        page,
        "<h2>Where this comes from</h2>\n<pre>{}</pre>\n<p>{}<br/>{}</p>\n</body>\n</html>\n",
        escape(&origin.command),
        escape(&origin.machine),
        escape(&origin.at)
    );
    page
}

/// Text as it may stand in an element or an attribute. Control characters, which XML has no way to write, are replaced.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(letter),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

fn verdict(report: &LoadReport) -> String {
    let line =
        |good: bool, text: &str| format!("<p class=\"verdict {}\">{text}</p>\n", if good { "good" } else { "bad" });
    let conserved = match (report.passed(), report.orders_accepted, report.orders_judged) {
        (true, _, 0) => "Nothing was judged: it was not asked for.",
        (true, ..) => "Conserved: no order that was judged is lost, doubled, in flight or unreadable.",
        (false, 0, _) => "No order was acknowledged.",
        (false, ..) => "Not conserved: see below.",
    };
    let held = if report.rate_held { "The rate was held." } else { "The rate was not held." };
    line(report.passed(), conserved) + &line(report.rate_held, held)
}

type Rows = Vec<(&'static str, String)>;

fn section(page: &mut String, title: &str, rows: &Rows) {
    if !rows.is_empty() {
        let _ = writeln!(page, "<h2>{title}</h2>\n{}", table(rows));
    }
}

fn table(rows: &Rows) -> String {
    let row = |(name, value): &(&str, String)| format!("<tr><th>{name}</th><td>{}</td></tr>\n", escape(value));
    format!("<table>\n{}</table>\n", rows.iter().map(row).collect::<String>())
}

fn figures(report: &LoadReport) -> String {
    let rate = |rate: f64| format!("{} orders/s", count(rate as u64));
    let latency = |l: &LatencySummary| {
        format!("p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, max {:.1} ms", l.p50, l.p99, l.p999, l.max)
    };
    let mut rows = vec![
        ("intended", rate(report.intended_per_second)),
        ("acknowledged", rate(report.orders_per_second)),
        ("over", format!("{:.1} s", report.seconds)),
        ("ack latency", latency(&report.latency_ms.ack)),
    ];
    if report.orders_judged > 0 {
        rows.push(("carrier latency", latency(&report.latency_ms.carrier)));
        rows.push(("read latency", latency(&report.latency_ms.read)));
    }
    rows.push(("schedule lag", latency(&report.lag_ms)));
    table(&rows)
}

fn rates(curves: &Curves) -> Plot {
    let seconds = curves.series.step().as_secs_f64();
    let steps = curves.series.finish();
    let curve = |name, of: fn(&Step) -> u64| {
        let point = |(n, step): (usize, &Step)| ((n as f64 + 0.5) * seconds, of(step) as f64 / seconds);
        Curve { name, points: steps.iter().enumerate().map(point).collect() }
    };
    Plot {
        title: "Orders a second",
        x: Axis { title: "seconds from the start", scale: Scale::Linear },
        y: Axis { title: "orders/s", scale: Scale::Linear },
        curves: vec![
            curve("sent", |step| step.sent),
            curve("acknowledged", |step| step.acknowledged),
            curve("refused (429, 503)", |step| step.refused),
        ],
    }
}

fn latencies(curves: &Curves) -> Plot {
    let seconds = curves.series.step().as_secs_f64();
    let steps = curves.series.finish();
    let curve = |name, of: fn(&LatencySummary) -> f64| {
        let value = |step: &Step| step.ack.as_ref().map_or(f64::NAN, of);
        let point = |(n, step): (usize, &Step)| ((n as f64 + 0.5) * seconds, value(step));
        Curve { name, points: steps.iter().enumerate().map(point).collect() }
    };
    Plot {
        title: "From the intended send time to the acknowledgement",
        x: Axis { title: "seconds from the start", scale: Scale::Linear },
        y: Axis { title: "ms", scale: Scale::Log },
        curves: vec![curve("p50", |ack| ack.p50), curve("p99", |ack| ack.p99), curve("max", |ack| ack.max)],
    }
}

fn distribution(curves: &Curves) -> Plot {
    let all =
        [("acknowledged", &curves.ack), ("accepted by the carrier", &curves.carrier), ("read back", &curves.read)];
    let measured = all.into_iter().filter(|(_, latencies)| latencies.count() > 0);
    Plot {
        title: "Latency by percentile",
        x: Axis { title: "share of orders that were faster", scale: Scale::Nines },
        y: Axis { title: "ms", scale: Scale::Log },
        curves: measured.map(|(name, latencies)| Curve { name, points: latencies.percentiles() }).collect(),
    }
}

fn outcomes(report: &LoadReport) -> Rows {
    let all = [
        ("intended", report.orders_intended),
        ("sent", report.orders_sent),
        ("acknowledged", report.orders_accepted),
        ("… after a retry", report.orders_retried),
        ("refusals (429, 503)", report.refusals),
        ("rejected", report.orders_rejected),
        ("unanswered", report.orders_unanswered),
        ("not taken", report.orders_not_taken),
        ("unsent", report.orders_unsent),
        ("connections lost", report.disconnects),
        ("judged", report.orders_judged),
        ("… finished", report.orders_finished),
        ("… dead-lettered", report.orders_dead_lettered),
        ("… cancelled", report.orders_cancelled),
        ("… in flight", report.orders_in_flight),
        ("… lost", report.orders_lost),
        ("… unreadable", report.orders_unread),
        ("order ids given twice", report.duplicate_ids),
        ("parcel ids given twice", report.duplicate_parcels),
    ];
    let mut rows: Rows = all.into_iter().map(|(name, number)| (name, count(number))).collect();
    if report.sampled {
        rows.push(("judged", "a sample, drawn from the seed".to_owned()));
    }
    if !report.statuses.is_empty() {
        let statuses = report.statuses.iter().map(|(status, orders)| format!("{status}: {}", count(*orders)));
        rows.push(("answers other than 2xx", statuses.collect::<Vec<_>>().join(", ")));
    }
    rows
}

fn effects(report: &LoadReport) -> Rows {
    match (&report.duplicate_effects, &report.ledger_problem) {
        (Some(doubled), _) => vec![("parcels taken again, by the carriers' ledgers", count(*doubled))],
        (None, Some(problem)) => vec![("not judged", problem.clone())],
        (None, None) => vec![("not judged", "no --ledger was given".to_owned())],
    }
}

fn problems(report: &LoadReport) -> Rows {
    let mut rows: Rows = report.first_problem.iter().map(|problem| ("first problem", problem.clone())).collect();
    if !report.examples.is_empty() {
        rows.push(("look at", format!("GET /v1/orders/{}", report.examples.join(", "))));
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use roxmltree::{Document, ParsingOptions};

    use super::*;
    use crate::load::{AckLog, Judgement, Sent, Tally};

    fn report(change: impl FnOnce(&mut Tally, &mut Judgement)) -> LoadReport {
        let (mut tally, mut judgement) = (Tally::default(), Judgement::default());
        change(&mut tally, &mut judgement);
        let (intended, elapsed) = (tally.sent, Duration::from_secs(2));
        let sent = Sent { acks: AckLog::new(), tally, intended, intended_rate: 500.0, elapsed, cpu: None };
        LoadReport::new(&sent, &judgement)
    }

    fn origin(command: &str) -> Origin {
        Origin { command: command.to_owned(), machine: "a machine".into(), at: "now".into() }
    }

    /// Asserts that a page is well-formed and needs nothing else, and gives its text and how many points are drawn.
    fn read(page: &str) -> (String, usize) {
        let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
        let document = Document::parse_with_options(page, options).unwrap_or_else(|error| panic!("{error}: {page}"));
        for node in document.descendants().filter(|node| node.is_element()) {
            assert!(!["script", "link", "img", "iframe"].contains(&node.tag_name().name()), "{node:?}");
            for attribute in node.attributes() {
                assert!(
                    !["src", "href"].contains(&attribute.name()) && !attribute.name().starts_with("on"),
                    "{node:?}"
                );
            }
        }
        assert!(!page.contains("url(") && !page.contains("@import") && !page.contains("NaN"));
        let curves =
            document.descendants().filter(|node| node.attribute("class").is_some_and(|c| c.starts_with("curve")));
        let points = curves.map(|curve| curve.attribute("d").unwrap_or("").matches(['M', 'L']).count()).sum();
        let text = document.root_element().descendants().filter_map(|node| node.text().filter(|_| node.is_text()));
        (text.collect::<Vec<_>>().join("\n"), points)
    }

    #[test]
    fn a_good_run_is_shown_with_its_curves() {
        let report = report(|tally, judgement| {
            (tally.sent, tally.acknowledged) = (1_000, 1_000);
            tally.series = Series::new(Duration::from_secs(2));
            for n in 0..20 {
                let now = Duration::from_millis(100 * n);
                tally.series.at(now).sent += 50;
                tally.series.acknowledged(now, 50, Duration::from_millis(3 + n));
                tally.ack.record(Duration::from_millis(3 + n), 50);
            }
            (judgement.judged, judgement.finished) = (1_000, 1_000);
            judgement.carrier.record(Duration::from_millis(80), 1_000);
        });
        let (text, points) = read(&page(&report, &origin("sluice load --rate 500")));
        for part in [
            "Conserved: no order",
            "The rate was held.",
            "500 orders/s",
            "sluice load --rate 500",
            "accepted by the carrier",
            "99.9 %",
            "a machine",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(points > 6 * 20, "{points}");
    }

    #[test]
    fn a_run_without_orders_is_a_page_too() {
        let (text, points) = read(&page(&report(|_, _| {}), &origin("")));
        assert!(text.contains("No order was acknowledged.") && text.contains("nothing was measured"), "{text}");
        assert_eq!(points, 0);
    }

    #[test]
    fn what_others_say_is_text_and_nothing_else() {
        let nasty = "<script>alert('x' & \"y\")</script>\u{0}\u{1b}[31m]]>&amp;";
        let mut report = report(|tally, judgement| {
            tally.acknowledged = 1;
            tally.status(500, 1, nasty.as_bytes());
            judgement.examples = vec![nasty.to_owned()];
        });
        report.ledger_problem = Some(nasty.to_owned());
        let (text, _) = read(&page(&report, &origin(nasty)));
        let shown = nasty.replace(['\u{0}', '\u{1b}'], "\u{fffd}");
        assert_eq!(text.matches(&shown).count(), 4, "{text}");
    }
}
