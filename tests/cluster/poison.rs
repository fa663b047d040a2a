//! A poison order first in a partition: what nobody can read, written past every check, holds nobody up.

use std::sync::Arc;

use sluice_domain::{Fingerprint, OrderId};
use sluice_engine_kafka_scylla::{
    Deployment, LogConfig, Writer,
    topics::{Names, read_deployment},
};
use sluice_pipeline::{Intake, Receipt, Submission, Submitted};

use super::run::{Needs, Stage};
use crate::support::{
    block_on,
    cluster::{Cluster, PARTITIONS},
    orders::now_ms,
    wait_for,
};

/// An id whose slot is of this partition.
fn id_of(deployment: Deployment, partition: u16, salt: u64) -> OrderId {
    let id = |slot: u128| OrderId(u128::from(now_ms()) << 80 | slot << 64 | u128::from(salt));
    (0..u128::from(deployment.slots)).map(id).find(|&id| deployment.partition(id) == partition).unwrap()
}

/// A record of another version; one that ends after its id; one whose body is noise.
fn poisons(id: OrderId, salt: u64) -> [Vec<u8>; 3] {
    let head = [&[1][..], &id.0.to_be_bytes(), &salt.to_be_bytes()].concat();
    [vec![0xee; 40], head.clone(), [&head[..], &[0xff; 60]].concat()]
}

/// Writes poison into every partition.
fn write(cluster: &Cluster, salt: u64) {
    let mut log = LogConfig::new(&cluster.kafka, cluster.setup.carriers.iter().map(|c| Arc::from(c.id)).collect());
    log.prefix.clone_from(&cluster.name);
    let deployment = read_deployment(&log).unwrap();
    assert_eq!(deployment.partitions, PARTITIONS);
    let writer = Writer::start(&log, deployment).unwrap();
    for partition in 0..PARTITIONS {
        for number in 0..3 {
            let salt = salt * 8 + number;
            let id = id_of(deployment, partition, salt);
            let bytes = poisons(id, salt)[number as usize].clone();
            let orders = vec![Submitted { id, fingerprint: Fingerprint(u128::from(salt)), record: 0..bytes.len() }];
            let receipts = block_on(writer.submit(Submission { bytes, orders }));
            assert!(matches!(receipts[..], [Receipt::Accepted]), "{receipts:?}");
        }
    }
    writer.close();
}

#[test]
fn poison_first_in_every_partition_holds_nobody_up() {
    let Some(mut stage) = Stage::new("poison", Needs::Nodes) else { return };
    write(&stage.cluster, 0);
    stage.start_nodes();
    let mut salt = 0;
    stage.run(|run| {
        salt += 1;
        write(run.cluster, salt);
        // Each is named where an operator looks.
        wait_for(&format!("poison named for {}", Names::new(&run.cluster.name).orders()), || {
            let named = run.cluster.logs("classify").matches("a record of orders is skipped").count();
            (named >= usize::from(PARTITIONS)).then_some(())
        });
    });
}
