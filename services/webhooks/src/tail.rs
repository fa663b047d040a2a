//! The feed, read once for all endpoints that keep up: its newest events are held in memory, up to a bound, with an index by
//! merchant. Who is further behind reads for itself.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use sluice_pipeline::{Cursor, Feed, FeedError, FeedEvent};
use tokio::sync::watch;

use crate::model::{Item, Message};

/// Events read at once.
const PAGE: usize = 512;
/// How long a read at the end of the feed waits for the next event.
const WAIT: Duration = Duration::from_secs(5);
/// Pause after the feed could not be read.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes that an event counts for, besides its data.
const EVENT_BYTES: usize = 512;

/// A page of the feed.
struct Page {
    items: Vec<(Item, Arc<str>)>,
    after: Cursor,
    end: Cursor,
    by_merchant: HashMap<Arc<str>, Vec<usize>>,
    /// Where in the page each cursor is from which it can be read on.
    starts: HashMap<Vec<u64>, usize>,
    bytes: usize,
}

impl Page {
    fn new(after: Cursor, events: Vec<FeedEvent>, end: Cursor) -> Self {
        let mut page = Self {
            items: Vec::new(),
            end,
            by_merchant: HashMap::new(),
            starts: HashMap::new(),
            bytes: 0,
            after: after.clone(),
        };
        let mut before = after;
        for event in events {
            let at = page.items.len();
            page.starts.insert(before.0.clone(), at);
            page.bytes += event.data.len() + EVENT_BYTES + event.next.0.len() * 16;
            let merchant: Arc<str> = event.merchant.as_str().into();
            page.by_merchant.entry(Arc::clone(&merchant)).or_default().push(at);
            before = event.next.clone();
            let message = Message {
                id: event.id,
                kind: event.kind.to_owned(),
                order: event.order,
                sequence: event.sequence,
                at_ms: event.at_ms,
                // JSON is UTF-8; what isn't would be refused by every receiver.
                data: String::from_utf8(event.data).unwrap_or_else(|_| "null".to_owned()),
            };
            page.items.push((Item { message: Arc::new(message), next: event.next }, merchant));
        }
        page
    }

    /// Up to `max` of the merchant's events behind the first `skip`, without those that lie ahead, and where to go on.
    fn of(
        &self,
        merchant: &str,
        skip: usize,
        max: usize,
        is_ahead: impl Fn(&Cursor, &Cursor) -> bool,
    ) -> (Vec<Item>, Cursor) {
        let own = self.by_merchant.get(merchant).map_or(&[][..], Vec::as_slice);
        let own = &own[own.partition_point(|at| *at < skip)..];
        let taken = &own[..own.len().min(max)];
        let end = match taken.last() {
            Some(last) if taken.len() < own.len() => self.items[*last].0.next.clone(),
            _ => self.end.clone(),
        };
        let before = |at: usize| at.checked_sub(1).map_or(&self.after, |before| &self.items[before].0.next);
        let told = taken.iter().filter(|at| !is_ahead(before(**at), &self.items[**at].0.next));
        (told.map(|at| self.items[*at].0.clone()).collect(), end)
    }
}

#[derive(Default)]
struct Ring {
    pages: VecDeque<Arc<Page>>,
    bytes: usize,
}

impl Ring {
    fn push(&mut self, page: Page, most: usize) {
        self.bytes += page.bytes;
        self.pages.push_back(Arc::new(page));
        while self.bytes > most
            && self.pages.len() > 1
            && let Some(old) = self.pages.pop_front()
        {
            self.bytes -= old.bytes;
        }
    }

    /// The page that `after` lies in, and how many of its events lie before.
    fn find(&self, after: &Cursor) -> Option<(Arc<Page>, usize)> {
        self.pages.iter().rev().find_map(|page| {
            let skip = if page.after == *after { 0 } else { *page.starts.get(&after.0)? };
            Some((Arc::clone(page), skip))
        })
    }
}

/// See the module.
pub struct Tail {
    feed: Arc<dyn Feed>,
    ring: Mutex<Ring>,
    /// The newest cursor that was read to.
    end: watch::Sender<Option<Cursor>>,
    most_bytes: usize,
}

impl Tail {
    /// The tail of `feed`, in at most `most_bytes` and one page.
    pub fn new(feed: Arc<dyn Feed>, most_bytes: usize) -> Self {
        Self { feed, ring: Mutex::default(), end: watch::Sender::new(None), most_bytes }
    }

    /// The oldest position that is kept, and the newest.
    ///
    /// # Errors
    /// As [`Feed::bounds`].
    pub async fn bounds(&self) -> Result<(Cursor, Cursor), FeedError> {
        self.feed.bounds().await
    }

    /// Behind which is everything that was decided at `at_ms` or later.
    ///
    /// # Errors
    /// As [`Feed::since`].
    pub async fn since(&self, at_ms: u64) -> Result<Cursor, FeedError> {
        self.feed.since(at_ms).await
    }

    /// Follows the feed's end, for good.
    pub async fn follow(&self) {
        let mut at = None;
        loop {
            let after = match at.take() {
                Some(after) => after,
                None => match self.feed.bounds().await {
                    Ok((_, newest)) => newest,
                    Err(error) => {
                        tracing::warn!(%error, "the feed of events can't be read; webhooks wait");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            self.end.send_replace(Some(after.clone()));
            match self.feed.read(after.clone(), PAGE, WAIT).await {
                Ok(page) => {
                    at = Some(page.next.clone());
                    if page.next != after {
                        self.ring.lock().push(Page::new(after, page.events, page.next), self.most_bytes);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the feed of events can't be read; webhooks wait");
                    tokio::time::sleep(PAUSE).await;
                    // An expired cursor begins anew; so does, to be simple, any other.
                }
            }
        }
    }

    /// Up to `max` of the merchant's events behind `after`. At the end of the feed it waits a while for the next one, unless
    /// only what a reader at `told` was told of is asked for.
    ///
    /// # Errors
    /// As [`Feed::read`].
    pub async fn read(
        &self,
        mut after: Cursor,
        merchant: &str,
        max: usize,
        told: Option<&Cursor>,
    ) -> Result<Found, FeedError> {
        let (waits, is_ahead) = (told.is_none(), |before: &Cursor, next: &Cursor| {
            told.is_some_and(|told| self.feed.is_ahead(before, next, told))
        });
        let until = tokio::time::Instant::now() + WAIT;
        let mut end = self.end.subscribe();
        loop {
            let is_end = end.borrow_and_update().as_ref() == Some(&after);
            let found = self.ring.lock().find(&after);
            match found {
                Some((page, skip)) => {
                    let (items, next) = page.of(merchant, skip, max, is_ahead);
                    // Where nothing is this merchant's, its cursor moves all the same, now and then.
                    if !items.is_empty() || tokio::time::Instant::now() >= until {
                        return Ok(Found { items, next, at_end: false });
                    }
                    after = next;
                }
                None if is_end => {
                    // Whoever waits here is woken by the next page, or asks again after a while.
                    if !waits || !matches!(tokio::time::timeout_at(until, end.changed()).await, Ok(Ok(()))) {
                        return Ok(Found { items: Vec::new(), next: after, at_end: true });
                    }
                }
                None => {
                    let page = self.feed.read(after.clone(), PAGE, Duration::ZERO).await?;
                    let at_end = page.next == after && page.events.is_empty();
                    let page = Page::new(after, page.events, page.next);
                    let (items, next) = page.of(merchant, 0, max, is_ahead);
                    if at_end && waits {
                        // The end, but not the one that is followed: it isn't far.
                        tokio::time::sleep(PAUSE).await;
                    }
                    return Ok(Found { items, next, at_end });
                }
            }
        }
    }
}

/// What a read has found.
#[derive(Debug)]
pub struct Found {
    /// The merchant's events.
    pub items: Vec<Item>,
    /// Where to go on.
    pub next: Cursor,
    /// True if the feed had nothing more.
    pub at_end: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryFeed;

    const KIND: &str = "com.sluice.parcel.tracked.v1";

    async fn read(tail: &Tail, after: u64, merchant: &str, max: usize) -> (Vec<u64>, u64) {
        let found = tail.read(Cursor(vec![after]), merchant, max, None).await.unwrap();
        (found.items.iter().map(|item| item.next.0[0] - 1).collect(), found.next.0[0])
    }

    #[tokio::test]
    async fn who_keeps_up_shares_one_read_and_who_does_not_reads_alone() {
        let feed = Arc::new(MemoryFeed::default());
        for n in 0..10u64 {
            feed.tell(if n % 2 == 0 { "even" } else { "odd" }, n.into(), KIND, n);
        }
        let tail = Arc::new(Tail::new(feed.clone(), 1 << 20));
        let follower = tokio::spawn({
            let tail = Arc::clone(&tail);
            async move { tail.follow().await }
        });
        // Behind the tail: by a read of its own, and no further than asked for.
        assert_eq!(read(&tail, 0, "even", 3).await, (vec![0, 2, 4], 5));
        assert_eq!(read(&tail, 5, "even", 9).await, (vec![6, 8], 10));
        // At its end: woken by what comes, and only by one's own.
        let waiting = tokio::spawn({
            let tail = Arc::clone(&tail);
            async move { read(&tail, 10, "odd", 9).await }
        });
        feed.tell("even", 10, KIND, 10);
        feed.tell("odd", 11, KIND, 11);
        assert_eq!(waiting.await.unwrap().0, [11]);
        // From the middle of a page that is held.
        assert_eq!(read(&tail, 11, "odd", 9).await.0, [11]);
        follower.abort();
    }

    #[test]
    fn the_ring_is_bounded_by_bytes_and_keeps_the_newest() {
        let mut ring = Ring::default();
        for n in 0..100u64 {
            let after = Cursor(vec![n]);
            let mut page = Page::new(after, Vec::new(), Cursor(vec![n + 1]));
            page.bytes = 10;
            ring.push(page, 35);
        }
        assert_eq!((ring.pages.len(), ring.bytes), (3, 30));
        assert!(ring.find(&Cursor(vec![97])).is_some() && ring.find(&Cursor(vec![96])).is_none());
    }
}
