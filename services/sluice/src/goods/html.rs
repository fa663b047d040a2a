//! The evaluation as one page: tables, confusion as shades, and plots of calibration and of what holding lines costs.

use std::fmt::Write as _;

use sluice_goods::evaluate::{Bin, Matrix, Report};

use super::evaluate::{BOUNDS, FIGURES, bounds_of, rows, statements};
use crate::load::{
    html::{STYLE, escape},
    plot::{Axis, Curve, Plot, Scale},
};

/// The page of a report on models of a catalogue of this name.
pub(super) fn page(report: &Report, catalogue: &str, makers: bool) -> String {
    let with = if makers { "with manufacturers" } else { "from titles alone" };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>sluice goods evaluate</title>\n\
         <style>{STYLE}.matrix td{{text-align:right;padding:.2rem .5rem}}</style>\n</head>\n<body>\n\
         <h1>How goods are classified that no model has seen</h1>\n<p>{}, {with}</p>\n",
        escape(catalogue)
    );
    page.push_str("<table>\n<tr><th></th>");
    for (name, _) in FIGURES {
        let _ = write!(page, "<th>{name}</th>");
    }
    page.push_str("</tr>\n");
    for (name, figures) in rows(report) {
        let _ = write!(page, "<tr><th>{name}</th>");
        for figure in figures {
            let _ = write!(page, "<td>{figure:.3}</td>");
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
    for statement in statements(report) {
        let _ = writeln!(page, "<p>{}</p>", escape(&statement));
    }
    page.push_str(&calibration("Handling classes: how many are right", &report.handling_calibration).svg());
    page.push_str(&calibration("Departments: how many are right", &report.department_calibration).svg());
    page.push_str(&trades(report).svg());
    page.push_str("<table>\n<tr>");
    for name in BOUNDS {
        let _ = write!(page, "<th>{name}</th>");
    }
    page.push_str("</tr>\n");
    for row in bounds_of(report) {
        let _ = writeln!(page, "<tr>{}</tr>", row.map(|cell| format!("<td>{cell}</td>")).concat());
    }
    page.push_str("</table>\n");
    matrix(&mut page, "Handling classes, taken for", &report.handling);
    matrix(&mut page, "Departments, taken for", &report.departments);
    page.push_str("</body>\n</html>\n");
    page
}

fn calibration(title: &'static str, bins: &[Bin]) -> Plot {
    let filled = || bins.iter().filter(|bin| bin.products > 0);
    Plot {
        title,
        x: Axis { title: "confidence", scale: Scale::Linear },
        y: Axis { title: "share that is right", scale: Scale::Linear },
        curves: vec![
            Curve { name: "models", points: filled().map(|bin| (bin.confidence, bin.accuracy())).collect() },
            Curve { name: "as it should be", points: vec![(0.0, 0.0), (1.0, 1.0)] },
        ],
    }
}

fn trades(report: &Report) -> Plot {
    let curve = |name, of: fn(&sluice_goods::train::Trade) -> f64| {
        let mut points: Vec<_> = report.trades.iter().map(|trade| (trade.held, of(trade))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Curve { name, points }
    };
    Plot {
        title: "What holding lines for review costs and gives",
        x: Axis { title: "share of all lines held", scale: Scale::Linear },
        y: Axis { title: "share that passes", scale: Scale::Linear },
        curves: vec![
            curve("of the misses of dangerous goods", |trade| trade.passed_of_misses),
            curve("misses, of all dangerous goods", |trade| trade.passed_of_dangerous),
        ],
    }
}

fn matrix(page: &mut String, title: &str, matrix: &Matrix) {
    let _ = write!(page, "<h2>{title}</h2>\n<table class=\"matrix\">\n<tr><th></th>");
    for name in &matrix.names {
        let _ = write!(page, "<th>{}</th>", escape(name));
    }
    page.push_str("<th>recall</th><th>precision</th><th>F1</th></tr>\n");
    for (class, (name, counts)) in matrix.names.iter().zip(&matrix.counts).enumerate() {
        let whole = counts.iter().sum::<u64>().max(1) as f64;
        let _ = write!(page, "<tr><th>{}</th>", escape(name));
        for (taken, products) in counts.iter().enumerate() {
            let colour = if taken == class { "--good" } else { "--bad" };
            let share = 60.0 * *products as f64 / whole;
            let _ = write!(
                page,
                "<td style=\"background:color-mix(in srgb,var({colour}) {share:.0}%,transparent)\">{products}</td>"
            );
        }
        let (recall, precision, f1) = matrix.class(class);
        let _ = writeln!(page, "<td>{recall:.3}</td><td>{precision:.3}</td><td>{f1:.3}</td></tr>");
    }
    page.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    use roxmltree::{Document, ParsingOptions};

    use super::*;
    use crate::goods::evaluate::tests::report;

    #[test]
    fn a_page_is_well_formed_and_needs_nothing_else() {
        let page = page(&report(), "<script>&", true);
        let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
        let document = Document::parse_with_options(&page, options).unwrap_or_else(|error| panic!("{error}: {page}"));
        let named = |name| document.descendants().filter(|node| node.tag_name().name() == name).count();
        assert_eq!((named("script"), named("link"), named("img"), named("svg"), named("h2")), (0, 0, 0, 3, 2));
        assert!(!page.contains("url(") && !page.contains("NaN"));
        for part in ["frozen", "&lt;script&gt;&amp;", "with manufacturers", "as it should be", "mean"] {
            assert!(page.contains(part), "{part}");
        }
    }
}
