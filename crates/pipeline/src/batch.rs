//! What an engine hands to the Runner: inputs of one partition in log order, in one arena.

use std::ops::Range;

use sluice_domain::{Fingerprint, OrderId};
use sluice_schemas::{
    CodecError,
    command::Command,
    order::OrderRef,
    outcome::Outcome,
    word::{Tracked, Word},
};

/// One input of a partition.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// An order that checkout took.
    Placed(OrderRef<'a>),
    /// A carrier's answer.
    Outcome(Outcome<'a>),
    /// A carrier's news of a shipment.
    Tracked(Tracked<'a>),
    /// What a merchant or an operator wants done.
    Command(Command<'a>),
}

/// What the owner found out about a placed order before any stage saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The first under its key.
    New,
    /// The same request again: its first answer is repeated.
    Replayed,
    /// Another body or `placed_at` under the same key.
    Conflict,
}

/// Kind and place of one input.
#[derive(Debug, Clone, Copy)]
pub struct InputMeta {
    /// Placed order or word.
    pub kind: InputKind,
    /// The order it belongs to.
    pub order: OrderId,
    /// Only for placed orders: the request's fingerprint.
    pub fingerprint: Fingerprint,
    start: u32,
    len: u32,
}

/// Which codec an input's bytes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKind {
    /// [`OrderRef`].
    Placed,
    /// [`Word`].
    Word,
}

/// Inputs of one partition, in log order. At most [`Batch::MAX_BYTES`] of records.
#[derive(Debug, Default)]
pub struct Batch {
    /// The time all of this batch is decided at, ms since the epoch.
    pub now_ms: u64,
    bytes: Vec<u8>,
    inputs: Vec<InputMeta>,
    /// One an input, set by the Runner; words are `New`.
    verdicts: Vec<Verdict>,
}

impl Batch {
    /// Bytes of records an engine may put into one batch.
    pub const MAX_BYTES: usize = 8 << 20;

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.inputs.clear();
        self.verdicts.clear();
    }

    /// Appends an order record.
    pub fn push_placed(&mut self, order: OrderId, fingerprint: Fingerprint, record: &[u8]) {
        self.push(InputKind::Placed, order, fingerprint, record);
    }

    /// Appends an encoded [`Word`].
    pub fn push_word(&mut self, order: OrderId, record: &[u8]) {
        self.push(InputKind::Word, order, Fingerprint(0), record);
    }

    fn push(&mut self, kind: InputKind, order: OrderId, fingerprint: Fingerprint, record: &[u8]) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(record);
        self.inputs.push(InputMeta { kind, order, fingerprint, start, len: record.len() as u32 });
        self.verdicts.push(Verdict::New);
    }

    /// How many inputs there are.
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// Bytes of records.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Kind and place of input `i`.
    pub fn meta(&self, i: usize) -> &InputMeta {
        &self.inputs[i]
    }

    /// The encoded bytes of input `i`.
    pub fn record(&self, i: usize) -> &[u8] {
        let m = &self.inputs[i];
        &self.bytes[m.start as usize..(m.start + m.len) as usize]
    }

    /// Input `i`, decoded in place.
    ///
    /// # Errors
    /// [`CodecError`] if its record is malformed.
    pub fn input(&self, i: usize) -> Result<Input<'_>, CodecError> {
        match self.inputs[i].kind {
            InputKind::Placed => OrderRef::decode(self.record(i)).map(Input::Placed),
            InputKind::Word => Word::decode(self.record(i)).map(|word| match word {
                Word::Outcome(outcome) => Input::Outcome(outcome),
                Word::Tracked(tracked) => Input::Tracked(tracked),
                Word::Command(command) => Input::Command(command),
            }),
        }
    }

    /// The verdict on input `i`.
    pub fn verdict(&self, i: usize) -> Verdict {
        self.verdicts[i]
    }

    /// Sets the verdict on input `i`.
    pub fn set_verdict(&mut self, i: usize, verdict: Verdict) {
        self.verdicts[i] = verdict;
    }

    /// The inputs in `range` as a stage sees them.
    pub fn view(&self, range: Range<usize>) -> BatchView<'_> {
        BatchView { batch: self, range }
    }
}

/// A run of a batch's inputs; only those with verdict `New` are shown.
#[derive(Debug, Clone)]
pub struct BatchView<'a> {
    batch: &'a Batch,
    range: Range<usize>,
}

impl<'a> BatchView<'a> {
    /// Each input to decide on, with its number in the batch.
    pub fn inputs(&self) -> impl Iterator<Item = (usize, Result<Input<'a>, CodecError>)> + use<'a> {
        let batch = self.batch;
        self.range.clone().filter(move |&i| batch.verdicts[i] == Verdict::New).map(move |i| (i, batch.input(i)))
    }

    /// The placed orders among them.
    pub fn placed(&self) -> impl Iterator<Item = (usize, Result<OrderRef<'a>, CodecError>)> + use<'a> {
        self.of_kind(InputKind::Placed).map(|(b, i)| (i, OrderRef::decode(b.record(i))))
    }

    /// The words among them.
    pub fn words(&self) -> impl Iterator<Item = (usize, Result<Word<'a>, CodecError>)> + use<'a> {
        self.of_kind(InputKind::Word).map(|(b, i)| (i, Word::decode(b.record(i))))
    }

    /// Numbers and places of the placed orders among them.
    pub fn placed_metas(&self) -> impl Iterator<Item = (usize, &'a InputMeta)> + use<'a> {
        self.of_kind(InputKind::Placed).map(|(b, i)| (i, b.meta(i)))
    }

    fn of_kind(&self, kind: InputKind) -> impl Iterator<Item = (&'a Batch, usize)> + use<'a> {
        let batch = self.batch;
        self.range
            .clone()
            .filter(move |&i| batch.inputs[i].kind == kind && batch.verdicts[i] == Verdict::New)
            .map(move |i| (batch, i))
    }

    /// The time all of the batch is decided at, ms since the epoch.
    pub fn now_ms(&self) -> u64 {
        self.batch.now_ms
    }

    /// Kind and place of input `i`.
    pub fn meta(&self, i: usize) -> &'a InputMeta {
        self.batch.meta(i)
    }

    /// The encoded bytes of input `i`.
    pub fn record(&self, i: usize) -> &'a [u8] {
        self.batch.record(i)
    }

    /// The verdict on input `i`.
    pub fn verdict(&self, i: usize) -> Verdict {
        self.batch.verdict(i)
    }

    /// This run of inputs and all that follow it in the batch.
    pub fn onwards(&self) -> BatchView<'a> {
        BatchView { batch: self.batch, range: self.range.start..self.batch.len() }
    }

    /// Numbers of the inputs covered.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

/// Rows of the orders that a batch's words are about, by input number.
#[derive(Debug, Default)]
pub struct Rows {
    bytes: Vec<u8>,
    by_input: Vec<(u32, Range<u32>)>,
    anew: Vec<(u32, Range<u32>, Replayed)>,
}

/// How an order that is decided anew goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// Where the order record is.
    pub order_position: u64,
    /// Number of the replay among those of the order, from 1.
    pub number: u8,
}

/// An order to be decided anew, as if it had just been placed.
#[derive(Debug, Clone, Copy)]
pub struct Anew<'a> {
    /// Number of the command's input in the batch.
    pub input: usize,
    /// The order record.
    pub record: &'a [u8],
    /// How it goes on.
    pub replayed: Replayed,
}

impl Rows {
    /// Empties the rows and keeps their memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.by_input.clear();
        self.anew.clear();
    }

    /// Adds the row for input `input` (called in ascending order), written by `fill`; an unknown order adds nothing.
    pub fn push_with<E>(&mut self, input: usize, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let start = self.bytes.len() as u32;
        fill(&mut self.bytes)?;
        self.by_input.push((input as u32, start..self.bytes.len() as u32));
        Ok(())
    }

    /// Adds the record of the order that input `input`, a command, has decided anew.
    pub(crate) fn push_anew(&mut self, input: usize, record: &[u8], replayed: Replayed) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(record);
        self.anew.push((input as u32, start..self.bytes.len() as u32, replayed));
    }

    /// The orders that commands in `view` have decided anew: to a stage that decides new orders they are no different.
    pub fn anew(&self, view: &BatchView<'_>) -> impl Iterator<Item = Anew<'_>> + use<'_> {
        let range = view.range();
        let mine = self.anew.iter().filter(move |(input, ..)| range.contains(&(*input as usize)));
        mine.map(|(input, record, replayed)| Anew {
            input: *input as usize,
            record: &self.bytes[record.start as usize..record.end as usize],
            replayed: *replayed,
        })
    }

    /// The row for input `input`; empty if the order is unknown.
    pub fn get(&self, input: usize) -> &[u8] {
        match self.by_input.binary_search_by_key(&(input as u32), |e| e.0) {
            Ok(at) => {
                let r = &self.by_input[at].1;
                &self.bytes[r.start as usize..r.end as usize]
            }
            Err(_) => &[],
        }
    }
}
