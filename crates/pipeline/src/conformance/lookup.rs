//! Orders found by their customer, and shipments by their tracking number: what is found is what a look at every order would
//! have found, wherever the entries are by then.

use std::{collections::BTreeMap, sync::Arc};

use sluice_domain::{OrderId, ShipmentId};
use sluice_schemas::outcome::OutcomeKind;

use super::{CARRIERS, Harness, MERCHANT, Make, Order, PLACED_AT_MS, accept, order, receipts, submission};
use crate::{Listed, OutcomeReport, Receipt, lookup::NUMBER_PARCELS};

const DAY_MS: u64 = 86_400_000;

/// An order of `customer`, placed so many ms after the suite's time.
fn of(harness: &dyn Harness, key: impl std::fmt::Display, customer: &str, late: i64, skus: &[&str]) -> Order {
    let customer = format!("{}{customer}", harness.salt());
    Order { customer, placed_at_ms: PLACED_AT_MS.saturating_add_signed(late), ..order(harness, key, skus) }
}

fn took(shipment: ShipmentId, carrier: &str, number: &str) -> OutcomeReport {
    let kind = OutcomeKind::Accepted;
    OutcomeReport { shipment, kind, at_ms: PLACED_AT_MS + 50, carrier: Arc::from(carrier), text: number.to_owned() }
}

/// The whole list, `max` orders at a time; every order as it is read.
fn list(harness: &mut dyn Harness, customer: &str, max: usize) -> Vec<OrderId> {
    let customer = format!("{}{customer}", harness.salt());
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let Listed { orders, next } = harness.list(MERCHANT, &customer, before, max);
        assert!(orders.len() <= max, "{} of {max}", orders.len());
        for (id, stored) in orders {
            assert!(before.is_none_or(|before| id < before), "{id} is not older than {before:?}");
            assert_eq!(harness.read(id), Some(stored), "what is listed can be read");
            found.push(id);
        }
        assert!(next.is_none_or(|next| before.is_none_or(|before| next < before)), "the list goes on");
        match next {
            Some(next) => before = Some(next),
            None => break,
        }
    }
    assert!(found.is_sorted_by(|a, b| a > b), "newest first: {found:?}");
    found
}

fn newest_first(orders: &[Order]) -> Vec<OrderId> {
    let mut ids: Vec<OrderId> = orders.iter().map(Order::id).collect();
    ids.sort_unstable_by(|a, b| b.cmp(a));
    ids
}

pub(super) fn a_customers_orders_are_listed_newest_first(make: Make<'_>) {
    let mut harness = make();
    // Days apart, milliseconds apart, and at the same time.
    let lates = [0, 1, 1, -1, DAY_MS as i64, -3 * DAY_MS as i64, 2, 3, -40 * DAY_MS as i64];
    let kinds = [&["c0"][..], &["c1", "c1"], &["none"], &["nobody"], &["bad"]];
    let mine: Vec<Order> =
        lates.iter().enumerate().map(|(n, &late)| of(&*harness, n, "ada", late, kinds[n % kinds.len()])).collect();
    let other = [of(&*harness, "other", "ada1", 0, &["c0"]), of(&*harness, "another", "1ada", 0, &["c0"])];
    accept(&mut *harness, &mine[..5]);
    accept(&mut *harness, &other);
    assert_eq!(list(&mut *harness, "ada", 2), newest_first(&mine[..5]));
    harness.spill();
    harness.abort_next();
    accept(&mut *harness, &mine[5..]);
    let all = newest_first(&mine);
    for max in [1, 4, 9, 100] {
        assert_eq!(list(&mut *harness, "ada", max), all, "by {max}");
    }
    // The same again is no other order, and what conflicts with one is none.
    let conflict = Order { skus: vec!["c1".to_owned()], ..mine[0].clone() };
    receipts(&mut *harness, &[mine[1].clone(), conflict]);
    harness.restart();
    assert_eq!(list(&mut *harness, "ada", 3), all, "after a restart");
    harness.spill();
    harness.spill();
    harness.restart();
    assert_eq!(list(&mut *harness, "ada", 3), all, "out of memory");
    assert_eq!(list(&mut *harness, "ada1", 3), [other[0].id()]);
    assert_eq!(list(&mut *harness, "nobody", 3), []);
    let customer = mine[0].customer.clone();
    for (merchant, customer) in [("m-2", customer.clone()), ("m-", format!("1{customer}")), ("", customer.clone())] {
        assert_eq!(harness.list(merchant, &customer, None, 10), Listed::default(), "{merchant}, {customer}");
    }
    let first = harness.list(MERCHANT, &customer, Some(all[3]), 2);
    assert_eq!(first.orders.iter().map(|o| o.0).collect::<Vec<_>>(), all[4..6]);
    // An order that nobody was told of is listed once, however often it is sent until it is answered.
    let late = of(&*harness, "late", "ada", 4, &["c0"]);
    harness.submit(submission(std::slice::from_ref(&late)));
    harness.crash();
    harness.settle_down();
    let answered = receipts(&mut *harness, std::slice::from_ref(&late));
    assert!(matches!(answered[..], [Receipt::Accepted | Receipt::Replayed]), "{answered:?}");
    let with_late = newest_first(&[&mine[..], &[late]].concat());
    assert_eq!(list(&mut *harness, "ada", 4), with_late);
}

pub(super) fn a_shipment_is_found_by_its_tracking_number(make: Make<'_>) {
    let mut harness = make();
    let first = order(&*harness, "a", &["c0", "c0", "c1"]);
    accept(&mut *harness, std::slice::from_ref(&first));
    let [swift, tortoise] = CARRIERS;
    let number = |n: u32| format!("N{}{n}", first.id());
    let numbers: Vec<String> = (0..5).map(number).collect();
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let shipment = |parcel| vec![first.shipment(parcel, 0)];
    assert_eq!(harness.shipments(swift, &numbers), vec![vec![]; 5], "nobody took anything");
    let no = OutcomeReport { kind: OutcomeKind::Rejected, ..took(first.shipment(1, 0), swift, numbers[1]) };
    harness.abort_next();
    harness.report(vec![
        took(first.shipment(0, 0), swift, numbers[0]),
        no,
        took(first.shipment(2, 0), tortoise, numbers[2]),
    ]);
    harness.settle_down();
    let found = |harness: &mut dyn Harness, what: &str| {
        let swifts = harness.shipments(swift, &numbers);
        assert_eq!(swifts, [shipment(0), vec![], vec![], vec![], vec![]], "a reason is no number; {what}");
        // The parcel that was turned down went to the other carrier, which has not answered.
        let tortoises = harness.shipments(tortoise, &numbers);
        assert_eq!(tortoises, [vec![], vec![], shipment(2), vec![], vec![]], "{what}");
    };
    found(&mut *harness, "young");
    harness.spill();
    found(&mut *harness, "out of memory");
    harness.restart();
    found(&mut *harness, "after a restart");
    harness.report(vec![took(first.shipment(1, 1), tortoise, numbers[3])]);
    harness.settle_down();
    harness.restart();
    let [.., fourth, fifth] = [0, 1, 2, 3, 4].map(|n| harness.shipments(tortoise, &[numbers[n]]).remove(0));
    assert_eq!((fourth, fifth), (vec![first.shipment(1, 1)], vec![]), "of an order that is in the store");
    assert_eq!(harness.shipments(swift, &[]), Vec::<Vec<ShipmentId>>::new());
    assert_eq!(harness.shipments(swift, &[numbers[0], numbers[0]]), [shipment(0), shipment(0)]);
}

pub(super) fn who_shares_a_number_is_told_apart(make: Make<'_>) {
    let mut harness = make();
    let [swift, tortoise] = CARRIERS;
    let number = format!("{}shared", harness.salt());
    let many = vec!["c0"; NUMBER_PARCELS + 1];
    let kinds = [&["c0"][..], &["c1"], &many];
    let orders: Vec<Order> = kinds.iter().zip(0..).map(|(skus, n)| of(&*harness, n, "eve", n * 1_000, skus)).collect();
    accept(&mut *harness, &orders);
    let shipments = |harness: &mut dyn Harness| {
        let mut each = CARRIERS.map(|carrier| harness.shipments(carrier, &[&number]).remove(0));
        each.iter_mut().for_each(|shipments| shipments.sort_unstable());
        each
    };
    let [first, second, third] = &orders[..] else { panic!("three orders") };
    // Both carriers use it: each means its own.
    harness.report(vec![took(first.shipment(0, 0), swift, &number), took(second.shipment(0, 0), tortoise, &number)]);
    harness.settle_down();
    let wanted = [vec![first.shipment(0, 0)], vec![second.shipment(0, 0)]];
    assert_eq!(shipments(&mut *harness), wanted);
    harness.spill();
    // A newer order of the same carrier, all of whose parcels travel under it: the number is that order's now.
    harness.report((0..many.len() as u8).map(|n| took(third.shipment(n, 0), swift, &number)).collect());
    harness.settle_down();
    let newer: Vec<ShipmentId> = (0..NUMBER_PARCELS as u8).map(|n| third.shipment(n, 0)).collect();
    assert_eq!(shipments(&mut *harness), [newer.clone(), wanted[1].clone()]);
    harness.restart();
    assert_eq!(shipments(&mut *harness), [newer, wanted[1].clone()]);
}

/// A draw below `below`, the same in every run.
fn draw(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

pub(super) fn a_look_up_finds_what_a_look_at_every_order_finds(make: Make<'_>) {
    let mut harness = make();
    let (mut state, mut orders, mut open) = (7, Vec::<Order>::new(), Vec::<ShipmentId>::new());
    let mut numbers = BTreeMap::<String, Vec<ShipmentId>>::new();
    let swift = CARRIERS[0];
    for round in 0..12 {
        let mut new = Vec::new();
        for n in 0..1 + draw(&mut state, 6) {
            let customer = format!("p{}", draw(&mut state, 4));
            let late = draw(&mut state, 5) as i64 - draw(&mut state, 4) as i64 * DAY_MS as i64;
            new.push(of(&*harness, format!("{round}-{n}"), &customer, late, &["c0"]));
        }
        accept(&mut *harness, &new);
        open.extend(new.iter().map(|order| order.shipment(0, 0)));
        orders.extend(new);
        let mut reports = Vec::new();
        for _ in 0..draw(&mut state, open.len() as u64) {
            let shipment = open.swap_remove(draw(&mut state, open.len() as u64) as usize);
            let number = format!("{}{}", harness.salt(), draw(&mut state, 30));
            reports.push(took(shipment, swift, &number));
            numbers.entry(number).or_default().push(shipment);
        }
        harness.report(reports);
        harness.settle_down();
        match draw(&mut state, 6) {
            0 | 1 => harness.spill(),
            2 => harness.restart(),
            3 => {
                let cut_off = of(&*harness, format!("{round}-cut-off"), "p1", 0, &["c0"]);
                harness.submit(submission(std::slice::from_ref(&cut_off)));
                harness.crash();
                harness.settle_down();
                receipts(&mut *harness, std::slice::from_ref(&cut_off));
                open.push(cut_off.shipment(0, 0));
                orders.push(cut_off);
            }
            _ => {}
        }
    }
    for customer in ["p0", "p1", "p2", "p3", "p4"] {
        let its: Vec<Order> = orders.iter().filter(|o| o.customer.ends_with(customer)).cloned().collect();
        assert_eq!(list(&mut *harness, customer, 3), newest_first(&its), "{customer}");
    }
    let asked: Vec<String> = (0..31).map(|n| format!("{}{n}", harness.salt())).collect();
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let newest = |number: &&str| numbers.get(*number).and_then(|all| all.iter().max()).map(|s| vec![*s]);
    let wanted: Vec<Vec<ShipmentId>> = asked.iter().map(|number| newest(number).unwrap_or_default()).collect();
    assert!(wanted.iter().filter(|shipments| !shipments.is_empty()).count() > 5, "{wanted:?}");
    assert_eq!(harness.shipments(swift, &asked), wanted);
}
