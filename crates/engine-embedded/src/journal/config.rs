//! Sizes of a journal, and which of them fit together.

use sluice_pipeline::{BLOCK, LogError};

use super::format::GROUP_HEAD;

/// Sizes of a journal.
#[derive(Debug, Clone)]
pub struct JournalConfig {
    /// Bytes of one segment file; a multiple of 4,096. Fixed when the journal is created.
    pub segment_bytes: u64,
    /// A group closes to further frames at this many bytes; the last frame may exceed it by its own length.
    pub group_bytes: usize,
    /// The longest frame taken, bytes.
    pub frame_bytes: usize,
    /// Durable groups kept in memory, bytes.
    pub tail_bytes: usize,
    /// Checksums are verified on read. Always on, except where a test shows what happens without.
    pub verify: bool,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 128 << 20,
            group_bytes: 4 << 20,
            frame_bytes: 8 << 20,
            tail_bytes: 64 << 20,
            verify: true,
        }
    }
}

impl JournalConfig {
    pub(crate) fn group_limit(&self) -> u64 {
        (GROUP_HEAD + self.group_bytes + self.frame_bytes).next_multiple_of(BLOCK) as u64
    }

    /// # Errors
    /// [`LogError::Io`] if no journal can work with these sizes: a group never spans two segments, and orders leave
    /// room of two groups for outcomes.
    pub(crate) fn validate(&self) -> Result<(), LogError> {
        let least = 3 * self.group_limit();
        if self.segment_bytes >= least && self.segment_bytes.is_multiple_of(BLOCK as u64) {
            return Ok(());
        }
        let text = format!(
            "segment_bytes is {}; with these group_bytes and frame_bytes it must be a multiple of {BLOCK}, at least {least}",
            self.segment_bytes
        );
        let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, text);
        Err(LogError::Io { what: "journal settings".into(), source })
    }
}
