//! Every way the process can end, in one table: scripts and supervisors are written against these numbers.

/// What was asked for was done, and nothing was found wrong.
pub const OK: u8 = 0;
/// Something is wrong with the orders or the data: an order lost, doubled, left in flight or unknown, or stored bytes
/// damaged.
pub const FOUND_WRONG: u8 = 1;
/// The command line or the configuration can't be followed.
pub const USAGE: u8 = 2;
/// There is no server to talk to, or a cluster's brokers or store did not do what was asked or don't have what is needed.
pub const NO_SERVER: u8 = 3;
/// The address to listen on can't be had.
pub const NO_ADDRESS: u8 = 69;
/// A defect of this program.
pub const INTERNAL: u8 = 70;
/// Disk or store failed: nothing acknowledged is lost, and a restart recovers it.
pub const IO: u8 = 74;
/// Another process has the data folder open.
pub const IN_USE: u8 = 75;
/// The deployment was changed under a node, which has to be started again.
pub const OUTDATED: u8 = 76;
/// Ended by Ctrl-C before the work was done.
pub const INTERRUPTED: u8 = 130;

/// The table as `--help` shows it.
pub const HELP: &str = "\
Exit codes:
    0  done, and nothing found wrong
    1  an order is lost, doubled, left in flight or unknown, or stored bytes are damaged
    2  wrong usage or configuration
    3  no server at the given URL; brokers or store of a cluster can't be used, or don't have what is needed
   69  the address to listen on can't be had
   70  a defect of this program
   74  disk or store failed; nothing acknowledged is lost, a restart recovers it
   75  another process has the data folder open
   76  the partition count was changed while this node ran; start it again
  130  interrupted";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load;

    #[test]
    fn every_code_is_in_the_table_once() {
        let codes = [OK, FOUND_WRONG, USAGE, NO_SERVER, NO_ADDRESS, INTERNAL, IO, IN_USE, OUTDATED, INTERRUPTED];
        let shown: Vec<u8> = HELP.lines().skip(1).filter_map(|l| l.split_whitespace().next()?.parse().ok()).collect();
        assert_eq!(shown, codes);
    }

    #[test]
    fn load_uses_the_same_codes() {
        assert_eq!((load::EXIT_OK, load::EXIT_NOT_CONSERVED), (OK, FOUND_WRONG));
        assert_eq!((load::EXIT_USAGE, load::EXIT_NO_RUN), (USAGE, NO_SERVER));
    }
}
