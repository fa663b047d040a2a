//! `sluice goods evaluate`: the fold protocol, as tables, JSON or a page.

use std::{fmt::Write as _, path::PathBuf};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use sluice_goods::{
    Scores,
    evaluate::{Matrix, Report, evaluate},
    train,
};

use super::{Bar, catalogue, html, percent, train::name};
use crate::{exit, knowledge, output, output::count};

const EXAMPLES: &str = "\
Examples:
  sluice goods evaluate data/products.parquet
  sluice goods evaluate data/products.parquet --manufacturer --html report.html

Five times a model is trained on four fifths of the product types (dealt by their CRC-32) and judges the last fifth. How
sure it has to be is set within the four fifths.

Exit codes: 0 evaluated; 2 the catalogue can't be used; 74 the page can't be written.";

/// Says how good models of a catalogue are on types of goods that they have never seen.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct EvaluateArgs {
    /// CSV or Parquet file of products, as for `train`
    #[arg(value_name = "CATALOGUE")]
    pub catalogue: PathBuf,
    /// In which order examples are learned follows from it
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Learn from manufacturers, and judge with them
    #[arg(long)]
    pub manufacturer: bool,
    /// Rule file that decides before the model in the last figures; the embedded one if absent
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,
    /// Write a page with tables and plots, which needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

pub(super) fn command(args: &EvaluateArgs) -> u8 {
    let report = match evaluated(args) {
        Ok(report) => report,
        Err(error) => {
            output::fault(error);
            return exit::USAGE;
        }
    };
    if args.json {
        output::json(&report)
    } else {
        output::result(text(&report))
    }
    let Some(path) = &args.html else { return exit::OK };
    match std::fs::write(path, html::page(&report, &name(&args.catalogue), args.manufacturer)) {
        Ok(()) => exit::OK,
        Err(error) => {
            output::fault(format_args!("{}: can't be written: {error}", path.display()));
            exit::IO
        }
    }
}

fn evaluated(args: &EvaluateArgs) -> Result<Report, Box<dyn std::error::Error>> {
    let all = catalogue::read(&args.catalogue)?;
    let rules = knowledge::rules(args.rules.as_deref())?;
    let before = |title: &str| rules.matched(title).map(|matched| (matched.handling, matched.review));
    let bar = Bar::new("evaluating");
    let options = train::Options { name: name(&args.catalogue), seed: args.seed, makers: args.manufacturer };
    Ok(evaluate(&all, &options, &before, &|done, all| bar.show(done, all))?)
}

/// The columns of the table of folds: what they are called and what they show.
pub(super) type Column = (&'static str, fn(&Scores) -> f64);

/// Shown with three decimals.
pub(super) const FIGURES: [Column; 6] = [
    ("departments accuracy", |scores| scores.departments.accuracy),
    ("macro-F1", |scores| scores.departments.macro_f1),
    ("calibration error", |scores| scores.departments.calibration_error),
    ("handling accuracy", |scores| scores.handling.accuracy),
    ("macro-F1", |scores| scores.handling.macro_f1),
    ("calibration error", |scores| scores.handling.calibration_error),
];

/// A row a fold, then their mean and standard deviation, then all together; each with what it is.
pub(super) fn rows(report: &Report) -> Vec<(String, [f64; FIGURES.len()])> {
    let of = |scores: &Scores| FIGURES.map(|(_, figure)| figure(scores));
    let folds: Vec<[f64; FIGURES.len()]> = report.folds.iter().map(|fold| of(&fold.scores)).collect();
    let count = folds.len().max(1) as f64;
    let mean: [f64; FIGURES.len()] =
        std::array::from_fn(|figure| folds.iter().map(|fold| fold[figure]).sum::<f64>() / count);
    let spread = std::array::from_fn(|figure| {
        let squares = folds.iter().map(|fold| (fold[figure] - mean[figure]).powi(2)).sum::<f64>();
        (squares / (count - 1.0).max(1.0)).sqrt()
    });
    let mut rows: Vec<_> = (0..).zip(&folds).map(|(fold, figures)| (format!("fold {fold}"), *figures)).collect();
    rows.push(("mean".to_owned(), mean));
    rows.push(("deviation".to_owned(), spread));
    rows.push(("all products".to_owned(), of(&report.pooled)));
    rows
}

/// The header of [`bounds_of`].
pub(super) const BOUNDS: [&str; 4] = ["review_above_risk", "lines held", "misses that pass", "of all dangerous goods"];

/// What it means to hold what is riskier than so much, of every other point of the trade-off.
pub(super) fn bounds_of(report: &Report) -> Vec<[String; BOUNDS.len()]> {
    let row = |trade: &train::Trade| {
        let shares = [trade.held, trade.passed_of_misses, trade.passed_of_dangerous].map(percent);
        let [held, of_misses, of_dangerous] = shares;
        [format!("{:.4}", trade.risk), held, of_misses, of_dangerous]
    };
    report.trades.iter().rev().step_by(2).map(row).collect()
}

fn text(report: &Report) -> String {
    let mut table = right_aligned(std::iter::once("").chain(FIGURES.iter().map(|(name, _)| *name)));
    for (name, figures) in rows(report) {
        table.add_row(std::iter::once(name).chain(figures.map(|figure| format!("{figure:.3}"))));
    }
    align(&mut table);
    let mut bounds = right_aligned(BOUNDS.into_iter());
    for row in bounds_of(report) {
        bounds.add_row(row);
    }
    align(&mut bounds);
    let mut text = format!("{table}\n\n{}\n{bounds}\n", confusion(&report.handling));
    for line in statements(report) {
        let _ = write!(text, "\n{line}");
    }
    text
}

fn right_aligned<'a>(header: impl Iterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

fn align(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// What each class was taken for. Columns are numbered like rows, and the first class of a row is the right one.
fn confusion(matrix: &Matrix) -> String {
    let numbers: Vec<String> = (1..=matrix.names.len()).map(|number| number.to_string()).collect();
    let header = ["products taken for"].into_iter().chain(numbers.iter().map(String::as_str));
    let mut table = right_aligned(header.chain(["recall", "precision", "F1"]));
    for (class, (name, counts)) in matrix.names.iter().zip(&matrix.counts).enumerate() {
        let (recall, precision, f1) = matrix.class(class);
        let cells = counts.iter().map(|taken| count(*taken));
        let shares = [recall, precision, f1].map(|share| format!("{share:.3}"));
        table.add_row(std::iter::once(format!("{} {name}", class + 1)).chain(cells).chain(shares));
    }
    align(&mut table);
    format!("{table}\n")
}

/// What else is to be said, in sentences.
pub(super) fn statements(report: &Report) -> Vec<String> {
    let chain = &report.chain;
    let of_chain = |part: u64, whole: u64| percent(if whole == 0 { 0.0 } else { part as f64 / whole as f64 });
    let (all, danger, lenient) = (&report.pooled, &report.pooled.danger, &report.lenient.danger);
    let sure = |name: &str, task: &sluice_goods::TaskScores| {
        format!(
            "{name}: {} are decided at the confidence that was set for a precision of 95 %; {} of them are right.",
            percent(task.coverage),
            percent(task.precision)
        )
    };
    vec![
        sure("Handling classes", &all.handling),
        sure("Departments", &all.departments),
        format!(
            "Dangerous goods (frozen, for adults, hazardous): {} of {} are taken for plain ambient ones.",
            count(danger.misses),
            count(danger.products)
        ),
        format!(
            "With {} of all lines held for review, {} of these misses pass: {} of them, {} of all dangerous goods.",
            percent(danger.held),
            count(danger.passed),
            percent(danger.passed_of_misses()),
            percent(danger.passed_of_dangerous())
        ),
        format!(
            "Were less than 1 % of all dangerous goods to pass, rather than of the misses: {} held, {} pass ({} of all dangerous \
             goods).",
            percent(lenient.held),
            count(lenient.passed),
            percent(lenient.passed_of_dangerous())
        ),
        format!(
            "With rules before the model, they decide {} of all lines, {} of these right; {} are held, {} get their class, and {} \
             of {} dangerous goods pass as plain ambient ones.",
            of_chain(chain.by_rules, chain.products),
            of_chain(chain.rules_right, chain.by_rules),
            of_chain(chain.held, chain.products),
            of_chain(chain.right, chain.products),
            count(chain.passed),
            count(chain.dangerous)
        ),
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;

    /// The report of a small catalogue.
    pub(in crate::goods) fn report() -> Report {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/products.parquet");
        let mut all = catalogue::read(&path).unwrap();
        all.products = all.products.into_iter().step_by(60).collect();
        let options = train::Options { name: "some".into(), seed: 1, makers: true };
        let before = |title: &str| title.starts_with("FRZN").then_some((sluice_domain::Handling::Frozen, false));
        evaluate(&all, &options, &before, &|_, _| {}).unwrap()
    }

    #[test]
    fn a_report_says_all_that_was_asked() {
        let report = report();
        assert_eq!(report.folds.len(), 5);
        let mean = |figure: fn(&Scores) -> f64| report.folds.iter().map(|fold| figure(&fold.scores)).sum::<f64>() / 5.0;
        assert!(mean(|scores| scores.handling.accuracy) > 0.6, "{:?}", report.pooled);
        assert_eq!(rows(&report).len(), 8);
        assert_eq!(report.handling.products(), report.pooled.handling.products);
        let chain = &report.chain;
        assert_eq!(chain.products, report.pooled.handling.products);
        assert!(chain.by_rules > 20 && chain.rules_right > chain.by_rules * 9 / 10, "{chain:?}");
        assert!(chain.right > chain.products / 2 && chain.passed + chain.held < chain.products, "{chain:?}");
        let shown = text(&report);
        for part in ["departments accuracy", "deviation", "hazmat_check", "held for review", "95 %", "recall"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert!(
            json["pooled"]["danger"]["passed"].is_u64() && json["handling_calibration"].as_array().unwrap().len() == 15
        );
    }
}
