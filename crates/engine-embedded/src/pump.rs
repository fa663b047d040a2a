//! Hands receipts out on whatever runtime waits for them.
//!
//! The journal's thread could wake every waiting request itself, but each of those wake-ups would cross into the runtime
//! with a system call of its own. With a pump attached, a group costs one wake-up; the pump's task wakes the rest from
//! within the runtime. Without one (tests, benchmarks, simulation) receipts go out where the group became durable.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use crate::intake::Acks;

#[derive(Debug, Default)]
struct State {
    attached: bool,
    waiting: Vec<Acks>,
    waker: Option<Waker>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Pump(Mutex<State>);

impl Pump {
    /// Hands `acks` out, through the attached task if there is one.
    pub(crate) fn send(&self, acks: Acks) {
        let mut state = self.0.lock();
        if !state.attached {
            drop(state);
            return acks.send();
        }
        state.waiting.push(acks);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn detach(&self) {
        let mut state = self.0.lock();
        state.attached = false;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Acks::send);
    }
}

/// Hands receipts out for as long as it is polled; see [`crate::Engine::hand_out_receipts`].
#[derive(Debug)]
pub struct HandOut(Arc<Pump>);

impl HandOut {
    pub(crate) fn attach(pump: Arc<Pump>) -> Self {
        pump.0.lock().attached = true;
        Self(pump)
    }
}

impl Future for HandOut {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let waiting = {
            let mut state = self.0.0.lock();
            state.waker = Some(cx.waker().clone());
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Acks::send);
        Poll::Pending
    }
}

impl Drop for HandOut {
    fn drop(&mut self) {
        self.0.detach();
    }
}
