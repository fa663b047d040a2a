//! Tracking numbers in the form of UPU S10, derived from the shipment id so that nobody has to store them.
//!
//! S10 has eight digits. With the service indicators used here there are 10¹⁰ numbers, so two of some tens of millions
//! of shipments can share one, as real ones do once a number is used again: a tracking number is shown to people, and
//! no identity rests on it.

use std::str;

use super::seeded::{Fingerprint, fingerprint};

/// Length of an S10 number in bytes.
pub(super) const TRACKING_BYTES: usize = 13;
const SERIALS: u64 = 100_000_000;
/// First letters of S10's service indicators that stand for parcels, express, registered and tracked letters.
const SERVICES: &[u8; 4] = b"CELR";
/// The catalogue's country; the simulated carriers all post from there.
const COUNTRY: &[u8; 2] = b"US";
const WEIGHTS: [u32; 8] = [8, 6, 4, 2, 3, 5, 9, 7];

/// One S10 number, on the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tracking([u8; TRACKING_BYTES]);

impl Tracking {
    pub(super) fn of(shipment: &Fingerprint) -> Self {
        let mut number = [b'0'; TRACKING_BYTES];
        let rest = shipment.spare / SERIALS;
        number[0] = SERVICES[(rest % 4) as usize];
        number[1] = b'A' + (rest / 4 % 26) as u8;
        let mut serial = shipment.spare % SERIALS;
        for digit in number[2..10].iter_mut().rev() {
            *digit = b'0' + (serial % 10) as u8;
            serial /= 10;
        }
        number[10] = check_digit(&number[2..10]);
        number[11..].copy_from_slice(COUNTRY);
        Self(number)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The tracking number that every simulated carrier gives to this shipment.
#[must_use]
pub fn tracking_number(shipment_id: &str) -> String {
    let tracking = Tracking::of(&fingerprint(shipment_id));
    tracking.as_bytes().iter().map(|byte| char::from(*byte)).collect()
}

/// Whether `number` has the form of UPU S10 and its check digit is right. The letters' meaning is not looked up.
#[must_use]
pub fn is_s10(number: &str) -> bool {
    let bytes = number.as_bytes();
    bytes.len() == TRACKING_BYTES
        && bytes[..2].iter().chain(&bytes[11..]).all(u8::is_ascii_uppercase)
        && bytes[2..11].iter().all(u8::is_ascii_digit)
        && check_digit(&bytes[2..10]) == bytes[10]
}

/// S10's check digit of eight ASCII digits.
fn check_digit(serial: &[u8]) -> u8 {
    let sum: u32 = serial.iter().zip(WEIGHTS).map(|(digit, weight)| u32::from(digit - b'0') * weight).sum();
    match 11 - sum % 11 {
        10 => b'0',
        11 => b'5',
        digit => b'0' + digit as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_examples_hold() {
        assert!(is_s10("RR473124829GB"));
        assert_eq!(check_digit(b"47312482"), b'9');
        // Sums of 0 and 1 modulo 11 have digits of their own.
        assert_eq!(check_digit(b"00000000"), b'5');
        assert_eq!(check_digit(b"02000000"), b'0');
    }

    #[test]
    fn numbers_are_valid_stable_and_differ() {
        let mut seen = std::collections::HashSet::new();
        for n in 0..1000 {
            let id = format!("01ARZ3NDEKTSV4RRFFQ69G5FAV-{n}-1");
            let number = tracking_number(&id);
            assert!(is_s10(&number), "{number}");
            assert_eq!(number, tracking_number(&id));
            seen.insert(number);
        }
        assert_eq!(seen.len(), 1000);
    }

    #[test]
    fn damaged_numbers_are_refused() {
        for wrong in ["", "RR473124828GB", "RR473124829G", "rr473124829GB", "RR47312482XGB", "RR4731248290GB"] {
            assert!(!is_s10(wrong), "{wrong}");
        }
    }
}
