//! The public events, read back from the durable part of the journal: what was decided stands there with the orders it was
//! decided about, so that nothing has to be written for consumers, and any number of them read without being known.
//!
//! A cursor is two numbers: where a group starts in the log, and how far into it the reader is. A reader that is far behind
//! starts right there, and holds nothing between two pages.

mod group;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Wake, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use sluice_pipeline::{BLOCK, BoxFuture, Cursor, Feed, FeedError, FeedPage, LogError};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use self::group::Reader;
use crate::{
    journal::{Group, seconds},
    shared::Shared,
};

/// Pages that are read at a time; others wait for their turn. Readers share the processors with the owners.
const AT_A_TIME: usize = 2;
/// Groups that a page looks through at most, so that one without events ends, too.
const GROUPS_A_PAGE: usize = 64;
/// Groups from the device that are kept for the next page: a reader comes back to the group it is in.
const KEPT: usize = 4;

/// See the module.
pub struct JournalFeed {
    shared: Arc<Shared>,
    turns: Arc<Semaphore>,
    bell: Arc<Bell>,
    /// The one waker of all readers, which the journal knows from the last time.
    waker: Waker,
    /// Groups read from the device, by where they were looked for; the youngest last.
    kept: Mutex<VecDeque<(u64, Arc<Group>)>>,
}

/// Wakes everybody who waits for a group.
#[derive(Default)]
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify_waiters();
    }
}

/// Where a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// A group starts here, or will.
    group: u64,
    /// Everything before this offset of its payload is read.
    offset: u64,
}

impl Place {
    fn cursor(self) -> Cursor {
        Cursor(vec![self.group, self.offset])
    }
}

impl JournalFeed {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let bell = Arc::<Bell>::default();
        let waker = Waker::from(Arc::clone(&bell));
        Self { shared, turns: Arc::new(Semaphore::new(AT_A_TIME)), bell, waker, kept: Mutex::default() }
    }

    /// The place that `cursor` names.
    fn place(&self, cursor: &Cursor) -> Result<Place, FeedError> {
        let [group, offset] = cursor.0[..] else {
            return Err(FeedError::Unknown(format!("it has {} positions, expected 2", cursor.0.len())));
        };
        if !group.is_multiple_of(BLOCK as u64) || group > self.shared.journal.durable() {
            return Err(nowhere(group));
        }
        self.is_kept(group)?;
        Ok(Place { group, offset })
    }

    /// # Errors
    /// [`FeedError::Expired`] if events from `group` on are gone.
    fn is_kept(&self, group: u64) -> Result<(), FeedError> {
        let oldest = self.shared.horizon.events();
        if group >= oldest {
            Ok(())
        } else {
            Err(FeedError::Expired { oldest: Place { group: oldest, offset: 0 }.cursor() })
        }
    }

    /// Up to `max` events after `after`, of those that are durable now. Blocks while it reads the device.
    pub(crate) fn page(&self, after: &Cursor, max: usize) -> Result<FeedPage, FeedError> {
        let mut place = self.place(after)?;
        let begun = place.group;
        let mut reader = Reader::new(&self.shared, max);
        // Number of the group read last.
        let mut last = 0;
        for _ in 0..GROUPS_A_PAGE {
            if reader.is_full() {
                break;
            }
            let group = match self.group(place.group, last) {
                Ok(Some(group)) => group,
                Ok(None) => break,
                // What comes before the damage is told; whoever comes back is told of the damage.
                Err(LogError::Damaged { .. }) if last > 0 => break,
                Err(error) => {
                    self.is_kept(begun)?;
                    return Err(self.unreadable(error, place.group));
                }
            };
            if group.position < place.group {
                return Err(nowhere(place.group));
            }
            if group.position > place.group {
                place = Place { group: group.position, offset: 0 };
            }
            last = group.sequence();
            let taken = reader.take(&group, place.offset);
            place = match taken.or_else(|error| self.is_kept(begun).and_then(|()| Err(unavailable(error))))? {
                Some(offset) => Place { offset, ..place },
                None => Place { group: group.end(), offset: 0 },
            };
        }
        // What went meanwhile may be missing here.
        self.is_kept(begun)?;
        Ok(FeedPage { events: reader.into_events(), next: place.cursor() })
    }

    /// What a reader is told that can't be told what stands at `position`. Only where a group was written is that our fault.
    fn unreadable(&self, error: LogError, position: u64) -> FeedError {
        if !matches!(error, LogError::Damaged { .. }) {
            return unavailable(error);
        }
        match self.shared.journal.is_between_groups(position) {
            Ok(true) => unavailable(error),
            Ok(false) => {
                tracing::warn!(%error, "a cursor of the event feed leads nowhere");
                nowhere(position)
            }
            Err(other) => unavailable(other),
        }
    }

    /// The durable group that starts at `position`, or in the next segment if there was no room for it: the one behind group
    /// number `last`, if that is known and not 0.
    fn group(&self, position: u64, last: u64) -> Result<Option<Arc<Group>>, LogError> {
        if let Some((_, group)) = self.kept.lock().iter().find(|kept| kept.0 == position) {
            return Ok(Some(Arc::clone(group)));
        }
        let Some(group) = self.shared.journal.group_from(position, last)? else { return Ok(None) };
        // The youngest groups are in the journal's memory anyway.
        if !self.shared.journal.remembers(position) {
            let mut kept = self.kept.lock();
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back((position, Arc::clone(&group)));
        }
        Ok(Some(group))
    }

    pub(crate) async fn follow(
        self: Arc<Self>,
        mut after: Cursor,
        max: usize,
        wait: Duration,
    ) -> Result<FeedPage, FeedError> {
        let deadline = Instant::now() + wait;
        loop {
            let page = Arc::clone(&self).page_in_turn(after, max).await?;
            if !page.events.is_empty() || Instant::now() >= deadline {
                return Ok(page);
            }
            after = page.next;
            let rung = self.bell.0.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            self.shared.journal.wake_on_progress(&self.waker);
            // A group may have become durable before the bell was heard.
            if self.shared.journal.durable() <= after.0[0] && tokio::time::timeout_at(deadline, rung).await.is_err() {
                return Ok(FeedPage { events: Vec::new(), next: after });
            }
        }
    }

    async fn page_in_turn(self: Arc<Self>, after: Cursor, max: usize) -> Result<FeedPage, FeedError> {
        self.in_turn(move |feed| feed.page(&after, max)).await
    }

    /// Does `work`, which may block, once it is its turn.
    async fn in_turn<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, FeedError> + Send + 'static,
    ) -> Result<T, FeedError> {
        let ended = |error: &dyn std::fmt::Display| FeedError::Unavailable(format!("the reader has ended: {error}"));
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|error| ended(&error))?;
        let done = tokio::task::spawn_blocking(move || {
            // Until the work is done: it goes on though nobody waits for it any more.
            let _turn = turn;
            work(&self)
        });
        done.await.map_err(|error| ended(&error))?
    }

    /// The place of the first group that was closed at `at_ms` or later, of those whose events are told. Decisions of that time are
    /// in it or behind it.
    pub(crate) fn place_since(&self, at_ms: u64) -> Result<Cursor, FeedError> {
        loop {
            let first = self.shared.horizon.first();
            match self.shared.journal.first_since(seconds(at_ms), first) {
                // The segments that it read went meanwhile.
                Err(_) if self.shared.horizon.is_gone(first) => {}
                found => {
                    let group = found.map_err(unavailable)?.max(self.shared.horizon.events());
                    return Ok(Place { group, offset: 0 }.cursor());
                }
            }
        }
    }
}

fn nowhere(position: u64) -> FeedError {
    FeedError::Unknown(format!("no group of this log starts at {position}"))
}

fn unavailable(error: LogError) -> FeedError {
    tracing::error!(%error, "the event feed can't be read");
    FeedError::Unavailable(error.to_string())
}

/// The feed as the rest of the process holds it; cheap to clone.
#[derive(Clone)]
pub struct EngineFeed(pub(crate) Arc<JournalFeed>);

impl Feed for EngineFeed {
    fn bounds(&self) -> BoxFuture<'_, Result<(Cursor, Cursor), FeedError>> {
        let (oldest, newest) = (self.0.shared.horizon.events(), self.0.shared.journal.durable());
        let [oldest, newest] = [oldest, newest].map(|group| Place { group, offset: 0 }.cursor());
        Box::pin(async move { Ok((oldest, newest)) })
    }

    fn read(&self, after: Cursor, max: usize, wait: Duration) -> BoxFuture<'_, Result<FeedPage, FeedError>> {
        Box::pin(Arc::clone(&self.0).follow(after, max, wait))
    }

    fn since(&self, at_ms: u64) -> BoxFuture<'_, Result<Cursor, FeedError>> {
        Box::pin(Arc::clone(&self.0).in_turn(move |feed| feed.place_since(at_ms)))
    }

    /// Groups stand one after another, and so do the decisions in each.
    fn is_ahead(&self, _: &Cursor, next: &Cursor, reader: &Cursor) -> bool {
        next.0 > reader.0
    }
}
