//! `sluice tap`: what is decided, live, one line an event.

use std::{num::NonZeroU64, time::Duration};

use clap::Args;
use serde::Deserialize;
use tokio::time::{Instant, interval, sleep};

use super::{
    client::{Client, Failed, ServerArgs},
    event::Event,
    feed::{Begin, Feed, Page, Told},
    filter::FilterArgs,
    paint::Paint,
};
use crate::{exit, output, signals::Stop};

/// Waits between two tries to reach a node that is away, the first and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How long an order's trace may lag behind the event that is told about it.
const LAG: Duration = Duration::from_secs(10);
/// How often it is looked at then.
const LOOK: Duration = Duration::from_millis(100);
/// How often it looks whether anybody still reads what it prints: it may have nothing to print for long.
const READ: Duration = Duration::from_secs(1);
/// Bytes of lines that are printed at once.
const PRINT: usize = 64 << 10;

const EXAMPLES: &str = "\
Examples:
  sluice tap                                                        # everything from now on
  sluice tap --merchant m-1 --milestone dead_lettered --after oldest
  sluice tap --carrier swift --type parcel.settled --json | jq .data.settled
  sluice tap --status delivered --limit 10
  sluice tap --after 1.2gosa7pa2gv.5k --no-follow                   # from where an earlier one ended up to now

Ctrl-C ends it; where to go on then is on standard error. A connection that is lost is opened again, and it goes on where
it was: nothing is left out, nothing shown twice. Colours are for terminals only, and not where NO_COLOR is set.

Exit codes: 0 ended as asked; 1 an order's trace doesn't know an event (--status); 2 wrong usage, key or cursor; 3 no
server at the first try, or one that doesn't do this.";

/// Shows decisions about all merchants' orders as they are made.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct TapArgs {
    /// The node
    #[command(flatten)]
    pub server: ServerArgs,
    /// Which events
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Where to begin: after a cursor, with what comes from now on (latest), or with the oldest event that is kept (oldest)
    #[arg(long, value_name = "CURSOR|latest|oldest", default_value = "latest")]
    pub after: Begin,
    /// End after so many events
    #[arg(long, value_name = "N")]
    pub limit: Option<NonZeroU64>,
    /// End when nothing newer is there
    #[arg(long)]
    pub no_follow: bool,
    /// Print events as they came, CloudEvents in JSON, one a line
    #[arg(long)]
    pub json: bool,
}

/// Runs `sluice tap`, and gives the exit code.
pub async fn command(args: TapArgs) -> u8 {
    let mut stop = match Stop::listen() {
        Ok(stop) => stop,
        Err(error) => {
            output::fault(format_args!("signals can't be taken over: {error}"));
            return exit::INTERNAL;
        }
    };
    let mut tap = match Client::new(&args.server) {
        Ok(client) => Tap::new(client, args),
        Err(failed) => {
            output::fault(&failed);
            return failed.exit_code();
        }
    };
    let ended = tokio::select! {
        // Who ends it by a signal has seen what there was to see.
        _ = stop.next() => Ok(()),
        () = unread() => Ok(()),
        ended = tap.run() => ended,
    };
    tap.print();
    if let Some(cursor) = tap.feed.cursor() {
        output::note(format_args!("go on with --after {cursor}"));
    }
    match ended {
        Ok(()) => exit::OK,
        Err(failed) => {
            output::fault(&failed);
            failed.exit_code()
        }
    }
}

/// Resolves when nobody reads what is printed any more.
async fn unread() {
    let mut tick = interval(READ);
    while output::is_read() {
        tick.tick().await;
    }
}

/// A tap at work. Where its feed is moves only over events whose lines are in `out`.
struct Tap {
    args: TapArgs,
    client: Client,
    feed: Feed,
    paint: Paint,
    out: String,
    shown: u64,
    /// A page was read, so the node is the one that is meant.
    reached: bool,
    /// Nobody reads what is printed any more.
    unread: bool,
    /// Where the orders last asked for stood after each of their events.
    last: Option<(String, Vec<Stood>)>,
}

/// Where an order stood after an event.
#[derive(Debug, Deserialize)]
struct Stood {
    sequence: u64,
    status: String,
}

impl Tap {
    fn new(client: Client, args: TapArgs) -> Self {
        let (feed, paint) = (Feed::new(args.after.clone()), Paint(output::is_coloured()));
        Self { args, client, feed, paint, out: String::new(), shown: 0, reached: false, unread: false, last: None }
    }

    async fn run(&mut self) -> Result<(), Failed> {
        loop {
            let page = self.next().await?;
            let end = page.end && self.args.no_follow;
            for told in &page.told {
                self.take(told).await?;
                if self.is_done() {
                    return Ok(());
                }
            }
            self.feed.passed(&page.next);
            self.print();
            if end || self.unread {
                return Ok(());
            }
        }
    }

    /// The next page, whatever becomes of the node meanwhile, once there was one.
    async fn next(&mut self) -> Result<Page, Failed> {
        let mut wait = BACKOFF.0;
        loop {
            let failed = match self.feed.page(&mut self.client, !self.args.no_follow).await {
                Ok(page) => {
                    self.reached = true;
                    if wait > BACKOFF.0 {
                        output::note("it is back");
                    }
                    return Ok(page);
                }
                Err(failed) => failed,
            };
            // Before the first page somebody may have mistyped an address.
            let again = failed.may_pass().filter(|_| self.reached);
            let Some(asked) = again else { return Err(failed) };
            if wait == BACKOFF.0 {
                output::note(format_args!("{failed}; trying again until it is back"));
            }
            sleep(wait.max(asked)).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// Shows an event, if it is wanted, and goes on after it.
    async fn take(&mut self, told: &Told) -> Result<(), Failed> {
        let event = &told.event;
        if self.feed.is_new(event) && self.args.filter.fits(event) && self.fits_status(event).await? {
            match self.args.json {
                true => self.out.push_str(&told.line),
                false => event.line(self.paint, &mut self.out),
            }
            self.out.push('\n');
            self.shown += 1;
        }
        self.feed.passed(&event.cursor);
        if self.out.len() >= PRINT {
            self.print();
        }
        Ok(())
    }

    /// Whether the order had a status that is wanted when this was told.
    async fn fits_status(&mut self, event: &Event) -> Result<bool, Failed> {
        if self.args.filter.statuses.is_empty() {
            return Ok(true);
        }
        let odd = |what: &str| Failed::Unknown { said: format!("order {}: {what}", event.subject), may_come: false };
        let (Some(order), Some(number)) = (event.order(), event.number()) else {
            return Err(odd("its event has no sensible subject and sequence"));
        };
        let until = Instant::now() + LAG;
        loop {
            if let Some((known, stood)) = &self.last
                && *known == event.subject
                && let Some(stood) = stood.iter().find(|stood| stood.sequence == number)
            {
                return Ok(self.args.filter.fits_status(&stood.status));
            }
            if Instant::now() >= until {
                return Err(odd(&format!("its trace has no event {number}")));
            }
            if self.last.as_ref().is_some_and(|(known, _)| *known == event.subject) {
                sleep(LOOK).await;
            }
            #[derive(Deserialize)]
            struct Trace {
                events: Vec<Stood>,
            }
            // What is known so far is shown before anything is waited for.
            self.print();
            match self.client.trace(order).await {
                Ok(json) => {
                    let trace = serde_json::from_slice::<Trace>(&json).map_err(|error| odd(&error.to_string()))?;
                    self.last = Some((event.subject.clone(), trace.events));
                }
                Err(failed) if failed.may_pass().is_some() && Instant::now() < until => sleep(LOOK).await,
                Err(failed) => return Err(failed),
            }
        }
    }

    fn is_done(&self) -> bool {
        self.args.limit.is_some_and(|limit| self.shown >= limit.get())
    }

    /// Prints what waits.
    fn print(&mut self) {
        if !self.out.is_empty() {
            self.unread |= !output::lines(self.out.as_bytes());
            self.out.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        tap: TapArgs,
    }

    fn parse(line: &str) -> Result<TapArgs, String> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.tap).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_have_defaults_and_what_no_event_can_be_is_refused() {
        let args = parse("tap --key k --merchant m-1 --merchant m-2 --type parcel.settled").unwrap();
        assert_eq!((args.server.url.authority(), &args.after, args.limit), ("127.0.0.1:8080", &Begin::Latest, None));
        assert_eq!(args.filter.merchants, ["m-1", "m-2"]);
        assert_eq!(args.filter.kinds, ["com.sluice.parcel.settled.v1"]);
        assert!(!format!("{args:?}").contains("\"k\""));
        for (wrong, named) in [
            ("tap --key k --status arrived", "delivered"),
            ("tap --key k --milestone arrived", "picked_up"),
            ("tap --key k --type arrived", "order.accepted"),
            ("tap --key k --after yesterday", "a cursor"),
            ("tap --key k --limit 0", "limit"),
            ("tap --key k --url localhost", "http://host:port"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains(named), "{wrong}: {error}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_said_at_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut args = parse("tap --key k").unwrap();
        args.server.url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        drop(listener);
        assert_eq!(command(args).await, exit::NO_SERVER);
        assert_eq!(command(parse("tap --key k --url https://localhost").unwrap()).await, exit::USAGE);
    }
}
