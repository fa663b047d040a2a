//! Learning: multinomial logistic regression of both tasks at once by stochastic gradient descent with AdaGrad's step sizes
//! (Duchi, Hazan, Singer 2011), a rate that falls to zero, L2, and a tenth of the features left out at random each time, so
//! that none is relied upon alone. The mean of a few runs in different orders is one model again, and a steadier one.

use crate::judge::{DEPARTMENTS, LANES, exp};

use super::catalogue::{BIAS, Prepared};

const RUNS: u64 = 3;
const EPOCHS: u64 = 8;
const RATE: f32 = 0.3;
const L2: f32 = 2e-4;
/// Where AdaGrad's sums of squares begin.
const FIRST_SQUARE: f32 = 0.1;
/// Features left out of 100.
const LEFT_OUT: u64 = 10;

/// How often a fit says that it goes on.
pub(crate) const STEPS: u64 = RUNS * EPOCHS;

/// Weights as they were learned.
pub(crate) struct Draft {
    /// By place in the table, ascending.
    pub rows: Vec<(usize, [f32; LANES])>,
    /// What the vectors of words say, sorted by word; zero for words that have none.
    pub words: Vec<(String, [f32; LANES])>,
    pub bias: [f32; LANES],
}

/// Learns from the examples `of`.
pub(crate) fn fit(prepared: &Prepared, of: &[usize], seed: u64, tick: &(dyn Fn() + Sync)) -> Draft {
    let columns = prepared.places.len() + prepared.vectors.dimensions() + 1;
    let rarity = prepared.rarity(of);
    let mut mean = vec![[0f32; LANES]; columns];
    for run in 0..RUNS {
        let mut learner = Learner::new(columns, seed ^ run << 32, of.len());
        let mut order = of.to_vec();
        for _ in 0..EPOCHS {
            learner.shuffle(&mut order);
            for &example in &order {
                learner.learn(prepared, example, &rarity);
            }
            tick();
        }
        for (mean, weights) in mean.iter_mut().zip(&learner.weights) {
            mean.iter_mut().zip(weights).for_each(|(mean, weight)| *mean += weight / RUNS as f32);
        }
    }
    draft(prepared, &mean)
}

fn draft(prepared: &Prepared, weights: &[[f32; LANES]]) -> Draft {
    let (table, behind) = weights.split_at(prepared.places.len());
    let (dimensions, always) = behind.split_at(prepared.vectors.dimensions());
    let scale = prepared.vectors.step() * crate::features::weight::VECTOR;
    let says = |vector: &[i8]| {
        let mut says = [0f32; LANES];
        for (&value, weights) in vector.iter().zip(dimensions) {
            says.iter_mut().zip(weights).for_each(|(says, weight)| *says += f32::from(value) * scale * weight);
        }
        says
    };
    let mut words: Vec<_> = prepared.vectors.iter().map(|(word, vector)| (word.to_owned(), says(vector))).collect();
    words.extend(prepared.others.iter().map(|word| (word.clone(), [0.0; LANES])));
    words.sort_by(|a, b| a.0.cmp(&b.0));
    let bias = always.first().map_or([0.0; LANES], |weights| weights.map(|weight| weight * BIAS));
    Draft { rows: prepared.places.iter().copied().zip(table.iter().copied()).collect(), words, bias }
}

struct Learner {
    weights: Vec<[f32; LANES]>,
    squares: Vec<[f32; LANES]>,
    /// SplitMix64.
    state: u64,
    step: u64,
    steps: u64,
    kept: Vec<(usize, f32)>,
}

impl Learner {
    fn new(columns: usize, seed: u64, examples: usize) -> Self {
        Self {
            weights: vec![[0.0; LANES]; columns],
            squares: vec![[FIRST_SQUARE; LANES]; columns],
            state: seed,
            step: 0,
            steps: EPOCHS * examples as u64,
            kept: Vec::new(),
        }
    }

    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn shuffle(&mut self, order: &mut [usize]) {
        for at in (1..order.len()).rev() {
            let other = self.draw() % (at as u64 + 1);
            order.swap(at, other as usize);
        }
    }

    fn learn(&mut self, prepared: &Prepared, example: usize, rarity: &[f32; LANES]) {
        let example = &prepared.examples[example];
        let rate = RATE * (1.0 - self.step as f32 / self.steps as f32);
        self.step += 1;
        let louder = 100.0 / (100 - LEFT_OUT) as f32;
        self.kept.clear();
        for &(column, value) in &example.features {
            if self.draw() % 100 >= LEFT_OUT {
                self.kept.push((column as usize, value * louder));
            }
        }
        let mut scores = [0f32; LANES];
        for &(column, value) in &self.kept {
            scores.iter_mut().zip(&self.weights[column]).for_each(|(score, weight)| *score += value * weight);
        }
        let (handling, departments) = scores.split_at_mut(DEPARTMENTS);
        let departments = &mut departments[..prepared.departments.len()];
        slope(handling, Some(example.handling), example.weight * rarity[example.handling]);
        let lane = example.department.map_or(0, |department| DEPARTMENTS + department);
        slope(departments, example.department, example.weight * rarity[lane]);
        for &(column, value) in &self.kept {
            let (weights, squares) = (&mut self.weights[column], &mut self.squares[column]);
            for lane in 0..LANES {
                let down = scores[lane] * value + L2 * weights[lane];
                squares[lane] += down * down;
                weights[lane] -= rate * down / squares[lane].sqrt();
            }
        }
    }
}

/// Turns scores into the slope of the loss for the class that is right; none if it isn't known.
fn slope(scores: &mut [f32], right: Option<usize>, weight: f32) {
    let Some(right) = right else { return scores.fill(0.0) };
    let most = scores.iter().fold(f32::MIN, |most, &score| most.max(score));
    scores.iter_mut().for_each(|score| *score = exp(*score - most));
    let whole: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score *= weight / whole);
    scores[right] -= weight;
}
