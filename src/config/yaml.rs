//! YAML text to a tree of values that know their lines.
//!
//! `serde_yaml` reads the values: it decides what is text and what a number. It does not say where a value stood, so
//! `saphyr-parser` walks the same text for the lines, and the two trees, equal in shape, are laid over each other.

use std::fmt;

use saphyr_parser::{Event, Parser};
use serde::de::{Deserialize, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

use super::fault::{Fault, quoted};

/// A value and the line it begins on.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub line: usize,
    pub value: Value,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Nothing,
    Truth(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file; a key may stand here twice.
    Mapping(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key as text, whatever it was: every key that means something is text.
    pub key: String,
    /// The key's line; the value may begin on a later one.
    pub line: usize,
    pub node: Node,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Nothing => f.write_str("nothing"),
            Value::Truth(truth) => write!(f, "{truth}"),
            Value::Integer(integer) => write!(f, "{integer}"),
            Value::Float(float) => write!(f, "{float:?}"),
            Value::Text(text) => f.write_str(&quoted(text)),
            Value::List(_) => f.write_str("a list"),
            Value::Mapping(_) => f.write_str("a mapping"),
        }
    }
}

/// Reads the one document in `text`.
///
/// # Errors
/// The first place where `text` is not YAML, or that it is empty, or holds several documents.
pub fn parse(text: &str) -> Result<Node, Fault> {
    if text.lines().map(str::trim).all(|line| matches!(line, "" | "---" | "...") || line.starts_with('#')) {
        return Err(Fault {
            line: 1,
            what: "the file is empty".into(),
            expected: "the sections cluster, node, vips and dataplane".into(),
        });
    }
    printable(text)?;
    // The lines first, since their reader bounds the depth, in which serde_yaml's time grows with the square.
    let lines = lines(text)?;
    let plain: Plain = serde_yaml::from_str(text).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        broken(text, line, &error.to_string())
    })?;
    Ok(lay_over(plain, Some(&lines), 1))
}

/// Control characters, which no YAML reader tells the line of.
fn printable(text: &str) -> Result<(), Fault> {
    let odd = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\r' | '\t');
    match text.split('\n').zip(1..).find_map(|(written, line)| Some((written.chars().find(|one| odd(*one))?, line))) {
        Some((odd, line)) => Err(Fault {
            line,
            what: format!("the line has the control character {odd:?}"),
            expected: "text, with such characters escaped in double quotes".into(),
        }),
        None => Ok(()),
    }
}

fn broken(text: &str, line: usize, why: &str) -> Fault {
    // What is missing at the end is told of the last line, not of one past it.
    let line = line.clamp(1, text.lines().count().max(1));
    let tab = |line: &usize| {
        let written = text.lines().nth(line - 1).unwrap_or_default();
        written[..written.len() - written.trim_start().len()].contains('\t')
    };
    // A tab is found while reading on from the line before.
    if let Some(line) = [line, line + 1].into_iter().find(tab) {
        let what = "this is not YAML: the line is indented by a tab".into();
        return Fault { line, what, expected: "spaces for indentation".into() };
    }
    let why: String = why.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    Fault { line, what: format!("this is not YAML: {why}"), expected: "a YAML file".into() }
}

/// The lines of a document, in the shape of its values. An alias is a leaf, whatever it stands for.
#[derive(Debug)]
struct Lines {
    line: usize,
    /// A list's items, or a mapping's keys and values by turns.
    inner: Vec<Lines>,
}

/// The lines of the one document in `text`.
fn lines(text: &str) -> Result<Lines, Fault> {
    /// Four are needed.
    const DEEPEST: usize = 32;
    let mut documents = 0;
    // The outermost will hold the document's one node.
    let mut open = vec![Lines { line: 1, inner: Vec::new() }];
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| broken(text, error.marker().line(), error.info()))?;
        let node = Lines { line: span.start.line(), inner: Vec::new() };
        let fault = |what: &str, expected: &str| {
            Err(Fault { line: span.start.line(), what: what.into(), expected: expected.into() })
        };
        let closed = match event {
            Event::DocumentStart(_) if documents > 0 => {
                return fault("a second YAML document begins", "one document in the file");
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() > DEEPEST => {
                return fault("lists and mappings are more than 32 levels deep", "a configuration file");
            }
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                open.push(node);
                None
            }
            Event::DocumentStart(_) => {
                documents += 1;
                None
            }
            Event::Scalar(..) | Event::Alias(_) => Some(node),
            Event::SequenceEnd | Event::MappingEnd => open.pop(),
            _ => None,
        };
        if let (Some(closed), Some(parent)) = (closed, open.last_mut()) {
            parent.inner.push(closed);
        }
    }
    Ok(open.pop().and_then(|mut outermost| outermost.inner.pop()).unwrap_or(Lines { line: 1, inner: Vec::new() }))
}

/// Gives each value its line; one without a place of its own (inside an alias) the line `around` it.
fn lay_over(plain: Plain, lines: Option<&Lines>, around: usize) -> Node {
    let line = lines.map_or(around, |lines| lines.line);
    let inner = |position: usize| lines.and_then(|lines| lines.inner.get(position));
    let value = match plain {
        Plain::Scalar(value) => value,
        Plain::List(items) => Value::List(
            items.into_iter().enumerate().map(|(position, item)| lay_over(item, inner(position), line)).collect(),
        ),
        Plain::Mapping(entries) => Value::Mapping(
            entries
                .into_iter()
                .enumerate()
                .map(|(position, (key, value))| {
                    let key = lay_over(key, inner(2 * position), line);
                    let node = lay_over(value, inner(2 * position + 1), key.line);
                    let name = if let Value::Text(text) = key.value { text } else { key.value.to_string() };
                    Entry { key: name, line: key.line, node }
                })
                .collect(),
        ),
    };
    Node { line, value }
}

/// What `serde_yaml` reads. Its own `Value` would stop at the first duplicate key.
enum Plain {
    Scalar(Value),
    List(Vec<Plain>),
    Mapping(Vec<(Plain, Plain)>),
}

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Plain, D::Error> {
        deserializer.deserialize_any(PlainVisitor)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Plain;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a mapping")
    }

    fn visit_unit<E: Error>(self) -> Result<Plain, E> {
        Ok(Plain::Scalar(Value::Nothing))
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Plain, E> {
        Ok(Plain::Scalar(Value::Truth(truth)))
    }

    fn visit_i64<E: Error>(self, integer: i64) -> Result<Plain, E> {
        Ok(Plain::Scalar(Value::Integer(integer.into())))
    }

    fn visit_u64<E: Error>(self, integer: u64) -> Result<Plain, E> {
        Ok(Plain::Scalar(Value::Integer(integer.into())))
    }

    fn visit_i128<E: Error>(self, integer: i128) -> Result<Plain, E> {
        Ok(Plain::Scalar(Value::Integer(integer)))
    }

    fn visit_u128<E: Error>(self, integer: u128) -> Result<Plain, E> {
        // Far beyond every range that is checked, so the largest number is as wrong.
        Ok(Plain::Scalar(Value::Integer(integer.try_into().unwrap_or(i128::MAX))))
    }

    fn visit_f64<E: Error>(self, float: f64) -> Result<Plain, E> {
        Ok(Plain::Scalar(Value::Float(float)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Plain, E> {
        Ok(Plain::Scalar(Value::Text(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Plain, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Plain::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Plain, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = mapping.next_entry()? {
            entries.push(entry);
        }
        Ok(Plain::Mapping(entries))
    }

    /// How `serde_yaml` hands over a tagged value.
    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Plain, A::Error> {
        Err(A::Error::custom("tags (a word after an exclamation mark) mean nothing here"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(node: &Node) -> Vec<(String, usize, usize)> {
        let Value::Mapping(entries) = &node.value else { panic!("not a mapping") };
        entries.iter().map(|entry| (entry.key.clone(), entry.line, entry.node.line)).collect()
    }

    #[test]
    fn values_know_their_lines() {
        let node = parse("# note\na: 1\nb:\n  c: x\n\n  d:\n    [1,\n     2]\n\"e\": |\n  text\n").unwrap();
        assert_eq!(keys(&node), [("a".into(), 2, 2), ("b".into(), 3, 4), ("e".into(), 9, 10)]);
        let Value::Mapping(entries) = &node.value else { unreachable!() };
        assert_eq!(keys(&entries[1].node), [("c".into(), 4, 4), ("d".into(), 6, 7)]);
        let Value::Mapping(inner) = &entries[1].node.value else { unreachable!() };
        let Value::List(items) = &inner[1].node.value else { unreachable!() };
        assert_eq!(items.iter().map(|item| item.line).collect::<Vec<_>>(), [7, 8]);
    }

    #[test]
    fn lines_survive_carriage_returns_anchors_and_duplicates() {
        let node = parse("a: &x\r\n  k: 1\r\nb: *x\r\na: 2\r\n").unwrap();
        assert_eq!(keys(&node), [("a".into(), 1, 1), ("b".into(), 3, 3), ("a".into(), 4, 4)]);
        let Value::Mapping(entries) = &node.value else { unreachable!() };
        // What an alias stands for is found where the alias is.
        assert_eq!(keys(&entries[1].node), [("k".into(), 3, 3)]);
    }

    #[test]
    fn what_is_not_one_document_is_refused() {
        for (text, line, part) in [
            ("", 1, "empty"),
            ("# only\n\n", 1, "empty"),
            ("---\n...\n", 1, "empty"),
            ("a: 1\n---\nb: 2\n", 2, "second"),
            ("a: 1\n\tb: 2\n", 2, "tab"),
            ("a:\n\tb: 2\n", 2, "tab"),
            ("a: 1\nb: \u{7}\n", 2, "control character"),
            ("a: \"x\nb: 2\nc: 3\n", 1, "quoted"),
            ("a: [1,\nb: 2\n", 2, "not YAML"),
            ("a: !odd 1\n", 1, "tags"),
            ("a: *nowhere\n", 1, "not YAML"),
        ] {
            let fault = parse(text).unwrap_err();
            assert_eq!(fault.line, line, "{text:?}: {fault}");
            assert!(fault.what.contains(part), "{text:?}: {fault}");
        }
    }

    #[test]
    fn depth_and_repetition_are_bounded() {
        let started = std::time::Instant::now();
        for text in ["[".repeat(1 << 20), "[".repeat(1 << 19) + &"]".repeat(1 << 19), "{a: ".repeat(1 << 18)] {
            assert!(parse(&text).is_err());
        }
        assert!(parse(&("[".repeat(40) + &"]".repeat(40))).unwrap_err().what.contains("levels deep"));
        assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let before = format!("*a{}, ", level - 1).repeat(10);
            laughs.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        assert!(parse(&laughs).is_err());
    }
}
