//! What is known of each product, laid out for one look-up per order line.
//!
//! A look-up is the hottest use, so the rows themselves sit in an open-addressed table: a known SKU costs one cache
//! line. Titles are shared (17 thousand for 92 thousand products) and lie in one arena, touched only when asked for.

use crate::DataError;
use crate::file::{Column, File};

/// The handling classes, in the order of their index in [`Product::handling`].
pub const HANDLING: [&str; 10] = [
    "chilled",
    "fresh_produce",
    "ambient_food",
    "ambient_general",
    "otc_health",
    "frozen",
    "age_restricted",
    "hazmat_check",
    "live_plant",
    "non_goods",
];

const FILE: &str = "catalogue";
const MAGIC: &[u8; 8] = b"SLUICECT";
/// Set in a product's byte of the handling column if its weight is an estimate.
const ESTIMATED: u8 = 0x80;
/// 2^32 divided by the golden ratio: neighbouring SKUs land far apart.
const SPREAD: u32 = 0x9e37_79b1;

/// One row. An SKU of 0 marks a free place: the file may not hold one.
#[derive(Clone, Copy, Default)]
struct Row {
    sku: u32,
    title_at: u32,
    weight_g: u32,
    title_length: u8,
    department: u8,
    handling: u8,
    estimated: bool,
}

/// A product of the catalogue.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// The number by which orders name it.
    pub sku: u32,
    /// Index in [`HANDLING`].
    pub handling: u8,
    /// Weight of one sales unit in grams.
    pub weight_g: u32,
    /// The package size doesn't say the weight: it is a median of similar products' weights.
    pub estimated: bool,
    catalogue: &'a Catalogue,
    row: &'a Row,
}

impl<'a> Product<'a> {
    /// Type and package size, as a customer sees it.
    #[must_use]
    pub fn title(&self) -> &'a str {
        let from = self.row.title_at as usize;
        self.catalogue.titles.get(from..from + usize::from(self.row.title_length)).unwrap_or_default()
    }

    /// The shop's department.
    #[must_use]
    pub fn department(&self) -> &'a str {
        self.catalogue.departments.get(usize::from(self.row.department)).map_or("", AsRef::as_ref)
    }

    /// The handling class by name.
    #[must_use]
    pub fn handling_name(&self) -> &'static str {
        HANDLING.get(usize::from(self.handling)).copied().unwrap_or_default()
    }
}

impl std::fmt::Debug for Product<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Product")
            .field("sku", &self.sku)
            .field("title", &self.title())
            .field("department", &self.department())
            .field("handling", &self.handling_name())
            .field("weight_g", &self.weight_g)
            .field("estimated", &self.estimated)
            .finish()
    }
}

/// All products.
pub struct Catalogue {
    /// Changes whenever the catalogue does, so a decision can name the catalogue that it was made with.
    pub version: u32,
    table: Box<[Row]>,
    /// Places in the table, by ascending SKU.
    order: Box<[u32]>,
    shift: u32,
    titles: Box<str>,
    departments: Box<[Box<str>]>,
}

impl Catalogue {
    /// Reads a catalogue that `data/convert.py` wrote.
    ///
    /// # Errors
    /// When the file is damaged, of another version or doesn't hold what a catalogue must.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DataError> {
        let file = File::open(FILE, MAGIC, bytes)?;
        let mut columns = file.columns();
        let handling = columns.next("handling classes")?;
        if !handling.text()?.split('\n').eq(HANDLING) {
            return Err(handling.error("differ from the classes of this build"));
        }
        let departments = columns.next("departments")?.text()?.split('\n').map(Box::from).collect();
        let title_column = columns.next("titles")?;
        let titles: Box<str> = title_column.text()?.into();
        let spans = spans(&title_column, &titles)?;
        let bits = (file.rows * 4 / 3 + 2).next_power_of_two().ilog2();
        let mut catalogue = Self {
            version: file.crc,
            table: vec![Row::default(); 1 << bits].into(),
            order: Box::default(),
            shift: u32::BITS - bits,
            titles,
            departments,
        };
        let mut rows = Rows {
            sku: columns.next("SKU")?,
            department: columns.next("department")?,
            handling: columns.next("handling")?,
            weight: columns.next("weight")?,
            title: columns.next("title")?,
            last_sku: 0,
        };
        catalogue.order = (0..file.rows)
            .map(|_| rows.next(&spans, catalogue.departments.len()).map(|row| catalogue.insert(row)))
            .collect::<Result<_, _>>()?;
        rows.finish()?;
        Ok(catalogue)
    }

    /// How many products there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The product with this SKU.
    #[must_use]
    #[inline]
    pub fn get(&self, sku: u32) -> Option<Product<'_>> {
        let mask = self.table.len() - 1;
        let mut at = self.home(sku);
        // Ends at a free place: a quarter of the table is free.
        loop {
            let row = self.table.get(at & mask)?;
            if row.sku == 0 {
                return None;
            }
            if row.sku == sku {
                return Some(self.product(row));
            }
            at += 1;
        }
    }

    /// All products by ascending SKU.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Product<'_>> {
        self.order.iter().map(|&at| self.product(&self.table[at as usize]))
    }

    fn product<'a>(&'a self, row: &'a Row) -> Product<'a> {
        Product {
            sku: row.sku,
            handling: row.handling,
            weight_g: row.weight_g,
            estimated: row.estimated,
            catalogue: self,
            row,
        }
    }

    fn home(&self, sku: u32) -> usize {
        (sku.wrapping_mul(SPREAD) >> self.shift) as usize
    }

    fn insert(&mut self, row: Row) -> u32 {
        let mask = self.table.len() - 1;
        let mut at = self.home(row.sku) & mask;
        while self.table[at].sku != 0 {
            at = (at + 1) & mask;
        }
        self.table[at] = row;
        u32::try_from(at).unwrap_or(u32::MAX)
    }
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalogue").field("version", &self.version).field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Where each title lies in the arena.
fn spans(column: &Column<'_>, titles: &str) -> Result<Vec<(u32, u8)>, DataError> {
    let mut from = 0;
    titles
        .split('\n')
        .map(|title| {
            let length = u8::try_from(title.len()).map_err(|_| column.error("holds a title over 255 bytes"))?;
            let span = (from, length);
            from += u32::from(length) + 1;
            Ok(span)
        })
        .collect()
}

/// The columns with one value a product.
struct Rows<'a> {
    sku: Column<'a>,
    department: Column<'a>,
    handling: Column<'a>,
    weight: Column<'a>,
    title: Column<'a>,
    last_sku: u32,
}

impl Rows<'_> {
    fn next(&mut self, spans: &[(u32, u8)], departments: usize) -> Result<Row, DataError> {
        let step = self.sku.number()?;
        let sku = self.last_sku.checked_add(step).filter(|_| step > 0);
        let sku = sku.ok_or_else(|| self.sku.error("doesn't ascend"))?;
        self.last_sku = sku;
        let department = self.department.byte()?;
        if usize::from(department) >= departments {
            return Err(self.department.error("names a department that isn't listed"));
        }
        let handling = self.handling.byte()?;
        let (handling, estimated) = (handling & !ESTIMATED, handling & ESTIMATED != 0);
        if usize::from(handling) >= HANDLING.len() {
            return Err(self.handling.error("names a class that isn't listed"));
        }
        let title = self.title.number()? as usize;
        let Some(&(title_at, title_length)) = spans.get(title) else {
            return Err(self.title.error("names a title that isn't listed"));
        };
        let weight_g = self.weight.number()?;
        Ok(Row { sku, title_at, weight_g, title_length, department, handling, estimated })
    }

    fn finish(&self) -> Result<(), DataError> {
        [&self.sku, &self.department, &self.handling, &self.weight, &self.title]
            .into_iter()
            .try_for_each(Column::finish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;

    #[test]
    fn holds_every_product_of_the_source() {
        let catalogue = catalogue().unwrap();
        assert_eq!(catalogue.len(), 92_331);
        assert_eq!(catalogue.iter().len(), 92_331);
        assert_eq!(catalogue.departments.len(), 32);
        assert!(catalogue.iter().is_sorted_by(|a, b| a.sku < b.sku));
        for product in catalogue.iter() {
            let found = catalogue.get(product.sku).unwrap();
            assert_eq!((found.sku, found.title()), (product.sku, product.title()));
            assert!(!product.title().is_empty() && !product.department().is_empty());
            assert!((1..=25_000).contains(&product.weight_g), "{product:?}");
        }
        // Those whose package size says no weight: `data/README.md`, Weights.
        assert_eq!(catalogue.iter().filter(|product| product.estimated).count(), 39_990);
        let mut classes = [0usize; HANDLING.len()];
        catalogue.iter().for_each(|product| classes[usize::from(product.handling)] += 1);
        assert!(classes.iter().all(|&products| products > 100), "{classes:?}");
    }

    #[test]
    fn knows_a_gallon_of_milk() {
        let catalogue = catalogue().unwrap();
        let milk = catalogue.get(1_029_743).unwrap();
        assert_eq!(milk.title(), "FLUID MILK WHITE ONLY | 1 GA");
        assert_eq!((milk.department(), milk.handling_name(), milk.weight_g), ("GROCERY", "chilled", 3785));
        assert!(!milk.estimated && milk.handling < ESTIMATED);
    }

    #[test]
    fn unknown_skus_are_refused_after_few_steps() {
        let catalogue = catalogue().unwrap();
        assert!(catalogue.get(0).is_none());
        assert!(catalogue.get(u32::MAX).is_none());
        let places = catalogue.table.iter().chain(catalogue.table.iter());
        let mut longest = 0;
        let mut run = 0;
        for row in places {
            run = if row.sku == 0 { 0 } else { run + 1 };
            longest = longest.max(run);
        }
        assert!(longest < 200, "an unknown SKU may cost {longest} steps");
    }
}
