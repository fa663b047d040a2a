//! `sluice goods diff`: what would be decided otherwise of recorded orders by another model or other rules.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use sluice_classify::{Chain, Classified, Review, Source, usual_weights};
use sluice_domain::Handling;
use sluice_engine_kafka_scylla::topics;
use sluice_schemas::order::{Line, lines_of};

use super::Bar;
use crate::{
    config::Config,
    exit,
    knowledge::{Parts, model, rules},
    operator::plain,
    output::{self, count},
};

/// Titles kept as examples; what differs in more is only counted.
const TITLES: usize = 100_000;
/// The value that stands for what is part of this build.
const EMBEDDED: &str = "embedded";

const EXAMPLES: &str = "\
Examples:
  sluice goods diff --data-dir sluice-data --model embedded --model goods.slm
  sluice goods diff --data-dir sluice-data --rules embedded --rules my-rules.toml --json
  sluice goods diff --config cluster.toml --model goods.slm              # against the one built in

The orders are read from a data folder, which a server may be using, or from the log of the cluster that a configuration
names; nothing is changed. Lines that the catalogue knows are counted and no more. What reviewers have decided for good, and a
configuration's `review`, count for neither side.

Exit codes: 0 compared, whatever differs; 2 wrong usage, or a file that can't be used; 3 the cluster can't be reached; 74 the data
folder can't be read.";

/// Lists what would be decided otherwise of recorded orders by another model or other rules.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct DiffArgs {
    /// A model file, or `embedded`; given twice, the first is compared with the second
    #[arg(long, value_name = "FILE", num_args = 1)]
    pub model: Vec<String>,
    /// A rule file, or `embedded`; given twice, the first is compared with the second
    #[arg(long, value_name = "FILE", num_args = 1)]
    pub rules: Vec<String>,
    /// The data folder that has the orders
    #[arg(long, value_name = "DIR", required_unless_present = "config", conflicts_with = "config")]
    pub data_dir: Option<PathBuf>,
    /// The configuration of the cluster whose log has the orders
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Titles to show, those of most lines first
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What was compared.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Versions as decisions name them.
    before: Versions,
    after: Versions,
    orders: u64,
    lines: u64,
    /// Lines that the catalogue knows.
    known: u64,
    /// Lines that both take for the same, and hold both or neither.
    same: u64,
    /// Lines that are taken for something else.
    other_class: u64,
    /// Lines that only the first holds, and that only the second does.
    held_before: u64,
    held_after: u64,
    /// Records that can't be read.
    unreadable: u64,
    /// From which class to which, with lines; those that differ.
    classes: Vec<Moved>,
    /// Titles that differ, those of most lines first.
    titles: Vec<Differs>,
}

#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Versions {
    rules: u32,
    model: u32,
}

#[derive(Debug, Serialize)]
struct Moved {
    before: &'static str,
    after: &'static str,
    lines: u64,
}

#[derive(Debug, Clone, Serialize)]
struct Differs {
    title: String,
    lines: u64,
    before: Said,
    after: Said,
}

/// What one side says of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Said {
    handling: &'static str,
    source: &'static str,
    confidence: u8,
    held: bool,
}

impl Said {
    fn of(known: &Classified<'_>) -> Self {
        Self {
            handling: known.handling.name(),
            source: known.source.name(),
            confidence: known.confidence,
            held: known.hold,
        }
    }

    fn text(&self) -> String {
        let held = if self.held { ", held" } else { "" };
        match self.confidence {
            0 => format!("{} ({}{held})", self.handling, self.source),
            percent => format!("{} ({} {percent} %{held})", self.handling, self.source),
        }
    }
}

/// Compares line by line.
struct Compare {
    before: Chain,
    after: Chain,
    report: Report,
    moved: [[u64; Handling::ALL.len()]; Handling::ALL.len()],
    titles: HashMap<String, Differs>,
}

impl Compare {
    fn new(before: Chain, after: Chain) -> Self {
        let versions = |chain: &Chain| Versions { rules: chain.version(), model: chain.model_version() };
        let report = Report { before: versions(&before), after: versions(&after), ..Report::default() };
        Self { before, after, report, moved: Default::default(), titles: HashMap::new() }
    }

    fn order(&mut self, record: &[u8]) {
        self.report.orders += 1;
        let Ok((_, lines)) = lines_of(record) else {
            self.report.unreadable += 1;
            return;
        };
        for line in lines {
            match line {
                Ok(line) => self.line(&line),
                Err(_) => {
                    self.report.unreadable += 1;
                    return;
                }
            }
        }
    }

    fn line(&mut self, line: &Line<'_>) {
        self.report.lines += 1;
        let before = self.before.classify(line);
        if before.source == Source::Catalogue {
            self.report.known += 1;
            return;
        }
        let after = self.after.classify(line);
        if (before.handling, before.hold) == (after.handling, after.hold) {
            self.report.same += 1;
            return;
        }
        if before.handling != after.handling {
            self.report.other_class += 1;
            self.moved[before.handling as usize][after.handling as usize] += 1;
        }
        self.report.held_before += u64::from(before.hold && !after.hold);
        self.report.held_after += u64::from(after.hold && !before.hold);
        let full = self.titles.len() >= TITLES;
        match self.titles.get_mut(line.title) {
            Some(known) => known.lines += 1,
            None if full => {}
            None => {
                let title = line.title.to_owned();
                let differs = Differs { title, lines: 1, before: Said::of(&before), after: Said::of(&after) };
                self.titles.insert(line.title.to_owned(), differs);
            }
        }
    }

    fn report(mut self, limit: usize) -> Report {
        for (before, row) in Handling::ALL.iter().zip(&self.moved) {
            let moved = Handling::ALL.iter().zip(row).filter(|(_, lines)| **lines > 0);
            let moved = moved.map(|(after, &lines)| Moved { before: before.name(), after: after.name(), lines });
            self.report.classes.extend(moved);
        }
        self.report.classes.sort_by_key(|moved| std::cmp::Reverse(moved.lines));
        let mut titles: Vec<Differs> = self.titles.into_values().collect();
        titles.sort_by(|a, b| b.lines.cmp(&a.lines).then_with(|| a.title.cmp(&b.title)));
        titles.truncate(limit);
        self.report.titles = titles;
        self.report
    }
}

/// Runs `sluice goods diff`, and gives the exit code. Blocks.
pub(super) fn command(args: &DiffArgs) -> u8 {
    let compare = match sides(args) {
        Ok(compare) => compare,
        Err(error) => {
            output::fault(error);
            return exit::USAGE;
        }
    };
    match read(args, compare) {
        Ok(report) => {
            if args.json {
                output::json(&report);
            } else {
                output::result(text(&report));
            }
            exit::OK
        }
        Err((code, error)) => {
            output::fault(error);
            code
        }
    }
}

fn sides(args: &DiffArgs) -> Result<Compare, Box<dyn std::error::Error>> {
    let pair = |given: &[String], what: &str| match given {
        [] => Ok([None, None]),
        [after] => Ok([None, Some(after.clone())]),
        [before, after] => Ok([before, after].map(|file| Some(file.clone()))),
        more => Err(format!("--{what}: expected once or twice, got {} times", more.len())),
    };
    let (models, files) = (pair(&args.model, "model")?, pair(&args.rules, "rules")?);
    if args.model.is_empty() && args.rules.is_empty() {
        return Err(
            "nothing to compare: give --model or --rules, the second time what the first is compared with".into()
        );
    }
    let catalogue = Arc::new(sluice_data::catalogue()?);
    let usual_g = usual_weights(&catalogue);
    let file = |given: Option<String>| given.filter(|given| given != EMBEDDED).map(PathBuf::from);
    let side = |[model_file, rule_file]: [Option<String>; 2]| -> Result<Chain, Box<dyn std::error::Error>> {
        let parts = Parts {
            rules: rules(file(rule_file).as_deref())?,
            model: model(file(model_file).as_deref())?,
            review: Review::AsTrained,
            learned: Arc::default(),
        };
        Ok(parts.chain(&catalogue, usual_g))
    };
    let ([model_before, model_after], [rules_before, rules_after]) = (models, files);
    Ok(Compare::new(side([model_before, rules_before])?, side([model_after, rules_after])?))
}

type Failed = (u8, Box<dyn std::error::Error>);

fn read(args: &DiffArgs, mut compare: Compare) -> Result<Report, Failed> {
    let bar = Bar::new("comparing");
    let mut tell = |done, all| bar.show(done, all);
    let damaged = match (&args.data_dir, &args.config) {
        (Some(folder), _) => {
            let read = sluice_engine_embedded::recorded(folder, &mut |record| compare.order(record), &mut tell);
            read.map_err(|error| (exit::IO, error.into()))?.damaged
        }
        (None, Some(path)) => cluster(path, &mut compare, &mut tell)?,
        (None, None) => 0,
    };
    compare.report.unreadable += damaged;
    Ok(compare.report(args.limit))
}

fn cluster(path: &Path, compare: &mut Compare, tell: &mut dyn FnMut(u64, u64)) -> Result<u64, Failed> {
    let (config, _) = Config::load(path, &|name: &str| std::env::var(name).ok()).map_err(usage)?;
    let missing = "cluster: expected a [cluster] section; `sluice worker --example` shows it";
    let log = config.cluster.as_ref().ok_or_else(|| usage(missing))?.log(&config).map_err(usage)?;
    let away = |error: Box<dyn std::error::Error>| (exit::NO_SERVER, error);
    let deployment = topics::read_deployment(&log).map_err(|error| away(error.into()))?;
    let mut each = |record: &[u8]| compare.order(record);
    let read = sluice_engine_kafka_scylla::recorded::recorded(&log, deployment, &mut each, tell);
    Ok(read.map_err(|error| away(error.into()))?.damaged)
}

fn usage(error: impl Into<Box<dyn std::error::Error>>) -> Failed {
    (exit::USAGE, error.into())
}

fn table(rows: impl IntoIterator<Item = Vec<String>>, numbers: usize) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for row in rows {
        table.add_row(row);
    }
    if let Some(column) = table.column_mut(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// The report for people.
fn text(report: &Report) -> String {
    let version = |Versions { rules, model }: Versions| format!("rules {rules}, model {model}");
    let row = |what: &str, n: u64| vec![what.to_owned(), count(n)];
    let mut parts = vec![
        format!("before: {}\nafter:  {}", version(report.before), version(report.after)),
        table(
            [
                row("orders", report.orders),
                row("lines", report.lines),
                row("  known to the catalogue", report.known),
                row("  the same", report.same),
                row("  of another class", report.other_class),
                row("  no longer held", report.held_before),
                row("  newly held", report.held_after),
                row("records that can't be read", report.unreadable),
            ],
            1,
        ),
    ];
    if !report.classes.is_empty() {
        let rows = report.classes.iter().map(|m| vec![count(m.lines), format!("{} → {}", m.before, m.after)]);
        parts.push(table(rows, 0));
    }
    if !report.titles.is_empty() {
        let rows = report.titles.iter().map(|differs| {
            let sides = format!("{} → {}", differs.before.text(), differs.after.text());
            vec![count(differs.lines), plain(&differs.title).into_owned(), sides]
        });
        parts.push(table(rows, 0));
    }
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: DiffArgs,
    }

    fn args(text: &str) -> DiffArgs {
        Cli::try_parse_from(std::iter::once("diff").chain(text.split(' ')))
            .map_or_else(|e| panic!("{e}"), |cli| cli.args)
    }

    #[test]
    fn what_differs_is_counted_by_class_and_title() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.toml");
        let rules = "version = 1\n[default]\nhandling = \"ambient_general\"\nweight_g = 1\n[[rule]]\nid = \"odd\"\n\
                     any = [\"ODD\"]\nhandling = \"live_plant\"\nweight_g = 1\nreview = true\n";
        std::fs::write(&path, rules).unwrap();
        let mut compare = sides(&args(&format!("--data-dir x --rules embedded --rules {}", path.display()))).unwrap();
        for (sku, title) in
            [("1029743", "odd"), ("x", "odd cheese"), ("x", "odd cheese"), ("x", "odd wine"), ("x", "odd")]
        {
            compare.line(&Line { sku, title, quantity: 1, unit_price: 1 });
        }
        let report = compare.report(1);
        assert_eq!((report.lines, report.known, report.before.model), (5, 1, report.after.model));
        assert_ne!(report.before.rules, report.after.rules);
        assert_eq!(report.titles.len(), 1);
        let cheese = &report.titles[0];
        assert_eq!((&*cheese.title, cheese.lines, cheese.before.handling), ("odd cheese", 2, "chilled"));
        assert_eq!(cheese.after, Said { handling: "live_plant", source: "rule", confidence: 0, held: true });
        let moved: Vec<_> = report.classes.iter().map(|m| (m.before, m.after, m.lines)).collect();
        assert!(moved.contains(&("chilled", "live_plant", 2)), "{moved:?}");
        assert!(text(&report).contains("odd cheese") && text(&report).contains("chilled → live_plant"));
    }

    #[test]
    fn wrong_usage_is_named() {
        let refused = |text: &str| sides(&args(text)).err().unwrap().to_string();
        assert!(refused("--data-dir x").contains("--model or --rules"));
        assert!(refused("--data-dir x --model a --model b --model c").contains("3 times"));
        assert!(refused("--data-dir x --model /nowhere/m.slm").contains("/nowhere/m.slm"));
        assert!(Cli::try_parse_from(["diff", "--model", "embedded"]).is_err(), "where are the orders?");
        let nowhere = args("--data-dir /nowhere/data --model embedded");
        assert_eq!(command(&nowhere), exit::IO);
    }
}
