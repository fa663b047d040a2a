//! The memory of a request's body is part of its merchant's budget.

use sluice_http::{Problem, body::Room};

use crate::budget::Hold;

/// By how much the hold on the budget grows when a body's length isn't known beforehand.
const STEP: usize = 64 * 1024;

impl Room for Hold {
    fn cover(&mut self, seen: usize, limit: usize) -> Result<(), Problem> {
        match seen.checked_sub(self.bytes()) {
            Some(more @ 1..) => Ok(self.grow(more.max(STEP.min(limit - self.bytes())))?),
            _ => Ok(()),
        }
    }
}
