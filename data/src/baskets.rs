//! What households put into one cart together, in the order of time in which they did.

use crate::DataError;
use crate::file::{Column, File};

const FILE: &str = "baskets";
const MAGIC: &[u8; 8] = b"SLUICEBK";

/// One product of a basket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BasketLine {
    /// The product; the catalogue knows it.
    pub sku: u32,
    /// How many units, 1 to 1,000.
    pub quantity: u32,
    /// What one unit cost, in cents; at least 1.
    pub unit_price_minor: u32,
}

/// One purchase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Basket<'a> {
    /// The store; the merchant of an order.
    pub store: u32,
    /// The household; the customer of an order.
    pub household: u32,
    /// The wall clock of the store (New York) as seconds since 1970-01-01 00:00:00 of that same clock, so
    /// `local_seconds % 86_400` is the time of day. It goes back once, in the night when summer time ends.
    pub local_seconds: u32,
    /// 1 to 100 lines by ascending SKU.
    pub lines: &'a [BasketLine],
}

struct Head {
    store: u32,
    household: u32,
    local_seconds: u32,
    first_line: u32,
    line_count: u32,
}

/// Baskets in order of time.
pub struct Baskets {
    heads: Box<[Head]>,
    lines: Box<[BasketLine]>,
}

impl Baskets {
    /// Reads baskets that `data/convert.py` wrote, for instance all of them instead of the embedded sample.
    ///
    /// # Errors
    /// When the file is damaged, of another version or doesn't hold what it must.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DataError> {
        let file = File::open(FILE, MAGIC, bytes)?;
        let mut columns = file.columns();
        let mut heads = HeadColumns {
            store: columns.next("store")?,
            household: columns.next("household")?,
            local_seconds: columns.next("time")?,
            line_count: columns.next("lines a basket")?,
            clock: 0,
            lines: 0,
        };
        let read: Box<[Head]> = (0..file.rows).map(|_| heads.next()).collect::<Result<_, _>>()?;
        heads.finish()?;
        let mut lines = LineColumns {
            sku: columns.next("SKU")?,
            quantity: columns.next("quantity")?,
            unit_price: columns.next("unit price")?,
        };
        let mut all = Vec::with_capacity((heads.lines as usize).min(lines.sku.bytes_left()));
        for head in &read {
            lines.read_basket(head.line_count, &mut all)?;
        }
        lines.finish()?;
        Ok(Self { heads: read, lines: all.into() })
    }

    /// How many baskets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// How many lines all baskets have together.
    #[must_use]
    pub fn line_count(&self) -> usize {
        self.lines.len()
    }

    /// The basket at this index, in order of time.
    #[must_use]
    #[inline]
    pub fn get(&self, index: usize) -> Option<Basket<'_>> {
        self.heads.get(index).map(|head| self.basket(head))
    }

    /// All baskets in order of time.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Basket<'_>> {
        self.heads.iter().map(|head| self.basket(head))
    }

    fn basket(&self, head: &Head) -> Basket<'_> {
        let from = head.first_line as usize;
        Basket {
            store: head.store,
            household: head.household,
            local_seconds: head.local_seconds,
            lines: self.lines.get(from..from + head.line_count as usize).unwrap_or_default(),
        }
    }
}

impl std::fmt::Debug for Baskets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (baskets, lines) = (self.len(), self.line_count());
        f.debug_struct("Baskets").field("len", &baskets).field("line_count", &lines).finish_non_exhaustive()
    }
}

/// The columns with one value a basket.
struct HeadColumns<'a> {
    store: Column<'a>,
    household: Column<'a>,
    local_seconds: Column<'a>,
    line_count: Column<'a>,
    clock: i64,
    lines: u32,
}

impl HeadColumns<'_> {
    fn next(&mut self) -> Result<Head, DataError> {
        let step = self.local_seconds.number()?;
        // Zigzag: even numbers go forward, odd ones back.
        self.clock += i64::from(step >> 1) ^ -i64::from(step & 1);
        let local_seconds =
            u32::try_from(self.clock).map_err(|_| self.local_seconds.error("leaves the years 1970 to 2106"))?;
        let line_count = self.line_count.number()?;
        if line_count == 0 {
            return Err(self.line_count.error("holds an empty basket"));
        }
        let first_line = self.lines;
        self.lines = first_line.checked_add(line_count).ok_or_else(|| self.line_count.error("adds up too high"))?;
        Ok(Head {
            store: self.store.number()?,
            household: self.household.number()?,
            local_seconds,
            first_line,
            line_count,
        })
    }

    fn finish(&self) -> Result<(), DataError> {
        [&self.store, &self.household, &self.local_seconds, &self.line_count].into_iter().try_for_each(Column::finish)
    }
}

/// The columns with one value a line.
struct LineColumns<'a> {
    sku: Column<'a>,
    quantity: Column<'a>,
    unit_price: Column<'a>,
}

impl LineColumns<'_> {
    fn read_basket(&mut self, lines: u32, into: &mut Vec<BasketLine>) -> Result<(), DataError> {
        let mut sku = 0u32;
        for _ in 0..lines {
            let step = self.sku.number()?;
            sku = sku.checked_add(step).ok_or_else(|| self.sku.error("adds up too high"))?;
            let quantity = self.quantity.number()?;
            if quantity == 0 {
                return Err(self.quantity.error("holds a zero"));
            }
            into.push(BasketLine { sku, quantity, unit_price_minor: self.unit_price.number()? });
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), DataError> {
        [&self.sku, &self.quantity, &self.unit_price].into_iter().try_for_each(Column::finish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{baskets, catalogue};

    #[test]
    fn holds_the_sample() {
        let baskets = baskets().unwrap();
        assert_eq!((baskets.len(), baskets.line_count()), (40_000, 406_387));
        assert_eq!(baskets.iter().map(|basket| basket.lines.len()).sum::<usize>(), baskets.line_count());
        assert!(baskets.get(40_000).is_none());
        for basket in baskets.iter() {
            assert!((1..=100).contains(&basket.lines.len()));
            assert!(basket.lines.is_sorted_by(|a, b| a.sku < b.sku));
            assert!(basket.lines.iter().all(|line| (1..=1000).contains(&line.quantity) && line.unit_price_minor > 0));
        }
    }

    #[test]
    fn spans_the_year_evenly_and_in_order() {
        let baskets = baskets().unwrap();
        let times: Vec<i64> = baskets.iter().map(|basket| i64::from(basket.local_seconds)).collect();
        // 2017-01-01 and 2018-01-01, both 00:00:00 by the local clock.
        assert!(times.iter().all(|time| (1_483_228_800..1_514_764_800).contains(time)));
        assert!(times.windows(2).all(|pair| pair[1] >= pair[0] - 3_600));
        assert!(times.windows(2).filter(|pair| pair[1] < pair[0]).count() <= 1);
        let mut weeks = [0; 53];
        times.iter().for_each(|time| weeks[(time - 1_483_228_800) as usize / 604_800] += 1);
        assert!(weeks[..52].iter().all(|baskets| (500..1_000).contains(baskets)), "{weeks:?}");
    }

    #[test]
    fn buys_only_what_the_catalogue_knows() {
        let (baskets, catalogue) = (baskets().unwrap(), catalogue().unwrap());
        for line in baskets.iter().flat_map(|basket| basket.lines) {
            let product = catalogue.get(line.sku).unwrap();
            assert_ne!(product.department(), "FUEL");
        }
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let mut bytes = include_bytes!("../baskets.sld").to_vec();
        bytes[1_000_000] ^= 1;
        let error = Baskets::from_bytes(&bytes).err().unwrap();
        assert!(error.to_string().starts_with("baskets: damaged: its header says crc32c"), "{error}");
        let catalogue = Baskets::from_bytes(include_bytes!("../catalogue.sld"));
        assert_eq!(catalogue.err(), Some(DataError::Magic { file: "baskets" }));
    }
}
