//! A waker that only remembers it was called, so that the scheduler polls nothing before it was woken: a wake-up that
//! the product forgets shows as work that nobody ever takes up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Wake, Waker},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Flag(AtomicBool);

impl Flag {
    /// A flag that is up, since whatever is new must be polled once.
    pub(super) fn up() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    /// Takes the flag down; true if it was up.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Relaxed)
    }

    /// Whether it is up.
    pub(super) fn is_up(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// The waker that puts it up.
    pub(super) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}
