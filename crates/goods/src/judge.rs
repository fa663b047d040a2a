//! From a text to a judgement: sums of integers, in one pass, on the stack. A known word is one look-up of what its n-grams
//! would add up to, so that whether a word is known changes the time and nothing else.

use sluice_domain::Handling;

use crate::{
    about::Calibration,
    features::{Around, Sink, Word, weight},
    model::Model,
};

/// What one feature says about each class: the ten handling classes, then up to 22 departments.
pub(crate) const LANES: usize = 32;
/// The first of the departments.
pub(crate) const DEPARTMENTS: usize = 10;

/// A sum over the lanes.
pub(crate) type Sums = [i32; LANES];

/// A walk's sums.
pub(crate) struct Tally<'a> {
    model: &'a Model,
    /// Whether known words are looked up.
    dictionary: bool,
    words: Sums,
    vectors: Sums,
    around: Sums,
    sizes: Sums,
    makers: Sums,
    word_count: u16,
    size_count: u16,
}

impl<'a> Tally<'a> {
    pub(crate) fn new(model: &'a Model, dictionary: bool) -> Self {
        let none = [0; LANES];
        Self {
            model,
            dictionary,
            words: none,
            vectors: none,
            around: none,
            sizes: none,
            makers: none,
            word_count: 0,
            size_count: 0,
        }
    }

    /// A word that says nothing.
    pub(crate) fn count_word(&mut self) {
        self.word_count += 1;
    }

    /// A part of a size that says nothing.
    pub(crate) fn count_size(&mut self) {
        self.size_count += 1;
    }

    /// What all of it says about each class.
    #[inline]
    pub(crate) fn scores(&self) -> [f32; LANES] {
        let (model, steps) = (self.model, &self.model.about().steps);
        let words = f32::from(self.word_count.max(1));
        let of_words = 1.0 / words.sqrt();
        let of_sizes = steps.table * weight::SIZE / f32::from(self.size_count.max(1)).sqrt();
        let word = model.word_step() * of_words;
        let around = steps.table * 0.1 * of_words;
        let vector = steps.vectors / words;
        let maker = steps.table * weight::MAKER;
        std::array::from_fn(|lane| {
            model.bias()[lane]
                + self.words[lane] as f32 * word
                + self.around[lane] as f32 * around
                + self.vectors[lane] as f32 * vector
                + self.sizes[lane] as f32 * of_sizes
                + self.makers[lane] as f32 * maker
        })
    }
}

impl Sink for Tally<'_> {
    #[inline]
    fn word(&mut self, word: Word<'_>) {
        self.word_count += 1;
        match self.model.known(word.hash) {
            Some(known) => {
                if self.dictionary {
                    add(&mut self.words, &known.word);
                } else {
                    add(&mut self.words, &self.model.spell(&word));
                }
                add(&mut self.vectors, &known.vector);
            }
            None => add(&mut self.words, &self.model.spell(&word)),
        }
    }

    #[inline]
    fn around(&mut self, row: usize, what: Around<'_>) {
        let tenths = if matches!(what, Around::Pair(..)) { weight::PAIR } else { weight::EDGE };
        for (sum, &value) in self.around.iter_mut().zip(self.model.row(row)) {
            *sum += i32::from(value) * tenths;
        }
    }

    #[inline]
    fn size(&mut self, row: usize, _: &[u8]) {
        self.size_count += 1;
        add(&mut self.sizes, self.model.row(row));
    }

    #[inline]
    fn maker(&mut self, row: usize) {
        add(&mut self.makers, self.model.row(row));
    }
}

/// Adds a row to a sum. None can overflow: a walk is bounded.
#[inline]
pub(crate) fn add<T: Copy + Into<i32>>(sums: &mut Sums, row: &[T; LANES]) {
    for (sum, &value) in sums.iter_mut().zip(row) {
        *sum += value.into();
    }
}

/// The place of the highest score, and its probability.
#[inline]
pub(crate) fn best(scores: &[f32], probabilities: &[f32]) -> (usize, f32) {
    let mut best = 0;
    for (at, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = at;
        }
    }
    (best, probabilities[best])
}

/// Probabilities of the lanes `0..classes` of `scores` at a temperature; the others get none.
#[inline]
pub(crate) fn softmax<const N: usize>(scores: &[f32; N], classes: usize, temperature: f32) -> [f32; N] {
    let most = scores.iter().take(classes).fold(f32::MIN, |most, &score| most.max(score));
    let per = 1.0 / temperature;
    let mut raised: [f32; N] = std::array::from_fn(|lane| exp((scores[lane] - most) * per));
    raised.iter_mut().skip(classes).for_each(|value| *value = 0.0);
    let whole = 1.0 / raised.iter().sum::<f32>();
    raised.map(|value| value * whole)
}

/// e to the power of `x`, for x at most 0, to five digits. Made of additions and multiplications alone, so that confidences
/// are the same on every machine, which the standard library doesn't promise of its own.
#[inline]
pub(crate) fn exp(x: f32) -> f32 {
    let scaled = x.max(-80.0) * std::f32::consts::LOG2_E;
    let whole = (scaled - 0.5) as i32;
    let part = (scaled - whole as f32) * std::f32::consts::LN_2;
    // Taylor's series; |part| <= 0.35 after rounding to the nearest whole.
    let power = 1.0 + part * (1.0 + part * (0.5 + part * (1.0 / 6.0 + part * (1.0 / 24.0 + part * (1.0 / 120.0)))));
    power * f32::from_bits(((whole + 127) as u32) << 23)
}

/// How sure a handling class is, given the scores of all, and how likely the goods are dangerous in another way.
pub(crate) struct Handled {
    pub class: usize,
    pub confidence: f32,
    pub risk: f32,
}

impl Handled {
    /// Whether a person has to look.
    pub fn is_held(&self, calibration: &Calibration) -> bool {
        Handling::ALL.get(self.class).is_none_or(|class| self.risk > calibration.held_above(*class))
    }
}

/// Handling classes for which a wrong guess does harm: frozen, age-restricted and hazmat-check, by code.
pub(crate) const DANGEROUS: [usize; 3] = [5, 6, 7];

/// The handling class of these scores.
#[inline]
pub(crate) fn handled(scores: &[f32; LANES], calibration: &Calibration) -> Handled {
    let scores: &[f32; DEPARTMENTS] = scores.first_chunk().unwrap_or(&[0.0; DEPARTMENTS]);
    let probabilities = softmax(scores, DEPARTMENTS, calibration.handling_temperature);
    let (class, confidence) = best(scores, &probabilities);
    let others = DANGEROUS.into_iter().filter(|other| *other != class);
    Handled { class, confidence, risk: others.map(|other| probabilities[other]).sum() }
}

/// The department of these scores, of so many, and how sure it is.
#[inline]
pub(crate) fn department(scores: &[f32; LANES], departments: usize, calibration: &Calibration) -> (usize, f32) {
    if departments == 0 {
        return (0, 0.0);
    }
    let scores: &[f32; LANES - DEPARTMENTS] = scores.last_chunk().unwrap_or(&[0.0; LANES - DEPARTMENTS]);
    let probabilities = softmax(scores, departments, calibration.department_temperature);
    best(&scores[..departments], &probabilities)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_near_to_those_of_the_library() {
        for step in 0..8_000 {
            let x = -(step as f32) / 100.0;
            let (ours, theirs) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours - theirs).abs() <= theirs * 2e-5, "{x}: {ours} {theirs}");
        }
    }

    #[test]
    fn probabilities_are_shares_of_what_there_is() {
        let all = softmax(&[1.0, 3.0, 2.0, 99.0], 3, 1.0);
        assert!((all.iter().sum::<f32>() - 1.0).abs() < 1e-5 && all[3] == 0.0 && all[1] > all[2]);
        let softer = softmax(&[1.0, 3.0, 2.0, 99.0], 3, 4.0);
        assert!(softer[1] < all[1] && softer[0] > all[0]);
    }

    #[test]
    fn the_dangerous_are_named_by_their_codes() {
        let names = DANGEROUS.map(|code| Handling::ALL[code].name());
        assert_eq!(names, ["frozen", "age_restricted", "hazmat_check"]);
        assert_eq!(Handling::ALL.len(), DEPARTMENTS);
    }
}
