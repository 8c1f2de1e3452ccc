//! Problems in data files, and their places.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A line of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    file: Arc<str>,
    line: usize,
}

impl Place {
    /// The name of a file is its folder and name.
    pub fn new(path: &Path, line: usize) -> Self {
        let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
        let file = parts[parts.len().saturating_sub(2)..].join("/");
        Self {
            file: file.into(),
            line,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What is wrong there, and what would be right.
#[derive(Debug)]
pub struct Problem {
    pub place: Place,
    pub message: String,
}

impl Problem {
    pub fn file(path: &Path, error: impl fmt::Display) -> Self {
        Self {
            place: Place::new(path, 0),
            message: error.to_string(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// The `.txt` files of a folder, by name.
pub fn files(directory: &Path) -> Result<Vec<PathBuf>, Vec<Problem>> {
    let entries = fs::read_dir(directory).map_err(|error| vec![Problem::file(directory, error)])?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    Ok(files)
}
