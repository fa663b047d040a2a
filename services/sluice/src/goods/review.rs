//! `sluice goods review`: what waits for a person to say what it is, their decisions, and what those are kept for.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_domain::Handling;
use tokio::time::{Instant, sleep};

use crate::{
    exit,
    operator::{
        client::{Client, Failed, ServerArgs},
        paint::plain,
    },
    output,
    output::count,
};

/// How long an order's owner may take to decide before that is said, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);
/// Decisions that are asked for at once.
const KEPT_PAGE: usize = 1_000;

const EXAMPLES: &str = "\
Examples:
  sluice goods review                                        what waits, newest order first
  sluice goods review list --merchant m-1 --limit 20 --json
  sluice goods review decide 01M6VZ4W3V00J8Z8M3C0V9S1QK-1 frozen --keep rule
  sluice goods review kept
  sluice goods review forget 5d7b1c2a90e34f5586aa01c2d3e4f567

A line that nobody knows how to handle waits in a parcel of its own; the rest of its order goes on. A decision releases it, and
is kept if you say so: as a rule, by which lines of the same text are decided from now on, or as a row for training.

Exit codes: 0 done; 1 there is no such parcel or kept decision, it was decided otherwise, or it isn't decided yet; 2 wrong usage
or key; 3 no server, or one that doesn't do this.";

/// The arguments of `sluice goods review`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct ReviewArgs {
    /// What to do; `list` unless given
    #[command(subcommand)]
    pub command: Option<ReviewCommand>,
    /// The node, without a command
    #[command(flatten)]
    pub server: Option<ServerArgs>,
    /// What is listed without a command
    #[command(flatten)]
    pub filter: Filter,
}

/// What can be done about what waits.
#[derive(Debug, Clone, Subcommand)]
pub enum ReviewCommand {
    /// List what waits, newest order first
    List(ListArgs),
    /// Say what is in a parcel, and have it go on
    Decide(DecideArgs),
    /// List what decisions are kept for
    Kept(KeptArgs),
    /// Take back rules or rows
    Forget(ForgetArgs),
}

/// The arguments of `sluice goods review list`.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// The node
    #[command(flatten)]
    pub server: ServerArgs,
    /// What is listed
    #[command(flatten)]
    pub filter: Filter,
}

/// Which of what waits is listed, and how.
#[derive(Debug, Clone, Args)]
pub struct Filter {
    /// Only this merchant's
    #[arg(long, value_name = "ID")]
    pub merchant: Option<String>,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// What a decision is kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Keep {
    /// A rule: lines of the same text are decided so from now on
    Rule,
    /// A row: the next model learns from it
    Row,
}

impl Keep {
    fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Row => "row",
        }
    }
}

/// The arguments of `sluice goods review decide`.
#[derive(Debug, Clone, Args)]
pub struct DecideArgs {
    /// The parcel, as `list` names it
    #[arg(value_name = "ID", value_parser = id)]
    pub id: String,
    /// What is in it: chilled, fresh_produce, ambient_food, ambient_general, otc_health, frozen, age_restricted, hazmat_check,
    /// live_plant or non_goods
    #[arg(value_name = "CLASS", value_parser = class)]
    pub handling: Handling,
    /// The node
    #[command(flatten)]
    pub server: ServerArgs,
    /// What else the decision is kept for
    #[arg(long, value_name = "KEEP")]
    pub keep: Option<Keep>,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `sluice goods review kept`.
#[derive(Debug, Clone, Args)]
pub struct KeptArgs {
    /// The node
    #[command(flatten)]
    pub server: ServerArgs,
    /// Only rules
    #[arg(long, conflicts_with = "rows")]
    pub rules: bool,
    /// Only rows for training
    #[arg(long)]
    pub rows: bool,
    /// Print title and handling class as CSV, for training
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `sluice goods review forget`.
#[derive(Debug, Clone, Args)]
pub struct ForgetArgs {
    /// Rules and rows, as `kept` names them
    #[arg(value_name = "ID", required = true, value_parser = id)]
    pub ids: Vec<String>,
    /// The node
    #[command(flatten)]
    pub server: ServerArgs,
}

/// It goes into a path, so it is made of what ids are made of.
fn id(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if fits { Ok(text.to_owned()) } else { Err("expected an id as `list` or `kept` names it".to_owned()) }
}

fn class(text: &str) -> Result<Handling, String> {
    Handling::from_name(text).ok_or_else(|| format!("expected one of {}", Handling::ALL.map(Handling::name).join(", ")))
}

/// Runs `sluice goods review`, and gives the exit code.
///
/// # Errors
/// [`Failed`].
pub(super) async fn command(args: ReviewArgs) -> Result<u8, Failed> {
    let usage = || Failed::Usage("--key: expected an operator's key, or SLUICE_OPERATOR_KEY".to_owned());
    match args.command {
        None => list(&args.server.ok_or_else(usage)?, &args.filter).await,
        Some(ReviewCommand::List(args)) => list(&args.server, &args.filter).await,
        Some(ReviewCommand::Decide(args)) => decide(&args).await,
        Some(ReviewCommand::Kept(args)) => kept(&args).await,
        Some(ReviewCommand::Forget(args)) => forget(&args).await,
    }
}

/// A page of anything.
#[derive(Deserialize)]
struct Page {
    items: Vec<Value>,
    next: Option<String>,
}

fn odd(error: serde_json::Error) -> Failed {
    Failed::Refused { status: 200, said: format!("no answer: {error}"), retry_after: None }
}

async fn page(client: &mut Client, path: &str, after: Option<&str>) -> Result<Page, Failed> {
    let after = after.map_or_else(String::new, |after| format!("&after={after}"));
    serde_json::from_slice(&client.insist(&format!("{path}{after}")).await?.body).map_err(odd)
}

fn text<'a>(of: &'a Value, name: &str) -> std::borrow::Cow<'a, str> {
    plain(of[name].as_str().unwrap_or("-"))
}

const HEAD: &str = "id                              merchant      units  likely                title";

/// A line that waits.
fn line(item: &Value) -> String {
    let likely = match item["confidence"].as_u64() {
        Some(percent) => format!("{} {percent} %", text(item, "likely")),
        None => text(item, "likely").into_owned(),
    };
    let (id, merchant, title) = (text(item, "id"), text(item, "merchant"), text(item, "title"));
    format!("{id:<30}  {merchant:<12}  {:>5}  {likely:<20}  {title}", item["quantity"].to_string())
}

/// Its characters as a query may have them.
fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

async fn list(server: &ServerArgs, args: &Filter) -> Result<u8, Failed> {
    let mut client = Client::new(server)?;
    let of = args.merchant.as_deref().map_or_else(String::new, |id| format!("&merchant={}", escaped(id)));
    let limit = args.limit.unwrap_or(u64::MAX);
    let (mut after, mut listed) = (None::<String>, 0);
    loop {
        let path = format!("/v1/review?limit={}{of}", limit.saturating_sub(listed).min(100));
        let Page { items, next } = page(&mut client, &path, after.as_deref()).await?;
        let wanted = usize::try_from(limit - listed).unwrap_or(usize::MAX);
        for item in items.iter().take(wanted) {
            if listed == 0 && !args.json {
                output::result(HEAD);
            }
            listed += 1;
            if args.json { output::json(item) } else { output::result(line(item)) }
        }
        after = next;
        if listed == limit && (after.is_some() || items.len() > wanted) {
            output::note(format_args!("{} lines, as many as --limit says; there may be more", count(listed)));
            return Ok(exit::OK);
        }
        if after.is_none() {
            output::note(match listed {
                0 => "nothing waits to be reviewed".to_owned(),
                1 => "1 line waits to be reviewed".to_owned(),
                _ => format!("{} lines wait to be reviewed", count(listed)),
            });
            return Ok(exit::OK);
        }
    }
}

async fn decide(args: &DecideArgs) -> Result<u8, Failed> {
    let mut client = Client::new(&args.server)?;
    let body = json!({"handling": args.handling.name(), "keep": args.keep.map(Keep::name)}).to_string();
    let until = Instant::now() + PATIENCE;
    let answer: Value = loop {
        let answer = client.post(&format!("/v1/review/{}", args.id), &body).await?;
        let answer: Value = serde_json::from_slice(&answer.body).map_err(odd)?;
        if answer["outcome"] != "undecided" || Instant::now() >= until {
            break answer;
        }
        sleep(PAUSE).await;
    };
    if args.json {
        output::json(&answer)
    } else {
        output::result(told(&answer))
    }
    Ok(if answer["outcome"] == "released" { exit::OK } else { exit::FOUND_WRONG })
}

/// What became of a decision.
fn told(answer: &Value) -> String {
    let (id, parcel) = (text(answer, "id"), &answer["parcel"]);
    match answer["outcome"].as_str() {
        Some("released") => {
            let goes = match (parcel["dead_letter"].as_str(), parcel["carrier"].as_str()) {
                (Some(reason), _) => format!("dead-lettered: {}; `sluice dlq` says how it goes on", plain(reason)),
                (None, Some(carrier)) => format!("{} {}", text(parcel, "status"), plain(carrier)),
                (None, None) => "nothing of it ships".to_owned(),
            };
            let kept = answer["kept"].as_str().map_or_else(String::new, |kept| format!(", kept as a {}", plain(kept)));
            format!("{id}  {}{kept}  {goes}", text(answer, "handling"))
        }
        Some("not_held") => format!("{id}  doesn't wait to be reviewed; `sluice goods review` lists what does"),
        _ => format!("{id}  not decided yet; the same command says what becomes of it, and keeps what is to be kept"),
    }
}

async fn kept(args: &KeptArgs) -> Result<u8, Failed> {
    let mut client = Client::new(&args.server)?;
    if args.csv {
        output::result("title,handling");
    }
    for (keep, _) in [("rule", !args.rows), ("row", !args.rules)].into_iter().filter(|(_, wanted)| *wanted) {
        let (mut after, path) = (None::<String>, format!("/v1/review/kept?keep={keep}&limit={KEPT_PAGE}"));
        loop {
            let Page { items, next } = page(&mut client, &path, after.as_deref()).await?;
            for item in &items {
                match (args.csv, args.json) {
                    (true, _) => output::result(record(item)),
                    (_, true) => output::json(item),
                    _ => output::result(kept_line(item)),
                }
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(exit::OK)
}

fn kept_line(item: &Value) -> String {
    let [keep, handling, title, by] = ["keep", "handling", "title", "by"].map(|name| text(item, name));
    format!("{:<32}  {keep:<4}  {handling:<15}  {by}  {}  {title}", text(item, "id"), text(item, "at"))
}

/// A record of CSV as RFC 4180 has it.
fn record(item: &Value) -> String {
    let title = item["title"].as_str().unwrap_or_default();
    let quoted = title.contains(['"', ',', '\r', '\n']);
    let title = if quoted { format!("\"{}\"", title.replace('"', "\"\"")) } else { title.to_owned() };
    format!("{title},{}", text(item, "handling"))
}

async fn forget(args: &ForgetArgs) -> Result<u8, Failed> {
    let mut client = Client::new(&args.server)?;
    let mut code = exit::OK;
    for id in &args.ids {
        match client.delete(&format!("/v1/review/kept/{id}")).await {
            Ok(_) => output::result(format_args!("{id}  forgotten")),
            // One that isn't there hides no other.
            Err(failed @ Failed::Unknown { .. }) => {
                output::fault(format_args!("{id}: {failed}"));
                code = failed.exit_code();
            }
            Err(failed) => return Err(failed),
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_waits() {
        let mut item = json!({"id": "01M73YF0000BPNWFZHPPKC7FDC-1", "merchant": "m-1", "quantity": 2, "title": "SEA\u{1b}GLOW",
            "likely": "hazmat_check", "confidence": 41});
        let told = line(&item);
        let row = "01M73YF0000BPNWFZHPPKC7FDC-1    m-1               2  hazmat_check 41 %     SEA\u{fffd}GLOW";
        assert_eq!(told, row);
        for (name, column) in [("merchant", "m-1"), ("likely", "hazmat"), ("title", "SEA")] {
            assert_eq!(HEAD.find(name), told.find(column), "{name}");
        }
        item["confidence"] = Value::Null;
        assert!(line(&item).contains("  hazmat_check          SEA"));
    }

    #[test]
    fn what_became_of_a_decision_is_told() {
        let mut answer = json!({"id": "o-1", "outcome": "released", "handling": "frozen", "kept": "rule",
            "parcel": {"number": 1, "status": "carrier_requested", "carrier": "swift", "dead_letter": null}});
        assert_eq!(told(&answer), "o-1  frozen, kept as a rule  carrier_requested swift");
        answer["parcel"]["dead_letter"] = "no carrier takes frozen".into();
        answer["kept"] = Value::Null;
        assert!(told(&answer).starts_with("o-1  frozen  dead-lettered: no carrier takes frozen; "));
        answer["parcel"] = json!({"carrier": null, "dead_letter": null});
        assert_eq!(told(&answer), "o-1  frozen  nothing of it ships");
        answer["outcome"] = "not_held".into();
        assert!(told(&answer).contains("lists what does"));
        answer["outcome"] = "undecided".into();
        assert!(told(&answer).contains("not decided yet; the same command"));
    }

    #[test]
    fn records_are_quoted_where_they_must_be() {
        let of = |title: &str| record(&json!({"title": title, "handling": "frozen"}));
        assert_eq!(of("ICE | 3 OZ"), "ICE | 3 OZ,frozen");
        assert_eq!(of("ICE, 3\" cup"), "\"ICE, 3\"\" cup\",frozen");
        assert_eq!(escaped("m-1&x"), "m-1%26x");
        assert!(class("warm").unwrap_err().contains("fresh_produce") && id("../x").is_err());
    }
}
