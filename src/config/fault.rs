//! What is wrong with a configuration file, and where.

use std::fmt;
use std::path::{Path, PathBuf};

/// One fault of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1; 0 where the fault is the file's as a whole, such as that it cannot be read.
    pub line: usize,
    /// What is wrong, on one line.
    pub what: String,
    /// What would be right, on one line.
    pub expected: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; expected {}", self.what, self.expected)
    }
}

/// A file that was refused, with every fault found in it, ordered by line.
///
/// Displays as one line per fault: `FILE:LINE: what is wrong; expected …`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Rejected {
    /// The file as it was named.
    pub file: PathBuf,
    /// At least one.
    pub faults: Vec<Fault>,
}

impl Rejected {
    pub(super) fn new(file: &Path, mut faults: Vec<Fault>) -> Rejected {
        // A stable sort: faults of one line stay in the order in which they were found.
        faults.sort_by_key(|fault| fault.line);
        Rejected { file: file.to_owned(), faults }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, fault) in self.faults.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:", self.file.display())?;
            if fault.line > 0 {
                write!(f, "{}:", fault.line)?;
            }
            write!(f, " {fault}")?;
        }
        Ok(())
    }
}

/// Faults as they are found.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, line: usize, what: impl Into<String>, expected: impl Into<String>) {
        self.0.push(Fault { line, what: what.into(), expected: expected.into() });
    }

    /// `value`, or every fault. Without a fault there is a value: what gives none has said why.
    pub(super) fn result<T>(self, value: Option<T>) -> Result<T, Vec<Fault>> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.0),
        }
    }
}

/// What is wrong with one value; the reader of the file adds the key and the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) expected: String,
}

impl Wrong {
    pub(super) fn new(what: impl Into<String>, expected: impl Into<String>) -> Wrong {
        Wrong { what: what.into(), expected: expected.into() }
    }
}

/// `text` in quotes, on one line and not too long, whatever is in it.
pub(super) fn quoted(text: &str) -> String {
    const MOST: usize = 80;
    let mut shown: String = text.chars().take(MOST).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_stays_on_one_short_line() {
        assert_eq!(quoted("a\nb\u{1b}"), r#""a\nb\u{1b}""#);
        assert_eq!(quoted(&"ä".repeat(200)).chars().count(), 80 + 3);
    }

    #[test]
    fn faults_come_ordered_by_line() {
        let mut faults = Faults::default();
        faults.add(3, "c", "x");
        faults.add(1, "a", "x");
        faults.add(3, "d", "x");
        let rejected = Rejected::new(Path::new("f.yaml"), faults.result(None::<()>).unwrap_err());
        assert_eq!(rejected.to_string(), "f.yaml:1: a; expected x\nf.yaml:3: c; expected x\nf.yaml:3: d; expected x");
    }
}
