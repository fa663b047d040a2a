//! `sluice dlq`: what nobody carries, for a person to look at and to have decided anew. Dead letters are found in the feed, and
//! each is checked against its order as it is now, so that what a carrier took after all isn't listed.

use std::{
    num::NonZeroU64,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use serde::Serialize;
use sluice_domain::OrderId;

use super::{
    client::{Client, Failed, ServerArgs},
    event::{Dead, Event},
    feed::{self, Begin, Feed},
    paint::plain,
    replay::{ReplayArgs, Replayer, replay_orders},
    trace::{Parcel, Trace, attempts, items, order_id},
};
use crate::{exit, output, output::count, signals::Stop};

/// How often a long scan says how far it is.
const TELL: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Examples:
  sluice dlq list
  sluice dlq list --merchant m-1 --since 1.2gosa7pa2gv.5k --json
  sluice dlq show 01M6VZ4W3V00J8Z8M3C0V9S1QK
  sluice dlq replay --reason 'no carrier takes live_plant' --limit 10";

/// Shows dead letters, orders and parcels that nobody carries, and gives them another go.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct DlqArgs {
    /// What to do
    #[command(subcommand)]
    pub command: DlqCommand,
}

/// What can be done with dead letters.
#[derive(Debug, Clone, Subcommand)]
pub enum DlqCommand {
    /// List them, oldest first
    List(ListArgs),
    /// Show one order's: why, what is in it, and who was asked
    Show(ShowArgs),
    /// Have them decided anew, by the rules and carriers of today
    Replay(ReplayArgs),
}

const LIST_EXAMPLES: &str = "\
Examples:
  sluice dlq list
  sluice dlq list --merchant m-1 --limit 20
  sluice dlq list --since 1.2gosa7pa2gv.5k --json | jq -r .reason | sort | uniq -c

Each is checked against its order as it is now. It reads the events that are kept and ends; how far it is, and where to go on, is on standard error.

Exit codes: 0 listed, whatever there was; 2 wrong usage, key or cursor; 3 no server, or one that doesn't do this; 130
interrupted.";

/// The arguments of `sluice dlq list`.
#[derive(Debug, Clone, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub struct ListArgs {
    /// The node
    #[command(flatten)]
    pub server: ServerArgs,
    /// Only this merchant's
    #[arg(long, value_name = "ID")]
    pub merchant: Option<String>,
    /// Only those of events after this cursor, which an earlier list gave
    #[arg(long, value_name = "CURSOR", default_value = "oldest")]
    pub since: Begin,
    /// End after so many. Those of one event stand together, so there may be a few more
    #[arg(long, value_name = "N")]
    pub limit: Option<NonZeroU64>,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

const SHOW_EXAMPLES: &str = "\
Examples:
  sluice dlq show 01M6VZ4W3V00J8Z8M3C0V9S1QK
  sluice dlq show 01M6VZ4W3V00J8Z8M3C0V9S1QK --json

Exit codes: 0 shown; 1 there is no such order, or nothing of it is dead-lettered; 2 wrong usage or key; 3 no server, or one
that doesn't do this.";

/// The arguments of `sluice dlq show`.
#[derive(Debug, Clone, Args)]
#[command(after_help = SHOW_EXAMPLES)]
pub struct ShowArgs {
    /// The order's id
    #[arg(value_name = "ORDER_ID", value_parser = order_id)]
    pub order: OrderId,
    /// The node
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print one JSON object a line, as `list` does
    #[arg(long)]
    pub json: bool,
}

/// Runs `sluice dlq`, and gives the exit code.
pub async fn command(args: DlqArgs) -> u8 {
    let ended = match args.command {
        DlqCommand::List(args) => list(args).await,
        DlqCommand::Show(args) => show(&args).await,
        DlqCommand::Replay(args) if args.orders.is_empty() => replay(args).await,
        DlqCommand::Replay(args) => replay_orders(args).await,
    };
    ended.unwrap_or_else(|failed| {
        output::fault(&failed);
        failed.exit_code()
    })
}

/// What nobody carries, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Letter {
    pub order: String,
    pub merchant: Option<String>,
    /// The parcel; null: the whole order.
    pub parcel: Option<u8>,
    pub at: String,
    pub reason: String,
    /// What the parcel needs.
    handling: Option<String>,
    /// Grams.
    weight_g: Option<u32>,
    /// Whether what some of its goods weigh is a guess.
    weight_estimated: bool,
    /// Who was asked, and what they said.
    asked: Vec<String>,
    /// Number of the event that tells of it, among those of the order.
    event: Option<u64>,
    /// False: the order can't be read, so this is as of the event.
    pub checked: bool,
}

impl Letter {
    /// The whole order, if that is dead-lettered.
    fn whole(trace: &Trace) -> Option<Self> {
        let dead = trace.dead_letter.as_ref().filter(|_| trace.class == DEAD_LETTERED)?;
        Some(Self {
            order: trace.id.clone(),
            merchant: trace.merchant.clone(),
            parcel: None,
            at: dead.at.clone(),
            reason: dead.reason.clone(),
            handling: None,
            weight_g: None,
            weight_estimated: false,
            asked: Vec::new(),
            event: trace.dead_letter_told(None),
            checked: true,
        })
    }

    /// A parcel, if that is.
    fn parcel(trace: &Trace, parcel: &Parcel) -> Option<Self> {
        let dead = parcel.dead_letter.as_ref().filter(|_| parcel.standing == DEAD_LETTERED)?;
        let asked = parcel.attempts.iter().map(|attempt| attempts(std::slice::from_ref(attempt)));
        Some(Self {
            order: trace.id.clone(),
            merchant: trace.merchant.clone(),
            parcel: Some(parcel.number),
            at: dead.at.clone(),
            reason: dead.reason.clone(),
            handling: parcel.handling.clone(),
            weight_g: parcel.weight_g,
            weight_estimated: parcel.weight_estimated,
            asked: asked.collect(),
            event: trace.dead_letter_told(Some(parcel.number)),
            checked: true,
        })
    }

    /// All of an order's.
    pub fn all(trace: &Trace) -> Vec<Self> {
        Self::whole(trace).into_iter().chain(trace.all_parcels().filter_map(|p| Self::parcel(trace, p))).collect()
    }

    /// What an event says.
    fn unchecked(event: &Event, dead: Vec<Dead>) -> Vec<Self> {
        let letter = |dead: Dead| Self {
            order: event.subject.clone(),
            merchant: Some(event.merchant().to_owned()),
            parcel: dead.parcel,
            at: event.time.clone(),
            reason: dead.reason,
            handling: None,
            weight_g: None,
            weight_estimated: false,
            asked: Vec::new(),
            event: event.number(),
            checked: false,
        };
        dead.into_iter().map(letter).collect()
    }

    /// Whether an event says so, and not one that tells of another dead letter before it.
    fn is_of(&self, event: &Event, dead: &[Dead]) -> bool {
        let earlier = event.number().is_some_and(|number| self.event.is_some_and(|last| number < last));
        !earlier && dead.iter().any(|dead| dead.parcel == self.parcel)
    }

    fn line(&self) -> String {
        let parcel = self.parcel.map_or("order".to_owned(), |number| number.to_string());
        let merchant = self.merchant.as_deref().map_or("unknown".into(), plain);
        let (at, order, reason) = (plain(&self.at), plain(&self.order), plain(&self.reason));
        format!("{at}  {order}  {merchant:<12}  {parcel:>6}  {reason}")
    }
}

const DEAD_LETTERED: &str = "dead_lettered";
const HEAD: &str = "dead-lettered at          order                       merchant      parcel  reason";

async fn list(args: ListArgs) -> Result<u8, Failed> {
    let deal = Deal::List { json: args.json, limit: args.limit };
    Scan::new(Client::new(&args.server)?, args.since, args.merchant, deal)?.finish().await
}

async fn replay(args: ReplayArgs) -> Result<u8, Failed> {
    let deal = Deal::Replay(Replayer::new(&args));
    let since = args.since.unwrap_or(Begin::Oldest);
    Scan::new(Client::new(&args.server)?, since, args.merchant, deal)?.finish().await
}

/// What is done with what is found.
enum Deal {
    /// It is listed; of letters at most so many, and then those of the same event.
    List {
        json: bool,
        limit: Option<NonZeroU64>,
    },
    Replay(Replayer),
}

/// A walk through the feed.
struct Scan {
    client: Client,
    feed: Feed,
    merchant: Option<String>,
    deal: Deal,
    /// When it last said how far it is.
    told: Instant,
    events: u64,
    letters: u64,
}

impl Scan {
    fn new(client: Client, since: Begin, merchant: Option<String>, deal: Deal) -> Result<Self, Failed> {
        if since == Begin::Latest {
            return Err(Failed::Usage("--since: expected oldest or a cursor".to_owned()));
        }
        Ok(Self { client, feed: Feed::new(since), merchant, deal, told: Instant::now(), events: 0, letters: 0 })
    }

    /// Runs until it is through, or interrupted, and says how far it came.
    async fn finish(mut self) -> Result<u8, Failed> {
        let signals = |error| Failed::Usage(format!("signals can't be taken over: {error}"));
        let mut stop = Stop::listen().map_err(signals)?;
        let ended = tokio::select! {
            (_, code) = stop.next() => Ok(code),
            ended = self.run() => ended.map(|()| exit::OK),
        };
        self.tell("");
        ended
    }

    /// True if no more is to be done.
    fn is_enough(&self) -> bool {
        match &self.deal {
            Deal::List { limit, .. } => limit.is_some_and(|limit| self.letters >= limit.get()),
            Deal::Replay(replayer) => replayer.is_enough(),
        }
    }

    async fn run(&mut self) -> Result<(), Failed> {
        // What comes from now on is another run's: replays themselves are told of.
        let until = Feed::new(Begin::Latest).page(&mut self.client, false).await?.next;
        loop {
            let page = self.feed.page(&mut self.client, false).await?;
            for told in &page.told {
                self.look_at(&told.event).await?;
                if self.is_enough() {
                    return Ok(());
                }
            }
            self.feed.passed(&page.next);
            if page.end || feed::is_past(&page.next, &until) {
                return Ok(());
            }
        }
    }

    /// Deals with what an event says nobody carries, as far as that is still so.
    async fn look_at(&mut self, event: &Event) -> Result<(), Failed> {
        let wanted = self.merchant.as_deref().is_none_or(|merchant| event.merchant() == merchant);
        let dead = if wanted && self.feed.is_new(event) { event.dead() } else { Vec::new() };
        if let Some(order) = event.order().filter(|_| !dead.is_empty()) {
            let (letters, all): (Vec<Letter>, Vec<Letter>) = match self.client.trace(order).await {
                Ok(json) => {
                    let all = Letter::all(&Trace::read(&json)?);
                    (all.iter().filter(|letter| letter.is_of(event, &dead)).cloned().collect(), all)
                }
                // One order that can't be read must not hide the others.
                Err(failed @ (Failed::Unknown { .. } | Failed::Refused { status: 503, .. })) => {
                    output::note(format_args!("order {order} can't be checked: {failed}"));
                    (Letter::unchecked(event, dead), Vec::new())
                }
                Err(failed) => return Err(failed),
            };
            let found = letters.len() as u64;
            match &mut self.deal {
                Deal::List { json, .. } => {
                    if self.letters == 0 && found > 0 && !*json {
                        output::result(HEAD);
                    }
                    letters.iter().for_each(|letter| print(letter, *json));
                }
                Deal::Replay(replayer) => replayer.deal_with(&mut self.client, order, (&letters, &all)).await?,
            }
            self.letters += found;
        }
        self.events += 1;
        self.feed.passed(&event.cursor);
        if self.told.elapsed() >= TELL {
            self.tell(&format!(" up to {}", plain(&event.time)));
            self.told = Instant::now();
        }
        Ok(())
    }

    /// How far it is.
    fn tell(&self, upto: &str) {
        let (letters, events) = (count(self.letters), count(self.events));
        let go_on = self.feed.cursor().map_or(String::new(), |cursor| format!("; go on with --since {cursor}"));
        let done = match &self.deal {
            Deal::List { .. } => String::new(),
            Deal::Replay(replayer) => format!("; {}", replayer.summary()),
        };
        output::note(format_args!("dead letters: {letters} in {events} events{upto}{done}{go_on}"));
    }
}

fn print(letter: &Letter, json: bool) {
    match json {
        true => output::json(letter),
        false => output::result(letter.line()),
    }
}

async fn show(args: &ShowArgs) -> Result<u8, Failed> {
    let trace = Trace::read(&Client::new(&args.server)?.trace(args.order).await?)?;
    let letters = Letter::all(&trace);
    if letters.is_empty() {
        output::fault(format_args!("nothing of order {} is dead-lettered: it is {}", args.order, plain(&trace.status)));
        return Ok(exit::FOUND_WRONG);
    }
    match args.json {
        true => letters.iter().for_each(output::json),
        false => output::result(text(&trace, &letters)),
    }
    Ok(exit::OK)
}

/// An order's dead letters as a person reads them.
fn text(trace: &Trace, letters: &[Letter]) -> String {
    let mut lines = vec![trace.head()];
    for letter in letters {
        let Some(parcel) = trace.all_parcels().find(|parcel| Some(parcel.number) == letter.parcel) else { continue };
        let weight = parcel.grams();
        let handling = parcel.handling.as_deref().map_or("?".into(), plain);
        lines.push(format!("\nparcel {}  {handling}  {weight} g", parcel.number));
        lines.push(format!("  dead-lettered {}: {}", plain(&letter.at), plain(&letter.reason)));
        lines.push(format!("  items  {}", items(&parcel.items)));
        lines.extend(letter.asked.iter().map(|asked| format!("  asked  {asked}")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::{event::tests::sample, trace::tests::GOLDEN},
        *,
    };

    /// The order of the frozen trace, whose first parcel nobody carries and whose second a carrier took after all.
    fn dead(change: impl FnOnce(&mut Value)) -> Trace {
        let mut json: Value = serde_json::from_slice(GOLDEN).unwrap();
        for number in [0, 1] {
            json["parcels"][number]["dead_letter"] =
                json!({"at": "2026-11-11T00:00:00.090Z", "reason": "nobody is left"});
        }
        json["parcels"][0]["standing"] = DEAD_LETTERED.into();
        json["parcels"][1]["standing"] = "accepted".into();
        change(&mut json);
        Trace::read(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_a_carrier_took_after_all_is_no_dead_letter() {
        let letters = Letter::all(&dead(|_| {}));
        assert_eq!(letters.len(), 1);
        let line = letters[0].line();
        assert_eq!(line, "2026-11-11T00:00:00.090Z  01M73YF0000BPNWFZHPPKC7FDC  m-1                0  nobody is left");
        assert_eq!(line.find("m-1"), HEAD.find("merchant"));
        assert_eq!(letters[0].asked, ["picky rejected (too round)", "good accepted (T-0)"]);
        let of = |parcel| Dead { parcel, reason: String::new() };
        let told = sample("parcel-settled");
        assert!(letters[0].is_of(&told, &[of(Some(0))]) && !letters[0].is_of(&told, &[of(Some(1)), of(None)]));
        let mut again = letters[0].clone();
        again.event = Some(4);
        assert!(!again.is_of(&told, &[of(Some(0))]), "the sample is number 3");
        assert_eq!(Letter::all(&Trace::read(GOLDEN).unwrap()), []);
        let event = sample("order-accepted");
        let unchecked = Letter::unchecked(&event, event.dead());
        assert_eq!((unchecked.len(), unchecked[0].parcel, unchecked[0].checked), (1, Some(2), false));
        assert!(unchecked[0].line().ends_with("m-1                2  no carrier takes frozen to BR"));
    }

    #[test]
    fn a_whole_order_is_one_dead_letter_while_it_counts_as_one() {
        let whole = |class: &'static str| {
            dead(move |json| {
                json["dead_letter"] = json!({"at": "then", "reason": "more than 200 parcels"});
                (json["class"], json["parcels"]) = (class.into(), json!([]));
            })
        };
        let letters = Letter::all(&whole(DEAD_LETTERED));
        assert_eq!((letters.len(), letters[0].parcel), (1, None));
        assert!(letters[0].line().ends_with("   order  more than 200 parcels"), "{}", letters[0].line());
        assert_eq!(Letter::all(&whole("in_flight")), []);
    }

    #[test]
    fn one_order_is_shown_with_what_is_in_it_and_who_was_asked() {
        let trace = dead(|_| {});
        let text = text(&trace, &Letter::all(&trace));
        let (_, parcel) = text.split_once("\n\n").unwrap();
        assert_eq!(
            parcel,
            "parcel 0  chilled  1,250 g\n  dead-lettered 2026-11-11T00:00:00.090Z: nobody is left\n  items  7 × x-0\n  \
             asked  picky rejected (too round)\n  asked  good accepted (T-0)"
        );
    }
}
