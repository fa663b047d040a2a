//! Signals that ask the process to end, the first politely, the second at once; and the one that asks it to read again what
//! can change while it runs.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, from when this was made.
#[derive(Debug)]
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// Takes both signals over.
    ///
    /// # Errors
    /// What the system says when that can't be done.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Resolves at the next signal, with its name and the exit code of a process that ends by it. Dropping the future
    /// loses none.
    pub async fn next(&mut self) -> (&'static str, u8) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", 143),
            _ = self.interrupt.recv() => ("SIGINT", 130),
        }
    }

    /// Resolves at SIGTERM alone; SIGINT goes unheard.
    pub async fn terminated(&mut self) {
        self.terminate.recv().await;
    }
}

/// SIGHUP, from when this was made.
#[derive(Debug)]
pub struct Hangup(Signal);

impl Hangup {
    /// Takes the signal over, which would otherwise end the process.
    ///
    /// # Errors
    /// What the system says when that can't be done.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Resolves at the next one. Dropping the future loses none.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}
