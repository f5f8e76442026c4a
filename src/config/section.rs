//! One mapping of the file: which keys it may have, and its values, each read and checked on its own so that one
//! fault does not hide the next.

use super::fault::{Faults, Wrong};
use super::yaml::{Entry, Node, Value};

/// Every key of the file, by section; `vips` stands for each item of the list. Nothing else is accepted.
pub const KEYS: &[(&str, &[&str])] = &[
    ("", &["cluster", "node", "vips", "dataplane", "control", "metrics", "log"]),
    ("cluster", &["name", "key_file", "heartbeat", "missed", "ethertype"]),
    ("node", &["name", "metric"]),
    ("node.metric", &["file", "command"]),
    ("vips", &["address", "gateway", "mac", "ports", "actives", "hedge", "rebalance", "orphans", "health"]),
    ("vips.rebalance", &["every", "margin", "hold"]),
    ("vips.orphans", &["after"]),
    ("vips.health", &["tcp", "http", "command", "every", "timeout"]),
    ("dataplane", &["wire", "host", "workers", "control_core", "poll", "connections", "buffers", "huge_pages", "eal"]),
    ("dataplane.wire", &["interface", "pci", "vdev"]),
    ("dataplane.host", &["tap", "vdev", "address"]),
    ("control", &["socket"]),
    ("metrics", &["listen"]),
    ("log", &["level", "format"]),
];

/// The keys of a section of [`KEYS`].
fn keys(section: &str) -> &'static [&'static str] {
    KEYS.iter().find(|(name, _)| *name == section).map_or(&[], |(_, keys)| keys)
}

/// A mapping whose keys are known and single; the faults of those that are not have been told.
pub(super) struct Section<'a> {
    /// As messages name it: `vips[1].health`; empty for the whole file.
    path: String,
    /// Where it is missing something, if it does.
    line: usize,
    entries: &'a [Entry],
}

/// Reads and checks one value.
pub(super) trait Read<T>: FnOnce(&Value) -> Result<T, Wrong> {}
impl<T, F: FnOnce(&Value) -> Result<T, Wrong>> Read<T> for F {}

impl<'a> Section<'a> {
    /// The section `kind` of [`KEYS`] that `node` holds, called `path` in messages; `line` is that of its key.
    pub(super) fn open(
        kind: &str,
        path: &str,
        line: usize,
        node: &'a Node,
        faults: &mut Faults,
    ) -> Option<Section<'a>> {
        let known = keys(kind);
        let Value::Mapping(entries) = &node.value else {
            let name = if path.is_empty() { "the file" } else { path };
            let what = format!("{name} is {}", node.value);
            faults.add(node.line, what, format!("a mapping with {}", list(known)));
            return None;
        };
        let section = Section { path: path.to_owned(), line, entries };
        for (position, entry) in entries.iter().enumerate() {
            let key = super::fault::quoted(&entry.key);
            let place = if path.is_empty() { "in the file".to_owned() } else { format!("in {path}") };
            if !known.contains(&entry.key.as_str()) {
                faults.add(entry.line, format!("unknown key {key} {place}"), list(known));
            } else if let Some(first) = entries[..position].iter().find(|earlier| earlier.key == entry.key) {
                let what = format!("the key {key} stands twice {place}, first on line {}", first.line);
                faults.add(entry.line, what, "each key once");
            }
        }
        Some(section)
    }

    /// A key's name as messages give it.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The line of a fault that concerns `key`: of its value, which for a list or a mapping begins with the key, or of
    /// the section where the key is left out.
    pub(super) fn line(&self, key: &str) -> usize {
        self.get(key).map_or(self.line, |entry| match entry.node.value {
            Value::List(_) | Value::Mapping(_) => entry.line,
            _ => entry.node.line,
        })
    }

    /// A key with its value, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<&'a Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Adds a fault that concerns `key`.
    pub(super) fn fault(&self, key: &str, wrong: Wrong, faults: &mut Faults) {
        faults.add(self.line(key), format!("{}: {}", self.path(key), wrong.what), wrong.expected);
    }

    /// The value of a key that may be left out: `None` if it is wrong, `Some(None)` if it is not there.
    pub(super) fn optional<T>(&self, key: &str, read: impl Read<T>, faults: &mut Faults) -> Option<Option<T>> {
        let Some(entry) = self.get(key) else { return Some(None) };
        match read(&entry.node.value) {
            Ok(value) => Some(Some(value)),
            Err(wrong) => {
                self.fault(key, wrong, faults);
                None
            }
        }
    }

    /// The value of a key, `default` where it is left out; `None` if it is wrong.
    pub(super) fn or<T>(&self, key: &str, default: T, read: impl Read<T>, faults: &mut Faults) -> Option<T> {
        self.optional(key, read, faults).map(|value| value.unwrap_or(default))
    }

    /// The value of a key that must be there; `None` if it is not or is wrong. `expected` is what is missing.
    pub(super) fn required<T>(&self, key: &str, expected: &str, read: impl Read<T>, faults: &mut Faults) -> Option<T> {
        let value = self.optional(key, read, faults)?;
        if value.is_none() {
            self.missing(key, expected, faults);
        }
        value
    }

    /// A list, each item read on its own: `None` if one is wrong, `Some(None)` if the key is left out. `expected` is
    /// what the list is of.
    pub(super) fn list<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&Value) -> Result<T, Wrong>,
        faults: &mut Faults,
    ) -> Option<Option<Vec<T>>> {
        let Some(entry) = self.get(key) else { return Some(None) };
        let items = self.items(key, entry, expected, read, faults)?;
        items.into_iter().map(|(item, _)| item).collect::<Option<Vec<T>>>().map(Some)
    }

    /// A list of at least one item, none of them twice; sorted, with the items' lines.
    pub(super) fn set<T: Copy + Ord + std::fmt::Display>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&Value) -> Result<T, Wrong>,
        faults: &mut Faults,
    ) -> Option<Option<Vec<(T, usize)>>> {
        let Some(entry) = self.get(key) else { return Some(None) };
        let items = self.items(key, entry, expected, read, faults)?;
        if items.is_empty() {
            self.fault(key, Wrong::new("the list is empty", expected), faults);
            return None;
        }
        let all = items.len();
        let mut right: Vec<(T, usize)> = items.into_iter().filter_map(|(item, line)| Some((item?, line))).collect();
        right.sort_unstable();
        for pair in right.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            let what = format!("{}: {} stands twice, first on line {}", self.path(key), pair[1].0, pair[0].1);
            faults.add(pair[1].1, what, "each item once");
        }
        (right.len() == all).then_some(Some(right))
    }

    /// A list's items with their lines; those that are wrong are told and `None`.
    fn items<T>(
        &self,
        key: &str,
        entry: &Entry,
        expected: &str,
        read: impl Fn(&Value) -> Result<T, Wrong>,
        faults: &mut Faults,
    ) -> Option<Vec<(Option<T>, usize)>> {
        let Value::List(items) = &entry.node.value else {
            self.fault(key, Wrong::new(format!("{} is not a list", entry.node.value), expected), faults);
            return None;
        };
        let mut read_items = Vec::with_capacity(items.len());
        for (position, item) in items.iter().enumerate() {
            let value = read(&item.value).map_err(|wrong| {
                faults.add(item.line, format!("{}[{position}]: {}", self.path(key), wrong.what), wrong.expected);
            });
            read_items.push((value.ok(), item.line));
        }
        Some(read_items)
    }

    /// A section that must be there.
    pub(super) fn section(&self, key: &str, faults: &mut Faults) -> Option<Section<'a>> {
        let Some(entry) = self.get(key) else {
            self.missing(key, &format!("a mapping with {}", list(keys(key))), faults);
            return None;
        };
        self.inner(key, key, entry, faults)
    }

    /// The section under `entry`, of `kind` in [`KEYS`].
    pub(super) fn inner(&self, kind: &str, key: &str, entry: &'a Entry, faults: &mut Faults) -> Option<Section<'a>> {
        Section::open(kind, &self.path(key), entry.line, &entry.node, faults)
    }

    /// Adds the fault that `key` is missing.
    pub(super) fn missing(&self, key: &str, expected: &str, faults: &mut Faults) {
        faults.add(self.line, format!("{} is missing", self.path(key)), expected);
    }

    /// The one key of `choices` that is there; a fault if none is, or several are.
    pub(super) fn one_of(&self, choices: &[&str], expected: &str, faults: &mut Faults) -> Option<&'a Entry> {
        let mut given = self.entries.iter().filter(|entry| choices.contains(&entry.key.as_str()));
        let first = given.next();
        match (first, given.find(|second| Some(&second.key) != first.map(|first| &first.key))) {
            (Some(first), None) => Some(first),
            (Some(first), Some(second)) => {
                let what = format!("{} has both {} and {}", self.path, first.key, second.key);
                faults.add(second.line, what, expected);
                None
            }
            (None, _) => {
                faults.add(self.line, format!("{} has none of {}", self.path, list(choices)), expected);
                None
            }
        }
    }
}

/// `a, b, c`.
fn list(words: &[&str]) -> String {
    words.join(", ")
}
