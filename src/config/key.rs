//! The cluster's key: 32 secret bytes, in a file as 64 hexadecimal digits on one line.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// A cluster's key. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub [u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadKey {
    /// It cannot be opened or read.
    #[error("the key file can not be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is a directory, a device or a pipe.
    #[error("the key file is not a regular file")]
    NotAFile,
    /// Its group or everybody has rights on it.
    #[error("others than its owner have rights on the key file (mode {0:04o})")]
    Open(u32),
    /// Its content is not a key.
    #[error("the key file does not hold 64 hexadecimal digits, but {0}")]
    Malformed(&'static str),
}

impl BadKey {
    /// What would be right.
    pub fn expected(&self) -> &'static str {
        match self {
            BadKey::Unreadable(_) | BadKey::NotAFile => {
                "a file from `baton keygen --out FILE`, the same on every member"
            }
            BadKey::Open(_) => "mode 0600 (`chmod 600 FILE`)",
            BadKey::Malformed(_) => "the line that `baton keygen` prints, and nothing else",
        }
    }
}

impl Key {
    /// A new random key.
    ///
    /// # Errors
    /// The kernel's random source fails.
    pub fn generate() -> io::Result<Key> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(io::Error::from)?;
        Ok(Key(bytes))
    }

    /// The key as its file holds it: 64 hexadecimal digits and a line feed.
    pub fn to_line(&self) -> String {
        let mut line: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        line.push('\n');
        line
    }

    /// The key in a file's text; the line feed at its end may be missing.
    ///
    /// # Errors
    /// [`BadKey::Malformed`], which tells nothing of the content.
    pub fn parse(text: &[u8]) -> Result<Key, BadKey> {
        let line = text.strip_suffix(b"\n").unwrap_or(text);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.len() {
            0 => return Err(BadKey::Malformed("nothing")),
            1..64 => return Err(BadKey::Malformed("fewer characters")),
            64 => {}
            _ => return Err(BadKey::Malformed("more characters")),
        }
        let mut key = [0; 32];
        for (byte, digits) in key.iter_mut().zip(line.chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            let (Some(high), Some(low)) = (digit(digits[0]), digit(digits[1])) else {
                return Err(BadKey::Malformed("other characters"));
            };
            *byte = (high << 4 | low) as u8;
        }
        Ok(Key(key))
    }

    /// The key in the file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, others than its owner have rights on it, or it does not hold a key.
    pub fn read(path: &Path) -> Result<Key, BadKey> {
        // Asked before opening, since opening a pipe would wait for its writer.
        if !path.metadata()?.is_file() {
            return Err(BadKey::NotAFile);
        }
        let file = File::open(path)?;
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(BadKey::Open(mode));
        }
        let mut text = Vec::new();
        // One byte more than the longest right content tells what is too long.
        file.take(67).read_to_end(&mut text)?;
        Key::parse(&text)
    }

    /// Writes the key to a new file with mode 0600.
    ///
    /// # Errors
    /// The file exists already, or cannot be written; what was begun is removed.
    pub fn write_new(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let written = file.write_all(self.to_line().as_bytes()).and_then(|()| file.sync_all());
        if written.is_err() {
            // Half a key is of no use, and would be in the way of the next try; the first error is the one to tell.
            let _ = std::fs::remove_file(path);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    #[test]
    fn a_written_key_reads_back_and_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.key");
        let key = Key::generate().unwrap();
        key.write_new(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(Key::read(&path).unwrap(), key);
        let other = Key::generate().unwrap();
        assert_ne!(other, key);
        assert_eq!(other.write_new(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(Key::read(&path).unwrap(), key);
    }

    #[test]
    fn a_key_file_is_refused_with_its_reason() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert!(matches!(Key::read(&path), Err(BadKey::Unreadable(_))));
        assert!(matches!(Key::read(directory.path()), Err(BadKey::NotAFile)));
        let digits = "0123456789abcdefABCDEF0123456789".repeat(2);
        for (content, mode, part) in [
            (digits.clone(), 0o640, "0640"),
            (digits.clone(), 0o604, "0604"),
            (String::new(), 0o600, "nothing"),
            (digits[1..].to_owned(), 0o600, "fewer"),
            (format!("{digits}0"), 0o600, "more"),
            (format!("{digits}\n{digits}\n"), 0o600, "more"),
            (format!("x{}", &digits[1..]), 0o600, "other"),
            (format!("+{}", &digits[1..]), 0o600, "other"),
        ] {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let why = Key::read(&path).unwrap_err().to_string();
            assert!(why.contains(part), "{why}");
        }
        fs::write(&path, format!("{digits}\r\n")).unwrap();
        assert_eq!(Key::read(&path).unwrap().0[0], 0x01);
    }

    #[test]
    fn debug_hides_the_key() {
        assert_eq!(format!("{:?}", Key([0xab; 32])), "Key(…)");
    }

    proptest! {
        #[test]
        fn every_key_survives_its_text(bytes: [u8; 32]) {
            prop_assert_eq!(Key::parse(Key(bytes).to_line().as_bytes()).unwrap(), Key(bytes));
        }

        #[test]
        fn any_bytes_give_a_key_or_a_reason(bytes: Vec<u8>) {
            let _ = Key::parse(&bytes);
        }
    }
}
