//! Rows from nothing: the log is the truth, so a store that was lost, damaged or filled by a faulty version is emptied
//! and folded again from the first decision.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::{runtime::Handle, sync::mpsc};

use super::{Gather, Pen, Written, member::damaged};
use crate::{
    config::LogConfig,
    store::{Store, StoreError},
    topics::{self, Deployment, DeploymentError, Names, PATIENCE},
};

/// Longest time without a record before the brokers count as away.
const STALLED: Duration = Duration::from_secs(60);
/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);
/// Wait for a message, or for the store while both gathers are full.
const POLL: Duration = Duration::from_millis(50);

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RebuildProgress {
    /// Offsets of the decisions topic that were read, over all partitions.
    pub done: u64,
    /// Offsets there are to read.
    pub total: u64,
}

/// What a rebuild has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rebuilt {
    /// Records of the decisions topic that were folded.
    pub records: u64,
    /// Rows written.
    pub rows: u64,
    /// Records that could not be read whole; each was logged.
    pub damaged: u64,
}

/// The rows were not rebuilt. Once rows were dropped, whatever is started next (another rebuild, or a fold) replays
/// everything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// A node of the deployment runs, or the brokers don't answer.
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    /// The rows can't be dropped.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The brokers don't do what they were asked.
    #[error("{what}: {source}")]
    Kafka {
        /// What was asked.
        what: &'static str,
        /// What they said.
        source: KafkaError,
    },
    /// It was interrupted on the way: the caller, or the runtime that writes the rows, has gone.
    #[error("the rebuild was interrupted")]
    Interrupted,
}

fn failed(what: &'static str) -> impl FnOnce(KafkaError) -> RebuildError {
    move |source| RebuildError::Kafka { what, source }
}

/// Drops every row and replays all decisions up to the end of this moment; a later fold goes on from there. Safe to
/// interrupt (drop the future) and to repeat. A store that goes away on the way is waited for.
///
/// # Errors
/// [`RebuildError`]. While a node runs, nothing is touched.
pub async fn rebuild(
    config: &LogConfig,
    store: &Arc<Store>,
    deployment: Deployment,
    progress: &mut (dyn FnMut(RebuildProgress) + Send),
) -> Result<Rebuilt, RebuildError> {
    let names = Names::new(&config.prefix);
    let topic = names.decisions();
    let group: BaseConsumer = config.consumer(&names.status()).create().map_err(failed("connecting"))?;
    topics::idle(&group, config, &names)?;
    // All there are: an earlier map may have had more than the present one.
    let width = topics::width(&group, &topic).map_err(failed("asking for the partitions of decisions"))?;
    let partitions = width.max(deployment.partitions);
    let spans = spans(&group, &topic, partitions).map_err(failed("asking where decisions begin and end"))?;

    // From here on, a fold that finds an interrupted rebuild replays everything.
    let offsets = |of: fn(&Span) -> i64| list(&topic, spans.iter().map(|(&p, span)| (p, of(span))));
    let begin = offsets(|span| span.from).map_err(failed("setting the fold back"))?;
    group.commit(&begin, CommitMode::Sync).map_err(failed("setting the fold back"))?;
    store.drop_rows().await?;

    let (tell, mut told) = mpsc::unbounded_channel();
    let replay = Replay {
        consumer: topics::reader(config).create().map_err(failed("connecting"))?,
        topic: topic.clone(),
        spans: spans.clone(),
        pen: Pen::new(Arc::clone(store), Handle::current()),
        gather: Gather::default(),
        rebuilt: Rebuilt::default(),
        tell,
    };
    // The client blocks; rows are written meanwhile.
    let replay = tokio::task::spawn_blocking(move || replay.run());
    while let Some(now) = told.recv().await {
        progress(now);
    }
    let rebuilt = replay.await.map_err(|_| RebuildError::Interrupted)??;

    // Refused by the brokers if a node was started meanwhile; it has replayed everything then, or will.
    let end = offsets(|span| span.end).map_err(failed("setting the fold to the end"))?;
    group.commit(&end, CommitMode::Sync).map_err(failed("setting the fold to the end"))?;
    Ok(rebuilt)
}

/// What there is to read of one partition.
#[derive(Clone, Copy)]
struct Span {
    from: i64,
    /// The next offset to be read.
    next: i64,
    end: i64,
}

fn spans(consumer: &BaseConsumer, topic: &str, partitions: u16) -> Result<BTreeMap<i32, Span>, KafkaError> {
    (0..i32::from(partitions))
        .map(|partition| {
            // The last stable offset: a transaction that is still open belongs to nobody who runs.
            let (from, end) = consumer.fetch_watermarks(topic, partition, PATIENCE)?;
            Ok((partition, Span { from, next: from, end }))
        })
        .collect()
}

fn list(topic: &str, offsets: impl Iterator<Item = (i32, i64)>) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    }
    Ok(list)
}

/// Reads every partition to its end and writes what it finds.
struct Replay {
    consumer: BaseConsumer,
    topic: String,
    spans: BTreeMap<i32, Span>,
    pen: Pen,
    gather: Gather,
    rebuilt: Rebuilt,
    tell: mpsc::UnboundedSender<RebuildProgress>,
}

impl Replay {
    fn run(mut self) -> Result<Rebuilt, RebuildError> {
        let begin = list(&self.topic, self.spans.iter().map(|(&p, span)| (p, span.from)));
        begin.and_then(|begin| self.consumer.assign(&begin)).map_err(failed("reading decisions"))?;
        let (mut heard, mut told) = (Instant::now(), Instant::now());
        self.tell()?;
        while self.spans.values().any(|span| span.next < span.end) {
            if self.read()? {
                heard = Instant::now();
            }
            self.settle(Duration::ZERO)?;
            if self.gather.is_full() || self.gather.room().is_zero() && !self.pen.is_busy() {
                while self.pen.is_busy() {
                    // However long the store is away, this is where it is waited for.
                    self.settle(POLL)?;
                    self.tell_now_and_then(&mut told)?;
                    heard = Instant::now();
                }
                self.pen.start(&mut self.gather);
            }
            self.tell_now_and_then(&mut told)?;
            if heard.elapsed() > STALLED {
                return Err(failed("reading decisions")(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::OperationTimedOut,
                )));
            }
        }
        while self.pen.is_busy() || !self.gather.is_empty() {
            self.settle(POLL)?;
            if !self.pen.is_busy() && !self.gather.is_empty() {
                self.pen.start(&mut self.gather);
            }
            self.tell_now_and_then(&mut told)?;
        }
        self.tell()?;
        Ok(self.rebuilt)
    }

    /// Reads one record, or learns that there is none; says whether anything was heard.
    fn read(&mut self) -> Result<bool, RebuildError> {
        match self.consumer.poll(POLL) {
            Some(Ok(message)) => {
                let (partition, offset) = (message.partition(), message.offset());
                let Some(span) = self.spans.get_mut(&partition) else { return Ok(true) };
                span.next = offset + 1;
                if offset < span.end
                    && let Err(error) =
                        self.gather.take(partition, (0, offset + 1), message.payload().unwrap_or_default())
                {
                    self.rebuilt.damaged += 1;
                    damaged(&self.topic, partition, offset, error);
                }
                Ok(true)
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                // Behind the last record are the brokers' markers only.
                if let Some(span) = self.spans.get_mut(&partition) {
                    span.next = span.next.max(span.end);
                }
                Ok(true)
            }
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => Err(failed("reading decisions")(error)),
            // The client goes on by itself, or the time runs out.
            Some(Err(_)) | None => Ok(false),
        }
    }

    fn settle(&mut self, wait: Duration) -> Result<(), RebuildError> {
        match self.pen.wait(wait) {
            Written::Waiting => Ok(()),
            Written::Lost => Err(RebuildError::Interrupted),
            Written::Durable(gather) => {
                self.rebuilt.records += gather.records;
                self.rebuilt.rows += gather.len();
                self.pen.reuse(gather);
                Ok(())
            }
        }
    }

    fn tell_now_and_then(&self, told: &mut Instant) -> Result<(), RebuildError> {
        if told.elapsed() < TELL {
            return Ok(());
        }
        *told = Instant::now();
        self.tell()
    }

    /// Also notices that nobody listens any more.
    fn tell(&self) -> Result<(), RebuildError> {
        let (mut done, mut total) = (0, 0);
        for span in self.spans.values() {
            done += (span.next.min(span.end) - span.from).max(0) as u64;
            total += (span.end - span.from).max(0) as u64;
        }
        self.tell.send(RebuildProgress { done, total }).map_err(|_| RebuildError::Interrupted)
    }
}
