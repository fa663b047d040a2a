//! Somebody who follows a few orders all the time, whatever happens to the server: posts one now and then, reads them
//! over and over, cancels some, says what goods are that nobody knows, and notices when anything that was once shown is taken
//! back.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    PATIENCE,
    client::{Answer, Client, Connection},
    orders::{BEER, ICE, ODDITY, PLANT, THING, YOGURT, order_of},
    setup::OPERATOR_KEY,
};

/// Orders that are followed.
const MOST: usize = 60;
/// Readings between two new orders.
const READS: u64 = 8;
/// One order in so many is cancelled.
const CANCELLED: usize = 4;
/// As many have goods that nobody knows.
const ODD: usize = 4;
/// Pause after a server that isn't there, so as not to keep its processor busy.
const PAUSE: Duration = Duration::from_millis(2);
/// The published statuses, lowest rank first, written down a second time.
const RANKS: [&str; 13] = [
    "accepted",
    "classified",
    "carrier_requested",
    "carrier_accepted",
    "picked_up",
    "in_transit",
    "out_for_delivery",
    "ready_for_pickup",
    "delivered",
    "return_to_sender",
    "returned",
    "cancelled",
    "dead_lettered",
];

/// A witness at work.
pub struct Witness {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    thread: JoinHandle<Testimony>,
}

/// What the witness saw, all of it in order.
pub struct Testimony {
    /// Ids of the orders that were acknowledged to it.
    pub orders: Vec<String>,
    /// Readings.
    pub reads: u64,
    /// Readings of an order by a later server than the one before.
    pub across_restarts: u64,
    /// Readings that said of an acknowledged order, never read before, that there is none.
    pub denied: Vec<String>,
    /// Orders that carriers are asked to forget, as was acknowledged.
    pub cancelled: Vec<String>,
    /// Parcels of goods that nobody knew, and what was acknowledged that they are.
    pub reviewed: Vec<(String, &'static str)>,
}

impl Witness {
    /// A witness who posts and reads as `client`; `name` makes its keys its own.
    pub fn start(client: Client, name: &str) -> Self {
        Self::watch(Watch::new(vec![client.clone()], vec![client], name.to_owned()))
    }

    /// A witness who posts as `posters`, each attempt as another, and reads as `readers` in turn, who may see an order a
    /// while after it was acknowledged; what one of them has shown, none may take back.
    pub fn apart(posters: Vec<Client>, readers: Vec<Client>, name: &str) -> Self {
        Self::watch(Watch { lags: true, ..Watch::new(posters, readers, name.to_owned()) })
    }

    fn watch(watch: Watch) -> Self {
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&reads));
        let thread = std::thread::spawn(move || watch.run(&stopped, &counted));
        Self { stop, reads, thread }
    }

    /// Readings so far; panics if it has seen something taken back.
    pub fn reads(&self) -> u64 {
        assert!(!self.thread.is_finished(), "the witness ended early: see its panic above");
        self.reads.load(SeqCst)
    }

    /// Ends it, and gives what it saw; panics with what it saw taken back.
    pub fn finish(self) -> Testimony {
        self.stop.store(true, SeqCst);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

struct Followed {
    id: String,
    view: Option<Value>,
    /// The connection that it was last read on.
    read_on: u64,
    /// It was said that carriers are asked to forget it.
    cancelled: bool,
    /// The parcel of goods that nobody knew, and what it was acknowledged to be.
    reviewed: Option<(String, &'static str)>,
}

impl Followed {
    fn new(id: String) -> Self {
        Self { id, view: None, read_on: 0, cancelled: false, reviewed: None }
    }

    /// The parcel that waits for a person, as far as was read.
    fn held(&self) -> Option<String> {
        let parcels = self.view.as_ref()?["parcels"].as_array()?;
        let odd =
            |parcel: &&Value| parcel["lines"].as_array().is_some_and(|of| of.iter().any(|l| l["title"] == ODDITY));
        Some(parcels.iter().find(odd)?["id"].as_str()?.to_owned())
    }
}

struct Watch {
    posters: Vec<Client>,
    /// The connection to one of them, and how many attempts were made.
    posts: Option<Connection>,
    attempts: usize,
    /// Each with its connection, if there is one, and the number of that.
    readers: Vec<(Client, Option<Connection>, u64)>,
    lags: bool,
    name: String,
    connections: u64,
    orders: Vec<Followed>,
    /// Which one is read next.
    next: usize,
    /// Key and body of the order that is being posted.
    posting: Option<(String, String)>,
    reads: u64,
    /// Readings that were tried.
    tried: u64,
    across_restarts: u64,
    denied: Vec<String>,
}

impl Watch {
    fn new(posters: Vec<Client>, readers: Vec<Client>, name: String) -> Self {
        Self {
            posters,
            posts: None,
            attempts: 0,
            readers: readers.into_iter().map(|reader| (reader, None, 0)).collect(),
            lags: false,
            name,
            connections: 0,
            orders: Vec::new(),
            next: 0,
            posting: None,
            reads: 0,
            tried: 0,
            across_restarts: 0,
            denied: Vec::new(),
        }
    }

    fn run(mut self, stop: &AtomicBool, reads: &AtomicU64) -> Testimony {
        while !stop.load(SeqCst) {
            reads.store(self.reads, SeqCst);
            // An error is a server that was killed; nobody can tell what it did last.
            if self.step().is_err() {
                self.posts = None;
                self.readers.iter_mut().for_each(|reader| reader.1 = None);
                std::thread::sleep(PAUSE);
            }
        }
        self.settle();
        let reviewed = self.orders.iter().filter_map(|followed| followed.reviewed.clone()).collect();
        let cancelled = self.orders.iter().filter(|followed| followed.cancelled).map(|f| f.id.clone()).collect();
        let orders = self.orders.into_iter().map(|followed| followed.id).collect();
        let (reads, across_restarts) = (self.reads, self.across_restarts);
        Testimony { orders, reads, across_restarts, denied: self.denied, cancelled, reviewed }
    }

    fn step(&mut self) -> io::Result<()> {
        if self.posting.is_some() || (self.orders.len() < MOST && self.tried >= READS * self.orders.len() as u64) {
            return self.post();
        }
        let at = self.next % self.orders.len();
        self.next = at + 1;
        self.look(at)
    }

    /// Says of everything that waits for it what it is; nobody else would, and it would wait for ever.
    fn settle(&mut self) {
        let begun = Instant::now();
        let waits = |(at, followed): (usize, &Followed)| is_odd(at) && followed.reviewed.is_none();
        while let Some(at) = self.orders.iter().enumerate().position(waits) {
            assert!(begun.elapsed() < PATIENCE, "never held, or never reviewed: {:?}", self.orders[at].view);
            if self.look(at).is_err() {
                self.readers.iter_mut().for_each(|reader| reader.1 = None);
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn look(&mut self, at: usize) -> io::Result<()> {
        self.tried += 1;
        let (answer, read_on) = self.read(&format!("GET /v1/orders/{}", self.orders[at].id))?;
        let followed = &mut self.orders[at];
        match answer.status {
            200 => {
                let view = answer.json();
                if let Some(before) = followed.view.replace(view.clone()) {
                    assert_follows(&before, &view);
                }
                self.across_restarts += u64::from(followed.read_on != 0 && followed.read_on != read_on);
                followed.read_on = read_on;
                self.reads += 1;
                if at % CANCELLED == 1 && !followed.cancelled && view["status"] == "carrier_accepted" {
                    return self.cancel(at);
                }
                if is_odd(at) && self.orders[at].reviewed.is_none() {
                    return self.review(at);
                }
            }
            503 => std::thread::sleep(PAUSE),
            404 if self.lags && followed.view.is_none() => {
                if answer.header("retry-after").is_none() {
                    self.denied.push(followed.id.clone());
                }
                std::thread::sleep(PAUSE);
            }
            _ => panic!("acknowledged order {}: {}", followed.id, answer.text()),
        }
        Ok(())
    }

    /// Cancels an order that its carriers have taken. What was said to be asked for must be shown in the end.
    fn cancel(&mut self, at: usize) -> io::Result<()> {
        let (answer, _) = self.read(&format!("POST /v1/orders/{}/cancel", self.orders[at].id))?;
        match answer.status {
            200 | 202 => self.orders[at].cancelled = true,
            // A reader that lags may not have seen yet that there is something to forget.
            409 | 503 => {}
            404 if self.lags => {}
            _ => panic!("a cancellation was answered {}: {}", answer.status, answer.text()),
        }
        Ok(())
    }

    /// Says what the goods are that nobody knows. What was said to be done must be shown in the end.
    fn review(&mut self, at: usize) -> io::Result<()> {
        let Some(parcel) = self.orders[at].held() else { return Ok(()) };
        let handling = if at % (2 * ODD) < ODD { "frozen" } else { "hazmat_check" };
        let body = format!("{{\"handling\":\"{handling}\",\"keep\":\"row\"}}");
        let (answer, _) = self.ask(&format!("POST /v1/review/{parcel}"), Some(OPERATOR_KEY), body.as_bytes())?;
        let told = answer.json();
        match (answer.status, told["outcome"].as_str()) {
            (200, Some("released")) if told["kept"] == "row" => self.orders[at].reviewed = Some((parcel, handling)),
            // It will be decided, or a reader that lags doesn't know the parcel yet.
            (202 | 503, _) => {}
            (404, _) if self.lags => {}
            _ => panic!("a review was answered {}: {}", answer.status, answer.text()),
        }
        Ok(())
    }

    /// Posts an order under the same key and with the same bytes until somebody says that it is durable.
    fn post(&mut self) -> io::Result<()> {
        let number = self.orders.len();
        let fresh = || (format!("{}-{number}", self.name), order_of(&goods(number)).to_string());
        let (key, body) = self.posting.take().unwrap_or_else(fresh);
        let header = format!("idempotency-key: {key}");
        self.posting = Some((key, body.clone()));
        let client = &self.posters[self.attempts % self.posters.len()];
        self.attempts += 1;
        if self.posters.len() > 1 || self.posts.is_none() {
            self.posts = Some(client.connect()?);
        }
        let head = client.head("POST /v1/orders", &["content-type: application/json", &header], body.len());
        let posts = self.posts.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let answer = posts.exchange(&head, body.as_bytes())?;
        match answer.status {
            201 => {
                self.posting = None;
                self.orders.push(Followed::new(answer.id()));
            }
            429 | 503 => std::thread::sleep(PAUSE),
            _ => panic!("a good order was answered {}: {}", answer.status, answer.text()),
        }
        Ok(())
    }

    /// The answer of the next reader, and the number of the connection that it came on.
    fn read(&mut self, request: &str) -> io::Result<(Answer, u64)> {
        self.ask(request, None, b"")
    }

    /// The same to a request with a body, with another key than the reader's own if there is one.
    fn ask(&mut self, request: &str, key: Option<&str>, body: &[u8]) -> io::Result<(Answer, u64)> {
        // Shifted with each round of orders, or each would be read by the same reader for ever.
        let turn = (self.tried as usize + self.tried as usize / self.orders.len()) % self.readers.len();
        let (reader, connection, number) = &mut self.readers[turn];
        if connection.is_none() {
            *connection = Some(reader.connect()?);
            self.connections += 1;
            *number = self.connections;
        }
        let who = key.map_or_else(|| reader.clone(), |key| Client { key: key.to_owned(), ..reader.clone() });
        let json: &[&str] = if body.is_empty() { &[] } else { &["content-type: application/json"] };
        let head = who.head(request, json, body.len());
        let connection = connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok((connection.exchange(&head, body)?, *number))
    }
}

/// Title and quantity of what is in the witness's order of this number; all of it ships.
fn goods(number: usize) -> [(&'static str, u32); 3] {
    let all = [(YOGURT, 2), (THING, 1), (ICE, 3), (PLANT, 1), (BEER, 2)];
    let [first, second, third] = std::array::from_fn(|at| all[number % 3 + at]);
    if is_odd(number) { [first, (ODDITY, 2), third] } else { [first, second, third] }
}

/// Whether the witness's order of this number has goods that nobody knows.
fn is_odd(number: usize) -> bool {
    number % ODD == 2
}

/// Asserts that the parcels of the witness's order of this number have in them what was ordered.
pub fn assert_conserved(number: usize, view: &Value) {
    let parcels = view["parcels"].as_array().unwrap().iter();
    let lines = parcels.flat_map(|parcel| parcel["lines"].as_array().unwrap());
    let mut shipped: Vec<_> =
        lines.map(|line| (line["title"].as_str().unwrap(), line["quantity"].as_u64().unwrap())).collect();
    let mut ordered: Vec<_> = goods(number).iter().map(|&(title, quantity)| (title, u64::from(quantity))).collect();
    shipped.sort_unstable();
    ordered.sort_unstable();
    assert_eq!(shipped, ordered, "{view}");
}

/// Asserts that a cancellation which was acknowledged is shown.
pub fn assert_cancelled(view: &Value) {
    let asked = view["timeline"].as_array().unwrap().iter().any(|entry| entry["milestone"] == "void_requested");
    assert!(asked, "an acknowledged cancellation is lost: {view}");
}

/// Asserts that a review which was acknowledged is shown to `client`, once, and is kept as a row.
pub fn assert_reviewed(client: &Client, parcel: &str, handling: &str) {
    let (order, _) = parcel.rsplit_once('-').unwrap();
    let view = &client.view(order);
    let operator = Client { key: OPERATOR_KEY.to_owned(), ..client.clone() };
    let kept = operator.get("/v1/review/kept?keep=row&limit=1000").json();
    let row = kept["items"].as_array().unwrap().iter().find(|row| row["id"] == parcel);
    assert!(row.is_some_and(|row| row["handling"] == handling), "{parcel} is not kept: {kept}");
    assert_eq!(reviews(view, parcel), 1, "of an acknowledged review of {parcel}: {view}");
    let shown = view["parcels"].as_array().unwrap().iter().find(|shown| shown["id"] == parcel);
    assert_eq!(shown.map(|shown| &shown["handling"]), Some(&handling.into()), "{view}");
}

/// How often a person has said what a parcel is.
fn reviews(view: &Value, parcel: &str) -> usize {
    let timeline = view["timeline"].as_array().unwrap().iter();
    timeline.filter(|entry| entry["milestone"] == "reviewed" && entry["parcel"] == parcel).count()
}

fn rank(status: &Value) -> usize {
    RANKS.iter().position(|name| status == name).unwrap_or_else(|| panic!("status {status}"))
}

/// Asserts that `after` may be shown to somebody who was shown `before`.
pub fn assert_follows(before: &Value, after: &Value) {
    let say = || format!("before: {before}\nafter:  {after}");
    for field in ["id", "customer", "placed_at"] {
        assert_eq!(before[field], after[field], "{field} changed\n{}", say());
    }
    assert!(rank(&after["status"]) >= rank(&before["status"]), "the status went back\n{}", say());
    let entries = |view: &Value| view["timeline"].as_array().unwrap().clone();
    let now = entries(after);
    for entry in entries(before) {
        assert!(now.contains(&entry), "taken back: {entry}\n{}", say());
    }
    let view_after = after;
    let parcels = |view: &Value| -> BTreeMap<String, Value> {
        let parcels = view["parcels"].as_array().unwrap().iter();
        parcels.map(|parcel| (parcel["id"].as_str().unwrap().to_owned(), parcel.clone())).collect()
    };
    let now = parcels(after);
    for (id, parcel) in parcels(before) {
        let after = now.get(&id).unwrap_or_else(|| panic!("parcel {id} is gone\n{}", say()));
        assert!(rank(&after["status"]) >= rank(&parcel["status"]), "parcel {id} went back\n{}", say());
        assert_eq!(parcel["lines"], after["lines"], "{}", say());
        if reviews(view_after, &id) == reviews(before, &id) {
            assert_eq!(parcel["handling"], after["handling"], "{}", say());
        }
        if !parcel["tracking_number"].is_null() {
            assert_eq!(parcel["tracking_number"], after["tracking_number"], "{}", say());
        }
    }
}
