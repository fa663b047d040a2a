//! The outside judge: reads a ledger and says what really happened to every parcel, whatever the sender believes.

use std::collections::HashMap;
use std::path::Path;

use sluice_schemas::delta::VOID;
use ulid::Ulid;

use super::ledger::{Effect, LedgerError, for_each_line};
use super::tracking::tracking_number;

/// Totals of a ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerTotals {
    /// Lines that say `accepted`.
    pub accepted: u64,
    /// Lines that say `rejected`.
    pub rejected: u64,
    /// Lines that say `voided`.
    pub voided: u64,
    /// Lines that say `duplicate_request`.
    pub duplicate_requests: u64,
    /// Bytes of an unfinished last line; 0 if the file ends cleanly.
    pub torn_bytes: u64,
    /// The earliest time on a line, in milliseconds since the Unix epoch; 0 for an empty ledger.
    pub first_ms: u64,
    /// The latest time on a line.
    pub last_ms: u64,
}

/// Every effect on one shipment (one attempt for one parcel) at one carrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShipmentEffects<'a> {
    /// The order.
    pub order_id: Ulid,
    /// The parcel's number within the order.
    pub parcel: u16,
    /// The attempt's number within the parcel.
    pub attempt: u16,
    /// The carrier.
    pub carrier: &'a str,
    /// How often it was accepted. More than 1 is a duplicate effect.
    pub accepted: u32,
    /// How often it was rejected.
    pub rejected: u32,
    /// How often the carrier has forgotten it.
    pub voided: u32,
    /// How often its answer was repeated.
    pub duplicate_requests: u32,
}

impl ShipmentEffects<'_> {
    /// `{order_id}-{parcel}-{attempt}`.
    #[must_use]
    pub fn shipment_id(&self) -> String {
        format!("{}-{}-{}", self.order_id, self.parcel, self.attempt)
    }

    /// The number that the carrier gave if it accepted.
    #[must_use]
    pub fn tracking_number(&self) -> Option<String> {
        (self.accepted > 0).then(|| tracking_number(&self.shipment_id()))
    }
}

/// A parcel that was accepted more than once, whatever the attempt or carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DuplicateEffect {
    /// The order.
    pub order_id: Ulid,
    /// The parcel's number within the order.
    pub parcel: u16,
    /// How often it was accepted: at least 2.
    pub accepted: u32,
}

/// A ledger in memory: 24 bytes for each line, sorted by shipment.
///
/// ```no_run
/// # use sluice_carrier::simulated::Ledger;
/// let ledger = Ledger::read("ledger.tsv".as_ref())?;
/// assert_eq!(ledger.duplicates().count(), 0);
/// # Ok::<(), sluice_carrier::simulated::LedgerError>(())
/// ```
#[derive(Debug)]
pub struct Ledger {
    rows: Vec<Row>,
    carriers: Vec<String>,
    totals: LedgerTotals,
}

/// Field order is sort order. The order id is split in two to keep the alignment, and so the row, small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    order: [u64; 2],
    parcel: u16,
    attempt: u16,
    carrier: u16,
    effect: u8,
}

const ACCEPTED: u8 = 0;
const REJECTED: u8 = 1;
const DUPLICATE_REQUEST: u8 = 2;
const VOIDED: u8 = 3;
const VOID_REFUSED: u8 = 4;

impl Ledger {
    /// Reads the whole file. A last line without its newline is left out and counted in
    /// [`LedgerTotals::torn_bytes`], so a ledger can be read while it is being written.
    ///
    /// # Errors
    /// [`LedgerError::Malformed`] for any finished line that no carrier of ours writes for shipments of this product:
    /// a shipment id of another form, or a tracking number that is not the shipment's.
    pub fn read(path: &Path) -> Result<Self, LedgerError> {
        let mut rows = Vec::new();
        let mut numbers: HashMap<String, u16> = HashMap::new();
        let mut carriers = Vec::new();
        let mut totals = LedgerTotals { first_ms: u64::MAX, ..LedgerTotals::default() };
        let end = for_each_line(path, |line| {
            let (order, parcel, attempt) =
                parse_shipment_id(line.shipment_id).ok_or("the shipment id is not {order}-{parcel}-{attempt}")?;
            let carrier = match numbers.get(line.carrier) {
                Some(number) => *number,
                None => {
                    let number = u16::try_from(carriers.len()).map_err(|_| "more than 65,535 carriers")?;
                    carriers.push(line.carrier.to_owned());
                    numbers.insert(line.carrier.to_owned(), number);
                    number
                }
            };
            let effect = match line.effect {
                Effect::Accepted if tracking_number(line.shipment_id).as_bytes() != line.tracking => {
                    return Err("the tracking number is not this shipment's");
                }
                Effect::Accepted => ACCEPTED,
                Effect::Rejected => REJECTED,
                Effect::DuplicateRequest => DUPLICATE_REQUEST,
                Effect::Voided => VOIDED,
                Effect::VoidRefused => VOID_REFUSED,
            };
            // A void is an effect on the shipment that it is about.
            let attempt = attempt & !u16::from(VOID);
            totals.count(line.effect, line.unix_ms);
            rows.push(Row { order: halves(order), parcel, attempt, carrier, effect });
            Ok(())
        })?;
        rows.sort_unstable();
        totals.torn_bytes = end.torn_bytes;
        totals.first_ms = if rows.is_empty() { 0 } else { totals.first_ms };
        Ok(Self { rows, carriers, totals })
    }

    /// Counts over the whole file.
    #[must_use]
    pub fn totals(&self) -> LedgerTotals {
        self.totals
    }

    /// Every shipment, ordered by order id, parcel, attempt, carrier.
    pub fn shipments(&self) -> impl Iterator<Item = ShipmentEffects<'_>> {
        self.grouped(&self.rows)
    }

    /// The shipments of one order, none if no carrier ever heard of it.
    pub fn order(&self, order_id: Ulid) -> impl Iterator<Item = ShipmentEffects<'_>> {
        let order = halves(order_id);
        let from = self.rows.partition_point(|row| row.order < order);
        let count = self.rows[from..].partition_point(|row| row.order == order);
        self.grouped(&self.rows[from..from + count])
    }

    /// What the carriers did with one shipment id: one item for each carrier that heard of it.
    pub fn shipment(&self, shipment_id: &str) -> impl Iterator<Item = ShipmentEffects<'_>> {
        let wanted = parse_shipment_id(shipment_id);
        wanted.into_iter().flat_map(move |(order, parcel, attempt)| {
            self.order(order).filter(move |effects| effects.parcel == parcel && effects.attempt == attempt)
        })
    }

    /// Every order that a carrier heard of, once, ascending.
    pub fn orders(&self) -> impl Iterator<Item = Ulid> {
        self.rows.chunk_by(|a, b| a.order == b.order).map(|rows| whole(rows[0].order))
    }

    /// Parcels accepted more than once. A ledger without any is what the product promises.
    pub fn duplicates(&self) -> impl Iterator<Item = DuplicateEffect> {
        self.rows.chunk_by(|a, b| (a.order, a.parcel) == (b.order, b.parcel)).filter_map(|rows| {
            let accepted = count(rows, ACCEPTED);
            (accepted > 1).then(|| DuplicateEffect { order_id: whole(rows[0].order), parcel: rows[0].parcel, accepted })
        })
    }

    fn grouped<'a>(&'a self, rows: &'a [Row]) -> impl Iterator<Item = ShipmentEffects<'a>> {
        let shipment = |row: &Row| (row.order, row.parcel, row.attempt, row.carrier);
        rows.chunk_by(move |a, b| shipment(a) == shipment(b)).map(|rows| ShipmentEffects {
            order_id: whole(rows[0].order),
            parcel: rows[0].parcel,
            attempt: rows[0].attempt,
            carrier: &self.carriers[usize::from(rows[0].carrier)],
            accepted: count(rows, ACCEPTED),
            rejected: count(rows, REJECTED),
            voided: count(rows, VOIDED),
            duplicate_requests: count(rows, DUPLICATE_REQUEST),
        })
    }
}

impl LedgerTotals {
    fn count(&mut self, effect: Effect, unix_ms: u64) {
        match effect {
            Effect::Accepted => self.accepted += 1,
            Effect::Rejected => self.rejected += 1,
            Effect::Voided => self.voided += 1,
            Effect::VoidRefused => {}
            Effect::DuplicateRequest => self.duplicate_requests += 1,
        }
        self.first_ms = self.first_ms.min(unix_ms);
        self.last_ms = self.last_ms.max(unix_ms);
    }
}

fn count(rows: &[Row], effect: u8) -> u32 {
    let counted = rows.iter().filter(|row| row.effect == effect).count();
    u32::try_from(counted).unwrap_or(u32::MAX)
}

fn halves(order: Ulid) -> [u64; 2] {
    [(order.0 >> 64) as u64, order.0 as u64]
}

fn whole([high, low]: [u64; 2]) -> Ulid {
    Ulid((u128::from(high) << 64) | u128::from(low))
}

/// Split from the right, as an order id's own form is none of the suffix's business.
fn parse_shipment_id(text: &str) -> Option<(Ulid, u16, u16)> {
    let mut parts = text.rsplitn(3, '-');
    let attempt = parts.next()?.parse().ok()?;
    let parcel = parts.next()?.parse().ok()?;
    let order = Ulid::from_string(parts.next()?).ok()?;
    Some((order, parcel, attempt))
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Line;
    use super::*;

    const A: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAA";
    const B: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAB";

    fn read(lines: &[(&str, Effect, String)], tail: &str) -> Result<Ledger, LedgerError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.tsv");
        let mut bytes = Vec::new();
        for (n, (carrier, effect, shipment_id)) in lines.iter().enumerate() {
            let tracking = match effect {
                Effect::Rejected => "capacity".to_owned(),
                _ => tracking_number(shipment_id),
            };
            let (unix_ms, tracking) = (1000 + n as u64, tracking.as_bytes());
            Line { unix_ms, carrier, effect: *effect, shipment_id, manifest_id: "m", tracking }.write(&mut bytes);
        }
        bytes.extend_from_slice(tail.as_bytes());
        std::fs::write(&path, bytes).unwrap();
        Ledger::read(&path)
    }

    #[test]
    fn effects_are_gathered_by_shipment_and_order() {
        use Effect::{Accepted, DuplicateRequest, Rejected};
        let lines = [
            ("tortoise", Accepted, format!("{B}-1-1")),
            ("swift", Rejected, format!("{A}-1-1")),
            ("swift", DuplicateRequest, format!("{A}-1-1")),
            ("tortoise", Accepted, format!("{A}-1-2")),
            ("swift", Accepted, format!("{A}-10-1")),
        ];
        let ledger = read(&lines, "17\tsw").unwrap();
        let totals = LedgerTotals {
            accepted: 3,
            rejected: 1,
            voided: 0,
            duplicate_requests: 1,
            torn_bytes: 5,
            first_ms: 1000,
            last_ms: 1004,
        };
        assert_eq!(ledger.totals(), totals);
        let (a, b) = (Ulid::from_string(A).unwrap(), Ulid::from_string(B).unwrap());
        assert_eq!(ledger.orders().collect::<Vec<_>>(), [a, b]);
        let of_a: Vec<_> = ledger.order(a).collect();
        assert_eq!(of_a.len(), 3);
        assert_eq!((of_a[0].rejected, of_a[0].duplicate_requests, of_a[0].accepted), (1, 1, 0));
        assert_eq!(of_a[0].tracking_number(), None);
        assert_eq!((of_a[1].carrier, of_a[1].attempt), ("tortoise", 2));
        assert_eq!(of_a[2].shipment_id(), format!("{A}-10-1"));
        assert_eq!(ledger.shipment(&format!("{A}-1-2")).count(), 1);
        assert_eq!(ledger.shipment("nonsense").count(), 0);
        assert_eq!(ledger.shipments().count(), 4);
        assert_eq!(ledger.order(Ulid(1)).count(), 0);
        assert_eq!(ledger.duplicates().count(), 0);
    }

    #[test]
    fn a_parcel_accepted_twice_is_found_across_attempts_and_carriers() {
        use Effect::Accepted;
        let b = Ulid::from_string(B).unwrap();
        let once = ("swift", Accepted, format!("{A}-1-1"));
        let twice = |second: (&'static str, Effect, String)| {
            let lines = [once.clone(), ("swift", Accepted, format!("{B}-2-1")), second];
            read(&lines, "").unwrap().duplicates().collect::<Vec<_>>()
        };
        let found = vec![DuplicateEffect { order_id: b, parcel: 2, accepted: 2 }];
        assert_eq!(twice(("swift", Accepted, format!("{B}-2-1"))), found);
        assert_eq!(twice(("swift", Accepted, format!("{B}-2-2"))), found);
        assert_eq!(twice(("tortoise", Accepted, format!("{B}-2-1"))), found);
        assert_eq!(twice(("tortoise", Accepted, format!("{B}-1-1"))), vec![]);
    }

    #[test]
    fn foreign_lines_are_named() {
        let foreign = read(&[("swift", Effect::Accepted, "something".into())], "").unwrap_err();
        assert!(foreign.to_string().contains("shipment id"), "{foreign}");
        let tail = format!("1\tswift\taccepted\t{A}-1-1\tm\tRR473124829GB\n");
        let forged = read(&[], &tail).unwrap_err();
        assert!(forged.to_string().contains("tracking"), "{forged}");
        assert_eq!(read(&[], "").unwrap().totals(), LedgerTotals::default());
    }

    #[test]
    fn rows_stay_small() {
        assert_eq!(size_of::<Row>(), 24);
    }
}
