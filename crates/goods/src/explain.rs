//! Why a model says what it says: what each part of a text adds to the score of the class that was given.

use serde::Serialize;

use crate::{
    features::{Around, Sink, Word, walk},
    judge::{LANES, Tally},
    model::{Judgement, Model},
    text::Normal,
};

/// What a model says about a title, and what spoke for it.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// What it says.
    pub judgement: Judgement,
    /// The title as it is looked at.
    pub normal: String,
    /// The parts of it, those that speak loudest for the handling class first, then those against.
    pub reasons: Vec<Reason>,
}

/// One part of a title.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reason {
    /// What it is: `salmon`, `first salmon`, `smoked salmon`, `size oz`.
    pub part: String,
    /// What it adds to the score of the handling class that was given, beside what it adds to the others on average.
    pub adds: f32,
    /// Whether the model knows the word, and didn't only spell it out.
    pub known: bool,
}

impl Model {
    /// [`Model::judge`] with its reasons.
    #[must_use]
    pub fn explain(&self, title: &str, manufacturer: Option<&str>) -> Explanation {
        let judgement = self.judge(title, manufacturer);
        let normal = Normal::of(title);
        let manufacturer = manufacturer.filter(|_| self.about().makers);
        let mut parts = Parts::default();
        walk(normal.bytes(), manufacturer, &mut parts);
        let whole = self.scores(title, manufacturer, true);
        let mut reasons: Vec<Reason> = Vec::with_capacity(parts.names.len());
        for (at, (part, hash)) in parts.names.iter().enumerate() {
            let mut without = Without { tally: Tally::new(self, true), left: at, at: 0 };
            walk(normal.bytes(), manufacturer, &mut without);
            let rest = without.tally.scores();
            let added: [f32; LANES] = std::array::from_fn(|lane| whole[lane] - rest[lane]);
            let adds = added[judgement.handling as usize] - added.iter().take(10).sum::<f32>() / 10.0;
            let known = hash.is_none_or(|hash| self.known(hash).is_some());
            reasons.push(Reason {
                part: part.clone(),
                adds: adds / self.about().calibration.handling_temperature,
                known,
            });
        }
        reasons.sort_by(|a, b| b.adds.total_cmp(&a.adds));
        Explanation { judgement, normal: normal.as_str().to_owned(), reasons }
    }
}

/// The names of all parts, and the hashes of words.
#[derive(Default)]
struct Parts {
    names: Vec<(String, Option<u64>)>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Sink for Parts {
    fn word(&mut self, word: Word<'_>) {
        self.names.push((text(word.bytes), Some(word.hash)));
    }

    fn around(&mut self, _: usize, what: Around<'_>) {
        let name = match what {
            Around::First(word) => format!("first {}", text(word)),
            Around::Last(word) => format!("last {}", text(word)),
            Around::Pair(a, b) => format!("{} {}", text(a), text(b)),
        };
        self.names.push((name, None));
    }

    fn size(&mut self, _: usize, what: &[u8]) {
        let name = if what.is_empty() { "no size".to_owned() } else { format!("size {}", text(what)) };
        self.names.push((name, None));
    }

    fn maker(&mut self, _: usize) {
        self.names.push(("manufacturer".to_owned(), None));
    }
}

/// A walk that says nothing of one part. It is counted all the same: what is left speaks as loudly as it did.
struct Without<'a> {
    tally: Tally<'a>,
    left: usize,
    at: usize,
}

impl Without<'_> {
    fn counts(&mut self) -> bool {
        self.at += 1;
        self.at != self.left + 1
    }
}

impl Sink for Without<'_> {
    fn word(&mut self, word: Word<'_>) {
        if self.counts() { self.tally.word(word) } else { self.tally.count_word() }
    }

    fn around(&mut self, row: usize, what: Around<'_>) {
        if self.counts() {
            self.tally.around(row, what);
        }
    }

    fn size(&mut self, row: usize, what: &[u8]) {
        if self.counts() { self.tally.size(row, what) } else { self.tally.count_size() }
    }

    fn maker(&mut self, row: usize) {
        if self.counts() {
            self.tally.maker(row);
        }
    }
}
