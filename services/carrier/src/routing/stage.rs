//! The stage: new parcels get a carrier, and what carriers say is recorded with what follows from it.

use std::sync::Arc;

use sluice_domain::{
    Group, OrderId, OrderState,
    commands::Back,
    limits::MAX_ATTEMPTS,
    order_state::{NewsStep, OutcomeStep, last_replay, on_news, on_outcome},
};
use sluice_pipeline::{BatchView, Ctx, Effects, Rows, Stage, commands, effects::Route as Routed};
use sluice_schemas::{
    delta::{Delta, FIRST_RETURN, Requested, VOID, row_deltas},
    outcome::{Outcome, OutcomeKind},
    word::Word,
};

use super::{
    odds::Odds,
    table::{CarrierSet, Table},
};

/// Routes every open parcel of the batch and decides on everything that is said about known orders.
#[derive(Debug, Clone)]
pub struct Route {
    table: Arc<Table>,
}

impl Route {
    /// A stage that routes by `table`, whose carrier numbers must be those of the deployment's health board.
    #[must_use]
    pub fn new(table: Arc<Table>) -> Self {
        Self { table }
    }

    /// Routes the parcels that earlier stages added for this view. They are the last ones: when a batch is bisected,
    /// the parcels of earlier parts stand before them, already routed.
    fn route_new(&self, odds: &mut Odds<'_>, batch: &BatchView<'_>, effects: &mut Effects) {
        let view = batch.range();
        let before = effects.parcels().iter().rposition(|p| !view.contains(&(p.input as usize)));
        for index in before.map_or(0, |at| at + 1)..effects.parcels().len() {
            let parcel = &effects.parcels()[index];
            if parcel.route != Routed::Open {
                continue;
            }
            let (group, weight_g, order) = (parcel.group, parcel.weight.grams, batch.meta(parcel.input as usize).order);
            match odds.pick(group, weight_g, order, parcel.attempt, None) {
                Some(carrier) => effects.route(index, carrier),
                None => effects.nobody(index, &self.why_nobody(group, weight_g)),
            }
        }
    }

    fn why_nobody(&self, group: Group, weight_g: u32) -> String {
        let name = group.name();
        match self.table.limit(group) {
            Some(limit) => {
                format!("no carrier takes {name} parcels of {} g (limit {} g)", grams(weight_g), grams(limit))
            }
            None => format!("no carrier takes {name} parcels"),
        }
    }

    fn decide(&self, odds: &mut Odds<'_>, input: usize, outcome: &Outcome<'_>, row: &[u8], effects: &mut Effects) {
        let settle = |effects: &mut Effects| effects.settle(input, outcome.parcel, outcome.attempt, outcome.kind);
        match on_outcome(row, outcome) {
            Ok(OutcomeStep::Ignore) => {}
            Ok(OutcomeStep::Settle) => settle(effects),
            Ok(OutcomeStep::Resolve) => {
                effects.settle(input, outcome.parcel, outcome.attempt, OutcomeKind::Accepted);
            }
            Ok(OutcomeStep::Reroute { turned_down, next, order_position, since }) => {
                settle(effects);
                match self.another(odds, outcome, row, &turned_down, (since, next)) {
                    Ok((group, carrier)) => {
                        effects.next_attempt(next, group, turned_down.weight, &turned_down.items, order_position);
                        effects.route(effects.parcels().len() - 1, carrier);
                    }
                    Err(reason) => effects.dead_letter(&reason, last_replay(row)),
                }
            }
            Ok(OutcomeStep::DeadLetter) => {
                settle(effects);
                effects.dead_letter(&why_dead(outcome), last_replay(row));
            }
            Err(error) => {
                settle(effects);
                // Without its row nothing says who else could be asked. An answer that leaves the parcel with a
                // carrier, or may have, needs no decision.
                let lost = matches!(outcome.kind, OutcomeKind::Rejected | OutcomeKind::GivenUp);
                if lost && outcome.attempt & VOID == 0 {
                    let reason = format!("the order's row can't be read: {error}; {}", said(outcome));
                    effects.dead_letter(&reason, last_replay(row));
                }
            }
        }
    }

    /// The carrier to ask as attempt `next`: one that was not asked to take this parcel as attempt `since` or later.
    fn another(
        &self,
        odds: &mut Odds<'_>,
        outcome: &Outcome<'_>,
        row: &[u8],
        turned_down: &Requested<'_>,
        (since, next): (u8, u8),
    ) -> Result<(Group, u16), String> {
        let Some(group) = Group::from_code(turned_down.handling) else {
            let code = turned_down.handling;
            return Err(format!("handling group {code} isn't known to this version; {}", said(outcome)));
        };
        let mut tried = if outcome.parcel < FIRST_RETURN { CarrierSet::default() } else { self.table.one_way() };
        for (_, delta) in row_deltas(0, row).flatten() {
            if let Delta::Requested(asked) = delta
                && asked.parcel == outcome.parcel
                && asked.attempt >= since
                && let Some(number) = self.table.number(asked.carrier)
            {
                tried.insert(number);
            }
        }
        let order = OrderId(outcome.order);
        let weight_g = turned_down.weight.grams;
        odds.pick(group, weight_g, order, next, Some(&tried)).map(|carrier| (group, carrier)).ok_or_else(|| {
            let (name, weight) = (group.name(), grams(weight_g));
            let mut left = self.table.taking(group).filter(|(number, _)| !tried.contains(*number));
            // Splitting goes by the most that any carrier takes, so others may take less; what is packed stays so.
            let left = left.next().map(|(_, rule)| format!(" (limit of the others {} g)", grams(rule.max_weight_g)));
            let left = left.unwrap_or_default();
            format!("every carrier that takes {name} parcels of {weight} g has turned it down{left}; {}", said(outcome))
        })
    }
}

impl Stage for Route {
    fn name(&self) -> &'static str {
        "route"
    }

    fn apply(&self, ctx: &Ctx<'_>, rows: &Rows, batch: &BatchView<'_>, effects: &mut Effects) {
        let mut odds = Odds::new(&self.table, ctx.carriers);
        self.route_new(&mut odds, batch, effects);
        for (input, word) in batch.words() {
            match word {
                Ok(Word::Outcome(outcome)) => self.decide(&mut odds, input, &outcome, rows.get(input), effects),
                Ok(Word::Tracked(tracked)) => match on_news(rows.get(input), &tracked) {
                    Ok(NewsStep::Ignore) => {}
                    Ok(step) => effects.track(input, step == NewsStep::Resolve),
                    Err(error) => {
                        tracing::error!(order_id = %OrderId(tracked.order), %error, "news of an unreadable row is dropped");
                    }
                },
                Ok(Word::Command(command)) => match OrderState::fold(OrderId(command.order), rows.get(input)) {
                    Ok(state) => {
                        let mut carriers = OfOrder { stage: self, odds: &mut odds, order: state.id };
                        commands::decide(&mut carriers, input, &command, &state, effects);
                    }
                    Err(error) => {
                        tracing::error!(order_id = %OrderId(command.order), %error, "a command for an unreadable row is dropped");
                    }
                },
                Err(error) => {
                    let reason = format!("what was said can't be read: {error}");
                    effects.reject_anew(input, &reason, last_replay(rows.get(input)));
                }
            }
        }
    }
}

/// Who can be asked about one order: what comes back or is offered again is routed like any other parcel.
struct OfOrder<'r, 'o> {
    stage: &'r Route,
    odds: &'r mut Odds<'o>,
    order: OrderId,
}

impl commands::Carriers for OfOrder<'_, '_> {
    fn forgets(&self, id: &str) -> Option<u16> {
        self.stage.table.forgets(id)
    }

    fn number(&self, id: &str) -> Option<u16> {
        self.stage.table.number(id)
    }

    fn offer(&mut self, group: Group, weight_g: u32, attempt: u8) -> Result<u16, String> {
        let picked = self.odds.pick(group, weight_g, self.order, attempt, None);
        picked.ok_or_else(|| self.stage.why_nobody(group, weight_g))
    }

    fn pick(&mut self, group: Group, back: &Back) -> Result<u16, String> {
        let one_way = self.stage.table.one_way();
        let picked = self.odds.pick(group, back.weight.grams, self.order, 0, Some(&one_way));
        picked
            .ok_or_else(|| format!("no carrier brings {} parcels of {} g back", group.name(), grams(back.weight.grams)))
    }
}

/// Why a parcel ends here, for a person.
fn why_dead(outcome: &Outcome<'_>) -> String {
    let said = said(outcome);
    match outcome.kind {
        OutcomeKind::GivenUp => format!("the carrier could not be asked in time; {said}"),
        OutcomeKind::Unknown => format!("nobody can tell whether the carrier took it; {said}"),
        _ if outcome.attempt + 1 >= MAX_ATTEMPTS => format!("{MAX_ATTEMPTS} carriers have turned it down; {said}"),
        _ => format!("no other carrier can be asked, since the row doesn't say where the order's record is; {said}"),
    }
}

fn said(outcome: &Outcome<'_>) -> String {
    match outcome.text {
        "" => format!("last asked: {}", outcome.carrier),
        text => format!("{}: {text}", outcome.carrier),
    }
}

/// `31000` as `31,000`.
fn grams(weight_g: u32) -> String {
    let digits = weight_g.to_string();
    let mut text = String::with_capacity(digits.len() + 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
