//! Verifying a stopped data folder: every group of the journal, every entry of the store, and that they fit together.
