//! The current that disk and store of one computer share. It can fail between any two operations or in the middle of
//! one, and whatever held a handle before doesn't come back: a process that died can't write any more.

use std::{io, sync::Arc};

use parking_lot::Mutex;

/// The power switch of a simulated computer. Clones are the same switch.
#[derive(Debug, Clone, Default)]
pub struct Power(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    life: u64,
    cut: bool,
    operations_left: Option<u64>,
}

/// Whether an operation that changes something runs to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// It does.
    Steady,
    /// The power fails in the middle of it.
    Cut,
}

impl Power {
    /// The number of the present life: handles of earlier lives are dead.
    pub fn life(&self) -> u64 {
        self.0.lock().life
    }

    /// Lets `operations` more changing operations run to their end and cuts the power in the middle of the next.
    pub fn cut_after(&self, operations: u64) {
        self.0.lock().operations_left = Some(operations);
    }

    /// True from the moment of the cut until [`Power::restart`].
    pub fn is_cut(&self) -> bool {
        self.0.lock().cut
    }

    /// Begins the next life and forgets a cut that was asked for.
    pub fn restart(&self) {
        let state = &mut *self.0.lock();
        *state = State { life: state.life + 1, cut: false, operations_left: None };
    }

    /// Asks to look at something in life `life`.
    ///
    /// # Errors
    /// When that life is over.
    pub fn check(&self, life: u64) -> io::Result<()> {
        let state = self.0.lock();
        if state.life == life && !state.cut { Ok(()) } else { Err(gone()) }
    }

    /// Asks to change something in life `life`.
    ///
    /// # Errors
    /// When that life is over.
    pub fn pulse(&self, life: u64) -> io::Result<Pulse> {
        self.check(life)?;
        let state = &mut *self.0.lock();
        match &mut state.operations_left {
            Some(0) => {
                state.cut = true;
                Ok(Pulse::Cut)
            }
            Some(left) => {
                *left -= 1;
                Ok(Pulse::Steady)
            }
            None => Ok(Pulse::Steady),
        }
    }
}

/// What a dead process would see if it could see anything.
pub(crate) fn gone() -> io::Error {
    io::Error::other("the power is off")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cut_comes_in_the_middle_of_the_operation_asked_for() {
        let power = Power::default();
        power.cut_after(2);
        let pulses: Vec<_> = (0..3).map(|_| power.pulse(0).unwrap()).collect();
        assert_eq!(pulses, [Pulse::Steady, Pulse::Steady, Pulse::Cut]);
        assert!(power.is_cut() && power.pulse(0).is_err() && power.check(0).is_err());
        power.restart();
        assert!(power.check(0).is_err() && power.check(1).is_ok() && !power.is_cut());
        assert_eq!(power.pulse(power.life()).unwrap(), Pulse::Steady);
    }
}
