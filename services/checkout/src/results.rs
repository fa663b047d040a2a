//! The answer to a batch: one line of JSON per line, written straight into one buffer.

use axum::http::StatusCode;
use sluice_domain::OrderId;
use sluice_http::Problem;
use sluice_pipeline::Receipt;

use crate::{
    answer,
    decode::{Context, Key},
    replay::Late,
};

/// Bytes of the longest line about an accepted order.
const LINE_BYTES: usize = 184;

/// What a line counts as: taken (true for a replay), or not, with its status.
pub type Counted = Result<bool, StatusCode>;

/// The results so far.
#[derive(Debug)]
pub struct Results {
    out: Vec<u8>,
    line: u64,
    /// The problem last worded for a receipt, and where it is in `out`: in an overload thousands of lines say the same.
    worded: Option<(Receipt, std::ops::Range<usize>)>,
}

impl Results {
    /// Room for `lines` results, with `problem_bytes` of problems among them.
    pub fn new(lines: usize, problem_bytes: usize) -> Self {
        Self { out: Vec::with_capacity(lines * LINE_BYTES + problem_bytes), line: 0, worded: None }
    }

    /// The answer.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// The next line, from what the engine said.
    pub fn receipt(&mut self, id: OrderId, receipt: Receipt) -> Counted {
        tracing::debug!(order_id = %id, ?receipt, "order");
        match receipt {
            Receipt::Accepted => self.taken(id, false),
            Receipt::Replayed => self.taken(id, true),
            Receipt::Conflict => self.same(receipt, || answer::conflict(Key::InBody)),
            Receipt::Busy { retry_after_s, reason } => {
                self.same(receipt, || Problem::unavailable(reason, retry_after_s))
            }
        }
    }

    /// The next line, about an order placed before the window.
    pub fn late(&mut self, id: OrderId, late: Late, context: &Context<'_>) -> Counted {
        tracing::debug!(order_id = %id, found = ?late, "order placed before the window");
        match late {
            Late::Replay => self.taken(id, true),
            Late::Conflict => self.worded(&answer::conflict(Key::InBody)),
            Late::Unknown => self.worded(&answer::too_old(id, context)),
            Late::Failed => self.worded(&crate::no_lookup()),
        }
    }

    /// The next line, about a line that is no good order; `json` is the problem.
    pub fn problem(&mut self, status: StatusCode, json: &[u8]) -> Counted {
        self.open(status, None);
        self.out.extend_from_slice(json);
        self.close();
        Err(status)
    }

    fn taken(&mut self, id: OrderId, replayed: bool) -> Counted {
        self.start(StatusCode::CREATED);
        self.out.extend_from_slice(b",\"id\":\"");
        answer::put_id(&mut self.out, id);
        self.out.extend_from_slice(b"\",\"order\":");
        answer::put_answer(&mut self.out, id);
        if replayed {
            self.out.extend_from_slice(b",\"replayed\":true");
        }
        self.close();
        Ok(replayed)
    }

    fn worded(&mut self, problem: &Problem) -> Counted {
        self.open(problem.status, problem.retry_after_s);
        problem.write_json(&mut self.out);
        self.close();
        Err(problem.status)
    }

    fn same(&mut self, receipt: Receipt, problem: impl FnOnce() -> Problem) -> Counted {
        let retry_after =
            if let Receipt::Busy { retry_after_s, .. } = receipt { Some(retry_after_s.max(1)) } else { None };
        let status =
            if retry_after.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::UNPROCESSABLE_ENTITY };
        self.open(status, retry_after);
        match &self.worded {
            Some((same, json)) if *same == receipt => self.out.extend_from_within(json.clone()),
            _ => {
                let start = self.out.len();
                problem().write_json(&mut self.out);
                self.worded = Some((receipt, start..self.out.len()));
            }
        }
        self.close();
        Err(status)
    }

    fn start(&mut self, status: StatusCode) {
        self.line += 1;
        self.out.extend_from_slice(b"{\"line\":");
        self.put_number(self.line);
        self.out.extend_from_slice(b",\"status\":");
        self.put_number(u64::from(status.as_u16()));
    }

    fn open(&mut self, status: StatusCode, retry_after_s: Option<u32>) {
        self.start(status);
        if let Some(seconds) = retry_after_s {
            self.out.extend_from_slice(b",\"retry_after\":");
            self.put_number(u64::from(seconds));
        }
        self.out.extend_from_slice(b",\"problem\":");
    }

    fn close(&mut self) {
        self.out.extend_from_slice(b"}\n");
    }

    fn put_number(&mut self, value: u64) {
        let mut digits = [0; 20];
        let (mut at, mut rest) = (digits.len(), value);
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.out.extend_from_slice(&digits[at..]);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sluice_domain::{Fingerprint, SlotCount};

    use super::*;

    const AT: u64 = 1_794_355_200_123;

    fn read(results: Results) -> Vec<Value> {
        let text = String::from_utf8(results.into_bytes()).unwrap();
        assert!(text.ends_with('\n'));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn every_line_has_a_number_and_a_status() {
        let id = OrderId::new(AT, Fingerprint::of("m", "k"), SlotCount::DEFAULT);
        let busy = |reason| Receipt::Busy { retry_after_s: 2, reason };
        let mut results = Results::new(0, 0);
        assert_eq!(results.receipt(id, Receipt::Accepted), Ok(false));
        assert_eq!(results.receipt(id, Receipt::Replayed), Ok(true));
        assert_eq!(results.receipt(id, Receipt::Conflict), Err(StatusCode::UNPROCESSABLE_ENTITY));
        for reason in ["full", "full", "closing"] {
            assert_eq!(results.receipt(id, busy(reason)), Err(StatusCode::SERVICE_UNAVAILABLE));
        }
        assert_eq!(results.problem(StatusCode::BAD_REQUEST, b"{}"), Err(StatusCode::BAD_REQUEST));
        let lines = read(results);
        let order = json!({"id": id.to_string(), "status": "accepted", "placed_at": "2026-11-11T00:00:00.123Z"});
        assert_eq!(lines[0], json!({"line": 1, "status": 201, "id": id.to_string(), "order": order}));
        assert_eq!(lines[1], json!({"line": 2, "status": 201, "id": id.to_string(), "order": order, "replayed": true}));
        assert_eq!(lines[2]["problem"]["type"], "urn:sluice:problem:key-reused");
        assert_eq!(lines[2]["problem"]["status"], lines[2]["status"]);
        assert_eq!(lines[3]["retry_after"], 2);
        assert_eq!(lines[3]["problem"], lines[4]["problem"]);
        assert_eq!(lines[5]["problem"]["detail"], "closing");
        assert_eq!(lines[6], json!({"line": 7, "status": 400, "problem": {}}));
    }

    #[test]
    fn the_room_set_aside_is_enough() {
        let id = OrderId::new(AT, Fingerprint::of("m", "k"), SlotCount::DEFAULT);
        let mut results = Results { line: 9_999, ..Results::new(1, 0) };
        assert_eq!(results.receipt(id, Receipt::Replayed), Ok(true));
        assert!(results.out.len() <= LINE_BYTES, "{}", results.out.len());
    }
}
