//! A model in memory: read once, then shared and never changed.
//!
//! The file has the frame of the files in `data/` (magic, version, CRC32C, zstd) with the magic `SLUICEGM`; its rows are
//! those of the table that say anything.
//!
//! | column | content |
//! |---|---|
//! | about | [`About`] as JSON |
//! | words | known words, sorted, joined by newlines |
//! | vectors | a signed byte a lane a word: what its vector says, in steps |
//! | places | number a row: difference from the place of the one before |
//! | rows | a signed byte a lane a row, in steps |
//!
//! Lanes are the ten handling classes and as many departments as there are. What a known word's n-grams add up to isn't
//! stored: it is added up when the file is read.

use std::{fs::File, io::Read, path::Path};

use sluice_data::file::{self, Column};
use sluice_domain::Handling;

use crate::{
    about::{About, LAYOUT},
    error::ModelError,
    features::{ROWS, Word, walk, weight},
    judge::{DEPARTMENTS, LANES, Tally, department, handled},
    text::Normal,
};

const NAME: &str = "model";
const MAGIC: &[u8; 8] = b"SLUICEGM";
/// Bytes of a file that are read at most; the embedded one has a tenth.
const LARGEST: u64 = 16 << 20;
/// Words of a model at most: 136 bytes of memory each.
const MOST_WORDS: usize = 1 << 20;

/// Learned from a catalogue: tells from a title how goods must be handled, and which department they belong to.
pub struct Model {
    version: u32,
    about: About,
    bias: [f32; LANES],
    table: Box<[[i8; LANES]]>,
    words: Dictionary,
}

/// What a model says about one text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement {
    /// What the goods most likely need.
    pub handling: Handling,
    /// How likely that is right, from 0 to 1: of all lines with this confidence, this share.
    pub confidence: f32,
    /// How likely the goods are frozen, for adults only or hazardous while `handling` says something else, from 0 to 1.
    pub risk: f32,
    /// Whether that is too likely to go on without a person.
    pub review: bool,
    /// The most likely department: an index in [`About::departments`].
    pub department: u8,
    /// How likely that is right, from 0 to 1.
    pub department_confidence: f32,
}

impl Model {
    /// The model that is part of this build.
    ///
    /// # Errors
    /// [`ModelError`] if it is damaged, which a test rules out.
    pub fn embedded() -> Result<Self, ModelError> {
        Self::parse(include_bytes!("../model.slm"))
    }

    /// Reads the file at `path`, at most 16 MiB.
    ///
    /// # Errors
    /// [`ModelError::Read`] if it can't be read, else [`ModelError::File`] with the path and what [`Model::parse`] says.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let read = |error| ModelError::Read { path: path.to_owned(), error };
        let file = File::open(path).map_err(read)?;
        let mut bytes = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(read)?;
        Self::parse(&bytes).map_err(|error| ModelError::File { path: path.to_owned(), error: Box::new(error) })
    }

    /// Reads a model file.
    ///
    /// # Errors
    /// [`ModelError`] naming what is wrong: too long, damaged, of another version, or with parts that don't fit together.
    pub fn parse(bytes: &[u8]) -> Result<Self, ModelError> {
        let length = bytes.len() as u64;
        if length > LARGEST {
            return Err(ModelError::TooLong { length, limit: LARGEST });
        }
        let file = file::File::open(NAME, MAGIC, bytes)?;
        let mut columns = file.columns();
        let about = read_about(&columns.next("about")?)?;
        let lanes = DEPARTMENTS + about.departments.len();
        let words = columns.next("words")?;
        let words: Vec<&str> = words.text()?.split('\n').collect();
        let vectors = rows(&columns.next("vectors")?, lanes)?;
        let mut places = columns.next("places")?;
        let stored = rows(&columns.next("rows")?, lanes)?;
        if vectors.len() != words.len() || stored.len() != file.rows {
            return Err(ModelError::content("rows", "there are not as many as words and places"));
        }
        let mut table = vec![[0; LANES]; ROWS].into_boxed_slice();
        let mut place = 0usize;
        for row in stored {
            place += places.number()? as usize;
            *table.get_mut(place).ok_or_else(|| ModelError::content("places", "one is beyond the table"))? = row;
        }
        places.finish()?;
        let mut bias = [0.0; LANES];
        bias.iter_mut().zip(&about.bias).for_each(|(to, &from)| *to = from);
        let mut model = Self { version: file.crc, about, bias, table, words: Dictionary::default() };
        model.words = Dictionary::new(&model, &words, &vectors)?;
        Ok(model)
    }

    /// Names the model in every decision: the checksum of its file. It has no order.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What the model says of itself.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }

    /// What goods with this title are. Who made them counts only if the model was trained with manufacturers.
    /// Takes time in proportion to the first 200 bytes of the title, and allocates nothing unless dozens of accents are piled on
    /// one letter.
    #[must_use]
    #[inline]
    pub fn judge(&self, title: &str, manufacturer: Option<&str>) -> Judgement {
        self.judgement(&self.scores(title, manufacturer, true))
    }

    /// [`Model::judge`] without the dictionary: every word is spelled out, with the same result. For measurements.
    #[must_use]
    pub fn judge_spelled(&self, title: &str, manufacturer: Option<&str>) -> Judgement {
        self.judgement(&self.scores(title, manufacturer, false))
    }

    #[inline]
    pub(crate) fn scores(&self, title: &str, manufacturer: Option<&str>, dictionary: bool) -> [f32; LANES] {
        let mut tally = Tally::new(self, dictionary);
        walk(Normal::of(title).bytes(), manufacturer.filter(|_| self.about.makers), &mut tally);
        tally.scores()
    }

    #[inline]
    fn judgement(&self, scores: &[f32; LANES]) -> Judgement {
        let calibration = &self.about.calibration;
        let handled = handled(scores, calibration);
        let (department, department_confidence) = department(scores, self.about.departments.len(), calibration);
        Judgement {
            handling: Handling::ALL[handled.class],
            confidence: handled.confidence,
            risk: handled.risk,
            review: handled.is_held(calibration),
            department: department as u8,
            department_confidence,
        }
    }

    pub(crate) fn bias(&self) -> &[f32; LANES] {
        &self.bias
    }

    pub(crate) fn word_step(&self) -> f32 {
        self.about.steps.table * WORD_STEP
    }

    #[inline]
    pub(crate) fn row(&self, place: usize) -> &[i8; LANES] {
        // A place is made of the highest bits of a hash, as many as the table has; the mask says so to the compiler.
        &self.table[place & (ROWS - 1)]
    }

    #[inline]
    pub(crate) fn known(&self, hash: u64) -> Option<&Known> {
        self.words.get(hash)
    }

    /// What a word and its n-grams say, in words' steps.
    #[inline]
    pub(crate) fn spell(&self, word: &Word<'_>) -> [i16; LANES] {
        let mut grams: [i16; LANES] = [0; LANES];
        let mut count = 0u16;
        word.grams(|place| {
            for (sum, &value) in grams.iter_mut().zip(self.row(place)) {
                // At most 99 n-grams of at most 127 steps each.
                *sum += i16::from(value);
            }
            count += 1;
        });
        let each = weight::GRAMS / f32::from(count.max(1)).sqrt() / WORD_STEP;
        let own = self.row(word.row());
        std::array::from_fn(|lane| (f32::from(grams[lane]) * each + f32::from(own[lane]) * OWN_STEPS).round_to_i16())
    }
}

/// What a step of a spelled word is worth, in steps of the table: the longest word's sum still fits 16 bits.
const WORD_STEP: f32 = 1.0 / 16.0;
const OWN_STEPS: f32 = weight::WORD / WORD_STEP;

trait RoundToI16 {
    fn round_to_i16(self) -> i16;
}

impl RoundToI16 for f32 {
    /// Halves go up: adding and cutting off, unlike the library's rounding, is something that processors do many of at once.
    #[inline]
    fn round_to_i16(self) -> i16 {
        ((self + 16_384.5) as i32 - 16_384) as i16
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("version", &self.version).field("about", &self.about).finish_non_exhaustive()
    }
}

fn read_about(column: &Column<'_>) -> Result<About, ModelError> {
    let part = "about";
    let about: About =
        serde_json::from_slice(column.bytes()).map_err(|error| ModelError::content(part, error.to_string()))?;
    if about.layout != LAYOUT {
        return Err(ModelError::content(part, format!("layout {} where this build reads {LAYOUT}", about.layout)));
    }
    if !about.handling.iter().map(String::as_str).eq(Handling::ALL.map(Handling::name)) {
        return Err(ModelError::content(part, format!("handling classes {:?} are not this build's", about.handling)));
    }
    let (departments, bias) = (about.departments.len(), about.bias.len());
    if departments > LANES - DEPARTMENTS || bias != DEPARTMENTS + departments {
        return Err(ModelError::content(part, format!("{departments} departments and {bias} biases don't fit")));
    }
    let calibration = &about.calibration;
    let divisors =
        [calibration.handling_temperature, calibration.department_temperature, about.steps.table, about.steps.vectors];
    if !divisors.into_iter().all(|number| number.is_finite() && number > 0.0)
        || !about.bias.iter().all(|bias| bias.is_finite())
    {
        return Err(ModelError::content(part, "a temperature or step is not over 0, or a bias is no number"));
    }
    Ok(about)
}

/// Rows of `lanes` bytes, each filled up to all lanes.
fn rows(column: &Column<'_>, lanes: usize) -> Result<Vec<[i8; LANES]>, ModelError> {
    if !column.bytes_left().is_multiple_of(lanes) {
        return Err(column.error("doesn't hold whole rows").into());
    }
    let filled = |row: &[u8]| {
        let mut filled = [0; LANES];
        filled.iter_mut().zip(row).for_each(|(to, from)| *to = from.cast_signed());
        filled
    };
    Ok(column.bytes().chunks_exact(lanes).map(filled).collect())
}

/// The bytes of a model file. `rows` are places with what they say, ascending.
pub(crate) fn encode(
    about: &About,
    words: &[(&str, [i8; LANES])],
    rows: &[(usize, [i8; LANES])],
) -> Result<Vec<u8>, ModelError> {
    let lanes = DEPARTMENTS + about.departments.len();
    let bytes = |row: &[i8; LANES]| row.iter().take(lanes).map(|value| value.cast_unsigned()).collect::<Vec<u8>>();
    let json = serde_json::to_vec(about).map_err(|error| ModelError::content("about", error.to_string()))?;
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let vectors: Vec<u8> = words.iter().flat_map(|(_, row)| bytes(row)).collect();
    let mut places = Vec::new();
    let mut before = 0;
    for (place, _) in rows {
        file::push_number(&mut places, (place - before) as u32);
        before = *place;
    }
    let table: Vec<u8> = rows.iter().flat_map(|(_, row)| bytes(row)).collect();
    let columns = [json.as_slice(), names.join("\n").as_bytes(), &vectors, &places, &table].map(<[u8]>::to_vec);
    let columns: Vec<&[u8]> = columns.iter().map(Vec::as_slice).collect();
    Ok(file::encode(NAME, MAGIC, rows.len(), &columns)?)
}

/// A word that the model has a vector for or was trained with.
#[repr(align(64))]
pub(crate) struct Known {
    /// What it and its n-grams say, in words' steps.
    pub word: [i16; LANES],
    /// What its vector says, in vectors' steps.
    pub vector: [i16; LANES],
}

/// Known words by their hashes, at most half full, looked through from a word's slot on.
#[derive(Default)]
struct Dictionary {
    slots: Box<[Slot]>,
    known: Box<[Known]>,
}

/// Another part of the hash, so that nearly all looks elsewhere end here, and where the word is; none at `u32::MAX`.
#[derive(Clone, Copy)]
struct Slot {
    tag: u32,
    at: u32,
}

const EMPTY: Slot = Slot { tag: 0, at: u32::MAX };

impl Dictionary {
    fn new(model: &Model, words: &[&str], vectors: &[[i8; LANES]]) -> Result<Self, ModelError> {
        if words.len() > MOST_WORDS {
            return Err(ModelError::content(
                "words",
                format!("there are {}, and at most {MOST_WORDS} fit", words.len()),
            ));
        }
        let mut slots = vec![EMPTY; (2 * words.len()).next_power_of_two()].into_boxed_slice();
        let mask = slots.len() - 1;
        let mut known = Vec::with_capacity(words.len());
        for (word, vector) in words.iter().zip(vectors) {
            let word = Word::new(word.as_bytes());
            let mut slot = word.hash as usize & mask;
            while slots[slot].at != EMPTY.at {
                slot = (slot + 1) & mask;
            }
            slots[slot] = Slot { tag: (word.hash >> 32) as u32, at: known.len() as u32 };
            known.push(Known { word: model.spell(&word), vector: vector.map(i16::from) });
        }
        Ok(Self { slots, known: known.into() })
    }

    #[inline]
    fn get(&self, hash: u64) -> Option<&Known> {
        let (tag, mask) = ((hash >> 32) as u32, self.slots.len().wrapping_sub(1));
        let mut slot = hash as usize & mask;
        loop {
            let found = self.slots.get(slot)?;
            if found.tag == tag || found.at == EMPTY.at {
                return self.known.get(found.at as usize);
            }
            slot = (slot + 1) & mask;
        }
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
