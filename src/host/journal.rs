//! The journal: what was changed in the kernel, and what was there before, written down before each change.
//!
//! A clean exit undoes it and removes it. After a crash it is left, and the next start adopts what the configuration
//! still asks for and undoes the rest. The kernel forgets with a reboot, so a journal of another boot is void.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::plan::Change;

const FORMAT: u32 = 1;

/// One change, and what was there before it where there was something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) change: Change,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<u32>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    format: u32,
    boot_id: String,
    entries: Vec<Entry>,
}

/// The journal of one running member. Nobody else holds it while this lives.
pub(super) struct Journal {
    path: PathBuf,
    boot_id: String,
    /// In the order in which the changes were made.
    entries: Vec<Entry>,
    _lock: Flock<File>,
}

/// Why a journal cannot be had.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Another process holds it.
    Held,
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Io(error)
    }
}

impl Journal {
    /// Opens the journal at `path`, with what an earlier run left there, and a warning if that had to be set aside.
    pub(super) fn open(path: &Path) -> Result<(Journal, Option<String>), Refusal> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        // A file of its own carries the lock, because the journal's file is replaced by each write.
        let lock = OpenOptions::new().create(true).append(true).open(beside(path, "lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
            Errno::EWOULDBLOCK => Refusal::Held,
            error => Refusal::Io(error.into()),
        })?;
        let boot_id = boot_id()?;
        let mut warning = None;
        let entries = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
            Ok(bytes) => match parse(&bytes, &boot_id) {
                Ok(entries) => entries,
                Err(reason) => {
                    let aside = beside(path, "damaged");
                    fs::rename(path, &aside)?;
                    warning = Some(format!(
                        "the journal {} is not readable ({reason}) and was set aside as {}: what an earlier run changed may stay changed",
                        path.display(),
                        aside.display()
                    ));
                    Vec::new()
                }
            },
        };
        Ok((Journal { path: path.into(), boot_id, entries, _lock: lock }, warning))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry that a change would replace.
    pub(super) fn find(&self, change: &Change) -> Option<&Entry> {
        self.entries.iter().find(|entry| change.replaces(&entry.change))
    }

    /// Writes a change down; on return it is in the file. A change written down before keeps what was before it then.
    pub(super) fn record(&mut self, change: &Change, before: Option<u32>) -> io::Result<()> {
        match self.entries.iter_mut().find(|entry| change.replaces(&entry.change)) {
            Some(entry) if entry.change == *change => return Ok(()),
            Some(entry) => entry.change = change.clone(),
            None => self.entries.push(Entry { change: change.clone(), before }),
        }
        self.write()
    }

    /// Strikes an entry out, after its change was undone.
    pub(super) fn strike(&mut self, change: &Change) -> io::Result<()> {
        self.entries.retain(|entry| entry.change != *change);
        self.write()
    }

    /// Removes the journal, after everything was undone.
    pub(super) fn close(self) -> io::Result<()> {
        fs::remove_file(&self.path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
        // The lock's file stays: removed, a process that has just opened it would hold a lock that nobody sees.
    }

    /// Replaces the file as a whole, so that a crash leaves the old one or the new one.
    fn write(&self) -> io::Result<()> {
        let contents = Contents { format: FORMAT, boot_id: self.boot_id.clone(), entries: self.entries.clone() };
        let next = beside(&self.path, "next");
        fs::write(&next, serde_json::to_vec_pretty(&contents)?)?;
        fs::rename(&next, &self.path)
    }
}

/// What a journal's file says, if it is of this boot; nothing if it is of another; or why it says nothing.
fn parse(bytes: &[u8], boot_id: &str) -> Result<Vec<Entry>, String> {
    let contents: Contents = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if contents.format != FORMAT {
        return Err(format!("format {} instead of {FORMAT}", contents.format));
    }
    if contents.boot_id != boot_id {
        return Ok(Vec::new());
    }
    Ok(contents.entries)
}

/// The kernel's name for the time since it booted.
fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// A path with a further ending.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::route::Route;
    use super::*;

    /// A directory of its own for a test, gone after it.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let path = std::env::temp_dir().join(format!("baton-journal-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Directory(path)
        }

        fn journal(&self) -> PathBuf {
            self.0.join("host.json")
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn changes() -> Vec<Change> {
        let address = [10, 0, 0, 100].into();
        let table = 0x0a00_0064;
        vec![
            Change::FeatureOff { interface: "eth0".into(), feature: "rx-gro".into() },
            Change::Promiscuous { interface: "eth0".into() },
            Change::Setting { interface: "eth0".into(), name: "arp_ignore".into(), least: 1 },
            Change::Guard { tap: "vip0".into(), vips: vec![address] },
            Change::Tap { name: "vip0".into(), multi_queue: true },
            Change::Route(Route::Nowhere { table }),
            Change::Route(Route::Subnet { table, address, prefix: 24, interface: "vip0".into() }),
            Change::Route(Route::Gateway { table, gateway: [10, 0, 0, 1].into(), interface: "vip0".into() }),
            Change::Rule { from: address, priority: 200, table },
            Change::Address { interface: "vip0".into(), address, prefix: 32, prefix_route: false },
        ]
    }

    #[test]
    fn what_is_recorded_is_read_back_in_order() {
        let directory = Directory::new("order");
        let (mut journal, warning) = Journal::open(&directory.journal()).unwrap();
        assert_eq!(warning, None);
        for (number, change) in changes().iter().enumerate() {
            journal.record(change, (number % 2 == 0).then_some(number as u32)).unwrap();
        }
        let written = journal.entries().to_vec();
        drop(journal);
        let (journal, _) = Journal::open(&directory.journal()).unwrap();
        assert_eq!(journal.entries(), written);
        assert_eq!(journal.entries().len(), changes().len());
        journal.close().unwrap();
        assert!(!directory.journal().exists());
    }

    #[test]
    fn a_change_recorded_again_keeps_what_was_before_it_first() {
        let directory = Directory::new("again");
        let (mut journal, _) = Journal::open(&directory.journal()).unwrap();
        let change = &changes()[2];
        journal.record(change, Some(0)).unwrap();
        journal.record(change, Some(1)).unwrap();
        assert_eq!(journal.find(change).unwrap().before, Some(0));
        journal.strike(change).unwrap();
        assert!(journal.entries().is_empty());
    }

    #[test]
    fn a_second_process_is_refused() {
        let directory = Directory::new("second");
        let held = Journal::open(&directory.journal()).unwrap();
        assert!(matches!(Journal::open(&directory.journal()), Err(Refusal::Held)));
        drop(held);
        assert!(Journal::open(&directory.journal()).is_ok());
    }

    #[test]
    fn a_damaged_journal_is_set_aside_with_a_warning() {
        let directory = Directory::new("damaged");
        fs::write(directory.journal(), b"{\"format\": 1, \"boot").unwrap();
        let (journal, warning) = Journal::open(&directory.journal()).unwrap();
        assert!(journal.entries().is_empty());
        assert!(warning.unwrap().contains("set aside"));
        assert!(directory.0.join("host.json.damaged").exists());
    }

    #[test]
    fn a_journal_of_another_boot_is_void() {
        let directory = Directory::new("boot");
        let (mut journal, _) = Journal::open(&directory.journal()).unwrap();
        journal.record(&changes()[0], None).unwrap();
        drop(journal);
        let text = fs::read_to_string(directory.journal()).unwrap();
        fs::write(directory.journal(), text.replace(&boot_id().unwrap(), "another")).unwrap();
        let (journal, warning) = Journal::open(&directory.journal()).unwrap();
        assert!(journal.entries().is_empty());
        assert_eq!(warning, None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, "boot");
        }

        #[test]
        fn a_journal_cut_short_is_refused(length in 0usize..400) {
            let entries = changes().into_iter().map(|change| Entry { change, before: None }).collect();
            let contents = Contents { format: FORMAT, boot_id: "boot".into(), entries };
            let bytes = serde_json::to_vec(&contents).unwrap();
            prop_assert!(parse(&bytes[..length.min(bytes.len() - 1)], "boot").is_err());
            prop_assert_eq!(parse(&bytes, "boot").unwrap(), contents.entries);
        }
    }
}
