//! Where consumer groups stand in their topics. The brokers forget a group that has had no members for a while
//! (`offsets.retention.minutes`, 7 days by default). Owners go on behind their last decision, and folds begin at the oldest one:
//! slowly, and to the same rows. Carriers would get old shipments again. So their groups have an offset in every partition from the start, and one
//! that has none is not begun before an operator says where.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    topic_partition_list::TopicPartitionListElem,
};

use crate::{
    config::LogConfig,
    context::{Quiet, Reader},
    topics::{Deployment, DeploymentError, Names, PATIENCE, failed, reader},
};

/// Pause before the brokers are asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// Where carriers' groups go on whose offsets the brokers have forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    /// At the oldest shipment: all are sent again, under the ids that they had.
    Earliest,
    /// Behind the last: what was not sent by then never is.
    Latest,
}

/// A carrier's group that the brokers have forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgottenGroup {
    /// The carrier's id.
    pub carrier: String,
    /// Its group.
    pub group: String,
    /// Its topic.
    pub topic: String,
    /// Partitions without an offset.
    pub partitions: u16,
    /// Records in them, the brokers' markers included.
    pub records: u64,
}

/// The groups, and what an operator can do.
pub(crate) fn named(groups: &[ForgottenGroup]) -> String {
    let mut text = String::from(
        "brokers forget a group that has had no members for offsets.retention.minutes; say where it goes on, \
         with the carrier's nodes stopped:",
    );
    for ForgottenGroup { carrier, group, topic, partitions, records } in groups {
        let _ = write!(
            text,
            "\n  {group} has no offset in {partitions} partitions of {topic}, where {records} records are: \
             `sluice migrate --forgotten {carrier}=earliest` has all of them sent again, under the ids that they had; \
             `--forgotten {carrier}=latest` none of them"
        );
    }
    text
}

/// Gives the carriers' groups an offset in every partition where they have none: the beginning where nothing was written
/// yet, elsewhere what `forgotten` says of the carrier. Names the groups of which the latter was true.
///
/// # Errors
/// [`DeploymentError::Forgotten`] names the groups that have no offset, in a topic with records, and of which `forgotten` says
/// nothing; those of the others are set.
pub(crate) fn begin(
    config: &LogConfig,
    partitions: u16,
    forgotten: &BTreeMap<String, Forgotten>,
) -> Result<Vec<String>, DeploymentError> {
    let names = Names::new(&config.prefix);
    let (mut moved, mut unsaid) = (Vec::new(), Vec::new());
    for carrier in &config.carriers {
        let (group, topic) = (names.notifiers(carrier), names.shipments(carrier));
        let what = || format!("setting the offsets of {group}");
        let client: Reader = config.consumer(&group).create_with_context(Quiet).map_err(failed(what()))?;
        let (mut offsets, mut unknown, mut records) = (TopicPartitionList::new(), 0, 0);
        for partition in without_offset(&client, &topic, partitions)? {
            let ends = patiently(|| client.fetch_watermarks(&topic, partition, PATIENCE));
            let (low, high) = ends.map_err(failed(what()))?;
            let at = match forgotten.get(&**carrier) {
                _ if low == high => high,
                Some(Forgotten::Earliest) => low,
                Some(Forgotten::Latest) => high,
                None => {
                    (unknown, records) = (unknown + 1, records + high - low);
                    continue;
                }
            };
            if low < high && moved.last() != Some(&group) {
                moved.push(group.clone());
            }
            offsets.add_partition_offset(&topic, partition, Offset::Offset(at)).map_err(failed(what()))?;
        }
        if offsets.count() > 0 {
            patiently(|| client.commit(&offsets, CommitMode::Sync)).map_err(|error| refused(error, &group))?;
        }
        if unknown > 0 {
            let (carrier, records) = (carrier.to_string(), records.unsigned_abs());
            unsaid.push(ForgottenGroup { carrier, group, topic, partitions: unknown, records });
        }
    }
    if unsaid.is_empty() { Ok(moved) } else { Err(DeploymentError::Forgotten(unsaid)) }
}

/// The brokers take offsets of a group that has members from those alone.
fn refused(error: KafkaError, group: &str) -> DeploymentError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::UnknownMemberId) => {
            DeploymentError::Busy(format!("stop the carrier nodes first; {group} has members"))
        }
        _ => failed(format!("setting the offsets of {group}"))(error),
    }
}

/// Checks that every carrier's group has an offset in every partition.
///
/// # Errors
/// [`DeploymentError::Unbegun`] names a carrier whose group has none somewhere.
pub fn begun(config: &LogConfig, deployment: Deployment) -> Result<(), DeploymentError> {
    let names = Names::new(&config.prefix);
    for carrier in &config.carriers {
        let (group, topic) = (names.notifiers(carrier), names.shipments(carrier));
        let what = || format!("asking for the offsets of {group}");
        let client: Reader = config.consumer(&group).create_with_context(Quiet).map_err(failed(what()))?;
        if !without_offset(&client, &topic, deployment.partitions)?.is_empty() {
            return Err(DeploymentError::Unbegun { carrier: carrier.to_string(), group });
        }
    }
    Ok(())
}

/// Asks again while the brokers say that they have just made a topic, or don't know yet who leads a partition or a group.
fn patiently<T>(ask: impl Fn() -> KafkaResult<T>) -> KafkaResult<T> {
    use RDKafkaErrorCode as Code;
    let until = Instant::now() + PATIENCE;
    loop {
        let error = match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let passes = error.rdkafka_error_code().is_some_and(|code| {
            matches!(
                code,
                Code::UnknownTopicOrPartition
                    | Code::UnknownPartition
                    | Code::LeaderNotAvailable
                    | Code::NotLeaderForPartition
                    | Code::CoordinatorNotAvailable
                    | Code::CoordinatorLoadInProgress
                    | Code::NotCoordinator
            )
        });
        if !passes || Instant::now() >= until {
            return Err(error);
        }
        std::thread::sleep(AGAIN);
    }
}

/// The partitions in which the group of `client` has no offset.
fn without_offset(client: &Reader, topic: &str, partitions: u16) -> Result<Vec<i32>, DeploymentError> {
    let what = || format!("asking for a group's offsets in {topic}");
    let mut list = TopicPartitionList::new();
    for partition in 0..i32::from(partitions) {
        list.add_partition(topic, partition);
    }
    let mut without = Vec::new();
    let committed = patiently(|| {
        let committed = client.committed_offsets(list.clone(), PATIENCE)?;
        committed.elements().iter().try_for_each(TopicPartitionListElem::error)?;
        Ok(committed)
    });
    for element in committed.map_err(failed(what()))?.elements() {
        if !matches!(element.offset(), Offset::Offset(_)) {
            without.push(element.partition());
        }
    }
    Ok(without)
}

/// Records that `group` has not seen yet, without the brokers' own markers at the end.
///
/// # Errors
/// [`DeploymentError::Kafka`].
pub fn lag(config: &LogConfig, topic: &str, group: &str, partitions: u16) -> Result<u64, DeploymentError> {
    let what = || format!("asking how far {group} is in {topic}");
    let of_group: Reader = config.consumer(group).create_with_context(Quiet).map_err(failed(what()))?;
    let records: Reader = reader(config).create_with_context(Quiet).map_err(failed(what()))?;
    let mut list = TopicPartitionList::new();
    for partition in 0..i32::from(partitions) {
        list.add_partition(topic, partition);
    }
    let committed = of_group.committed_offsets(list, PATIENCE).map_err(failed(what()))?;
    let mut behind = 0;
    for element in committed.elements() {
        let (low, high) = of_group.fetch_watermarks(topic, element.partition(), PATIENCE).map_err(failed(what()))?;
        let at = match element.offset() {
            Offset::Offset(at) => at.max(low),
            _ => low,
        };
        if at < high {
            behind += records_between(&records, topic, element.partition(), at, high).map_err(failed(what()))?;
        }
    }
    Ok(behind)
}

/// Counts the records that `consumer` gets from `from` to the end; few are left when this is asked.
fn records_between(consumer: &Reader, topic: &str, partition: i32, from: i64, high: i64) -> Result<u64, KafkaError> {
    /// Enough to know that it isn't idle.
    const ENOUGH: u64 = 1_000;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(from))?;
    consumer.assign(&list)?;
    let mut count = 0;
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) if message.partition() != partition => {}
            Some(Ok(message)) if message.offset() < high && count + 1 < ENOUGH => count += 1,
            Some(Ok(message)) => return Ok(count + u64::from(message.offset() < high)),
            Some(Err(KafkaError::PartitionEOF(p))) if p == partition => return Ok(count),
            // What is left of the partition before.
            Some(Err(KafkaError::PartitionEOF(_))) | None => {}
            Some(Err(error)) => return Err(error),
        }
    }
    // Not to be taken for a group that has seen everything.
    Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut))
}

#[cfg(test)]
mod tests {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

    use super::*;
    use crate::{testing, topics};

    const CARRIER: &str = "north";

    #[test]
    fn a_forgotten_group_begins_where_an_operator_says() {
        let Some(brokers) = testing::shared() else { return };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = testing::log(&brokers, "forgotten", 2, &[CARRIER]);
        let names = Names::new(&config.prefix);
        let (group, topic) = (names.notifiers(CARRIER), names.shipments(CARRIER));
        let migrate = |forgotten: Option<Forgotten>| {
            let forgotten = forgotten.map(|at| (CARRIER.to_owned(), at)).into_iter().collect();
            runtime.block_on(topics::migrate(&config, 1, &forgotten))
        };
        let forget = || runtime.block_on(testing::forget(&config, &group));
        let client: Reader = config.consumer(&group).create_with_context(Quiet).unwrap();
        let offsets = || {
            let mut list = TopicPartitionList::new();
            list.add_partition_range(&topic, 0, 1);
            let committed = client.committed_offsets(list, PATIENCE).unwrap();
            committed.elements().iter().map(|e| e.offset()).collect::<Vec<_>>()
        };
        let [low, high] = [0, 3].map(Offset::Offset);

        let deployment = migrate(None).unwrap().deployment;
        begun(&config, deployment).unwrap();
        // A carrier that is new in the configuration.
        let more = LogConfig { carriers: vec![CARRIER.into(), "south".into()], ..config.clone() };
        topics::complete(&config, deployment).unwrap();
        let absent = topics::complete(&more, deployment).unwrap_err();
        assert!(matches!(&absent, DeploymentError::Absent(topic) if *topic == names.shipments("south")), "{absent}");
        runtime.block_on(topics::migrate(&more, 1, &BTreeMap::new())).unwrap();
        topics::complete(&more, deployment).unwrap();
        begun(&more, deployment).unwrap();
        // Nothing was written: there is nothing to decide.
        forget();
        let unbegun = begun(&config, deployment).unwrap_err().to_string();
        assert!(unbegun.contains(CARRIER) && unbegun.contains("sluice migrate"), "{unbegun}");
        assert!(migrate(None).unwrap().moved.is_empty());
        assert_eq!(offsets(), [low, low]);

        let producer: BaseProducer = config.producer().create().unwrap();
        for _ in 0..3 {
            producer.send(BaseRecord::<[u8], [u8]>::to(&topic).partition(1).payload(b"a frame")).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
        for (forgotten, at) in [(Forgotten::Latest, high), (Forgotten::Earliest, low)] {
            forget();
            let error = migrate(None).unwrap_err();
            assert!(
                matches!(&error, DeploymentError::Forgotten(of)
                    if matches!(&of[..], [ForgottenGroup { partitions: 1, records: 3, topic: of, .. }] if *of == topic)),
                "{error}"
            );
            assert!(error.to_string().contains("--forgotten north=earliest"), "{error}");
            assert!(matches!(begun(&config, deployment), Err(DeploymentError::Unbegun { .. })));
            assert_eq!(migrate(Some(forgotten)).unwrap().moved, std::slice::from_ref(&group));
            assert_eq!(offsets(), [low, at]);
            // A group that stands somewhere stays there.
            assert!(migrate(Some(Forgotten::Earliest)).unwrap().moved.is_empty());
            assert_eq!(offsets(), [low, at]);
            begun(&config, deployment).unwrap();
        }
    }
}
