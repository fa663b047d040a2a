//! `sluice goods explain`: what a line is taken for, by the catalogue, a rule or the model, and what decided it.

use std::{fmt::Write as _, path::PathBuf, sync::Arc};

use clap::Args;
use serde::Serialize;
use sluice_classify::{Review, Source, usual_weights};
use sluice_goods::{Explanation, Model, Reason};
use sluice_schemas::order::Line;

use super::percent;
use crate::{
    exit,
    knowledge::{Parts, model, rules},
    operator::plain,
    output,
};

/// Reasons that are shown, each way.
const SHOWN: usize = 5;

const EXAMPLES: &str = "\
Examples:
  sluice goods explain 'SMOKED TROUT | 8 OZ'
  sluice goods explain 'anything' --sku 1029743
  sluice goods explain 'Fire lighters, 40 pcs' --model goods.slm --rules my-rules.toml --json

The catalogue is asked first, by SKU, then the rules, then the model; who knows first decides. What the model would say is
shown whoever decided. What reviewers have decided for good, and a configuration's `review`, are a server's own and don't count
here: its traces name the versions that it went by. A reason's figure is what it adds to the log odds of the class beside the others.

Exit codes: 0 explained; 2 a model or a rule file can't be used.";

/// Says what a line is taken for, and why.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct ExplainArgs {
    /// The line's title
    #[arg(value_name = "TITLE")]
    pub title: String,
    /// The line's SKU, for the catalogue
    #[arg(long, value_name = "SKU", default_value = "")]
    pub sku: String,
    /// Who made the goods, for a model that was trained with manufacturers
    #[arg(long, value_name = "ID")]
    pub manufacturer: Option<String>,
    /// A model [default: the one of this build]
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// A rule file [default: the one of this build]
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Who decided, and how.
#[derive(Debug, Serialize)]
struct Explained {
    title: String,
    handling: &'static str,
    /// `catalogue`, `rule` or `model`.
    decided_by: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sku: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phrase: Option<String>,
    /// Why there is the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Held for review.
    held: bool,
    /// Grams of one unit.
    unit_weight_g: u32,
    weight_estimated: bool,
    /// As decisions name them.
    rules_version: u32,
    model_version: u32,
    model: ModelSays,
}

/// What the model says, whoever decides.
#[derive(Debug, Serialize)]
struct ModelSays {
    version: String,
    read_as: String,
    handling: &'static str,
    confidence: f32,
    risk: f32,
    held_above_risk: f32,
    department: String,
    department_confidence: f32,
    reasons: Vec<Reason>,
}

pub(super) fn command(args: &ExplainArgs) -> u8 {
    match explained(args) {
        Ok(explained) => {
            if args.json {
                output::json(&explained)
            } else {
                output::result(text(&explained))
            }
            exit::OK
        }
        Err(error) => {
            output::fault(error);
            exit::USAGE
        }
    }
}

fn explained(args: &ExplainArgs) -> Result<Explained, Box<dyn std::error::Error>> {
    let catalogue = Arc::new(sluice_data::catalogue()?);
    let (rules, model) = (rules(args.rules.as_deref())?, model(args.model.as_deref())?);
    let parts = Parts {
        rules: Arc::clone(&rules),
        model: Arc::clone(&model),
        review: Review::AsTrained,
        learned: Arc::default(),
    };
    let chain = parts.chain(&catalogue, usual_weights(&catalogue));
    let line = Line { sku: &args.sku, title: &args.title, quantity: 1, unit_price: 0 };
    let decided = chain.classify(&line);
    let rule = rules.matched(&args.title).filter(|_| matches!(decided.source, Source::Rule(_)));
    Ok(Explained {
        title: args.title.clone(),
        handling: decided.handling.name(),
        decided_by: decided.source.name(),
        held: decided.hold,
        unit_weight_g: decided.unit_weight_g,
        weight_estimated: decided.estimated,
        rules_version: chain.version(),
        model_version: chain.model_version(),
        sku: (decided.source == Source::Catalogue).then(|| args.sku.clone()),
        rule: rule.as_ref().map(|found| found.rule.to_owned()),
        reason: rule.as_ref().and_then(|found| found.reason.map(str::to_owned)),
        phrase: rule.map(|found| found.phrase),
        model: says(&model, model.explain(&args.title, args.manufacturer.as_deref())),
    })
}

fn says(model: &Model, explanation: Explanation) -> ModelSays {
    let judgement = explanation.judgement;
    ModelSays {
        version: format!("{:08x}", model.version()),
        read_as: explanation.normal,
        handling: judgement.handling.name(),
        confidence: judgement.confidence,
        risk: judgement.risk,
        held_above_risk: model.about().calibration.held_above(judgement.handling),
        department: model.about().departments.get(usize::from(judgement.department)).cloned().unwrap_or_default(),
        department_confidence: judgement.department_confidence,
        reasons: explanation.reasons,
    }
}

fn text(explained: &Explained) -> String {
    let by = match (&explained.sku, &explained.rule, &explained.phrase) {
        (Some(sku), ..) => format!("the catalogue knows SKU {sku}"),
        (None, Some(rule), Some(phrase)) => {
            let reason = explained.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("rule {rule}, by \"{phrase}\"{reason}")
        }
        _ => "the model".to_owned(),
    };
    let held = if explained.held { ", held for review" } else { "" };
    let model = &explained.model;
    let mut text = format!("{}: {}{held}\n", explained.handling, plain(&by));
    let about = if explained.weight_estimated { "about " } else { "" };
    let (rules, number) = (explained.rules_version, explained.model_version);
    let _ = writeln!(
        text,
        "a unit weighs {about}{} g; decisions name rules {rules}, model {number}",
        explained.unit_weight_g
    );
    let _ = writeln!(text, "\nmodel {} reads \"{}\"", model.version, plain(&model.read_as));
    let _ = writeln!(text, "  {:<24} {}", model.handling, percent(model.confidence.into()));
    let _ = writeln!(text, "  {:<24} {}", model.department, percent(model.department_confidence.into()));
    let than = if model.risk > model.held_above_risk { "above" } else { "not above" };
    let _ = writeln!(
        text,
        "  {:<24} {:.2} %, {than} {:.2} %",
        "dangerous otherwise",
        100.0 * model.risk,
        100.0 * model.held_above_risk
    );
    let (first, rest) = model.reasons.split_at(model.reasons.len().min(SHOWN));
    let against = rest.iter().skip(rest.len().saturating_sub(SHOWN)).filter(|reason| reason.adds < 0.0);
    for reason in first.iter().chain(against) {
        let spelled = if reason.known { "" } else { "  (unknown, spelled out)" };
        let _ = write!(text, "\n  {:+6.2}  {}{spelled}", reason.adds, plain(&reason.part));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(title: &str, sku: &str) -> Explained {
        let args = ExplainArgs {
            title: title.into(),
            sku: sku.into(),
            manufacturer: None,
            model: None,
            rules: None,
            json: false,
        };
        assert_eq!(command(&args), exit::OK);
        explained(&args).unwrap()
    }

    #[test]
    fn who_knows_first_decides() {
        let milk = explain("anything", "1029743");
        assert_eq!((milk.handling, milk.decided_by, milk.held), ("chilled", "catalogue", false));
        let beer = explain("Craft beer, 6 bottles", "X-1");
        assert_eq!((beer.handling, beer.decided_by), ("age_restricted", "rule"));
        assert!(beer.phrase.as_deref().is_some_and(|phrase| phrase.contains("BEER")), "{beer:?}");
        assert!(text(&beer).contains("rule ") && text(&beer).contains("BEER"));
        let trout = explain("zander terrine xyzzy | 8 OZ", "X-1");
        assert_eq!(trout.decided_by, "model");
        let shown = text(&trout);
        assert!(shown.contains("zander") && shown.contains("xyzzy  (unknown, spelled out)"), "{shown}");
        assert!(serde_json::to_value(&trout).unwrap()["model"]["reasons"][0]["adds"].is_number());
    }

    #[test]
    fn a_model_that_can_not_be_used_is_named() {
        let args = ExplainArgs {
            title: "x".into(),
            sku: String::new(),
            manufacturer: None,
            model: Some("/nowhere/m.slm".into()),
            rules: None,
            json: true,
        };
        assert_eq!(command(&args), exit::USAGE);
        assert!(explained(&args).unwrap_err().to_string().contains("/nowhere/m.slm: can't be read"));
    }
}
