//! Plots as SVG: curves over one axis each way. Colours come from the page, so that they suit its background.

use std::fmt::Write as _;

/// Size of a plot.
const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 300.0;
/// Around its curves: left, top, right, below.
const MARGIN: (f64, f64, f64, f64) = (70.0, 12.0, 16.0, 44.0);
/// Ticks that an axis has at most, about.
const TICKS: f64 = 6.0;

/// How values lie on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Evenly, from zero.
    Linear,
    /// By decades.
    Log,
    /// Shares from 0 to 1 by how many nines they have, as percentiles are read.
    Nines,
}

/// An axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axis {
    pub title: &'static str,
    pub scale: Scale,
}

/// A curve: its name and its points, ascending in x. It is interrupted where y is no number.
pub(crate) struct Curve {
    pub name: &'static str,
    pub points: Vec<(f64, f64)>,
}

/// A plot of at most five curves.
pub(crate) struct Plot {
    pub title: &'static str,
    pub x: Axis,
    pub y: Axis,
    pub curves: Vec<Curve>,
}

/// An axis with what lies on it.
struct Ruler {
    scale: Scale,
    least: f64,
    most: f64,
}

impl Ruler {
    fn new(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (least, most) = (least.min(value), most.max(value));
        }
        let (least, most) = match scale {
            Scale::Linear => (0.0, if most > 0.0 { most * 1.05 } else { 1.0 }),
            Scale::Log if most > 0.0 => {
                let low = 10_f64.powf(least.max(1e-3).log10().floor());
                (low, 10_f64.powf(most.log10().ceil()).max(low * 10.0))
            }
            Scale::Log => (1.0, 10.0),
            Scale::Nines => (0.0, if most.is_finite() { most.max(0.9) } else { 0.99 }),
        };
        Self { scale, least, most }
    }

    /// Where a value lies, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let on = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(self.least).log10(),
            Scale::Nines => nines(value),
        };
        ((on(value) - on(self.least)) / (on(self.most) - on(self.least))).clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => {
                let step = nice(self.most / TICKS);
                let count = (self.most / step).floor() as usize;
                (0..=count).map(|n| n as f64 * step).map(|value| (value, amount(value))).collect()
            }
            Scale::Log => {
                let (from, to) = (self.least.log10().round() as i32, self.most.log10().round() as i32);
                (from..=to).map(|power| 10_f64.powi(power)).map(|value| (value, amount(value))).collect()
            }
            Scale::Nines => {
                let all = [
                    (0.0, "0"),
                    (0.9, "90"),
                    (0.99, "99"),
                    (0.999, "99.9"),
                    (0.9999, "99.99"),
                    (0.99999, "99.999"),
                    (0.999_999, "99.9999"),
                ];
                all.into_iter()
                    .filter(|(share, _)| *share <= self.most + 1e-9)
                    .map(|(s, text)| (s, format!("{text} %")))
                    .collect()
            }
        }
    }
}

/// How many nines a share has: 0.9 has one, 0.99 two.
fn nines(share: f64) -> f64 {
    -(1.0 - share).max(1e-7).log10()
}

/// 1, 2 or 5 times a power of ten, at least `value`.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= value).unwrap_or(10.0);
    factor * power
}

/// A number as short as it may be: 0.001, 25, 1.5k, 2M.
fn amount(value: f64) -> String {
    let (value, unit) = match value {
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e3 => (value / 1e3, "k"),
        value => (value, ""),
    };
    let text = format!("{value:.3}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

impl Plot {
    /// The plot, with a legend below it. Titles and names are ours, and need no escaping.
    pub fn svg(&self) -> String {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let x = Ruler::new(self.x.scale, points().map(|p| p.0));
        let y = Ruler::new(self.y.scale, points().map(|p| p.1));
        let (left, top, right, below) = MARGIN;
        let (wide, high) = (WIDTH - left - right, HEIGHT - top - below);
        let at = |px: f64, py: f64| (left + wide * x.place(px), top + high * (1.0 - y.place(py)));
        let mut svg = format!(
            "<figure><figcaption>{}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\">\n",
            self.title
        );
        for (value, text) in y.ticks() {
            let (_, py) = at(0.0, value);
            let _ = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{left} {py:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" class=\"end\">{text}</text>",
                WIDTH - right,
                left - 6.0,
                py + 4.0
            );
        }
        for (value, text) in x.ticks() {
            let (px, _) = at(value, 0.0);
            let _ = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{px:.1} {top}V{:.1}\"/><text x=\"{px:.1}\" y=\"{:.1}\" class=\"middle\">{text}</text>",
                HEIGHT - below,
                HEIGHT - below + 16.0
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" class=\"middle\">{}</text><text transform=\"translate(12 {:.1}) rotate(-90)\" \
             class=\"middle\">{}</text>",
            left + wide / 2.0,
            HEIGHT - 8.0,
            self.x.title,
            top + high / 2.0,
            self.y.title
        );
        for (number, curve) in self.curves.iter().enumerate() {
            let _ = writeln!(svg, "<path class=\"curve c{number}\" d=\"{}\"/>", line(&curve.points, at));
        }
        svg.push_str("</svg>\n<ul class=\"legend\">");
        for (number, curve) in self.curves.iter().enumerate() {
            let _ = write!(svg, "<li class=\"c{number}\">{}</li>", curve.name);
        }
        if points().all(|p| !p.1.is_finite()) {
            svg.push_str("<li>nothing was measured</li>");
        }
        svg.push_str("</ul></figure>\n");
        svg
    }
}

fn line(points: &[(f64, f64)], at: impl Fn(f64, f64) -> (f64, f64)) -> String {
    let (mut path, mut drawing) = (String::new(), false);
    for &(x, y) in points {
        if y.is_finite() {
            let (px, py) = at(x, y);
            let _ = write!(path, "{}{px:.1} {py:.1}", if drawing { 'L' } else { 'M' });
            if !drawing {
                // A point without neighbours shows, too: lines have round ends.
                path.push_str("h0");
            }
        }
        drawing = y.is_finite();
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        let text = |scale, values: &[f64]| {
            let ruler = Ruler::new(scale, values.iter().copied());
            ruler.ticks().into_iter().map(|(_, text)| text).collect::<Vec<_>>()
        };
        assert_eq!(text(Scale::Linear, &[3.0, 47_000.0]), ["0", "10k", "20k", "30k", "40k"]);
        assert_eq!(text(Scale::Linear, &[0.3]), ["0", "0.1", "0.2", "0.3"]);
        assert_eq!(text(Scale::Log, &[0.4, 250.0]), ["0.1", "1", "10", "100", "1k"]);
        assert_eq!(text(Scale::Nines, &[0.0, 0.9995]), ["0 %", "90 %", "99 %", "99.9 %"]);
        for empty in [Scale::Linear, Scale::Log, Scale::Nines] {
            assert!(text(empty, &[]).len() >= 2 && text(empty, &[f64::NAN, 0.0]).len() >= 2);
        }
    }

    #[test]
    fn places_grow_with_their_values() {
        for (scale, values) in
            [(Scale::Linear, [0.0, 1.0, 9.0]), (Scale::Log, [0.5, 1.0, 90.0]), (Scale::Nines, [0.0, 0.5, 0.999])]
        {
            let ruler = Ruler::new(scale, values.into_iter());
            let places = values.map(|value| ruler.place(value));
            assert!(places.is_sorted_by(|a, b| a < b) && places.iter().all(|p| (0.0..=1.0).contains(p)), "{places:?}");
        }
    }

    #[test]
    fn a_curve_is_interrupted_where_nothing_was_measured() {
        let points = [(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0)];
        assert_eq!(line(&points, |x, y| (x, y)), "M0.0 1.0h0L1.0 2.0M3.0 1.0h0");
    }
}
