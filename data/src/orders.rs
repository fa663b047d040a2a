//! Baskets as the orders that a storefront posts.
//!
//! Customer, merchant, products, quantities and prices are those of the basket. The address is generated from a seed
//! and the time is the caller's: neither is data.

use crate::address::{Draws, push_address};
use crate::text::{push_json, push_number, push_rfc3339};
use crate::{Basket, BasketLine, Baskets, Catalogue, DataError};

/// Writes the JSON bodies of orders, without allocating once the buffer has grown to the largest one.
///
/// The same arguments always give the same bytes. Threads can share one writer.
#[derive(Clone)]
pub struct OrderWriter<'a> {
    catalogue: &'a Catalogue,
    baskets: &'a Baskets,
    /// By ascending store.
    merchants: Box<[(u32, Box<str>)]>,
    /// The baskets that have two lines or more.
    shared: Box<[u32]>,
}

impl<'a> OrderWriter<'a> {
    /// A writer over these baskets.
    ///
    /// # Errors
    /// When a basket holds a product that the catalogue doesn't know, or no basket holds two.
    pub fn new(catalogue: &'a Catalogue, baskets: &'a Baskets) -> Result<Self, DataError> {
        let mut shared = Vec::new();
        let mut stores = Vec::new();
        for (index, basket) in baskets.iter().enumerate() {
            if let Some(line) = basket.lines.iter().find(|line| catalogue.get(line.sku).is_none()) {
                return Err(DataError::UnknownSku { basket: index, sku: line.sku });
            }
            if basket.lines.len() > 1 {
                shared.extend(u32::try_from(index));
            }
            stores.push(basket.store);
        }
        if shared.is_empty() {
            return Err(DataError::NoBaskets);
        }
        stores.sort_unstable();
        stores.dedup();
        let merchants = stores.into_iter().map(|store| (store, format!("m-{store}").into())).collect();
        Ok(Self { catalogue, baskets, merchants, shared: shared.into() })
    }

    /// The merchant who sold the basket at this index, `m-` and the store's number. Indices wrap around, as in
    /// [`Self::write_order_json`].
    #[must_use]
    pub fn merchant(&self, basket_index: usize) -> &str {
        let store = self.basket(basket_index).store;
        let found = self.merchants.binary_search_by_key(&store, |(store, _)| *store).ok();
        found.and_then(|at| self.merchants.get(at)).map_or("", |(_, merchant)| merchant)
    }

    /// Appends the whole basket at this index as an order. Indices wrap around, so the number of an order in a long run
    /// serves as well.
    pub fn write_order_json(&self, basket_index: usize, seed: u64, placed_at_ms: u64, out: &mut Vec<u8>) {
        let basket = self.basket(basket_index);
        self.write(&basket, basket.lines.iter(), seed, placed_at_ms, out);
    }

    /// Appends an order of exactly two lines and gives the index of the basket that they were drawn from. Basket and
    /// lines follow from `seed` and `sequence`. Bodies are about 450 bytes in the mean (443 at seed 42), the size
    /// of a small order.
    pub fn write_two_line_order_json(&self, sequence: u64, seed: u64, placed_at_ms: u64, out: &mut Vec<u8>) -> usize {
        let mut draws = Draws::new(seed, sequence);
        let index = self.shared.get(draws.below(self.shared.len())).map_or(0, |&index| index as usize);
        let basket = self.basket(index);
        let first = draws.below(basket.lines.len());
        // Drawn from the others: those from `first` on move up by one.
        let other = draws.below(basket.lines.len() - 1);
        let second = if other < first { other } else { other + 1 };
        let lines = [first.min(second), first.max(second)];
        self.write(&basket, lines.iter().filter_map(|&at| basket.lines.get(at)), seed, placed_at_ms, out);
        index
    }

    fn basket(&self, index: usize) -> Basket<'a> {
        let nothing = Basket { store: 0, household: 0, local_seconds: 0, lines: &[] };
        // `new` refuses an empty set, so the remainder exists and lies inside.
        index.checked_rem(self.baskets.len()).and_then(|index| self.baskets.get(index)).unwrap_or(nothing)
    }

    fn write<'b>(
        &self,
        basket: &Basket<'_>,
        lines: impl Iterator<Item = &'b BasketLine>,
        seed: u64,
        placed_at_ms: u64,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(b"{\"customer\":\"c-");
        push_number(out, basket.household);
        out.extend_from_slice(b"\",\"placed_at\":\"");
        push_rfc3339(out, placed_at_ms);
        out.extend_from_slice(b"\",\"currency\":\"USD\",\"ship_to\":");
        push_address(out, seed, basket.household);
        out.extend_from_slice(b",\"lines\":[");
        for (position, line) in lines.enumerate() {
            out.extend_from_slice(if position == 0 { b"{\"sku\":\"" } else { b",{\"sku\":\"" });
            push_number(out, line.sku);
            out.extend_from_slice(b"\",\"title\":\"");
            push_json(out, self.catalogue.get(line.sku).map_or("", |product| product.title()));
            out.extend_from_slice(b"\",\"quantity\":");
            push_number(out, line.quantity);
            out.extend_from_slice(b",\"unit_price\":");
            push_number(out, line.unit_price_minor);
            out.push(b'}');
        }
        out.extend_from_slice(b"]}");
    }
}

impl std::fmt::Debug for OrderWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OrderWriter")
            .field("catalogue", &self.catalogue)
            .field("baskets", &self.baskets)
            .field("merchants", &self.merchants.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{baskets, catalogue};
    use serde_json::Value;

    const MIDNIGHT: u64 = 1_794_355_200_123;

    #[test]
    fn an_order_holds_its_basket() {
        let (catalogue, baskets) = (catalogue().unwrap(), baskets().unwrap());
        let writer = OrderWriter::new(&catalogue, &baskets).unwrap();
        let mut out = Vec::new();
        for index in (0..baskets.len()).step_by(97) {
            out.clear();
            writer.write_order_json(index, 1, MIDNIGHT, &mut out);
            let order: Value = serde_json::from_slice(&out).unwrap();
            let basket = baskets.get(index).unwrap();
            assert_eq!(order["customer"], format!("c-{}", basket.household));
            assert_eq!(order["placed_at"], "2026-11-11T00:00:00.123Z");
            assert_eq!(order["currency"], "USD");
            assert_eq!(order["ship_to"]["country"], "US");
            assert_eq!(order["ship_to"].as_object().unwrap().len(), 5);
            assert_eq!(writer.merchant(index), format!("m-{}", basket.store));
            let lines = order["lines"].as_array().unwrap();
            assert_eq!(lines.len(), basket.lines.len());
            for (line, expected) in lines.iter().zip(basket.lines) {
                assert_eq!(line["sku"], expected.sku.to_string());
                assert_eq!(line["title"], catalogue.get(expected.sku).unwrap().title());
                assert_eq!(line["quantity"], expected.quantity);
                assert_eq!(line["unit_price"], expected.unit_price_minor);
            }
        }
    }

    #[test]
    fn two_line_orders_are_about_450_bytes() {
        let (catalogue, baskets) = (catalogue().unwrap(), baskets().unwrap());
        let writer = OrderWriter::new(&catalogue, &baskets).unwrap();
        let mut out = Vec::new();
        let mut total = 0;
        let mut drawn = std::collections::HashSet::new();
        for sequence in 0..10_000 {
            out.clear();
            drawn.insert(writer.write_two_line_order_json(sequence, 42, MIDNIGHT, &mut out));
            total += out.len();
            let order: Value = serde_json::from_slice(&out).unwrap();
            let lines = order["lines"].as_array().unwrap();
            assert_eq!(lines.len(), 2);
            assert_ne!(lines[0]["sku"], lines[1]["sku"]);
        }
        let mean = total / 10_000;
        assert!((430..=470).contains(&mean), "{mean}");
        assert!(drawn.len() > 8_000, "{}", drawn.len());
    }

    #[test]
    fn the_same_arguments_give_the_same_bytes() {
        let (catalogue, baskets) = (catalogue().unwrap(), baskets().unwrap());
        let writer = OrderWriter::new(&catalogue, &baskets).unwrap();
        let write = |sequence, seed| {
            let mut out = Vec::new();
            let index = writer.write_two_line_order_json(sequence, seed, MIDNIGHT, &mut out);
            writer.write_order_json(index, seed, MIDNIGHT, &mut out);
            out
        };
        assert_eq!(write(5, 1), write(5, 1));
        assert_ne!(write(5, 1), write(6, 1));
        assert_ne!(write(5, 1), write(5, 2));
    }

    #[test]
    fn indices_wrap_around() {
        let (catalogue, baskets) = (catalogue().unwrap(), baskets().unwrap());
        let writer = OrderWriter::new(&catalogue, &baskets).unwrap();
        let (mut near, mut far) = (Vec::new(), Vec::new());
        writer.write_order_json(3, 1, MIDNIGHT, &mut near);
        writer.write_order_json(3 + 2 * baskets.len(), 1, MIDNIGHT, &mut far);
        assert_eq!(near, far);
        assert_eq!(writer.merchant(3), writer.merchant(3 + baskets.len()));
    }
}
