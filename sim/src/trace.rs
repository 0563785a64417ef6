//! What happened, hashed and readable.
//!
//! Every line goes into a running hash, so that two runs of one seed can be compared without
//! keeping either; the text is kept only where a person will read it. The trace knows nothing of
//! what its lines mean, except which columns of the table they change.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use pg_replica::ids::NodeId;

/// How many lines are kept at most: about a hundred megabytes. What comes later is hashed only.
const LINES_MAX: usize = 1_000_000;

/// A running hash: FNV-1a with 64 bits. It guards against accidents, not against adversaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hasher(u64);

impl Default for Hasher {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher {
    /// Takes bytes in.
    pub fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The hash of everything so far.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }
}

/// What kind of line it is; it decides how the table shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Something that a node did or saw.
    Event,
    /// What a node is now: it changes the node's column.
    Standing,
    /// Something that was done to the world.
    Fault,
}

/// A kept line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// True time.
    pub at: Duration,
    /// Which node; `None` for the world.
    pub node: Option<NodeId>,
    /// How to show it.
    pub kind: Kind,
    /// The text.
    pub text: String,
}

/// An append-only record of a run.
#[derive(Clone, Debug)]
pub struct Trace {
    hasher: Hasher,
    lines: Vec<Line>,
    keep: bool,
    buffer: String,
    count: u64,
    last: Duration,
}

impl Trace {
    /// An empty trace that keeps its text, or only its hash.
    #[must_use]
    pub fn new(keep: bool) -> Self {
        Self {
            hasher: Hasher::default(),
            lines: Vec::new(),
            keep,
            buffer: String::new(),
            count: 0,
            last: Duration::ZERO,
        }
    }

    /// Whether the text is kept.
    #[must_use]
    pub fn keeps_text(&self) -> bool {
        self.keep
    }

    /// Appends a line. The text is formatted once, into a buffer that is used again.
    pub fn push(
        &mut self,
        at: Duration,
        node: Option<NodeId>,
        kind: Kind,
        text: fmt::Arguments<'_>,
    ) {
        self.buffer.clear();
        self.buffer.write_fmt(text).expect("writing to a string cannot fail");
        self.hasher.write(&u64::try_from(at.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
        self.hasher.write(&node.map_or(0, |node| node.0.wrapping_add(1)).to_le_bytes());
        self.hasher.write(self.buffer.as_bytes());
        self.hasher.write(b"\n");
        self.count += 1;
        self.last = at;
        if self.keep && self.lines.len() < LINES_MAX {
            self.lines.push(Line { at, node, kind, text: self.buffer.clone() });
        }
    }

    /// Lets something count for the hash that is not worth a line.
    pub fn mix(&mut self, at: Duration, node: NodeId, local: Duration, count: usize) {
        for number in [at.as_nanos(), local.as_nanos(), u128::from(node.0), count as u128] {
            self.hasher.write(&u64::try_from(number).unwrap_or(u64::MAX).to_le_bytes());
        }
    }

    /// The hash of everything so far. It is the same whether the text is kept or not.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hasher.value()
    }

    /// How many lines there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// When the last of them was, whether or not it is kept.
    #[must_use]
    pub fn last(&self) -> Duration {
        self.last
    }

    /// The kept lines.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The table: one line per event, a column per node with what it is, faults across. `last`
    /// limits it to the end of the run.
    #[must_use]
    pub fn table(&self, nodes: &[NodeId], last: Option<usize>) -> String {
        let skip = last.map_or(0, |last| self.lines.len().saturating_sub(last));
        let mut table = Table::new(nodes);
        for (number, line) in self.lines.iter().enumerate() {
            table.line(line, number >= skip);
        }
        table.out
    }
}

/// How wide a node's column is: `primary e12 0/3F2A10` fits.
const COLUMN_WIDTH: usize = 22;

/// The table under construction.
struct Table {
    nodes: Vec<NodeId>,
    standing: BTreeMap<NodeId, String>,
    out: String,
}

impl Table {
    fn new(nodes: &[NodeId]) -> Self {
        let mut out = format!("{:>10} ", "time");
        for node in nodes {
            out.push_str(&cell(&node.to_string()));
        }
        out.push_str("what\n");
        Self { nodes: nodes.to_vec(), standing: BTreeMap::new(), out }
    }

    fn line(&mut self, line: &Line, show: bool) {
        if line.kind == Kind::Standing
            && let Some(node) = line.node
        {
            self.standing.insert(node, line.text.clone());
        }
        if !show {
            return;
        }
        let seconds = format!("{:>9.4}s ", line.at.as_secs_f64());
        self.out.push_str(&seconds);
        match line.kind {
            Kind::Event | Kind::Standing => {
                for node in &self.nodes {
                    let text = self.standing.get(node).map_or("", String::as_str);
                    let mark = if Some(*node) == line.node { "*" } else { " " };
                    self.out.push_str(&cell(&format!("{mark}{text}")));
                }
                if let Some(node) = line.node {
                    self.out.push_str(&format!("{node} "));
                }
                self.out.push_str(&line.text);
            }
            Kind::Fault => self.across('~', line),
        }
        self.out.push('\n');
    }

    /// A line across all columns.
    fn across(&mut self, fill: char, line: &Line) {
        let node = line.node.map(|node| format!("{node} ")).unwrap_or_default();
        let text = format!("{fill}{fill}{fill} {node}{} ", line.text);
        let width = (self.nodes.len() * COLUMN_WIDTH).max(text.chars().count());
        self.out.push_str(&text);
        self.out.extend(std::iter::repeat_n(fill, width - text.chars().count()));
    }
}

/// A cell of exactly the column's width.
fn cell(text: &str) -> String {
    let cut: String = text.chars().take(COLUMN_WIDTH - 1).collect();
    format!("{cut:<COLUMN_WIDTH$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(keep: bool) -> Trace {
        let mut trace = Trace::new(keep);
        let at = Duration::from_millis;
        let (one, two) = (Some(NodeId(1)), Some(NodeId(2)));
        trace.push(at(1), one, Kind::Standing, format_args!("primary {} {}", "e1", "0/64"));
        trace.push(at(2), two, Kind::Standing, format_args!("standby e1 0/64"));
        trace.push(at(3), None, Kind::Fault, format_args!("partition {} | {}", "n1", "n2 n3"));
        trace.push(at(4), two, Kind::Event, format_args!("suspects n1"));
        trace
    }

    #[test]
    fn the_hash_is_the_same_whether_text_is_kept_or_not() {
        assert_eq!(sample(true).hash(), sample(false).hash());
        assert!(sample(false).lines().is_empty());
        assert_eq!(sample(false).count(), 4);
        assert_eq!(sample(false).last(), Duration::from_millis(4));
    }

    #[test]
    fn time_node_and_text_all_count() {
        let hash = |at_ms, node, text: &str| {
            let mut trace = Trace::new(false);
            let at = Duration::from_millis(at_ms);
            trace.push(at, Some(NodeId(node)), Kind::Event, format_args!("{text}"));
            trace.hash()
        };
        let base = hash(1, 1, "a");
        assert_ne!(base, hash(2, 1, "a"));
        assert_ne!(base, hash(1, 2, "a"));
        assert_ne!(base, hash(1, 1, "b"));
        assert_eq!(base, hash(1, 1, "a"));
    }

    #[test]
    fn the_table_has_a_column_per_node_and_faults_across() {
        let table = sample(true).table(&[NodeId(1), NodeId(2)], None);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].contains("n1") && lines[0].contains("n2"), "{table}");
        assert!(lines[2].contains(" primary e1 0/64") && lines[2].contains("*standby"), "{table}");
        assert!(lines[3].contains("~~~ partition n1 | n2 n3 ~~~"), "{table}");
        assert!(lines[4].ends_with("n2 suspects n1"), "{table}");
    }

    #[test]
    fn the_end_of_a_table_still_knows_what_each_node_is() {
        let table = sample(true).table(&[NodeId(1), NodeId(2)], Some(1));
        assert_eq!(table.lines().count(), 2);
        assert!(table.contains(" primary e1 0/64"), "{table}");
    }
}
