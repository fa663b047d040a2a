//! Names of topics and groups, and how they are made. The deployment itself (slots, partitions, epoch) is a record of a
//! compacted topic of its own, so that every node goes by the same map or refuses to start.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde::{Deserialize, Serialize};
use sluice_domain::{OrderId, SlotCount};

use crate::{
    access::meet,
    config::LogConfig,
    context::{Quiet, Reader},
    groups::{self, Forgotten, ForgottenGroup},
};

/// Longest time for one request to the brokers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Names of a deployment's topics and consumer groups.
#[derive(Debug, Clone)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// The names under `prefix`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Orders, and words about them, on their way to their owner.
    #[must_use]
    pub fn orders(&self) -> String {
        format!("{}.orders", self.prefix)
    }

    /// What the owners decided; rows are its fold.
    #[must_use]
    pub fn decisions(&self) -> String {
        format!("{}.decisions", self.prefix)
    }

    /// Public events, one a record.
    #[must_use]
    pub fn events(&self) -> String {
        format!("{}.order-events", self.prefix)
    }

    /// Orders that no stage could decide, with their bytes.
    #[must_use]
    pub fn dead_letters(&self) -> String {
        format!("{}.dead-letters", self.prefix)
    }

    /// One carrier's outbox.
    #[must_use]
    pub fn shipments(&self, carrier: &str) -> String {
        format!("{}.shipments.{carrier}", self.prefix)
    }

    /// The deployment record.
    #[must_use]
    pub fn deployment(&self) -> String {
        format!("{}.deployment", self.prefix)
    }

    /// Group of the owners.
    #[must_use]
    pub fn owners(&self) -> String {
        format!("{}.classify", self.prefix)
    }

    /// Group of the folds.
    #[must_use]
    pub fn status(&self) -> String {
        format!("{}.status", self.prefix)
    }

    /// Group of a carrier's notifiers.
    #[must_use]
    pub fn notifiers(&self, carrier: &str) -> String {
        format!("{}.carrier.{carrier}", self.prefix)
    }

    /// Group that every checkout node is a member of, so that it can be seen who is running.
    #[must_use]
    pub fn checkouts(&self) -> String {
        format!("{}.checkout", self.prefix)
    }

    /// Group of the nodes of which one does `what`.
    #[must_use]
    pub fn turn(&self, what: &str) -> String {
        format!("{}.{what}", self.prefix)
    }
}

/// Which partition decides for which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Version of this record.
    pub version: u16,
    /// Rises with every change of the map.
    pub epoch: u16,
    /// Partitions of orders, decisions, events and shipments.
    pub partitions: u16,
    /// Slots; fixed for good.
    pub slots: u16,
    /// When this epoch began, ms since the Unix epoch.
    pub since_ms: u64,
}

impl Deployment {
    /// Version of the record that this code writes, and the highest that it reads.
    pub const VERSION: u16 = 1;

    /// The partition that decides for `order`: each has a range of slots.
    #[must_use]
    pub fn partition(&self, order: OrderId) -> u16 {
        (u32::from(order.slot()) * u32::from(self.partitions) / u32::from(self.slots)) as u16
    }

    /// The slots as a type.
    ///
    /// # Errors
    /// [`DeploymentError::Malformed`] for a number that no deployment has.
    pub fn slot_count(&self) -> Result<SlotCount, DeploymentError> {
        SlotCount::new(self.slots).ok_or_else(|| DeploymentError::Malformed(format!("{} slots", self.slots)))
    }
}

/// The deployment can't be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeploymentError {
    /// The brokers did not do what was asked.
    #[error("{what}: {source}")]
    Kafka {
        /// What was asked.
        what: String,
        /// What they said.
        source: KafkaError,
    },
    /// The brokers refuse this client.
    #[error("{reason}")]
    Access {
        /// Keys of the configuration that it may be due to.
        settings: &'static str,
        /// What the client says.
        reason: String,
    },
    /// There is no deployment under this prefix.
    #[error("there is no deployment {0:?} at these brokers; `sluice migrate --config FILE` creates it")]
    Missing(String),
    /// It was written by a newer version.
    #[error("the deployment has version {0}, this program knows {known}: use the newer program", known = Deployment::VERSION)]
    Newer(u16),
    /// It isn't what this program writes.
    #[error("the deployment record can't be read: {0}")]
    Malformed(String),
    /// The brokers have forgotten where the notifiers of some carriers are.
    #[error("{}", groups::named(.0))]
    Forgotten(Vec<ForgottenGroup>),
    /// A carrier's group has no offset.
    #[error("carrier {carrier:?}: its group {group} has no offsets yet; `sluice migrate --config FILE` sets them")]
    Unbegun {
        /// The carrier's id.
        carrier: String,
        /// The group of its notifiers.
        group: String,
    },
    /// A topic of the deployment isn't there.
    #[error("there is no topic {0}; `sluice migrate --config FILE` makes what a new carrier needs")]
    Absent(String),
    /// A topic isn't what the deployment needs.
    #[error("topic {topic} has {has} partitions, expected {expected} or more: it was made by something else")]
    Narrow {
        /// Its name.
        topic: String,
        /// Its partitions.
        has: u16,
        /// Those of the deployment.
        expected: u16,
    },
    /// Nodes run, or something is left to do.
    #[error("not now: {0}")]
    Busy(String),
}

pub(crate) fn failed(what: impl Into<String>) -> impl FnOnce(KafkaError) -> DeploymentError {
    let what = what.into();
    |source| DeploymentError::Kafka { what, source }
}

/// What [`migrate`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MigratedTopics {
    /// Topics that were created.
    pub created: Vec<String>,
    /// Topics that got more partitions.
    pub widened: Vec<String>,
    /// Groups of carriers that the brokers had forgotten, and that begin where it was said.
    pub moved: Vec<String>,
    /// The deployment as it is now.
    pub deployment: Deployment,
}

/// Creates what is missing. Safe to repeat, and to run on two nodes at once. Carriers' groups that the brokers have forgotten
/// go on where `forgotten` says, by carrier.
///
/// # Errors
/// [`DeploymentError`]; what was created until then stays, and the next run goes on from there.
pub async fn migrate(
    config: &LogConfig,
    now_ms: u64,
    forgotten: &BTreeMap<String, Forgotten>,
) -> Result<MigratedTopics, DeploymentError> {
    let names = Names::new(&config.prefix);
    meet(&reader(config), &names.deployment())?;
    let admin: AdminClient<DefaultClientContext> = config.client().create().map_err(failed("connecting"))?;
    let mut created = create(&admin, config, &[(names.deployment(), 1, Kind::Compacted)]).await?;
    let deployment = match read_deployment(config) {
        Ok(deployment) => deployment,
        Err(DeploymentError::Missing(_)) => {
            let new = Deployment {
                version: Deployment::VERSION,
                epoch: 1,
                partitions: config.partitions,
                slots: config.slots.get(),
                since_ms: now_ms,
            };
            write_deployment(config, &new)?;
            // The first record counts, whoever wrote it.
            read_deployment(config)?
        }
        Err(error) => return Err(error),
    };
    let topics = topics(config, &names, deployment.partitions);
    created.extend(create(&admin, config, &topics).await?);
    let client: Reader = reader(config).create_with_context(Quiet).map_err(failed("connecting"))?;
    for (topic, expected, _) in topics.into_iter().filter(|topic| !created.contains(&topic.0)) {
        let has = width(&client, &topic).map_err(failed(format!("looking at {topic}")))?;
        // One that somebody else has just made isn't known to every broker.
        if (1..expected).contains(&has) {
            return Err(DeploymentError::Narrow { topic, has, expected });
        }
    }
    let moved = groups::begin(config, deployment.partitions, forgotten)?;
    Ok(MigratedTopics { created, widened: Vec::new(), moved, deployment })
}

/// Checks that every topic of the deployment is there.
///
/// # Errors
/// [`DeploymentError::Absent`] names one that isn't.
pub fn complete(config: &LogConfig, deployment: Deployment) -> Result<(), DeploymentError> {
    let client: Reader = reader(config).create_with_context(Quiet).map_err(failed("connecting"))?;
    for (topic, _, _) in topics(config, &Names::new(&config.prefix), deployment.partitions) {
        if width(&client, &topic).map_err(failed(format!("looking at {topic}")))? == 0 {
            return Err(DeploymentError::Absent(topic));
        }
    }
    Ok(())
}

/// How long a topic keeps its records.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The last one by key.
    Compacted,
    /// For good: rows are rebuilt from it, or nothing else has what still waits in it, however long an outage is.
    Kept,
    /// As `[retention]` says; what it doesn't say, as the brokers' default has it.
    Passing,
}

fn topics(config: &LogConfig, names: &Names, partitions: u16) -> Vec<(String, u16, Kind)> {
    let shipments = config.carriers.iter().map(|c| (names.shipments(c), partitions, Kind::Kept));
    let fixed = [
        (names.orders(), partitions, Kind::Kept),
        (names.decisions(), partitions, Kind::Kept),
        (names.events(), partitions, Kind::Passing),
        (names.dead_letters(), partitions, Kind::Kept),
    ];
    fixed.into_iter().chain(shipments).collect()
}

/// What each partition of the public events keeps. Kafka counts by partition.
fn partition_bytes(config: &LogConfig, partitions: u16) -> Option<String> {
    config.events_bytes.map(|bytes| (bytes / u64::from(partitions.max(1))).to_string())
}

async fn create(
    admin: &AdminClient<DefaultClientContext>,
    config: &LogConfig,
    topics: &[(String, u16, Kind)],
) -> Result<Vec<String>, DeploymentError> {
    let min_isr = if config.replication >= 3 { "2" } else { "1" };
    let kept_ms = config.events_kept.map(|kept| kept.as_millis().to_string());
    let bytes: Vec<_> = topics.iter().map(|(_, partitions, _)| partition_bytes(config, *partitions)).collect();
    let new = topics.iter().zip(&bytes).map(|((name, partitions, kind), kept_bytes)| {
        let replication = TopicReplication::Fixed(i32::from(config.replication));
        let topic = NewTopic::new(name, i32::from(*partitions), replication)
            .set("min.insync.replicas", min_isr)
            .set("unclean.leader.election.enable", "false")
            .set("max.message.bytes", "8388608");
        match kind {
            Kind::Compacted => topic.set("cleanup.policy", "compact"),
            Kind::Kept => topic.set("retention.ms", "-1").set("retention.bytes", "-1"),
            Kind::Passing => {
                let topic = kept_ms.iter().fold(topic, |topic, ms| topic.set("retention.ms", ms));
                kept_bytes.iter().fold(topic, |topic, bytes| topic.set("retention.bytes", bytes))
            }
        }
    });
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    let new: Vec<_> = new.collect();
    let results = admin.create_topics(&new, &options).await.map_err(failed("creating topics"))?;
    let mut created = Vec::new();
    for result in results {
        match result {
            Ok(name) => created.push(name),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => {
                let error = DeploymentError::Kafka {
                    what: format!("creating topic {name} with {} replicas", config.replication),
                    source: KafkaError::AdminOp(code),
                };
                return Err(error);
            }
        }
    }
    Ok(created)
}

/// A consumer of no group, for reading from given places.
pub(crate) fn reader(config: &LogConfig) -> ClientConfig {
    let mut client = config.consumer(&format!("{}.reader", config.prefix));
    client.set("enable.partition.eof", "true");
    client
}

/// Reads the deployment: the first record of each epoch counts, the highest epoch is in force.
///
/// # Errors
/// [`DeploymentError::Missing`] if there is none; [`DeploymentError::Newer`] if this program is too old.
pub fn read_deployment(config: &LogConfig) -> Result<Deployment, DeploymentError> {
    let topic = Names::new(&config.prefix).deployment();
    let what = || format!("reading topic {topic}");
    let (consumer, exists) = meet(&reader(config), &topic)?;
    if !exists {
        return Err(DeploymentError::Missing(config.prefix.clone()));
    }
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(&topic, 0, Offset::Beginning).map_err(failed(what()))?;
    consumer.assign(&from).map_err(failed(what()))?;
    let mut found: Option<Deployment> = None;
    let until = std::time::Instant::now() + PATIENCE;
    while std::time::Instant::now() < until {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                let next = parse(message.payload().unwrap_or_default())?;
                if found.is_none_or(|old| next.epoch > old.epoch) {
                    found = Some(next);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => {
                return found.ok_or_else(|| DeploymentError::Missing(config.prefix.clone()));
            }
            Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition) => {
                return Err(DeploymentError::Missing(config.prefix.clone()));
            }
            // The others pass, or the time runs out.
            Some(Err(_)) | None => {}
        }
    }
    Err(failed(what())(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)))
}

pub(crate) fn parse(payload: &[u8]) -> Result<Deployment, DeploymentError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u16,
    }
    // A newer record may have other fields.
    let malformed = |e: serde_json::Error| DeploymentError::Malformed(e.to_string());
    let Versioned { version } = serde_json::from_slice(payload).map_err(malformed)?;
    if version > Deployment::VERSION {
        return Err(DeploymentError::Newer(version));
    }
    let deployment: Deployment = serde_json::from_slice(payload).map_err(malformed)?;
    deployment.slot_count()?;
    if deployment.partitions == 0 || deployment.partitions > 1_024 {
        return Err(DeploymentError::Malformed(format!("{} partitions", deployment.partitions)));
    }
    Ok(deployment)
}

fn write_deployment(config: &LogConfig, deployment: &Deployment) -> Result<(), DeploymentError> {
    let topic = Names::new(&config.prefix).deployment();
    let what = || format!("writing topic {topic}");
    let producer: BaseProducer = config.producer().create().map_err(failed(what()))?;
    let payload = serde_json::to_vec(deployment).map_err(|e| DeploymentError::Malformed(e.to_string()))?;
    // One key an epoch, so that compaction keeps the first of each only until a later one; readers take the highest.
    let key = deployment.epoch.to_be_bytes();
    let record = BaseRecord::<[u8], [u8]>::to(&topic).partition(0).key(&key).payload(&payload);
    producer.send(record).map_err(|(e, _)| failed(what())(e))?;
    producer.flush(PATIENCE).map_err(failed(what()))
}

/// Changes the partition count the safe way: nobody runs, nothing lags, then a new epoch.
///
/// # Errors
/// [`DeploymentError::Busy`] says who still runs, or what lags; nothing was changed then.
pub async fn repartition(config: &LogConfig, partitions: u16, now_ms: u64) -> Result<MigratedTopics, DeploymentError> {
    let names = Names::new(&config.prefix);
    let old = read_deployment(config)?;
    let consumer: Reader = config.consumer(&names.owners()).create_with_context(Quiet).map_err(failed("connecting"))?;
    idle(&consumer, config, &names)?;
    caught_up(config, &names)?;
    let admin: AdminClient<DefaultClientContext> = config.client().create().map_err(failed("connecting"))?;
    let mut widened = Vec::new();
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    let mut topics = topics(config, &names, partitions);
    // Orders last: if this ends on the way, no owner is given a partition that the other topics don't have.
    topics.rotate_left(1);
    for (name, _, _) in topics {
        let has = width(&consumer, &name).map_err(failed(format!("looking at {name}")))?;
        if has < partitions {
            let more = NewPartitions::new(&name, usize::from(partitions));
            let results =
                admin.create_partitions([&more], &options).await.map_err(failed(format!("widening {name}")))?;
            for result in results {
                let name = result.map_err(|(n, code)| failed(format!("widening {n}"))(KafkaError::AdminOp(code)))?;
                tracing::info!(topic = name, from = has, to = partitions, "topic widened");
                widened.push(name);
            }
        }
    }
    groups::begin(config, partitions, &BTreeMap::new())?;
    let new = Deployment { epoch: old.epoch + 1, partitions, since_ms: now_ms, ..old };
    write_deployment(config, &new)?;
    let deployment = read_deployment(config)?;
    if deployment != new {
        let Deployment { epoch, partitions, .. } = deployment;
        let text = format!("somebody else has just begun epoch {epoch} with {partitions} partitions");
        return Err(DeploymentError::Busy(text));
    }
    Ok(MigratedTopics { created: Vec::new(), widened, moved: Vec::new(), deployment })
}

/// How many partitions a topic has: at least those of the deployment.
pub(crate) fn width<C: ConsumerContext>(client: &BaseConsumer<C>, topic: &str) -> Result<u16, KafkaError> {
    let metadata = client.fetch_metadata(Some(topic), PATIENCE)?;
    Ok(metadata.topics().first().map_or(0, |t| t.partitions().len()) as u16)
}

/// Refuses while any node of the deployment runs.
///
/// # Errors
/// [`DeploymentError::Busy`] naming the groups with members.
pub(crate) fn idle<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    config: &LogConfig,
    names: &Names,
) -> Result<(), DeploymentError> {
    let mut groups = vec![names.owners(), names.status(), names.checkouts()];
    groups.extend(config.carriers.iter().map(|c| names.notifiers(c)));
    let list = consumer.fetch_group_list(None, PATIENCE).map_err(failed("listing groups"))?;
    let busy = list.groups().iter().filter(|g| groups.iter().any(|n| n == g.name()) && !g.members().is_empty());
    let busy: Vec<_> = busy.map(|g| format!("{} ({} members)", g.name(), g.members().len())).collect();
    if busy.is_empty() {
        return Ok(());
    }
    Err(DeploymentError::Busy(format!("stop all nodes first; still running: {}", busy.join(", "))))
}

/// Refuses while there is anything that an owner, a notifier or a fold has not seen.
fn caught_up(config: &LogConfig, names: &Names) -> Result<(), DeploymentError> {
    resolved(config, &names.orders())?;
    let mut pairs = vec![(names.orders(), names.owners()), (names.decisions(), names.status())];
    pairs.extend(config.carriers.iter().map(|c| (names.shipments(c), names.notifiers(c))));
    for (topic, group) in pairs {
        let client: Reader = reader(config).create_with_context(Quiet).map_err(failed("connecting"))?;
        let partitions = width(&client, &topic).map_err(failed(format!("looking at {topic}")))?;
        let behind = groups::lag(config, &topic, &group, partitions)?;
        if behind > 0 {
            let text = format!("{behind} records of {topic} wait for {group}; let the nodes catch up first");
            return Err(DeploymentError::Busy(text));
        }
    }
    Ok(())
}

/// Refuses while a transaction that somebody has left open hides what was written behind it.
fn resolved(config: &LogConfig, topic: &str) -> Result<(), DeploymentError> {
    let what = || format!("looking for the end of {topic}");
    let mut all = reader(config);
    let all: Reader =
        all.set("isolation.level", "read_uncommitted").create_with_context(Quiet).map_err(failed(what()))?;
    let stable: Reader = reader(config).create_with_context(Quiet).map_err(failed(what()))?;
    for partition in 0..i32::from(width(&all, topic).map_err(failed(what()))?) {
        let end = |of: &Reader| of.fetch_watermarks(topic, partition, PATIENCE).map_err(failed(what()));
        if end(&stable)?.1 < end(&all)?.1 {
            let text = format!("a transaction in {topic} is open; it ends by itself once its worker's session is over");
            return Err(DeploymentError::Busy(text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    /// As the first version wrote it.
    const RECORD: &str = r#"{"version":1,"epoch":3,"partitions":8,"slots":4096,"since_ms":1767225600000}"#;

    #[test]
    fn the_deployment_record_is_frozen() {
        let deployment = parse(RECORD.as_bytes()).unwrap();
        let expected = Deployment { version: 1, epoch: 3, partitions: 8, slots: 4_096, since_ms: 1_767_225_600_000 };
        assert_eq!(deployment, expected);
        assert_eq!(serde_json::to_string(&deployment).unwrap(), RECORD);
    }

    #[test]
    fn a_record_that_cannot_be_used_is_refused() {
        // Whatever else a newer one has.
        let newer = parse(br#"{"version":2,"maps":[]}"#).unwrap_err();
        assert!(matches!(newer, DeploymentError::Newer(2)), "{newer}");
        assert!(newer.to_string().contains("this program knows 1"), "{newer}");
        let without = |partitions: &str| RECORD.replace("\"partitions\":8", &format!("\"partitions\":{partitions}"));
        for wrong in ["", "{}", "[]", &without("0"), &without("1025"), &without("-1"), &RECORD.replace("4096", "7")] {
            let error = parse(wrong.as_bytes()).unwrap_err();
            assert!(matches!(error, DeploymentError::Malformed(_)), "{wrong}: {error}");
        }
    }

    #[test]
    fn bytes_of_events_are_shared_by_their_partitions() {
        let mut config = LogConfig::new("", Vec::new());
        assert_eq!(partition_bytes(&config, 8), None);
        config.events_bytes = Some(1 << 30);
        assert_eq!(partition_bytes(&config, 8).as_deref(), Some("134217728"));
    }

    #[test]
    fn a_topic_of_somebody_else_is_refused() {
        let Some(brokers) = testing::shared() else { return };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = testing::log(&brokers, "narrow", 3, &["north"]);
        let admin: AdminClient<DefaultClientContext> = config.client().create().unwrap();
        let topic = Names::new(&config.prefix).events();
        runtime.block_on(create(&admin, &config, &[(topic.clone(), 2, Kind::Passing)])).unwrap();
        let error = runtime.block_on(migrate(&config, 1, &BTreeMap::new())).unwrap_err();
        assert!(
            matches!(&error, DeploymentError::Narrow { topic: of, has: 2, expected: 3 } if *of == topic),
            "{error}"
        );
    }
}
