//! Frames what a batch adds to its orders as one frame of the journal.

use std::sync::Arc;

use sluice_pipeline::{
    BatchView, Effects,
    additions::{Additions, Sink, Subject},
};
use sluice_schemas::wire::put_bytes;

use crate::journal::format::{FRAME_HEAD, FrameWriter, SECTION_HEAD, Target, kind};

/// Where the body of a frame's orders starts, counted from the frame's first byte.
pub(crate) const ORDERS_AT: usize = FRAME_HEAD + SECTION_HEAD;

/// Reused buffers.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    parts: Parts,
    additions: Additions,
}

#[derive(Debug, Default)]
struct Parts {
    frame: FrameWriter,
    sections: Vec<u8>,
    requests: Vec<Vec<u8>>,
}

impl Sink for Parts {
    fn place(&mut self, record: &[u8]) -> usize {
        let offset = self.frame.offset();
        put_bytes(self.frame.body(), record);
        offset
    }

    fn placed(&mut self) {
        self.frame.close();
    }

    fn delta(&mut self, subject: Subject, delta: &[u8]) {
        target(subject).encode(&mut self.sections);
        self.sections.extend_from_slice(delta);
    }

    fn request(&mut self, carrier: u16, subject: Subject, delta: &[u8]) {
        let section = &mut self.requests[usize::from(carrier)];
        target(subject).encode(section);
        section.extend_from_slice(delta);
    }
}

fn target(subject: Subject) -> Target {
    match subject {
        Subject::Known(id) => Target::Id(id),
        Subject::New(offset) => Target::Here(offset),
    }
}

impl Encoder {
    pub(crate) fn new(carriers: usize) -> Self {
        let parts = Parts { requests: vec![Vec::new(); carriers], ..Parts::default() };
        Self { parts, additions: Additions::default() }
    }

    /// The frame for `view`; `None` if nothing is to be written.
    pub(crate) fn encode(
        &mut self,
        partition: u16,
        carriers: &[Arc<str>],
        view: &BatchView<'_>,
        effects: &Effects,
    ) -> Option<&[u8]> {
        let parts = &mut self.parts;
        parts.sections.clear();
        parts.requests.iter_mut().for_each(Vec::clear);
        parts.frame.start(partition);
        parts.frame.open(kind::ORDERS);
        self.additions.encode(carriers, view, effects, parts);
        parts.finish(carriers)
    }

    /// What the last frame adds to rows.
    pub(crate) fn additions(&self) -> &Additions {
        &self.additions
    }
}

impl Parts {
    fn finish(&mut self, carriers: &[Arc<str>]) -> Option<&[u8]> {
        self.frame.open(kind::DELTAS);
        self.frame.body().extend_from_slice(&self.sections);
        self.frame.close();
        for (carrier, entries) in carriers.iter().zip(&self.requests).filter(|(_, e)| !e.is_empty()) {
            self.frame.open(kind::REQUESTS);
            put_bytes(self.frame.body(), carrier.as_bytes());
            self.frame.body().extend_from_slice(entries);
            self.frame.close();
        }
        self.frame.finish()
    }
}
