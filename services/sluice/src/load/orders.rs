//! Real baskets as requests: which merchant posts which order, under which key, in which bytes.

use std::collections::HashMap;
use std::sync::OnceLock;

use sluice_data::{Baskets, DataError, OrderWriter};

use super::http::{Target, push_number};

/// The largest body of a batch. The API takes 16 MiB; a longer batch is sent in several requests.
pub const MAX_BATCH_BYTES: usize = 15 << 20;
/// The most lines of a batch that the API takes.
pub const MAX_BATCH_LINES: usize = 10_000;

/// Who posts orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merchant {
    /// The merchant's id, `m-{store}` for those of the data.
    pub id: String,
    /// Its API key.
    pub key: String,
}

/// Writes requests without allocating once the buffers have grown.
#[derive(Debug)]
pub(crate) struct Orders<'a> {
    writer: OrderWriter<'a>,
    /// By index of the basket: index of the merchant.
    owners: Vec<u32>,
    /// By index of the merchant: the head of its requests up to the idempotency key.
    single_heads: Vec<Vec<u8>>,
    batch_heads: Vec<Vec<u8>>,
    key_prefix: Vec<u8>,
    seed: u64,
    two_line: bool,
    body: Vec<u8>,
}

/// An order of a batch that has no answer yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    pub(crate) sequence: u64,
    /// Bytes with the line break.
    pub(crate) length: usize,
}

impl<'a> Orders<'a> {
    /// Orders of these baskets. A basket is posted by its own store's merchant if `merchants` has it, or else by one of
    /// the others, always the same one.
    pub(crate) fn new(
        writer: OrderWriter<'a>,
        baskets: &Baskets,
        merchants: &[Merchant],
        target: &Target,
        run: &str,
    ) -> Self {
        let known: HashMap<&str, u32> = merchants.iter().map(|merchant| merchant.id.as_str()).zip(0..).collect();
        let others = merchants.len().max(1);
        let owner = |index| {
            let stand_in = (index % others) as u32;
            known.get(writer.merchant(index)).copied().unwrap_or(stand_in)
        };
        let owners = (0..baskets.len()).map(owner).collect();
        let head = |path: &str, kind: &str, merchant: &Merchant| {
            let (host, key) = (target.authority(), &merchant.key);
            format!("POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\ncontent-type: {kind}\r\n")
                .into_bytes()
        };
        let single_heads = merchants.iter().map(|merchant| head("/v1/orders", "application/json", merchant)).collect();
        let batch_heads =
            merchants.iter().map(|merchant| head("/v1/orders:batch", "application/x-ndjson", merchant)).collect();
        let key_prefix = format!("load-{run}-").into_bytes();
        Self { writer, owners, single_heads, batch_heads, key_prefix, seed: 0, two_line: false, body: Vec::new() }
    }

    /// Draws what is generated from this seed, and cuts orders to two lines if asked to.
    pub(crate) fn with(mut self, seed: u64, two_line: bool) -> Self {
        (self.seed, self.two_line) = (seed, two_line);
        self
    }

    /// Replaces `request` by the request for one order, and gives the index of the merchant who posts it.
    pub(crate) fn single(&mut self, sequence: u64, placed_at_ms: u64, request: &mut Vec<u8>) -> u32 {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        let merchant = self.write_body(sequence, placed_at_ms, &mut body);
        request.clear();
        request.extend_from_slice(self.single_heads.get(merchant as usize).map_or(&[], Vec::as_slice));
        request.extend_from_slice(b"idempotency-key: ");
        request.extend_from_slice(&self.key_prefix);
        push_number(request, sequence);
        finish_head(request, body.len());
        request.extend_from_slice(&body);
        self.body = body;
        merchant
    }

    /// Replaces `lines` by as many of these orders as one batch takes, and `bytes` by their lines. All are posted by the
    /// merchant of the first, whose index is given.
    pub(crate) fn batch(
        &self,
        sequences: std::ops::Range<u64>,
        placed_at_ms: u64,
        lines: &mut Vec<Line>,
        bytes: &mut Vec<u8>,
    ) -> u32 {
        lines.clear();
        bytes.clear();
        let mut merchant = None;
        for sequence in sequences.take(MAX_BATCH_LINES) {
            let start = bytes.len();
            let owner = self.write_body(sequence, placed_at_ms, bytes);
            // The key goes in before the closing brace.
            bytes.pop();
            bytes.extend_from_slice(b",\"idempotency_key\":\"");
            bytes.extend_from_slice(&self.key_prefix);
            push_number(bytes, sequence);
            bytes.extend_from_slice(b"\"}\n");
            if start > 0 && bytes.len() > MAX_BATCH_BYTES {
                bytes.truncate(start);
                break;
            }
            lines.push(Line { sequence, length: bytes.len() - start });
            merchant.get_or_insert(owner);
        }
        merchant.unwrap_or(0)
    }

    /// Replaces `request` by the request for a batch of these lines.
    pub(crate) fn batch_request(&self, merchant: u32, lines: &[u8], request: &mut Vec<u8>) {
        request.clear();
        request.extend_from_slice(self.batch_heads.get(merchant as usize).map_or(&[], Vec::as_slice));
        // `finish_head` starts by ending a line, so leave out the end of the last one.
        request.truncate(request.len().saturating_sub(2));
        finish_head(request, lines.len());
        request.extend_from_slice(lines);
    }

    fn write_body(&self, sequence: u64, placed_at_ms: u64, out: &mut Vec<u8>) -> u32 {
        let index = if self.two_line {
            self.writer.write_two_line_order_json(sequence, self.seed, placed_at_ms, out)
        } else {
            // The seed moves where in the year a run starts.
            let index = (sequence.wrapping_add(self.seed) % self.owners.len().max(1) as u64) as usize;
            self.writer.write_order_json(index, self.seed, placed_at_ms, out);
            index
        };
        self.owners.get(index).copied().unwrap_or(0)
    }
}

fn finish_head(request: &mut Vec<u8>, body: usize) {
    request.extend_from_slice(b"\r\ncontent-length: ");
    push_number(request, body as u64);
    request.extend_from_slice(b"\r\n\r\n");
}

/// The data that orders are made of, about 9 MB.
#[derive(Debug)]
pub(crate) struct Source {
    catalogue: sluice_data::Catalogue,
    baskets: Baskets,
}

impl Source {
    /// The one copy that all runs of this process share; the tasks that send outlive any borrow that a run could give.
    pub(crate) fn shared() -> Result<&'static Self, DataError> {
        static SOURCE: OnceLock<Source> = OnceLock::new();
        match SOURCE.get() {
            Some(source) => Ok(source),
            None => {
                let loaded = Self::load()?;
                Ok(SOURCE.get_or_init(|| loaded))
            }
        }
    }

    fn load() -> Result<Self, DataError> {
        Ok(Self { catalogue: sluice_data::catalogue()?, baskets: sluice_data::baskets()? })
    }

    pub(crate) fn orders(&self, merchants: &[Merchant], target: &Target, run: &str) -> Result<Orders<'_>, DataError> {
        let writer = OrderWriter::new(&self.catalogue, &self.baskets)?;
        Ok(Orders::new(writer, &self.baskets, merchants, target, run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn merchants(ids: &[&str]) -> Vec<Merchant> {
        ids.iter().map(|id| Merchant { id: (*id).to_owned(), key: format!("key-of-{id}") }).collect()
    }

    fn parts(request: &[u8]) -> (String, Vec<u8>) {
        let text = String::from_utf8(request.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.as_bytes().to_vec())
    }

    #[test]
    fn a_single_request_is_whole_and_repeatable() {
        let source = Source::shared().unwrap();
        let target = "http://127.0.0.1:1".parse().unwrap();
        let merchants = merchants(&["m-a", "m-b"]);
        let mut orders = source.orders(&merchants, &target, "r1").unwrap().with(3, true);
        let (mut request, mut again) = (Vec::new(), Vec::new());
        let merchant = orders.single(41, 1_794_355_200_123, &mut request);
        assert_eq!(orders.single(41, 1_794_355_200_123, &mut again), merchant);
        assert_eq!(request, again);
        let (head, body) = parts(&request);
        assert!(head.starts_with("POST /v1/orders HTTP/1.1\r\nhost: 127.0.0.1:1\r\n"), "{head}");
        assert!(head.contains(&format!("authorization: Bearer {}\r\n", merchants[merchant as usize].key)));
        assert!(head.contains("idempotency-key: load-r1-41\r\n"));
        assert!(head.ends_with(&format!("content-length: {}", body.len())));
        let order: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(order["lines"].as_array().unwrap().len(), 2);
        assert_eq!(order["placed_at"], "2026-11-11T00:00:00.123Z");
    }

    #[test]
    fn a_basket_belongs_to_its_store_if_that_merchant_is_known() {
        let source = Source::shared().unwrap();
        let target = "http://127.0.0.1:1".parse().unwrap();
        let own = format!("m-{}", source.baskets.get(0).unwrap().store);
        let mut orders = source.orders(&merchants(&["m-x", "m-y", &own]), &target, "r").unwrap();
        assert_eq!(orders.single(0, 0, &mut Vec::new()), 2);
        let strangers: Vec<u32> = (0..500).map(|n| orders.single(n, 0, &mut Vec::new())).collect();
        assert!((0..3).all(|merchant| strangers.contains(&merchant)));
    }

    #[test]
    fn a_batch_ends_at_its_bounds() {
        let source = Source::shared().unwrap();
        let target = "http://127.0.0.1:1".parse().unwrap();
        let orders = source.orders(&merchants(&["m-a"]), &target, "r").unwrap();
        let (mut lines, mut bytes, mut request) = (Vec::new(), Vec::new(), Vec::new());
        orders.batch(5..25_000, 0, &mut lines, &mut bytes);
        assert!(bytes.len() <= MAX_BATCH_BYTES && lines.len() <= MAX_BATCH_LINES);
        assert_eq!(lines.iter().map(|line| line.length).sum::<usize>(), bytes.len());
        orders.batch(5..8, 0, &mut lines, &mut bytes);
        orders.batch_request(0, &bytes, &mut request);
        let (head, body) = parts(&request);
        assert!(head.starts_with("POST /v1/orders:batch HTTP/1.1\r\n"), "{head}");
        assert!(head.ends_with(&format!("application/x-ndjson\r\ncontent-length: {}", body.len())), "{head}");
        for (line, sequence) in body.strip_suffix(b"\n").unwrap().split(|&byte| byte == b'\n').zip(5..) {
            let order: Value = serde_json::from_slice(line).unwrap();
            assert_eq!(order["idempotency_key"], format!("load-r-{sequence}"));
        }
        assert_eq!(lines.iter().map(|line| line.sequence).collect::<Vec<_>>(), [5, 6, 7]);
    }
}
