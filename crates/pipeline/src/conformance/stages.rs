//! The stages that the suite gives to every engine.

use sluice_domain::{
    Group, Handling, OrderId, OrderState,
    commands::Back,
    order_state::{NewsStep, OutcomeStep, last_replay, on_news, on_outcome},
};
use sluice_schemas::{
    delta::{Item, Weight},
    order::OrderRef,
    outcome::OutcomeKind,
    word::Word,
};

use super::CARRIERS;
use crate::{
    BatchView, Ctx, Effects, Rows, Stage,
    batch::{Anew, Replayed},
    commands,
};

/// The stages of the suite. Each line of an order is a parcel of its own, and its SKU says what becomes of it: `c0` and
/// `c1` name the carrier, `nobody` is carried by nobody, `none` needs no parcel, `poison` makes the stage panic, `bad`
/// makes it reject the order, `held` waits to be reviewed, and `mended` a new order, but not one that is decided anew, whose
/// parcel `c1` carries. A parcel that a carrier turns down goes to the other one, and one that is offered again to `c1`.
/// A parcel's weight is an estimate if the SKU ends in `~`.
pub fn stages() -> Vec<Box<dyn Stage>> {
    vec![Box::new(BySku)]
}

/// What a parcel of the order in `record` weighs.
pub(super) fn weight_of(record: &[u8], parcel: u8) -> Weight {
    let order = OrderRef::decode(record).expect("the record of an order");
    let skus = order.lines().filter_map(|line| line.ok().map(|line| line.sku));
    let sku = skus.filter(|sku| *sku != "none").nth(usize::from(parcel));
    weight(sku.expect("a line for each parcel"))
}

fn weight(sku: &str) -> Weight {
    Weight { grams: 500, estimated: sku.ends_with('~') }
}

struct BySku;

impl BySku {
    fn decide(input: usize, order: &OrderRef<'_>, anew: Option<Replayed>, effects: &mut Effects) {
        match anew {
            Some(replayed) => effects.classified_anew(input, replayed),
            None => effects.classified(input),
        }
        let replay = anew.map_or(0, |replayed| replayed.number);
        for (number, line) in order.lines().enumerate() {
            let Ok(line) = line else { return effects.reject_anew(input, "a line can't be read", replay) };
            let carrier = match line.sku {
                "none" => continue,
                "bad" => return effects.reject_anew(input, "a bad order", replay),
                "mended" if anew.is_none() => return effects.reject(input, "not mended yet"),
                "mended" => Some(1),
                "poison" => panic!("poison"),
                "held" | "held~" => {
                    let item = Item { line: number as u16, quantity: None };
                    effects.hold_parcel((Handling::HazmatCheck, 41), weight(line.sku), &[item]);
                    continue;
                }
                sku => sku.trim_end_matches('~').strip_prefix('c').and_then(|n| n.parse().ok()),
            };
            effects.add_parcel(Group::Ambient, weight(line.sku), &[Item { line: number as u16, quantity: None }]);
            let parcel = effects.parcels().len() - 1;
            match carrier {
                Some(carrier) => effects.route(parcel, carrier),
                None => effects.nobody(parcel, "nobody takes it"),
            }
        }
    }
}

/// Returns are carried by `c1`, or by nobody if they are less than what was delivered.
struct ByWeight;

impl commands::Carriers for ByWeight {
    fn forgets(&self, id: &str) -> Option<u16> {
        self.number(id)
    }

    fn number(&self, id: &str) -> Option<u16> {
        CARRIERS.iter().position(|c| *c == id).map(|at| at as u16)
    }

    fn offer(&mut self, group: Group, _: u32, _: u8) -> Result<u16, String> {
        if group == Group::LivePlant { Err("nobody takes plants".into()) } else { Ok(1) }
    }

    fn pick(&mut self, _: Group, back: &Back) -> Result<u16, String> {
        if back.weight.grams == 500 { Ok(1) } else { Err("nobody brings so little".into()) }
    }
}

impl Stage for BySku {
    fn name(&self) -> &'static str {
        "by-sku"
    }

    fn apply(&self, _: &Ctx<'_>, rows: &Rows, batch: &BatchView<'_>, effects: &mut Effects) {
        effects.rules = 7;
        for (input, order) in batch.placed() {
            match order {
                Ok(order) => Self::decide(input, &order, None, effects),
                Err(error) => effects.reject(input, &error.to_string()),
            }
        }
        for Anew { input, record, replayed } in rows.anew(batch) {
            match OrderRef::decode(record) {
                Ok(order) => Self::decide(input, &order, Some(replayed), effects),
                Err(error) => effects.reject_anew(input, &error.to_string(), replayed.number),
            }
        }
        for (input, word) in batch.words() {
            let outcome = match word {
                Ok(Word::Outcome(outcome)) => outcome,
                Ok(Word::Tracked(tracked)) => {
                    match on_news(rows.get(input), &tracked) {
                        Err(_) | Ok(NewsStep::Ignore) => {}
                        Ok(step) => effects.track(input, step == NewsStep::Resolve),
                    }
                    continue;
                }
                Ok(Word::Command(command)) => {
                    if let Ok(state) = OrderState::fold(OrderId(command.order), rows.get(input)) {
                        commands::decide(&mut ByWeight, input, &command, &state, effects);
                    }
                    continue;
                }
                Err(_) => continue,
            };
            assert!(outcome.text != "poison", "poison");
            let (parcel, attempt, kind) = (outcome.parcel, outcome.attempt, outcome.kind);
            match on_outcome(rows.get(input), &outcome) {
                Err(_) | Ok(OutcomeStep::Ignore) => {}
                Ok(OutcomeStep::Settle) => effects.settle(input, parcel, attempt, kind),
                Ok(OutcomeStep::Resolve) => effects.settle(input, parcel, attempt, OutcomeKind::Accepted),
                Ok(OutcomeStep::DeadLetter) => {
                    effects.settle(input, parcel, attempt, kind);
                    effects.dead_letter("nobody is left to ask", last_replay(rows.get(input)));
                }
                Ok(OutcomeStep::Reroute { turned_down, next, order_position, .. }) => {
                    effects.settle(input, parcel, attempt, kind);
                    let weight = turned_down.weight;
                    effects.next_attempt(next, Group::Ambient, weight, &turned_down.items, order_position);
                    let other = u16::from(turned_down.carrier == CARRIERS[0]);
                    effects.route(effects.parcels().len() - 1, other);
                }
            }
        }
    }
}
