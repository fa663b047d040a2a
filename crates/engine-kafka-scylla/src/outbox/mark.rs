//! What is committed beside an offset of a shipments topic, so that a restart resumes within a frame and knows which
//! calls may have happened: `v1;settled=<entries>;sending=<offset>:<entry>`, the last part only if there is one.

/// A place in a partition: the offset of a frame, and the number of an entry in it.
pub(super) type At = (i64, u32);

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Mark {
    /// How many entries from the front of the frame at the committed offset are settled.
    pub settled: u32,
    /// Entries up to this one may have been sent to the carrier.
    pub sending: Option<At>,
}

impl Mark {
    /// The mark as it is committed.
    pub(super) fn text(&self) -> String {
        let settled = self.settled;
        match self.sending {
            Some((offset, entry)) => format!("v1;settled={settled};sending={offset}:{entry}"),
            None => format!("v1;settled={settled}"),
        }
    }

    /// Reads [`Mark::text`]; an empty text is what a commit without a mark leaves. Fields it doesn't know are passed over.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut mark = Self::default();
        if text.is_empty() {
            return Some(mark);
        }
        let mut fields = text.split(';');
        if fields.next() != Some("v1") {
            return None;
        }
        for field in fields {
            match field.split_once('=')? {
                ("settled", n) => mark.settled = n.parse().ok()?,
                ("sending", at) => {
                    let (offset, entry) = at.split_once(':')?;
                    mark.sending = Some((offset.parse().ok()?, entry.parse().ok()?));
                }
                _ => {}
            }
        }
        Some(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive() {
        for mark in [
            Mark::default(),
            Mark { settled: 12, sending: None },
            Mark { settled: 0, sending: Some((1 << 40, 16_383)) },
        ] {
            assert_eq!(Mark::parse(&mark.text()), Some(mark));
        }
        assert_eq!(Mark { settled: 3, sending: Some((9, 4)) }.text(), "v1;settled=3;sending=9:4");
        assert_eq!(Mark::parse(""), Some(Mark::default()));
        assert_eq!(Mark::parse("v1;settled=1;later=x").unwrap().settled, 1);
        for bad in ["v2;settled=1", "v1;settled", "v1;settled=-1", "v1;settled=1;sending=5", "x"] {
            assert_eq!(Mark::parse(bad), None, "{bad}");
        }
    }
}
