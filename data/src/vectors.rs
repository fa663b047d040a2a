//! What English words have to do with each other, as directions: a model of goods that has learned "salmon" knows something
//! of "trout", which it has never seen.

use std::ops::Range;

use crate::{DataError, file::File};

const FILE: &str = "vectors";
const MAGIC: &[u8; 8] = b"SLUICEWV";

/// Words with their vectors, ordered by their bytes.
pub struct WordVectors {
    text: Box<str>,
    /// Where each word is in `text`.
    words: Box<[Range<u32>]>,
    /// Row by row, in steps.
    values: Box<[i8]>,
    dimensions: usize,
    step: f32,
}

impl WordVectors {
    /// Reads a file that `data/vectors.py` wrote.
    ///
    /// # Errors
    /// When the file is damaged, of another version or doesn't hold what it must.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DataError> {
        let file = File::open(FILE, MAGIC, bytes)?;
        let mut columns = file.columns();
        let column = columns.next("words")?;
        let text: Box<str> = column.text()?.into();
        let mut at = 0;
        let words: Box<[Range<u32>]> = text
            .split('\n')
            .map(|word| {
                let start = at;
                at += word.len() as u32 + 1;
                start..at - 1
            })
            .collect();
        let sorted = text.split('\n').is_sorted_by(|a, b| a < b);
        if words.len() != file.rows || !sorted {
            return Err(column.error("doesn't hold as many words as rows, in order and each once"));
        }
        let mut step = columns.next("step")?;
        let millionths = step.number()?;
        step.finish()?;
        let column = columns.next("values")?;
        if column.bytes_left() == 0 || !column.bytes_left().is_multiple_of(words.len()) {
            return Err(column.error("doesn't hold equally many values a word"));
        }
        let values: Box<[i8]> = column.bytes().iter().map(|&byte| byte.cast_signed()).collect();
        let dimensions = values.len() / words.len();
        Ok(Self { text, words, values, dimensions, step: millionths as f32 / 1e6 })
    }

    /// How many values each word has.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The value that one step stands for.
    #[must_use]
    pub fn step(&self) -> f32 {
        self.step
    }

    /// All words, each with its vector in steps.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &[i8])> {
        let word = |range: &Range<u32>| self.text.get(range.start as usize..range.end as usize).unwrap_or_default();
        self.words.iter().map(word).zip(self.values.chunks_exact(self.dimensions))
    }
}

impl std::fmt::Debug for WordVectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (words, dimensions) = (self.words.len(), self.dimensions);
        f.debug_struct("WordVectors").field("words", &words).field("dimensions", &dimensions).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_one_shelf_are_near_to_each_other() {
        let vectors = crate::vectors().unwrap();
        assert_eq!((vectors.iter().len(), vectors.dimensions()), (30_000, 48));
        let of = |wanted: &str| vectors.iter().find(|(word, _)| *word == wanted).unwrap().1;
        let product = |a: &[i8], b: &[i8]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        let cosine = |a, b| {
            let (a, b) = (of(a), of(b));
            product(a, b) / (product(a, a) * product(b, b)).sqrt()
        };
        assert!(cosine("salmon", "trout") > 0.7, "{}", cosine("salmon", "trout"));
        assert!(cosine("salmon", "trout") > cosine("salmon", "shampoo") + 0.3);
        assert!(cosine("bleach", "detergent") > cosine("bleach", "cookies") + 0.2);
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let mut bytes = include_bytes!("../vectors.sld").to_vec();
        bytes[40_000] ^= 1;
        assert!(matches!(WordVectors::from_bytes(&bytes), Err(DataError::Checksum { .. })));
    }
}
