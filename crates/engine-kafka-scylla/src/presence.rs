//! A node's place in the deployment: a watch on the deployment record, so that nobody goes by an old map for long, and for
//! checkout nodes, which are in no group otherwise, a group of their own, so that a change of the map sees who is running.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use rdkafka::{Message, Offset, TopicPartitionList, consumer::Consumer, error::KafkaError};

use crate::{
    config::LogConfig,
    context::{Quiet, Reader, leave},
    topics::{Deployment, Names, parse, reader},
};

/// How long the thread waits at a time.
const WAIT: Duration = Duration::from_millis(200);

/// See the module.
pub struct Presence {
    stop: Arc<AtomicBool>,
    changed: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Presence {
    /// Watches for an epoch after that of `deployment`, and joins the group if this node takes orders.
    ///
    /// # Errors
    /// [`KafkaError`] if a client or the thread can't be made.
    pub fn start(config: &LogConfig, deployment: Deployment, takes_orders: bool) -> Result<Self, KafkaError> {
        let names = Names::new(&config.prefix);
        let topic = names.deployment();
        let member = || {
            let member: Reader = config.consumer(&names.checkouts()).create_with_context(Quiet)?;
            member.subscribe(&[&topic])?;
            Ok::<_, KafkaError>(member)
        };
        let member = takes_orders.then(member).transpose()?;
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
                    drop(member.as_ref().map(|member| member.poll(Duration::ZERO)));
                    if let Some(Ok(message)) = watch.poll(WAIT) {
                        // A record that this program can't read is from one that knows more.
                        let newer =
                            parse(message.payload().unwrap_or_default()).map_or(true, |d| d.epoch > deployment.epoch);
                        changed.fetch_or(newer, Relaxed);
                    }
                }
                if let Some(member) = member {
                    leave(member);
                }
            })
        };
        let thread = thread.map_err(|e| KafkaError::ClientCreation(e.to_string()))?;
        Ok(Self { stop, changed, thread: Mutex::new(Some(thread)) })
    }

    /// True once the slots were dealt out anew: this node must be started again.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.changed.load(Relaxed)
    }

    /// Leaves the group and waits for the thread.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
        if self.thread.lock().take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the presence thread panicked");
        }
    }
}
