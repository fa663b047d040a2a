//! The real server, killed as a power cut would kill it, over and over, under load; and disks that are full, torn or
//! rotten. What became of the orders is judged from outside alone: by the acknowledgements that the client holds, and by
//! the carriers' ledger.

mod full_disk;
mod storm;
mod tail;
