//! Draws a frame on a terminal of any size: what doesn't fit below is left out, the most important comes first.

use std::collections::VecDeque;

use ratatui::{
    Frame as Screen,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, Table},
};

use super::{
    frame::Frame,
    tables::{self, Section},
};

/// Rates that are kept for the curves: more than any terminal is wide.
const KEPT: usize = 512;
/// Lines of a curve, its frame included.
const CURVE: u16 = 5;

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct History {
    accepted: VecDeque<u64>,
    finished: VecDeque<u64>,
    /// The newest frame.
    pub frame: Option<Frame>,
}

impl History {
    /// Adds a frame.
    pub fn push(&mut self, frame: Frame) {
        for (rates, rate) in
            [(&mut self.accepted, frame.total.accepted_per_s), (&mut self.finished, frame.total.finished_per_s)]
        {
            if let Some(rate) = rate {
                rates.push_back(rate.round() as u64);
            }
            if rates.len() > KEPT {
                rates.pop_front();
            }
        }
        self.frame = Some(frame);
    }
}

/// Draws what was seen.
pub(super) fn draw(screen: &mut Screen<'_>, history: &History, every: &str) {
    let [head, curves, body] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(CURVE), Constraint::Min(0)]).areas(screen.area());
    let Some(frame) = &history.frame else {
        return screen.render_widget(Paragraph::new("sluice top: waiting for the first answers … q quits"), head);
    };
    let up = frame.nodes.iter().filter(|node| node.up).count();
    let mut title = vec![
        Span::styled("sluice top", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!(" · {up} of {} nodes up · every {every} · q quits", frame.nodes.len())),
    ];
    if up < frame.nodes.len() {
        title[1] = title[1].clone().style(bad());
    }
    screen.render_widget(Paragraph::new(Line::from(title)), head);
    let halves: [Rect; 2] = Layout::horizontal([Constraint::Fill(1); 2]).areas(curves);
    curve(screen, halves[0], "accepted", &history.accepted, Color::Cyan);
    curve(screen, halves[1], "finished", &history.finished, Color::Green);
    let mut left = body;
    for section in tables::sections(frame) {
        let lines = (section.rows.len() + section.notes.len()) as u16 + 2;
        if left.height < 3 {
            return;
        }
        let area = Rect { height: lines.min(left.height), ..left };
        table(screen, area, &section);
        left = Rect { y: left.y + area.height, height: left.height - area.height, ..left };
    }
}

fn bad() -> Style {
    Style::new().fg(Color::Red)
}

fn curve(screen: &mut Screen<'_>, area: Rect, what: &str, rates: &VecDeque<u64>, colour: Color) {
    let now = rates.back().map(|rate| *rate as f64);
    let most = rates.iter().max().map(|rate| *rate as f64);
    let title = format!(" {what}/s {} (most {}) ", tables::rate(now), tables::rate(most));
    let block = Block::new().borders(Borders::TOP).title(title);
    let room = usize::from(area.width);
    let shown: Vec<u64> = rates.iter().skip(rates.len().saturating_sub(room)).copied().collect();
    screen.render_widget(Sparkline::default().block(block).data(shown).style(Style::new().fg(colour)), area);
}

fn table(screen: &mut Screen<'_>, area: Rect, section: &Section) {
    let longest = |n: usize| {
        let cells = section.rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(section.columns[n].chars().count()) as u16
    };
    let widths: Vec<Constraint> = (0..section.columns.len()).map(|n| Constraint::Length(longest(n))).collect();
    let cell = |(n, text): (usize, &str)| {
        let alignment = if n < 2 && section.columns.len() > 4 || n == 0 { Alignment::Left } else { Alignment::Right };
        Cell::from(Text::from(text.to_owned()).alignment(alignment))
    };
    let row = |(n, row): (usize, &Vec<String>)| {
        let style = if section.bad.contains(&n) { bad() } else { Style::new() };
        Row::new(row.iter().map(String::as_str).enumerate().map(cell)).style(style)
    };
    let header = Row::new(section.columns.iter().copied().enumerate().map(cell));
    let title = format!(" {} ", section.title);
    let table = Table::new(section.rows.iter().enumerate().map(row), widths)
        .column_spacing(2)
        .header(header.style(Style::new().add_modifier(Modifier::DIM)))
        .block(Block::new().borders(Borders::TOP).title(title));
    let [rows, notes] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(section.notes.len() as u16)]).areas(area);
    screen.render_widget(table, rows);
    screen.render_widget(Paragraph::new(section.notes.join("\n")).style(bad()), notes);
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::super::frame::{Look, tests::embedded};
    use super::*;

    fn drawn(history: &History, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|screen| draw(screen, history, "2 s")).unwrap();
        terminal.backend().to_string()
    }

    fn seen() -> History {
        let (before, now) = (embedded(0, 1_000), embedded(10, 3_000));
        let here = Look { url: "http://a:1", before: Some(&before), now: Ok(&now) };
        let away = Look { url: "http://b:2", before: None, now: Err("can't connect: refused") };
        let mut history = History::default();
        history.push(Frame::new(0, &[here, away]));
        history
    }

    #[test]
    fn a_frame_shows_rates_nodes_carriers_and_what_waits() {
        let text = drawn(&seen(), 140, 30);
        for part in [
            "sluice top · 1 of 2 nodes up · every 2 s · q quits",
            "accepted/s 200 (most 200)",
            "finished/s 100 (most 100)",
            "b:2: can't connect: refused",
            "1 of 2 up",
            "POST /v1/orders",
            "2.50 ms",
            "swift",
            "outbox lag",
            "4 KiB",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
    }

    #[test]
    fn it_fits_into_any_terminal() {
        for (width, height) in [(1, 1), (10, 3), (40, 8), (80, 24), (300, 100)] {
            drawn(&seen(), width, height);
            drawn(&History::default(), width, height);
        }
        assert!(drawn(&History::default(), 60, 5).contains("waiting for the first answers"));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut history = seen();
        let frame = history.frame.clone().unwrap();
        (0..2 * KEPT).for_each(|_| history.push(frame.clone()));
        assert_eq!((history.accepted.len(), history.finished.len()), (KEPT, KEPT));
    }
}
