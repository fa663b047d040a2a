//! A checkout node's place in the deployment: a member of a group of its own, so that a change of the map can see who is
//! running, and a watch on the deployment record, so that no order is written by an old map for long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use rdkafka::{Message, Offset, TopicPartitionList, consumer::Consumer, error::KafkaError};

use crate::{
    config::LogConfig,
    context::{Quiet, Reader},
    topics::{Deployment, Names, parse, reader},
};

/// How long the thread waits at a time.
const WAIT: Duration = Duration::from_millis(200);

/// See the module.
pub struct Presence {
    stop: Arc<AtomicBool>,
    changed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Presence {
    /// Joins the group and watches for an epoch after that of `deployment`.
    ///
    /// # Errors
    /// [`KafkaError`] if a client or the thread can't be made.
    pub fn start(config: &LogConfig, deployment: Deployment) -> Result<Self, KafkaError> {
        let names = Names::new(&config.prefix);
        let topic = names.deployment();
        let member: Reader = config.consumer(&names.checkouts()).create_with_context(Quiet)?;
        member.subscribe(&[&topic])?;
        let watch: Reader = reader(config).create_with_context(Quiet)?;
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(&topic, 0, Offset::Beginning)?;
        watch.assign(&from)?;
        let (stop, changed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (stop, changed) = (Arc::clone(&stop), Arc::clone(&changed));
            std::thread::Builder::new().name("presence".to_owned()).spawn(move || {
                while !stop.load(Relaxed) {
                    // What it reads doesn't matter; polling keeps it a member.
                    drop(member.poll(Duration::ZERO));
                    if let Some(Ok(message)) = watch.poll(WAIT) {
                        // A record that this program can't read is from one that knows more.
                        let newer =
                            parse(message.payload().unwrap_or_default()).map_or(true, |d| d.epoch > deployment.epoch);
                        changed.fetch_or(newer, Relaxed);
                    }
                }
                member.unsubscribe();
            })
        };
        let thread = thread.map_err(|e| KafkaError::ClientCreation(e.to_string()))?;
        Ok(Self { stop, changed, thread: Some(thread) })
    }

    /// True once the slots were dealt out anew: this node must be started again.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.changed.load(Relaxed)
    }

    /// Leaves the group and waits for the thread.
    pub fn stop(mut self) {
        self.stop.store(true, Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the presence thread panicked");
        }
    }
}
