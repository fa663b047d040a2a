//! Why a model was refused. Who loads a new one keeps the last good one in force and shows this.

use std::path::PathBuf;

use sluice_data::DataError;
use thiserror::Error;

/// A model file can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The file can't be read.
    #[error("{}: can't be read: {error}; name a file that `sluice goods train --out` wrote", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file is longer than any model.
    #[error(
        "a model has at most {limit} bytes, this file has {length}; name a file that `sluice goods train --out` wrote"
    )]
    TooLong {
        /// Its length in bytes.
        length: u64,
        /// The most that is read.
        limit: u64,
    },
    /// The frame is damaged, of another kind or of another version.
    #[error("{0}; take a copy that is whole, or train it again with `sluice goods train`")]
    Frame(#[from] DataError),
    /// The frame is whole, but says something that can't be.
    #[error("model: {part}: {problem}; train it again with `sluice goods train` of this version")]
    Content {
        /// Which part of it.
        part: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// One of the above, of the file at a path.
    #[error("{}: {error}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<ModelError>,
    },
}

impl ModelError {
    pub(crate) fn content(part: &'static str, problem: impl Into<String>) -> Self {
        Self::Content { part, problem: problem.into() }
    }
}
