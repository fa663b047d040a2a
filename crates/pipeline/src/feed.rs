//! The committed public events, for whoever follows them: consumers over HTTP, webhooks, operators.

use std::{fmt, str::FromStr, time::Duration};

use sluice_domain::OrderId;

use crate::ports::BoxFuture;

/// Streams that a cursor can have: partitions of the events topic, or one for a journal.
pub const MAX_STREAMS: usize = 1024;

/// Bytes that the text of a cursor can have.
pub const MAX_CURSOR_TEXT: usize = 3 + MAX_STREAMS * 14;

/// Where a reader is: the next position of every stream of events (journal, or partitions of a topic). Opaque text outside.
///
/// The text is `1` for the version and the positions in base 36, a `.` before each: it needs no escaping in a URL or a
/// header, and the cursors of one stream are ordered by it within one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub Vec<u64>);

/// A text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is `1` followed by up to {MAX_STREAMS} positions, as an earlier answer gave it")]
pub struct NotACursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("1")?;
        for &position in &self.0 {
            let (mut text, mut at, mut left) = ([0; 13], 13, position);
            loop {
                at -= 1;
                text[at] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(left % 36) as usize];
                left /= 36;
                if left == 0 {
                    break;
                }
            }
            f.write_str(".")?;
            f.write_str(std::str::from_utf8(&text[at..]).unwrap_or_default())?;
        }
        Ok(())
    }
}

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        if text.len() > MAX_CURSOR_TEXT {
            return Err(NotACursor);
        }
        let mut parts = text.split('.');
        if parts.next() != Some("1") {
            return Err(NotACursor);
        }
        let position = |part: &str| {
            let plain = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
            if plain { u64::from_str_radix(part, 36).map_err(|_| NotACursor) } else { Err(NotACursor) }
        };
        let positions = parts.map(position).collect::<Result<Vec<_>, _>>()?;
        if positions.is_empty() || positions.len() > MAX_STREAMS {
            return Err(NotACursor);
        }
        Ok(Self(positions))
    }
}

/// One public event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedEvent {
    /// The order it is about.
    pub order: OrderId,
    /// Whose order it is.
    pub merchant: String,
    /// CloudEvents `id`, stable over replays.
    pub id: String,
    /// CloudEvents `type`, such as `com.sluice.parcel.tracked.v1`.
    pub kind: &'static str,
    /// Number among its order's events, from 0, without gaps.
    pub sequence: u64,
    /// CloudEvents `time`, ms since the Unix epoch.
    pub at_ms: u64,
    /// CloudEvents `data` as canonical JSON.
    pub data: Vec<u8>,
    /// Where a reader goes on after this event.
    pub next: Cursor,
}

/// Events can't be read from there, or now.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// Events before `oldest` are no longer kept.
    #[error("events before {oldest} are no longer kept")]
    Expired {
        /// The oldest retained position.
        oldest: Cursor,
    },
    /// The cursor isn't one of this deployment's.
    #[error("not a cursor of this deployment: {0}")]
    Unknown(String),
    /// The engine can't be read now.
    #[error("events can't be read now: {0}")]
    Unavailable(String),
}

/// Some events, and where a reader goes on after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedPage {
    /// Events of one order in their order.
    pub events: Vec<FeedEvent>,
    /// Behind the last event; it may have moved although there is none.
    pub next: Cursor,
}

/// The committed public events of a deployment, oldest first, at least once.
pub trait Feed: Send + Sync {
    /// The oldest retained position, and that behind the newest committed event.
    ///
    /// # Errors
    /// [`FeedError::Unavailable`].
    fn bounds(&self) -> BoxFuture<'_, Result<(Cursor, Cursor), FeedError>>;

    /// Up to `max` events after `after`; events of one order in their order. Waits at most `wait` for the first; empty if
    /// none came. Always gives the cursor to go on from (it may move although no event matched).
    ///
    /// # Errors
    /// [`FeedError`] as its variants say.
    fn read(&self, after: Cursor, max: usize, wait: Duration) -> BoxFuture<'_, Result<FeedPage, FeedError>>;

    /// A cursor behind which is every event that was decided at `at_ms` (ms since the Unix epoch) or later, by the clock of whoever
    /// decided, and few others: found without reading what is before it. The oldest retained position where that can't be found.
    /// An event's own time may be another: carriers say when something happened.
    ///
    /// # Errors
    /// [`FeedError::Unavailable`].
    fn since(&self, at_ms: u64) -> BoxFuture<'_, Result<Cursor, FeedError>>;

    /// True if a reader at `reader` is still to be told of the event that was read between `before` and `next`, its own cursor.
    /// A reader at another place has cursors of its own, so only the feed can tell. By default each position is a stream's: the
    /// event's is one that has moved, and where several have, it counts as told unless all of them say that it isn't. A feed
    /// whose positions mean something else says so itself.
    fn is_ahead(&self, before: &Cursor, next: &Cursor, reader: &Cursor) -> bool {
        let moved = next.0.iter().enumerate().filter(|(at, position)| before.0.get(*at) != Some(position));
        let mut moved = moved.map(|(at, position)| reader.0.get(at).is_none_or(|told| position > told)).peekable();
        moved.peek().is_some() && moved.all(|ahead| ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Streams;

    impl Feed for Streams {
        fn bounds(&self) -> BoxFuture<'_, Result<(Cursor, Cursor), FeedError>> {
            Box::pin(async { Err(FeedError::Unavailable(String::new())) })
        }

        fn read(&self, _: Cursor, _: usize, _: Duration) -> BoxFuture<'_, Result<FeedPage, FeedError>> {
            Box::pin(async { Err(FeedError::Unavailable(String::new())) })
        }

        fn since(&self, _: u64) -> BoxFuture<'_, Result<Cursor, FeedError>> {
            Box::pin(async { Err(FeedError::Unavailable(String::new())) })
        }
    }

    #[test]
    fn an_event_is_ahead_of_a_reader_by_the_position_that_moved() {
        let is_ahead = |before: &[u64], next: &[u64], reader: &[u64]| {
            Streams.is_ahead(&Cursor(before.to_vec()), &Cursor(next.to_vec()), &Cursor(reader.to_vec()))
        };
        assert!(is_ahead(&[4, 0], &[5, 0], &[4, 9]));
        assert!(!is_ahead(&[4, 0], &[5, 0], &[5, 0]));
        assert!(!is_ahead(&[4, 0], &[5, 7], &[4, 9]), "several moved: as if told");
        assert!(is_ahead(&[4], &[4, 1], &[4]), "a stream that there wasn't");
        assert!(!is_ahead(&[4], &[4], &[0]));
    }

    #[test]
    fn the_text_of_a_cursor_is_read_back() {
        for positions in [vec![0], vec![35, 36, u64::MAX], vec![u64::MAX; MAX_STREAMS]] {
            let cursor = Cursor(positions);
            assert_eq!(cursor.to_string().parse(), Ok(cursor.clone()), "{cursor}");
        }
        assert_eq!(Cursor(vec![0, 36]).to_string(), "1.0.10");
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let many = Cursor(vec![1; MAX_STREAMS + 1]).to_string();
        for text in ["", "1", "2.0", "1.", "1.0.", "1.+1", "1.A", "1.-1", "1.3w5e11264sgsg", "latest", many.as_str()] {
            assert_eq!(text.parse::<Cursor>(), Err(NotACursor), "{text}");
        }
    }
}
