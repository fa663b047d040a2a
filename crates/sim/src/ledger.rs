//! What a carrier saw and did, written down where nothing of the system can change it: the outside judge's evidence.

use std::collections::BTreeSet;

use sluice_domain::ShipmentId;
use sluice_pipeline::Manifest;
use sluice_schemas::{
    delta::{Item, Items},
    order::OrderRef,
    wire::Reader,
};

use crate::digest::Digest;

/// A shipment as a manifest described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its id.
    pub shipment: ShipmentId,
    /// What is in it; `None` if the manifest's bytes can't be read.
    pub items: Option<Vec<Item>>,
    /// Stands for the order's body; `None` if the record can't be read.
    pub body: Option<u64>,
}

impl Asked {
    /// The shipments of a manifest, in its order.
    pub fn all(manifest: &Manifest) -> Vec<Self> {
        let batch = &manifest.shipments;
        let asked = |entry: &sluice_pipeline::OutboxEntry| {
            let items = batch.bytes.get(entry.items.clone());
            let items = items.and_then(|bytes| Items::read(&mut Reader::new(bytes)).ok());
            let record = batch.bytes.get(entry.record.clone());
            let record = record.and_then(|bytes| OrderRef::decode(bytes).ok());
            Self {
                shipment: entry.shipment,
                items: items.map(|items| items.iter().collect()),
                body: record.map(|record| Digest::of(record.body())),
            }
        };
        batch.entries.iter().map(asked).collect()
    }
}

/// A call that reached a carrier, whatever came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// When it was made, ms since the epoch.
    pub at_ms: u64,
    /// Manifest id.
    pub manifest: String,
    /// The shipments asked for.
    pub shipments: Vec<ShipmentId>,
}

/// A parcel that a carrier took: in the real world somebody drives to fetch it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// When, ms since the epoch.
    pub at_ms: u64,
    /// The manifest that asked for it.
    pub manifest: String,
    /// What was asked.
    pub asked: Asked,
    /// The number given to it.
    pub tracking_number: String,
}

/// Everything one carrier saw and did. Grows for the length of a run.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Carrier id.
    pub carrier: String,
    /// Calls received, in order of arrival at the carrier's door.
    pub calls: Vec<Call>,
    /// Effects, in order.
    pub effects: Vec<Effect>,
    /// Voids that it granted, by the id under which it was asked: nobody drives to fetch those.
    pub voided: BTreeSet<ShipmentId>,
    /// Shipments about which the carrier said something that wasn't so: what follows from that is not the system's
    /// fault.
    pub lied_about: BTreeSet<ShipmentId>,
}
