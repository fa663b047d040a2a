//! Pages of events of all merchants, one after the other: each wholly read or not at all, so that whoever goes on from a
//! cursor misses nothing; and what was given before is given once.

use std::{
    collections::{HashSet, VecDeque},
    str::FromStr,
    time::Duration,
};

use sluice_pipeline::Cursor;

use super::{
    client::{Client, Failed},
    event::Event,
};

/// Events of a page.
const LIMIT: usize = 1_000;
/// Seconds that a page may wait for its first event.
const WAIT_S: u64 = 20;
/// Events that are remembered, so that one that is told again right away is known.
const REMEMBERED: usize = 4_096;

/// Where a reader begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// With the oldest event that is kept.
    Oldest,
    /// With what comes from now on.
    Latest,
    /// After this cursor.
    After(String),
}

impl FromStr for Begin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "oldest" => Ok(Self::Oldest),
            "latest" => Ok(Self::Latest),
            cursor => match cursor.parse::<Cursor>() {
                Ok(_) => Ok(Self::After(cursor.to_owned())),
                Err(error) => Err(format!("expected oldest, latest or a cursor: {error}")),
            },
        }
    }
}

/// An event with the line that the server wrote.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub event: Event,
    pub line: String,
}

/// Some events.
#[derive(Debug)]
pub(super) struct Page {
    pub told: Vec<Told>,
    /// Where to go on after them all.
    pub next: String,
    /// Nothing newer was there.
    pub end: bool,
}

/// A reader of the feed.
#[derive(Debug)]
pub(super) struct Feed {
    /// Where it goes on.
    pub after: Begin,
    known: HashSet<String>,
    order: VecDeque<String>,
}

impl Feed {
    pub fn new(after: Begin) -> Self {
        Self { after, known: HashSet::new(), order: VecDeque::new() }
    }

    /// The cursor to go on from; `None` before any page was read.
    pub fn cursor(&self) -> Option<&str> {
        match &self.after {
            Begin::After(cursor) => Some(cursor),
            Begin::Oldest | Begin::Latest => None,
        }
    }

    /// The next page, which may wait for its first event. Where the reader is doesn't move: say so with
    /// [`Feed::passed`] when the events are dealt with. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Failed`]; the same page may be asked for again.
    pub async fn page(&self, client: &mut Client, wait: bool) -> Result<Page, Failed> {
        // From a cursor: what comes between two questions is in the second's answer.
        let wait_s = if wait && self.after != Begin::Latest { WAIT_S } else { 0 };
        let mut path = format!("/v1/operator/events?limit={LIMIT}&wait={wait_s}");
        match &self.after {
            Begin::Oldest => {}
            Begin::Latest => path += "&after=latest",
            Begin::After(cursor) => path += &format!("&after={cursor}"),
        }
        let answer = match wait_s {
            0 => client.insist(&path).await?,
            wait_s => client.get(&path, Duration::from_secs(wait_s)).await?,
        };
        let odd = |what: &str| Failed::Refused { status: 200, said: what.to_owned(), retry_after: None };
        let next =
            answer.link.as_deref().and_then(next_of).ok_or_else(|| odd("the page doesn't say where to go on"))?;
        let text = str::from_utf8(&answer.body).map_err(|_| odd("the page is no text"))?;
        let told = text.lines().filter(|line| !line.is_empty()).map(|line| {
            let event = serde_json::from_str(line).map_err(|error| odd(&format!("a line is no event: {error}")))?;
            Ok(Told { event, line: line.to_owned() })
        });
        let told = told.collect::<Result<Vec<_>, Failed>>()?;
        let end = told.is_empty() && self.cursor() == Some(next);
        Ok(Page { end, next: next.to_owned(), told })
    }

    /// Notes an event, and says whether it is new.
    pub fn is_new(&mut self, event: &Event) -> bool {
        if !self.known.insert(event.id.clone()) {
            return false;
        }
        self.order.push_back(event.id.clone());
        if self.order.len() > REMEMBERED
            && let Some(old) = self.order.pop_front()
        {
            self.known.remove(&old);
        }
        true
    }

    /// Goes on after `cursor`.
    pub fn passed(&mut self, cursor: &str) {
        self.after = Begin::After(cursor.to_owned());
    }
}

/// True if whoever is at `cursor` has been told of everything before `until`.
pub(super) fn is_past(cursor: &str, until: &str) -> bool {
    let (Ok(cursor), Ok(until)) = (cursor.parse::<Cursor>(), until.parse::<Cursor>()) else { return false };
    cursor.0.len() == until.0.len() && cursor.0.iter().zip(&until.0).all(|(at, until)| at >= until)
}

/// The cursor in `<…after=CURSOR>; rel="next"`.
fn next_of(link: &str) -> Option<&str> {
    let (target, relation) = link.strip_prefix('<')?.split_once('>')?;
    let (_, cursor) = target.split_once("after=")?;
    (relation.contains("next") && cursor.parse::<Cursor>().is_ok()).then_some(cursor)
}

#[cfg(test)]
mod tests {
    use super::{super::event::tests::sample, *};

    #[test]
    fn a_reader_begins_where_it_is_told() {
        assert_eq!("oldest".parse(), Ok(Begin::Oldest));
        assert_eq!("latest".parse(), Ok(Begin::Latest));
        assert_eq!("1.2.z".parse(), Ok(Begin::After("1.2.z".into())));
        assert!("yesterday".parse::<Begin>().unwrap_err().contains("oldest, latest or a cursor"));
    }

    #[test]
    fn where_to_go_on_is_read_from_the_page() {
        assert_eq!(next_of("</v1/operator/events?after=1.5.z>; rel=\"next\""), Some("1.5.z"));
        for odd in ["", "</x>", "</x?after=1.5>; rel=\"last\"", "</x?after=x>; rel=\"next\""] {
            assert_eq!(next_of(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_place_is_past_another_in_every_part() {
        assert!(is_past("1.5.z", "1.5.z") && is_past("1.10.z", "1.z.0"));
        for (cursor, until) in [("1.5.y", "1.5.z"), ("1.6.y", "1.5.z"), ("1.6", "1.5.z"), ("", "1.5")] {
            assert!(!is_past(cursor, until), "{cursor} {until}");
        }
    }

    #[test]
    fn what_was_told_before_is_known_for_a_while() {
        let mut feed = Feed::new(Begin::Oldest);
        let mut event = sample("parcel-settled");
        assert!(feed.is_new(&event) && !feed.is_new(&event));
        for n in 0..REMEMBERED {
            event.id = n.to_string();
            assert!(feed.is_new(&event));
        }
        assert_eq!((feed.known.len(), feed.order.len()), (REMEMBERED, REMEMBERED));
        assert!(!feed.is_new(&event));
    }
}
