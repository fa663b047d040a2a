//! The second witness: what the simulated carriers wrote down, for those who have their ledgers. The API can't show that a
//! carrier took the same parcel twice; a ledger can.

use std::path::PathBuf;

use sluice_carrier::simulated::{Ledger, LedgerError};

/// How many times a carrier took a parcel that some carrier had taken already, over all these ledgers together.
///
/// Reads whole files and keeps 32 bytes for each accepted shipment, so call it where blocking is allowed.
///
/// # Errors
/// When a ledger can't be read or holds what no carrier writes.
pub fn duplicate_effects(ledgers: &[PathBuf]) -> Result<u64, LedgerError> {
    let mut taken: Vec<(u128, u16, u32)> = Vec::new();
    for path in ledgers {
        let ledger = Ledger::read(path)?;
        let accepted = ledger.shipments().filter(|shipment| shipment.accepted > 0);
        taken.extend(accepted.map(|shipment| (u128::from(shipment.order_id), shipment.parcel, shipment.accepted)));
    }
    taken.sort_unstable();
    let parcels = taken.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1));
    Ok(parcels.map(|times| times.iter().map(|time| u64::from(time.2)).sum::<u64>() - 1).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::format_id;
    use sluice_carrier::simulated::tracking_number;

    fn ledger(dir: &tempfile::TempDir, carrier: &str, accepted: &[(u128, &str)]) -> PathBuf {
        let line = |(order, rest): &(u128, &str)| {
            let shipment = format!("{}-{rest}", String::from_utf8(format_id(*order).to_vec()).unwrap());
            format!("1794355200123\t{carrier}\taccepted\t{shipment}\tmf-1\t{}\n", tracking_number(&shipment))
        };
        let path = dir.path().join(carrier);
        std::fs::write(&path, accepted.iter().map(line).collect::<String>()).unwrap();
        path
    }

    #[test]
    fn a_parcel_may_be_taken_once_whoever_takes_it() {
        let dir = tempfile::tempdir().unwrap();
        let north = ledger(&dir, "north", &[(1, "0-0"), (1, "1-0"), (2, "0-0")]);
        let south = ledger(&dir, "south", &[(1, "0-1"), (3, "0-0"), (3, "0-0"), (3, "0-1")]);
        assert_eq!(duplicate_effects(std::slice::from_ref(&north)).unwrap(), 0);
        assert_eq!(duplicate_effects(std::slice::from_ref(&south)).unwrap(), 2);
        assert_eq!(duplicate_effects(&[north, south]).unwrap(), 3);
        assert!(duplicate_effects(&[dir.path().join("none")]).is_err());
    }
}
