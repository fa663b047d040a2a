//! A fold as a member of its group: which partitions it has, how far each is durable and committed, and what is done
//! when one is taken away.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::KafkaError,
};
use sluice_pipeline::Watchers;

use super::{FoldSummary, Gather, Pen, Written};
use crate::context::Quiet;

/// How long a partition that is taken away waits for the rows under way.
const REVOKE_PATIENCE: Duration = Duration::from_secs(3);
/// Pause before offsets that could not be committed are tried again.
const COMMIT_AGAIN: Duration = Duration::from_millis(250);

/// One partition of this member.
#[derive(Default)]
struct Part {
    /// Number of the assignment, so that a gather of an earlier one says nothing about this one.
    term: u64,
    /// The next offset to be read; `None` until something was.
    next: Option<i64>,
    /// Everything before it is durable in the store; `None` until something was read.
    durable: Option<i64>,
    /// The last offset that a commit was asked for.
    asked: Option<i64>,
    /// Nothing is left to read.
    ended: bool,
}

impl Part {
    /// Everything that was read is durable.
    fn is_settled(&self) -> bool {
        self.durable == self.next
    }

    /// Records that are not durable, given where the committed ones end and the last place where nothing was left to
    /// read: what lies between the last record and `eof` are the brokers' markers.
    fn lag(&self, end: i64, eof: i64) -> i64 {
        match self.durable {
            _ if self.is_settled() && eof >= end => 0,
            Some(from) => (end - from).max(0),
            None => 0,
        }
    }

    /// The group has this offset: what was asked for beyond it is asked for again. Nobody says what became of an asynchronous
    /// commit (rust-rdkafka issue 856), and one that meets a rebalance fails.
    fn committed(&mut self, offset: i64) {
        self.asked = self.asked.filter(|asked| *asked <= offset);
    }

    fn uncommitted(&self) -> Option<i64> {
        self.durable.filter(|durable| self.asked.is_none_or(|asked| asked < *durable))
    }
}

/// What a fold holds. Only its thread uses it: between polls, and in the callbacks that a poll makes.
pub(super) struct State {
    topic: String,
    parts: BTreeMap<i32, Part>,
    term: u64,
    watchers: Arc<Watchers>,
    /// The rows that are being written.
    pub pen: Pen,
    /// The rows that come next.
    pub gather: Gather,
    /// Partitions came since this was last looked at.
    pub moved: bool,
    /// What was done so far.
    pub summary: FoldSummary,
    /// Rows were lost on their way: nothing may be committed that was read after them.
    lost: bool,
    commit_after: Option<Instant>,
}

impl State {
    pub fn new(pen: Pen, watchers: Arc<Watchers>) -> Self {
        Self {
            topic: String::new(),
            parts: BTreeMap::new(),
            term: 0,
            watchers,
            pen,
            gather: Gather::default(),
            moved: false,
            summary: FoldSummary::default(),
            lost: false,
            commit_after: None,
        }
    }

    /// A record of decisions.
    pub fn take(&mut self, partition: i32, offset: i64, frame: &[u8]) {
        // Whoever has the partition now reads it.
        let Some(part) = self.parts.get_mut(&partition) else { return };
        (part.next, part.ended) = (Some(offset + 1), false);
        if part.durable.is_none() {
            // What was committed reaches to here.
            (part.durable, part.asked) = (Some(offset), Some(offset));
        }
        if let Err(error) = self.gather.take(partition, (part.term, offset + 1), frame) {
            damaged(&self.topic, partition, offset, error);
        }
    }

    /// Nothing is left to read in `partition`.
    pub fn ended(&mut self, partition: i32) {
        if let Some(part) = self.parts.get_mut(&partition) {
            part.ended = true;
            if part.is_settled() {
                publish(partition, 0);
            }
        }
    }

    /// Waits for the rows under way for at most `wait`. `Err` if any were lost on their way: then nothing goes on until
    /// [`State::forget`].
    pub fn settle(&mut self, wait: Duration) -> Result<(), ()> {
        match self.pen.wait(wait) {
            Written::Lost => self.lost = true,
            Written::Durable(gather) if !self.lost => {
                self.durable(&gather);
                self.pen.reuse(gather);
            }
            Written::Durable(_) | Written::Waiting => {}
        }
        if self.lost { Err(()) } else { Ok(()) }
    }

    fn durable(&mut self, gather: &Gather) {
        for (&partition, &(term, next)) in &gather.reached {
            if let Some(part) = self.parts.get_mut(&partition).filter(|part| part.term == term) {
                part.durable = Some(next);
                if part.ended && part.is_settled() {
                    publish(partition, 0);
                }
            }
        }
        gather.tell(&self.watchers);
        self.summary.records += gather.records;
        self.summary.rows += gather.len();
        metrics::counter!("sluice_fold_records_total").increment(gather.records);
        metrics::counter!("sluice_fold_rows_total").increment(gather.len());
    }

    /// Starts to write the gather if it is due and nothing else is being written.
    pub fn write_due(&mut self) {
        if self.gather.room().is_zero() {
            self.write_now();
        }
    }

    /// Starts to write the gather if there is one and nothing else is being written.
    pub fn write_now(&mut self) {
        if !self.pen.is_busy() && !self.gather.is_empty() {
            self.pen.start(&mut self.gather);
        }
    }

    /// Offsets to commit now; they count as asked for.
    pub fn ask_commit(&mut self) -> Option<TopicPartitionList> {
        if self.commit_after.is_some_and(|after| Instant::now() < after) {
            return None;
        }
        self.commit_after = None;
        let offsets = self.uncommitted()?;
        for part in self.parts.values_mut() {
            part.asked = part.durable;
        }
        Some(offsets)
    }

    fn uncommitted(&self) -> Option<TopicPartitionList> {
        self.offsets(self.parts.iter().filter_map(|(&p, part)| Some((p, part.uncommitted()?))))
    }

    /// How far each partition is durable, whatever was committed.
    pub fn all_durable(&self) -> Option<TopicPartitionList> {
        self.offsets(self.parts.iter().filter_map(|(&p, part)| Some((p, part.durable?))))
    }

    fn offsets(&self, of: impl Iterator<Item = (i32, i64)>) -> Option<TopicPartitionList> {
        let mut offsets = TopicPartitionList::new();
        for (partition, next) in of {
            // Refused for negative offsets only.
            let _ = offsets.add_partition_offset(&self.topic, partition, Offset::Offset(next));
        }
        (offsets.count() > 0).then_some(offsets)
    }

    /// A commit could not be asked for: it will be asked for again, in a while.
    pub fn not_committed(&mut self, offsets: &TopicPartitionList) {
        for element in offsets.elements() {
            if let Some(part) = self.parts.get_mut(&element.partition()) {
                part.asked = None;
            }
        }
        self.commit_after = Some(Instant::now() + COMMIT_AGAIN);
    }

    /// Gives up rows that are not durable yet.
    pub fn forget_writes(&mut self) {
        self.pen.abandon();
        let mut gather = std::mem::take(&mut self.gather);
        gather.reached.clear();
        self.pen.reuse(gather);
    }

    /// As after joining: without partitions.
    pub fn forget(&mut self) {
        self.forget_writes();
        self.parts.clear();
        self.lost = false;
    }

    fn assign(&mut self, partitions: impl Iterator<Item = i32>) {
        self.term += 1;
        for partition in partitions {
            self.parts.insert(partition, Part { term: self.term, ..Part::default() });
        }
        self.moved = true;
    }

    /// Takes partitions away, and says what there is to commit of them.
    fn revoke(&mut self, partitions: &[i32]) -> Option<TopicPartitionList> {
        if partitions.iter().any(|p| self.parts.contains_key(p)) {
            // If rows were lost, the next turn sees it.
            let _ = self.settle(REVOKE_PATIENCE);
        }
        let gone: Vec<_> = partitions.iter().filter_map(|p| Some((*p, self.parts.remove(p)?))).collect();
        for (partition, _) in &gone {
            // Its next owner says how it stands.
            publish(*partition, 0);
        }
        self.offsets(gone.iter().filter_map(|(p, part)| Some((*p, part.durable?))))
    }
}

fn publish(partition: i32, lag: i64) {
    metrics::gauge!("sluice_fold_lag_records", "partition" => partition.to_string()).set(lag as f64);
}

/// Says that a record could not be read whole.
pub(super) fn damaged(topic: &str, partition: i32, offset: i64, error: sluice_schemas::CodecError) {
    metrics::counter!("sluice_fold_damaged_total").increment(1);
    tracing::error!(topic, partition, offset, %error, "a record of decisions is damaged; what can be read of it is kept");
}

/// Hears what happens to the group.
pub(super) struct Member {
    state: Arc<Mutex<State>>,
}

impl Member {
    pub fn new(state: Arc<Mutex<State>>, topic: String) -> Self {
        state.lock().topic = topic;
        Self { state }
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        Quiet.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let mut state = self.state.lock();
        let Some(topic) = statistics.topics.get(&state.topic) else { return };
        for (partition, part) in &mut state.parts {
            if let Some(seen) = topic.partitions.get(partition) {
                part.committed(seen.committed_offset);
            }
            if let Some(seen) = topic.partitions.get(partition).filter(|seen| seen.ls_offset >= 0) {
                publish(*partition, part.lag(seen.ls_offset, seen.eof_offset));
            }
        }
    }
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                let partitions: Vec<i32> = list.elements().iter().map(|e| e.partition()).collect();
                tracing::info!(?partitions, "partitions of the rows came");
                self.state.lock().assign(partitions.into_iter());
            }
            Rebalance::Revoke(list) => {
                let partitions: Vec<i32> = list.elements().iter().map(|e| e.partition()).collect();
                tracing::info!(?partitions, "partitions of the rows go");
                let offsets = self.state.lock().revoke(&partitions);
                // After a lost assignment somebody else may have committed more.
                if let Some(offsets) = offsets.filter(|_| !consumer.assignment_lost())
                    && let Err(error) = consumer.commit(&offsets, CommitMode::Sync)
                {
                    tracing::warn!(%error, "offsets of partitions that moved are not committed; rows are written again");
                }
                // What is paused when it goes would still be paused when it comes back.
                if let Err(error) = consumer.resume(list) {
                    tracing::debug!(%error, "resuming what goes");
                }
            }
            Rebalance::Error(error) => tracing::warn!(%error, "rebalancing the folds"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_came_to_nothing_is_asked_for_again() {
        let mut part = Part { durable: Some(10), asked: Some(10), ..Part::default() };
        assert_eq!(part.uncommitted(), None);
        part.committed(7);
        assert_eq!(part.uncommitted(), Some(10));
        part.asked = Some(10);
        part.committed(10);
        assert_eq!(part.uncommitted(), None);
    }
}
