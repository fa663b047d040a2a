//! The public events, read from their topic for whoever can't or may not read it: committed records alone, by consumers of
//! no group, so that readers know nothing of each other. A cursor has the next offset of every partition.
//!
//! Consumers are few and lent for a page: a reader that comes back to where one stands goes on with it, and others are
//! sent where they are needed.

mod record;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::Consumer,
    error::{KafkaError, RDKafkaErrorCode},
};
use sluice_pipeline::{BoxFuture, Cursor, Feed, FeedError, FeedEvent, FeedPage};
use tokio::sync::Semaphore;

use crate::{
    config::LogConfig,
    context::{Quiet, Reader},
    topics::{self, Names, PATIENCE},
};

/// Consumers at a time; further readers take turns with them.
const READERS: usize = 16;
/// How long a reader without events keeps its consumer; and how long where others wait for one.
const TURN: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(50)];
/// How long a reader waits for its turn, and for the brokers' first word.
const BOUND: Duration = Duration::from_secs(5);
/// A consumer that nobody has asked for so long is let go.
const IDLE: Duration = Duration::from_secs(30);
/// Bytes of events in a page, and of its cursors, beyond which nothing is added.
const PAGE_BYTES: usize = 1 << 20;

/// See the module; cheap to clone.
#[derive(Clone)]
pub struct TopicFeed(Arc<Inner>);

struct Inner {
    config: LogConfig,
    topic: String,
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<Lent>>,
}

/// A consumer, and where it stands.
struct Lent {
    consumer: Reader,
    at: Vec<u64>,
    /// Which partitions it has read to their end.
    ended: Vec<bool>,
    since: Instant,
}

impl Lent {
    fn nowhere(consumer: Reader) -> Self {
        Self { consumer, at: Vec::new(), ended: Vec::new(), since: Instant::now() }
    }

    /// Moves behind what ends transactions in the partitions that are read to their end. No record comes after it that would
    /// lead there, and when all records are gone, a reader that had them would else be told that it has missed some.
    ///
    /// Between two pages: within one, the cursor of an event differs from the one before it by that event alone.
    fn pass_markers(&mut self) -> Result<(), KafkaError> {
        for known in self.consumer.position()?.elements() {
            let partition = known.partition() as usize;
            // A partition without an end may still have its position from where the consumer was before.
            if let (Some(at), Some(true), Offset::Offset(position)) =
                (self.at.get_mut(partition), self.ended.get(partition), known.offset())
            {
                *at = (*at).max(position.unsigned_abs());
            }
        }
        Ok(())
    }
}

impl TopicFeed {
    /// The feed of the deployment at `config`. Nothing is asked of the brokers before somebody reads.
    #[must_use]
    pub fn new(config: &LogConfig) -> Self {
        let topic = Names::new(&config.prefix).events();
        let (turns, idle) = (Arc::new(Semaphore::new(READERS)), Mutex::default());
        Self(Arc::new(Inner { config: config.clone(), topic, turns, idle }))
    }
}

impl Feed for TopicFeed {
    fn bounds(&self) -> BoxFuture<'_, Result<(Cursor, Cursor), FeedError>> {
        Box::pin(in_turn(&self.0, |inner| {
            let bounds = inner.ask(|consumer| inner.bounds(consumer))?;
            Ok((Cursor(bounds.iter().map(|b| b.0).collect()), Cursor(bounds.iter().map(|b| b.1).collect())))
        }))
    }

    fn since(&self, at_ms: u64) -> BoxFuture<'_, Result<Cursor, FeedError>> {
        Box::pin(in_turn(&self.0, move |inner| inner.ask(|consumer| inner.since(consumer, at_ms)).map(Cursor)))
    }

    fn read(&self, after: Cursor, max: usize, wait: Duration) -> BoxFuture<'_, Result<FeedPage, FeedError>> {
        Box::pin(async move {
            let (deadline, mut after) = (Instant::now() + wait, after);
            loop {
                let page = in_turn(&self.0, move |inner| {
                    let crowded = inner.turns.available_permits() == 0;
                    let left = deadline.saturating_duration_since(Instant::now());
                    inner.page(after, max, left.min(TURN[usize::from(crowded)]))
                });
                let page = page.await?;
                if !page.events.is_empty() || Instant::now() >= deadline {
                    return Ok(page);
                }
                after = page.next;
            }
        })
    }
}

/// Does `work`, which may block, once it is its turn.
async fn in_turn<T: Send + 'static>(
    inner: &Arc<Inner>,
    work: impl FnOnce(&Inner) -> Result<T, FeedError> + Send + 'static,
) -> Result<T, FeedError> {
    let turn = tokio::time::timeout(BOUND, Arc::clone(&inner.turns).acquire_owned()).await;
    let Ok(Ok(turn)) = turn else { return Err(FeedError::Unavailable("too many readers".to_owned())) };
    let inner = Arc::clone(inner);
    let done = tokio::task::spawn_blocking(move || {
        // Until the work is done: it goes on though nobody waits for it any more.
        let _turn = turn;
        work(&inner)
    });
    done.await.map_err(|error| FeedError::Unavailable(format!("the reader has ended: {error}")))?
}

fn unavailable(error: KafkaError) -> FeedError {
    FeedError::Unavailable(error.to_string())
}

impl Inner {
    fn consumer(&self) -> Result<Reader, FeedError> {
        let mut config = topics::reader(&self.config);
        config
            // Where there is nothing any more, the reader must be told.
            .set("auto.offset.reset", "error")
            // Nobody is in such a hurry that it were worth asking fifty times a second.
            .set("fetch.wait.max.ms", "500")
            .set("queued.max.messages.kbytes", "1024")
            .set("max.partition.fetch.bytes", "262144")
            .set("fetch.max.bytes", "1048576");
        config.create_with_context(Quiet).map_err(unavailable)
    }

    /// Asks the brokers by any consumer; a new one is kept for whoever reads next.
    fn ask<T>(&self, question: impl FnOnce(&Reader) -> Result<T, FeedError>) -> Result<T, FeedError> {
        let lent = self.idle.lock().pop();
        let lent = lent.map_or_else(|| self.consumer().map(Lent::nowhere), Ok)?;
        let answer = question(&lent.consumer)?;
        self.give_back(lent);
        Ok(answer)
    }

    /// The first offset of each partition that was written at `at_ms` or later, by the clock of its owner; the next one where
    /// none was.
    fn since(&self, consumer: &Reader, at_ms: u64) -> Result<Vec<u64>, FeedError> {
        let mut found: Vec<u64> = self.bounds(consumer)?.into_iter().map(|(_, next)| next).collect();
        let at = Offset::Offset(i64::try_from(at_ms).unwrap_or(i64::MAX));
        let mut times = TopicPartitionList::new();
        for (partition, _) in (0..).zip(&found) {
            times.add_partition_offset(&self.topic, partition, at).map_err(unavailable)?;
        }
        let times = consumer.offsets_for_times(times, PATIENCE).map_err(unavailable)?;
        for element in times.elements() {
            element.error().map_err(unavailable)?;
            if let (Offset::Offset(offset), Some(known)) =
                (element.offset(), found.get_mut(element.partition() as usize))
            {
                *known = (*known).min(offset.unsigned_abs());
            }
        }
        Ok(found)
    }

    /// The oldest retained offset of each partition, and the one behind its newest committed record.
    fn bounds(&self, consumer: &Reader) -> Result<Vec<(u64, u64)>, FeedError> {
        let width = topics::width(consumer, &self.topic).map_err(unavailable)?;
        let bounds = |partition| {
            let (low, high) = consumer.fetch_watermarks(&self.topic, i32::from(partition), PATIENCE)?;
            Ok((low.unsigned_abs(), high.unsigned_abs()))
        };
        (0..width).map(bounds).collect::<Result<_, KafkaError>>().map_err(unavailable)
    }

    /// A consumer that stands at `after`.
    fn lend(&self, after: Cursor) -> Result<Lent, FeedError> {
        let spare = {
            let mut idle = self.idle.lock();
            idle.retain(|lent| lent.since.elapsed() < IDLE);
            if let Some(found) = idle.iter().position(|lent| lent.at == after.0) {
                return Ok(idle.swap_remove(found));
            }
            // One that stands nowhere, or the one that was asked for the longest time ago.
            let nowhere = idle.iter().position(|lent| lent.at.is_empty());
            let oldest = idle.iter().enumerate().min_by_key(|(_, lent)| lent.since).map(|(at, _)| at);
            nowhere.or(oldest.filter(|_| idle.len() >= READERS)).map(|at| idle.swap_remove(at))
        };
        let consumer = spare.map_or_else(|| self.consumer(), |lent| Ok(lent.consumer))?;
        let bounds = self.bounds(&consumer)?;
        let (mut at, width) = (after.0, bounds.len());
        if at.len() > width || at.is_empty() {
            let text = format!("it has {} positions, the topic {width} partitions", at.len());
            return Err(FeedError::Unknown(text));
        }
        // Partitions that came later are read from their beginning.
        at.extend(bounds.iter().skip(at.len()).map(|b| b.0));
        if let Some(error) = out_of_range(&at, &bounds) {
            return Err(error);
        }
        let mut list = TopicPartitionList::new();
        for (partition, &offset) in (0..).zip(&at) {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(offset as i64)).map_err(unavailable)?;
        }
        consumer.assign(&list).map_err(unavailable)?;
        Ok(Lent { consumer, at, ended: vec![false; width], since: Instant::now() })
    }

    /// Up to `max` events after `after`; waits at most `wait` for the first, and longer only for the brokers.
    fn page(&self, after: Cursor, max: usize, wait: Duration) -> Result<FeedPage, FeedError> {
        let mut lent = self.lend(after)?;
        let events = self.gather(&mut lent, max, wait)?;
        lent.pass_markers().map_err(unavailable)?;
        let next = Cursor(lent.at.clone());
        lent.since = Instant::now();
        self.give_back(lent);
        Ok(FeedPage { events, next })
    }

    fn give_back(&self, lent: Lent) {
        let mut idle = self.idle.lock();
        if idle.len() < READERS {
            idle.push(lent);
        }
    }

    fn gather(&self, lent: &mut Lent, max: usize, wait: Duration) -> Result<Vec<FeedEvent>, FeedError> {
        let started = Instant::now();
        let (mut events, mut bytes) = (Vec::new(), 0);
        while events.len() < max && bytes < PAGE_BYTES {
            let ended = lent.ended.iter().all(|ended| *ended);
            let patience = match events.is_empty() {
                true if ended => wait,
                true => BOUND,
                false => Duration::ZERO,
            };
            let left = patience.saturating_sub(started.elapsed());
            match lent.consumer.poll(left) {
                Some(Ok(message)) => {
                    let partition = message.partition() as usize;
                    let Some(at) = lent.at.get_mut(partition) else { continue };
                    *at = message.offset().unsigned_abs() + 1;
                    lent.ended[partition] = false;
                    match record::read(&message, &lent.at) {
                        Ok(Some(event)) => {
                            bytes += event.data.len() + 8 * lent.at.len();
                            events.push(event);
                        }
                        Ok(None) => {}
                        Err(error) => {
                            let offset = message.offset();
                            tracing::error!(partition, offset, %error, "an event can't be read and is skipped");
                        }
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if let Some(ended) = lent.ended.get_mut(partition as usize) {
                        *ended = true;
                    }
                }
                // Said once: with what was read so far it would be forgotten.
                Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                    return Err(self.gone(lent));
                }
                Some(Err(_)) if !events.is_empty() => break,
                // The client mends its connections by itself.
                Some(Err(error)) if started.elapsed() >= BOUND => return Err(unavailable(error)),
                Some(Err(_)) => {}
                None if !events.is_empty() => break,
                None if ended && started.elapsed() >= wait => break,
                None if !ended && started.elapsed() >= BOUND => {
                    return Err(FeedError::Unavailable("the brokers don't answer".to_owned()));
                }
                None => {}
            }
        }
        Ok(events)
    }

    /// Why there is nothing any more where `lent` is.
    fn gone(&self, lent: &Lent) -> FeedError {
        match self.bounds(&lent.consumer) {
            Ok(bounds) => out_of_range(&lent.at, &bounds)
                .unwrap_or_else(|| FeedError::Unavailable("the brokers have changed their mind".to_owned())),
            Err(error) => error,
        }
    }
}

/// Why nothing can be read at `at`, if so. `bounds` has the oldest and the next offset of each partition.
fn out_of_range(at: &[u64], bounds: &[(u64, u64)]) -> Option<FeedError> {
    let all = || at.iter().zip(bounds);
    if all().any(|(at, (_, high))| at > high) {
        return Some(FeedError::Unknown("it is ahead of what was written".to_owned()));
    }
    if all().any(|(at, (low, _))| at < low) {
        // What comes first of what is kept, and nothing again of what the reader has.
        return Some(FeedError::Expired { oldest: Cursor(all().map(|(at, (low, _))| *at.max(low)).collect()) });
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, sync::mpsc, task::Context, task::Waker};

    use super::*;

    #[test]
    fn work_that_nobody_waits_for_keeps_its_turn() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let TopicFeed(inner) = TopicFeed::new(&LogConfig::new("127.0.0.1:1", Vec::new()));
        let (end, ended) = mpsc::channel::<()>();
        runtime.block_on(async {
            {
                let work = pin!(in_turn(&inner, move |_| ended.recv().map_err(|_| unreachable!())));
                assert!(work.poll(&mut Context::from_waker(Waker::noop())).is_pending());
            }
            assert_eq!(inner.turns.available_permits(), READERS - 1, "it is done all the same");
            end.send(()).unwrap();
            while inner.turns.available_permits() < READERS {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }
}
