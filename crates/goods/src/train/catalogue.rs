//! A catalogue to learn from: products with their labels, put together where nothing tells them apart, and dealt to folds so
//! that a type of goods is never on both sides.

use std::collections::{BTreeMap, HashMap, HashSet};

use sluice_data::{DataError, WordVectors};
use sluice_domain::Handling;
use thiserror::Error;

use crate::{
    error::ModelError,
    features::{Around, ROWS, Sink, Word, walk, weight},
    judge::{DEPARTMENTS, LANES},
    text::Normal,
};

/// Folds of the protocol.
pub(crate) const FOLDS: u32 = 5;
/// Fewer products, or product types, say too little about a department.
const LEAST_PRODUCTS: u64 = 100;
const LEAST_TYPES: usize = 10;
/// A department that says nothing.
const ANYTHING: &str = "MISCELLANEOUS";
/// How much many products of one type count beside few: each as its count to the power of minus this. They are near copies.
const COPIES: i32 = 2;
/// What one example weighs at most beside the mean.
const HEAVIEST: f32 = 10.0;
/// How much rare classes count more: as the square root of the square root of their rarity, about.
const RARE: f32 = 0.2;

/// A catalogue can't be learned from.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// Too little to learn from.
    #[error("there are {types} product types with a handling class, and {least} are needed; name a larger catalogue")]
    TooFew {
        /// How many there are.
        types: u64,
        /// How many are needed.
        least: u64,
    },
    /// The embedded word vectors are damaged.
    #[error("{0}")]
    Vectors(#[from] DataError),
    /// The model can't be written or read back.
    #[error("{0}")]
    Model(#[from] ModelError),
}

/// Product types that a catalogue must have: a few in every fold.
const LEAST: u64 = 50;

/// A product with its labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Product {
    /// What kind of goods it is; products of one type are in one fold.
    pub product_type: String,
    /// How much of it, if known.
    pub package_size: Option<String>,
    /// Who made it, if known.
    pub manufacturer: Option<String>,
    /// The department, if it is known.
    pub department: Option<String>,
    /// How it must be handled.
    pub handling: Handling,
}

impl Product {
    /// The title that an order has for it.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.package_size {
            Some(size) => format!("{} | {size}", self.product_type),
            None => self.product_type.clone(),
        }
    }
}

/// Products to learn from, in an order that doesn't matter.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    /// All of them; equal ones count as often as they are there.
    pub products: Vec<Product>,
}

/// Products that a model can't tell apart, and that have the same labels.
pub(crate) struct Example {
    pub title: String,
    pub maker: Option<String>,
    pub handling: usize,
    /// An index of the departments that are told apart.
    pub department: Option<usize>,
    pub products: u64,
    pub fold: u32,
    pub inner_fold: u32,
    /// What it weighs in training, by lane of its class: handling and department.
    pub weight: f32,
    /// What the model sees: columns of the weights, and how much of each.
    pub features: Vec<(u32, f32)>,
}

/// What products have in common: type, size, maker, handling class and department.
type Alike<'a> = (&'a str, Option<&'a str>, Option<&'a str>, usize, Option<usize>);

/// A catalogue that is ready to be learned from.
pub(crate) struct Prepared {
    pub examples: Vec<Example>,
    pub departments: Vec<String>,
    pub products: u64,
    pub types: u64,
    /// Columns of the weights: places in the table that occur, ascending.
    pub places: Vec<usize>,
    /// Behind those a column a dimension of the vectors, and one that is always 1.
    pub vectors: WordVectors,
    /// Words of the catalogue that have no vector.
    pub others: Vec<String>,
}

impl Prepared {
    pub fn new(catalogue: &Catalogue, makers: bool) -> Result<Self, TrainError> {
        let vectors = sluice_data::vectors()?;
        let departments = departments(catalogue);
        let mut of_type: HashMap<&str, u64> = HashMap::new();
        let mut same: BTreeMap<Alike<'_>, u64> = BTreeMap::new();
        for product in &catalogue.products {
            let kind = product.product_type.as_str();
            *of_type.entry(kind).or_default() += 1;
            let department = product.department.as_ref().and_then(|name| departments.binary_search(name).ok());
            let maker = product.manufacturer.as_deref().filter(|_| makers);
            let key = (kind, product.package_size.as_deref(), maker, product.handling as usize, department);
            *same.entry(key).or_default() += 1;
        }
        let types = of_type.len() as u64;
        if types < LEAST {
            return Err(TrainError::TooFew { types, least: LEAST });
        }
        let mut seer = Seer::new(&vectors);
        let mut examples: Vec<Example> = Vec::with_capacity(same.len());
        for ((kind, size, maker, handling, department), products) in same {
            let title = size.map_or_else(|| kind.to_owned(), |size| format!("{kind} | {size}"));
            let crc = crc32fast::hash(kind.as_bytes());
            examples.push(Example {
                features: seer.see(&title, maker),
                title,
                maker: maker.map(str::to_owned),
                handling,
                department,
                products,
                fold: crc % FOLDS,
                inner_fold: crc / FOLDS % FOLDS,
                weight: products as f32 / (of_type.get(kind).copied().unwrap_or(1) as f32).powf(1.0 / COPIES as f32),
            });
        }
        let mean = examples.iter().map(|example| example.weight).sum::<f32>() / examples.len() as f32;
        examples.iter_mut().for_each(|example| example.weight = (example.weight / mean).min(HEAVIEST));
        let others = seer.others.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        let places = settle(&mut examples, vectors.dimensions());
        let products = catalogue.products.len() as u64;
        Ok(Self { examples, departments, products, types, places, vectors, others })
    }

    /// How much more each lane's class counts than the others, by how rare it is among these examples.
    pub fn rarity(&self, of: &[usize]) -> [f32; LANES] {
        let mut weights = [0f32; LANES];
        for &example in of {
            let example = &self.examples[example];
            weights[example.handling] += example.weight;
            if let Some(department) = example.department {
                weights[DEPARTMENTS + department] += example.weight;
            }
        }
        let task = |lane: usize| if lane < DEPARTMENTS { 0..DEPARTMENTS } else { DEPARTMENTS..LANES };
        std::array::from_fn(|lane| {
            let all = &weights[task(lane)];
            let classes = all.iter().filter(|weight| **weight > 0.0).count() as f32;
            let whole: f32 = all.iter().sum();
            (whole / (classes * weights[lane].max(1.0))).powf(RARE)
        })
    }
}

/// Departments that are told apart: with enough products and types, the largest if there are too many; sorted.
fn departments(catalogue: &Catalogue) -> Vec<String> {
    let mut all: BTreeMap<&str, (u64, HashSet<&str>)> = BTreeMap::new();
    for product in &catalogue.products {
        if let Some(name) = product.department.as_deref().filter(|name| *name != ANYTHING) {
            let (products, types) = all.entry(name).or_default();
            *products += 1;
            types.insert(&product.product_type);
        }
    }
    all.retain(|_, (products, types)| *products >= LEAST_PRODUCTS && types.len() >= LEAST_TYPES);
    let mut largest: Vec<_> =
        all.into_iter().map(|(name, (products, _))| (std::cmp::Reverse(products), name)).collect();
    largest.sort_unstable();
    largest.truncate(LANES - DEPARTMENTS);
    let mut names: Vec<String> = largest.into_iter().map(|(_, name)| name.to_owned()).collect();
    names.sort_unstable();
    names
}

/// Replaces places by columns without gaps, and vectors' columns by those behind; gives the places.
fn settle(examples: &mut [Example], dimensions: usize) -> Vec<usize> {
    let mut used = vec![false; ROWS];
    for (place, _) in examples.iter().flat_map(|example| &example.features) {
        if let Some(used) = used.get_mut(*place as usize) {
            *used = true;
        }
    }
    let places: Vec<usize> = (0..ROWS).filter(|place| used[*place]).collect();
    let mut columns = vec![0u32; ROWS + dimensions + 1];
    places.iter().copied().chain(ROWS..=ROWS + dimensions).zip(0..).for_each(|(place, column)| columns[place] = column);
    for (place, _) in examples.iter_mut().flat_map(|example| &mut example.features) {
        *place = columns[*place as usize];
    }
    places
}

/// Turns texts into features: the same walk as a judgement takes, with the same weights.
struct Seer<'a> {
    vectors: HashMap<&'a str, &'a [i8]>,
    step: f32,
    others: HashSet<String>,
    words: Vec<(u32, f32)>,
    around: Vec<(u32, f32)>,
    sizes: Vec<u32>,
    makers: Vec<u32>,
    sum: Vec<f32>,
    count: f32,
}

impl<'a> Seer<'a> {
    fn new(vectors: &'a WordVectors) -> Self {
        Self {
            vectors: vectors.iter().collect(),
            step: vectors.step(),
            others: HashSet::new(),
            words: Vec::new(),
            around: Vec::new(),
            sizes: Vec::new(),
            makers: Vec::new(),
            sum: vec![0.0; vectors.dimensions()],
            count: 0.0,
        }
    }

    /// Features by place; behind the table come the dimensions of the vectors, and last what is always there.
    fn see(&mut self, title: &str, maker: Option<&str>) -> Vec<(u32, f32)> {
        for list in [&mut self.words, &mut self.around] {
            list.clear();
        }
        (self.count, self.sizes, self.makers) = (0.0, Vec::new(), Vec::new());
        self.sum.fill(0.0);
        walk(Normal::of(title).bytes(), maker, self);
        let words = self.count.max(1.0);
        let size = weight::SIZE / (self.sizes.len().max(1) as f32).sqrt();
        let mut all: BTreeMap<u32, f32> = BTreeMap::new();
        let table = self.words.iter().chain(&self.around).map(|(place, value)| (*place, value / words.sqrt()));
        let sizes = self.sizes.iter().map(|place| (*place, size));
        let makers = self.makers.iter().map(|place| (*place, weight::MAKER));
        let vector = self.sum.iter().zip(ROWS as u32..).map(|(sum, place)| (place, sum / words));
        let always = [(ROWS as u32 + self.sum.len() as u32, BIAS)];
        for (place, value) in table.chain(sizes).chain(makers).chain(vector).chain(always) {
            *all.entry(place).or_default() += value;
        }
        all.into_iter().filter(|(_, value)| *value != 0.0).collect()
    }
}

/// How much what is always there counts.
pub(crate) const BIAS: f32 = 0.5;

impl Sink for Seer<'_> {
    fn word(&mut self, word: Word<'_>) {
        self.count += 1.0;
        self.words.push((word.row() as u32, weight::WORD));
        let begin = self.words.len();
        word.grams(|place| self.words.push((place as u32, 0.0)));
        let grams = self.words.get_mut(begin..).unwrap_or_default();
        let each = weight::GRAMS / (grams.len().max(1) as f32).sqrt();
        grams.iter_mut().for_each(|(_, value)| *value = each);
        let Ok(text) = std::str::from_utf8(word.bytes) else { return };
        match self.vectors.get(text) {
            Some(vector) => {
                for (sum, &value) in self.sum.iter_mut().zip(*vector) {
                    *sum += f32::from(value) * self.step * weight::VECTOR;
                }
            }
            None => {
                self.others.insert(text.to_owned());
            }
        }
    }

    fn around(&mut self, row: usize, what: Around<'_>) {
        let tenths = if matches!(what, Around::Pair(..)) { weight::PAIR } else { weight::EDGE };
        self.around.push((row as u32, tenths as f32 * 0.1));
    }

    fn size(&mut self, row: usize, _: &[u8]) {
        self.sizes.push(row as u32);
    }

    fn maker(&mut self, row: usize) {
        self.makers.push(row as u32);
    }
}
