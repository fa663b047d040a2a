//! `sluice top`: what a deployment is doing, live, from the `/metrics` of its nodes.
//!
//! * `exposition`: the text format; `figures`: two readings of a node; `frame`: all nodes at one moment.
//! * `tables` and `screen`: as text and on a terminal.
//!
//! It asks each node once an interval and keeps two readings of each, so it costs what a Prometheus that scrapes costs.

mod exposition;
mod figures;
mod frame;
mod screen;
mod tables;

use std::{
    io::IsTerminal,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use futures_util::future::join_all;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use self::{
    figures::Reading,
    frame::{Frame, Look},
    screen::History,
};
use crate::{
    exit,
    load::{Link, Target, parse_duration},
    output,
    signals::Stop,
};

/// How long a node may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often the thread that reads keys looks whether it is still needed.
const KEYS: Duration = Duration::from_millis(200);
/// Intervals that make sense.
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3_600);

const EXAMPLES: &str = "\
Examples:
  sluice top                                                       # the node at 127.0.0.1:8080, every 2 s
  sluice top --url http://a:8080 --url http://b:8080 --interval 5s # a cluster: every node
  sluice top --once                                                # one frame as text, after one interval
  sluice top --json | jq .total.accepted_per_s                     # one object an interval

q or Ctrl-C quits. A node that is away is shown as such, and asked again.

Exit codes: 0 ended as asked; 2 wrong usage; 3 with --once, no node answers.";

/// Shows what nodes are doing: rates, latencies, lags, carriers, memory, errors.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct TopArgs {
    /// Address of a node, http://host:port; repeat it for every node
    #[arg(long = "url", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub urls: Vec<Target>,
    /// How often: 500ms, 2s, 1m
    #[arg(long, value_parser = parse_interval, default_value = "2s")]
    pub interval: Duration,
    /// Print one frame as plain text and end
    #[arg(long)]
    pub once: bool,
    /// Print one JSON object an interval instead; with --once, one
    #[arg(long)]
    pub json: bool,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if INTERVALS.contains(&interval) { Ok(interval) } else { Err("expected 100ms to 1h".to_owned()) }
}

/// Runs `sluice top` until it is told to end, and gives the exit code.
pub async fn command(args: TopArgs) -> u8 {
    let live = !args.once && !args.json;
    if live && !std::io::stdout().is_terminal() {
        output::fault("standard output is no terminal: use --once or --json");
        return exit::USAGE;
    }
    let mut stop = match Stop::listen() {
        Ok(stop) => stop,
        Err(error) => {
            output::fault(format_args!("signals can't be taken over: {error}"));
            return exit::INTERNAL;
        }
    };
    let mut nodes: Vec<Asked> = args.urls.iter().map(Asked::new).collect();
    if live { watch(&mut nodes, &args, &mut stop).await } else { print(&mut nodes, &args, &mut stop).await }
}

/// Prints frames, each once there is an earlier reading to compare with.
async fn print(nodes: &mut [Asked], args: &TopArgs, stop: &mut Stop) -> u8 {
    let mut tick = interval(args.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0_u64.. {
        tokio::select! {
            // Who ends it by a signal has seen what there was to see.
            _ = stop.next() => return exit::OK,
            _ = tick.tick() => {}
        }
        let frame = ask_all(nodes).await;
        let none = frame.nodes.iter().all(|node| !node.up);
        if args.once && none {
            output::fault(format_args!("no node answers: {}", frame.nodes[0].problem.as_deref().unwrap_or_default()));
            return exit::NO_SERVER;
        }
        if round == 0 {
            continue;
        }
        match args.json {
            true => output::json(&frame),
            false => output::result(tables::plain(&frame)),
        }
        if args.once {
            break;
        }
    }
    exit::OK
}

/// Draws frames until somebody has seen enough.
async fn watch(nodes: &mut [Asked], args: &TopArgs, stop: &mut Stop) -> u8 {
    let mut screen = match Terminal::take() {
        Ok(screen) => screen,
        Err(error) => {
            output::fault(format_args!("the terminal can't be used: {error}"));
            return exit::USAGE;
        }
    };
    let mut keys = keys();
    let every = format!("{} s", args.interval.as_secs_f64());
    let mut history = History::default();
    let mut tick = interval(args.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // What can't be drawn now may be next time; without a terminal there are no keys either, and that ends it.
        let _ = screen.0.draw(|area| screen::draw(area, &history, &every));
        tokio::select! {
            _ = stop.next() => return exit::OK,
            key = keys.recv() => match key {
                Some(Key::Quit) | None => return exit::OK,
                Some(Key::Redraw) => {}
            },
            _ = tick.tick() => {
                tokio::select! {
                    frame = ask_all(nodes) => history.push(frame),
                    _ = stop.next() => return exit::OK,
                    Some(Key::Quit) = keys.recv() => return exit::OK,
                }
            }
        }
    }
}

/// The terminal while it is ours; dropping it restores it, and so does a panic.
struct Terminal(ratatui::DefaultTerminal);

impl Terminal {
    fn take() -> std::io::Result<Self> {
        ratatui::try_init().map(Self)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

enum Key {
    Quit,
    Redraw,
}

/// Reads keys on a thread of its own, until nobody asks for them any more or the terminal has gone.
fn keys() -> mpsc::Receiver<Key> {
    let (send, keys) = mpsc::channel(8);
    std::thread::spawn(move || {
        while !send.is_closed() {
            let key = match event::poll(KEYS) {
                Ok(false) => continue,
                Ok(true) => event::read().map(meaning),
                Err(_) => return,
            };
            let Ok(key) = key else { return };
            if key.is_some_and(|key| send.blocking_send(key).is_err()) {
                return;
            }
        }
    });
    keys
}

fn meaning(event: Event) -> Option<Key> {
    match event {
        Event::Resize(..) => Some(Key::Redraw),
        Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => Some(Key::Quit),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
            _ => None,
        },
        _ => None,
    }
}

/// A node that is asked again and again.
struct Asked {
    target: Target,
    url: String,
    request: Vec<u8>,
    link: Option<Link>,
    started: Instant,
    /// The last two readings, the newer one first; none of before it was away.
    readings: [Option<Reading>; 2],
    problem: String,
}

impl Asked {
    fn new(target: &Target) -> Self {
        let host = target.authority();
        Self {
            target: target.clone(),
            url: format!("http://{host}"),
            request: format!("GET /metrics HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes(),
            link: None,
            started: Instant::now(),
            readings: [None, None],
            problem: String::new(),
        }
    }

    async fn ask(&mut self) {
        match self.read().await {
            Ok(reading) => {
                self.readings[1] = self.readings[0].take();
                self.readings[0] = Some(reading);
            }
            Err(problem) => {
                // Its address may be another when it is back.
                self.link = None;
                self.readings = [None, None];
                self.problem = problem;
            }
        }
    }

    async fn read(&mut self) -> Result<Reading, String> {
        let link = match &mut self.link {
            Some(link) => link,
            none => none.insert(Link::new(self.target.resolve().await.map_err(|error| error.to_string())?)),
        };
        let reply = link.exchange(&self.request, TIMEOUT).await.map_err(|failure| failure.to_string())?;
        let at = self.started.elapsed();
        if reply.status != 200 {
            return Err(format!("/metrics is answered {}", reply.status));
        }
        let text = str::from_utf8(reply.body).map_err(|_| "/metrics is no text".to_owned())?;
        Reading::parse(at, text).map_err(|error| error.to_string())
    }

    fn look(&self) -> Look<'_> {
        let now = self.readings[0].as_ref().ok_or(self.problem.as_str());
        Look { url: &self.url, before: self.readings[1].as_ref(), now }
    }
}

async fn ask_all(nodes: &mut [Asked]) -> Frame {
    join_all(nodes.iter_mut().map(Asked::ask)).await;
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let looks: Vec<Look<'_>> = nodes.iter().map(Asked::look).collect();
    Frame::new(at.as_millis() as u64, &looks)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use ratatui::crossterm::event::KeyEvent;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        top: TopArgs,
    }

    fn parse(line: &str) -> Result<TopArgs, String> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.top).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_have_defaults_and_bounds() {
        let args = parse("top").unwrap();
        assert_eq!((args.urls[0].authority(), args.interval), ("127.0.0.1:8080", Duration::from_secs(2)));
        assert_eq!(parse("top --url http://a:1 --url http://b:2").unwrap().urls.len(), 2);
        assert!(parse("top --interval 10ms").unwrap_err().contains("100ms to 1h"));
        assert!(parse("top --url a:1").unwrap_err().contains("http://host:port"));
    }

    #[test]
    fn q_escape_and_ctrl_c_quit() {
        let press = |code, modifiers| meaning(Event::Key(KeyEvent::new(code, modifiers)));
        for quits in [KeyCode::Char('q'), KeyCode::Char('Q'), KeyCode::Esc] {
            assert!(matches!(press(quits, KeyModifiers::NONE), Some(Key::Quit)));
        }
        assert!(matches!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Quit)));
        assert!(press(KeyCode::Char('c'), KeyModifiers::NONE).is_none());
        assert!(matches!(meaning(Event::Resize(1, 1)), Some(Key::Redraw)));
    }

    /// A node whose counter rises by 10 with every answer, and that goes away after so many.
    async fn node(answers: u32) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for n in 1..=answers {
                let mut head = [0; 1_024];
                if stream.read(&mut head).await.unwrap() == 0 {
                    return;
                }
                let body = format!("sluice_checkout_orders_total{{outcome=\"accepted\"}} {}\nsluice_ready 1\n", n * 10);
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        target
    }

    #[tokio::test]
    async fn a_node_that_goes_away_is_shown_and_asked_again() {
        let (here, away) = (node(3).await, node(1).await);
        let mut nodes = [Asked::new(&here), Asked::new(&away)];
        let first = ask_all(&mut nodes).await;
        assert!(first.nodes.iter().all(|node| node.up) && first.total.accepted_per_s.is_none());
        let second = ask_all(&mut nodes).await;
        assert!(second.nodes[0].figures.unwrap().accepted_per_s.unwrap() > 0.0);
        assert!(!second.nodes[1].up && second.nodes[1].problem.is_some(), "{second:?}");
        assert!(ask_all(&mut nodes).await.nodes[0].up);
    }

    #[tokio::test]
    async fn once_ends_by_itself_and_says_when_nobody_is_there() {
        let mut args = parse("top --once --interval 100ms").unwrap();
        args.urls = vec![node(2).await];
        assert_eq!(command(args.clone()).await, exit::OK);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        args.urls = vec![format!("http://{}", listener.local_addr().unwrap()).parse().unwrap()];
        drop(listener);
        assert_eq!(command(args).await, exit::NO_SERVER);
    }
}
