//! `sluice dlq replay`: gives dead letters another go, a few at first if wanted. Each order is asked for once a run, under a key
//! that its dead letters give it, so that a run that is repeated, or beside another one, doubles nothing.

use std::{
    collections::{BTreeMap, HashSet},
    num::NonZeroU64,
    time::Duration,
};

use clap::Args;
use serde::{Deserialize, Serialize};
use sluice_domain::OrderId;
use sluice_schemas::delta::FIRST_RETURN;
use tokio::time::{Instant, sleep};

use super::{
    client::{Client, Failed, ServerArgs},
    dlq::Letter,
    feed::Begin,
    paint::plain,
    trace::{Trace, order_id},
};
use crate::{exit, output, output::count};

/// How long an order's owner may take to decide before that is said, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

const EXAMPLES: &str = "\
Examples:
  sluice dlq replay --limit 10                        a few at first
  sluice dlq replay --reason live_plant --dry-run     what would be replayed
  sluice dlq replay --merchant m-1 --since 1.2gosa7pa2gv.5k --json
  sluice dlq replay 01M6VZ4W3V00J8Z8M3C0V9S1QK 01M6VZ4W3V00J8Z8M3C0V9S1QM

An order that no stage could decide is classified, split and routed anew; a parcel that nobody took is routed anew, and one
whose carrier could not be asked in time goes to that carrier again. What fails again is dead-lettered again, with the new
reason. Whatever is not dead-lettered now is left alone, so repeating it does no harm. A return is not replayed: who wants one
asks for another. How far it is, and where to go on, is on standard error.

Exit codes: 0 done, whatever came of it; 1 an order given by its id doesn't exist; 2 wrong usage, key or cursor; 3 no server,
or one that doesn't do this; 130 interrupted.";

/// The arguments of `sluice dlq replay`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct ReplayArgs {
    /// Orders to replay; without any, all that `sluice dlq list` would show
    #[arg(value_name = "ORDER_ID", value_parser = order_id)]
    pub orders: Vec<OrderId>,
    /// The node
    #[command(flatten)]
    pub server: ServerArgs,
    /// Only this merchant's
    #[arg(long, value_name = "ID", conflicts_with = "orders")]
    pub merchant: Option<String>,
    /// Only those of events after this cursor, which an earlier run gave; `oldest` unless given
    #[arg(long, value_name = "CURSOR", conflicts_with = "orders")]
    pub since: Option<Begin>,
    /// Only those with a reason that contains this
    #[arg(long, value_name = "TEXT", conflicts_with = "orders")]
    pub reason: Option<String>,
    /// End after so many orders, and say where to go on
    #[arg(long, value_name = "N")]
    pub limit: Option<NonZeroU64>,
    /// Only say what would be replayed
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object an order and line
    #[arg(long)]
    pub json: bool,
}

/// What a node says came of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Answer {
    outcome: String,
    replay: Option<u8>,
    class: String,
    dead_letters: Vec<StillDead>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct StillDead {
    parcel: Option<u8>,
    reason: String,
}

/// What is said about one order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Line<'a> {
    order: String,
    merchant: Option<&'a str>,
    /// As the node says it, or `would_replay` or `refused`.
    outcome: &'a str,
    /// Number of the replay among those of the order.
    replay: Option<u8>,
    /// What the order counts as now.
    class: &'a str,
    /// What is dead-lettered of it now.
    dead_letters: &'a [StillDead],
}

impl Line<'_> {
    fn text(&self) -> String {
        let (order, merchant) = (plain(&self.order), self.merchant.map_or("unknown".into(), plain));
        let outcome =
            self.replay.map_or_else(|| plain(self.outcome).into_owned(), |n| format!("{} ({n})", self.outcome));
        let mut text = format!("{order}  {merchant:<12}  {outcome:<17}  {}", plain(self.class));
        if let Some(StillDead { parcel, reason }) = self.dead_letters.first() {
            let parcel = parcel.map_or_else(String::new, |number| format!("parcel {number}: "));
            text.push_str(&format!("  {parcel}{}", plain(reason)));
            let more = self.dead_letters.len() - 1;
            text.push_str(&if more > 0 { format!("; and {more} more") } else { String::new() });
        }
        text
    }
}

const HEAD: &str = "order                       merchant      outcome            counts as now";

/// Replays what it is given.
pub(super) struct Replayer {
    reason: Option<String>,
    limit: Option<NonZeroU64>,
    dry_run: bool,
    json: bool,
    /// Orders of this run. One that is dead-lettered again comes by again.
    seen: HashSet<OrderId>,
    /// How many had which outcome, and what they count as now.
    outcomes: BTreeMap<String, u64>,
}

impl Replayer {
    pub fn new(args: &ReplayArgs) -> Self {
        let (reason, limit) = (args.reason.clone(), args.limit);
        let (seen, outcomes) = (HashSet::new(), BTreeMap::new());
        Self { reason, limit, dry_run: args.dry_run, json: args.json, seen, outcomes }
    }

    /// True if as many orders were dealt with as are wanted.
    pub fn is_enough(&self) -> bool {
        self.limit.is_some_and(|limit| self.seen.len() as u64 >= limit.get())
    }

    /// What was done, in a few words.
    pub fn summary(&self) -> String {
        let stopped = if self.is_enough() { ", as many as --limit says" } else { "" };
        let outcomes = self.outcomes.iter().map(|(outcome, n)| format!("{} {outcome}", count(*n)));
        let outcomes = outcomes.collect::<Vec<_>>().join(", ");
        let orders = count(self.seen.len() as u64);
        match outcomes.is_empty() {
            true => format!("orders: {orders}{stopped}"),
            false => format!("orders: {orders}{stopped} ({outcomes})"),
        }
    }

    /// Replays an order of which these letters were found, of all that it has.
    ///
    /// # Errors
    /// [`Failed`]; an order that is refused is said to be, and hides no other.
    pub async fn deal_with(
        &mut self,
        client: &mut Client,
        order: OrderId,
        (letters, all): (&[Letter], &[Letter]),
    ) -> Result<(), Failed> {
        let fits = |letter: &Letter| self.reason.as_ref().is_none_or(|text| letter.reason.contains(text));
        let sendable = |letter: &&Letter| letter.checked && is_sent(letter);
        if self.seen.contains(&order) || !letters.iter().filter(sendable).any(fits) {
            return Ok(());
        }
        // The newest of all: one that can't be replayed must not give every run the same key.
        let Some(letter) = all.iter().filter(sendable).max_by(|a, b| a.at.cmp(&b.at)) else { return Ok(()) };
        let merchant = letter.merchant.as_deref();
        let as_it_is = |outcome: &str| {
            let dead = all.iter().filter(|letter| is_sent(letter));
            let dead = dead.map(|letter| StillDead { parcel: letter.parcel, reason: letter.reason.clone() }).collect();
            let (outcome, class) = (outcome.to_owned(), "dead_lettered".to_owned());
            Answer { outcome, replay: None, class, dead_letters: dead }
        };
        let answer = match self.dry_run {
            true => as_it_is("would_replay"),
            false => match replay_one(client, order, Some(&key_of(letter))).await {
                Err(failed @ (Failed::Unknown { .. } | Failed::Refused { status: 409 | 503, .. })) => {
                    output::note(format_args!("order {order} can't be replayed: {failed}"));
                    as_it_is("refused")
                }
                answer => answer?,
            },
        };
        self.tell(order, merchant, &answer);
        Ok(())
    }

    fn tell(&mut self, order: OrderId, merchant: Option<&str>, answer: &Answer) {
        if self.seen.is_empty() && !self.json {
            output::result(HEAD);
        }
        self.seen.insert(order);
        let Answer { outcome, replay, class, dead_letters } = answer;
        let line = Line { order: order.to_string(), merchant, outcome, replay: *replay, class, dead_letters };
        let what = match outcome.as_str() {
            "replayed" => format!("replayed and {class}"),
            outcome => outcome.to_owned(),
        };
        *self.outcomes.entry(plain(&what).replace('_', " ")).or_default() += 1;
        match self.json {
            true => output::json(&line),
            false => output::result(line.text()),
        }
    }
}

/// Returns are asked for again instead.
fn is_sent(letter: &Letter) -> bool {
    letter.parcel.is_none_or(|number| number < FIRST_RETURN)
}

/// One a dead letter: the same however often a run is repeated, another once the order is dead-lettered again.
fn key_of(letter: &Letter) -> String {
    let visible = letter.at.chars().filter(char::is_ascii_graphic).take(64);
    format!("dlq-{}", visible.filter(|c| !matches!(c, '"' | '\\')).collect::<String>())
}

/// Asks until the order's owner has decided, for a while.
async fn replay_one(client: &mut Client, order: OrderId, key: Option<&str>) -> Result<Answer, Failed> {
    let until = Instant::now() + PATIENCE;
    loop {
        let odd = |error| Failed::Refused { status: 200, said: format!("no answer: {error}"), retry_after: None };
        let answer: Answer = serde_json::from_slice(&client.replay(order, key).await?).map_err(odd)?;
        if answer.outcome != "undecided" || key.is_none() || Instant::now() >= until {
            return Ok(answer);
        }
        sleep(PAUSE).await;
    }
}

/// Replays the orders that are named.
///
/// # Errors
/// [`Failed`]; an order that doesn't exist is said to, and hides no other.
pub(super) async fn replay_orders(args: ReplayArgs) -> Result<u8, Failed> {
    let (mut client, mut replayer) = (Client::new(&args.server)?, Replayer::new(&args));
    let mut code = exit::OK;
    for (place, &order) in args.orders.iter().enumerate() {
        if replayer.is_enough() {
            output::note(format_args!("{} of the orders named are left", count((args.orders.len() - place) as u64)));
            break;
        }
        let trace = match client.trace(order).await {
            Ok(json) => Trace::read(&json)?,
            Err(failed @ Failed::Unknown { .. }) => {
                output::fault(format_args!("{order}: {failed}"));
                code = failed.exit_code();
                continue;
            }
            Err(failed) => return Err(failed),
        };
        let letters = Letter::all(&trace);
        replayer.deal_with(&mut client, order, (&letters, &letters)).await?;
        if !letters.iter().any(is_sent) {
            let answer = Answer {
                outcome: "nothing_to_replay".to_owned(),
                replay: None,
                class: trace.class.clone(),
                dead_letters: Vec::new(),
            };
            replayer.tell(order, trace.merchant.as_deref(), &answer);
        }
    }
    output::note(format_args!("{}", replayer.summary()));
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::{super::trace::tests::GOLDEN, *};

    fn answer(outcome: &str, replay: Option<u8>, class: &str, dead: &[(Option<u8>, &str)]) -> Answer {
        let dead = dead.iter().map(|&(parcel, reason)| StillDead { parcel, reason: reason.to_owned() });
        Answer { outcome: outcome.to_owned(), replay, class: class.to_owned(), dead_letters: dead.collect() }
    }

    fn text(answer: &Answer) -> String {
        let Answer { outcome, replay, class, dead_letters } = answer;
        let order = "01M73YF0000BPNWFZHPPKC7FDC".to_owned();
        Line { order, merchant: Some("m-1"), outcome, replay: *replay, class, dead_letters }.text()
    }

    #[test]
    fn a_line_says_what_came_of_it() {
        let fine = text(&answer("replayed", Some(1), "in_flight", &[]));
        assert_eq!(fine, "01M73YF0000BPNWFZHPPKC7FDC  m-1           replayed (1)       in_flight");
        for column in ["replayed", "in_flight"] {
            let head = if column == "replayed" { "outcome" } else { "counts" };
            assert_eq!(fine.find(column), HEAD.find(head), "{column}");
        }
        let again = [(Some(3), "no carrier takes\u{1b}[2J"), (None, "x")];
        let again = text(&answer("replayed", Some(2), "dead_lettered", &again));
        assert!(again.ends_with("dead_lettered  parcel 3: no carrier takes\u{fffd}[2J; and 1 more"), "{again}");
        let whole = text(&answer("too_many_replays", None, "dead_lettered", &[(None, "poison")]));
        assert!(whole.ends_with("  too_many_replays   dead_lettered  poison"), "{whole}");
    }

    #[test]
    fn what_was_done_is_summed_up() {
        let args = ReplayArgs {
            orders: Vec::new(),
            server: ServerArgs {
                url: "http://127.0.0.1:1".parse().unwrap(),
                key: crate::config::Hidden::new("k"),
                ca: None,
            },
            merchant: None,
            since: None,
            reason: None,
            limit: NonZeroU64::new(2),
            dry_run: false,
            json: true,
        };
        let mut replayer = Replayer::new(&args);
        assert_eq!(replayer.summary(), "orders: 0");
        replayer.tell(OrderId(1), None, &answer("replayed", Some(1), "in_flight", &[]));
        assert!(!replayer.is_enough());
        replayer.tell(OrderId(2), None, &answer("not_replayable", None, "dead_lettered", &[]));
        assert!(replayer.is_enough());
        let summary = "orders: 2, as many as --limit says (1 not replayable, 1 replayed and in flight)";
        assert_eq!(replayer.summary(), summary);
    }

    #[test]
    fn a_dead_letter_gives_its_replay_a_key_that_a_header_can_hold() {
        let mut json: serde_json::Value = serde_json::from_slice(GOLDEN).unwrap();
        json["dead_letter"] = serde_json::json!({"at": "2026-11-11T00:00:00.090Z\r\n\"x\\", "reason": "poison"});
        json["class"] = "dead_lettered".into();
        let letters = Letter::all(&Trace::read(json.to_string().as_bytes()).unwrap());
        assert_eq!(key_of(&letters[0]), "dlq-2026-11-11T00:00:00.090Zx");
        let mut back = letters[0].clone();
        back.parcel = Some(FIRST_RETURN);
        assert!(is_sent(&letters[0]) && !is_sent(&back));
    }
}
