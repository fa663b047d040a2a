//! A command of an operator's on its way: into the log of the order's partition, where its owner decides, and what the order's row
//! shows then.

use std::time::Duration;

use axum::http::StatusCode;
use sluice_domain::{OrderId, OrderState};
use sluice_http::Problem;
use sluice_pipeline::{Receipt, StoredOrder, Words};
use sluice_schemas::command::{Command, Verdict};
use tokio::time::Instant;

use crate::{App, UNREADABLE, load};

/// How long an answer waits for the owner's decision.
const WAIT: Duration = Duration::from_secs(2);
/// First and longest pause between two looks at the row.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(160));

/// Has the order's owner decide, and waits a while for that. Gives the order as it is then.
///
/// # Errors
/// A problem: 503 if the command may not be in the log, 404 if the order is let go meanwhile.
pub(crate) async fn decide(app: &App, command: &Command<'_>, mut stored: StoredOrder) -> Result<StoredOrder, Problem> {
    let id = OrderId(command.order);
    match app.operator.words.hear(Words::of_command(command)).await.first() {
        Some(Receipt::Busy { retry_after_s, reason }) => return Err(Problem::unavailable(*reason, *retry_after_s)),
        Some(_) => {}
        None => {
            tracing::error!(order_id = %id, "the engine gave no receipt for a command");
            return Err(Problem::unavailable("The engine did not say what became of it; send it again.", 1));
        }
    }
    let deadline = Instant::now() + WAIT;
    let mut pause = PAUSES.0;
    loop {
        stored = match load(app, id).await {
            // It is over, and was let go meanwhile.
            Err(problem) if problem.status == StatusCode::NOT_FOUND => return Err(problem),
            read => read.unwrap_or(stored),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if known(&fold(id, &stored)?, command.id).is_some() || left.is_zero() {
            return Ok(stored);
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// What the order's owner has made of a command; `None` as long as it has not come to it.
pub(crate) fn known(state: &OrderState<'_>, command: u64) -> Option<Verdict> {
    state.commands.iter().find(|c| c.0 == command).map(|c| c.1)
}

/// The order's state.
///
/// # Errors
/// 503 if its row can't be read.
pub(crate) fn fold(id: OrderId, stored: &StoredOrder) -> Result<OrderState<'_>, Problem> {
    OrderState::fold(id, &stored.row).map_err(|error| {
        tracing::error!(order_id = %id, %error, "a stored order can't be read");
        Problem::unavailable(UNREADABLE, 1)
    })
}

/// The order has had as many commands as are kept: 409.
pub(crate) fn too_many_commands(most: usize, what: &str) -> Problem {
    let detail = format!("The order has had {most} commands; no more {what} are kept.");
    Problem::new(StatusCode::CONFLICT, "too-many-commands", "Too many commands", detail)
}
