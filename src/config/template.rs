//! The file that `node init` writes: every key with what it is for, those that are set and those
//! that could be.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::keys::{Absent, KEYS, Key, Kind, SECTIONS};
use super::{PEERS_PORT, POSTGRES_PORT};

/// How wide a comment gets.
const COLUMNS_MAX: usize = 78;
/// How many members a list has that nobody asked for.
const MEMBERS: u64 = 3;

/// What is known about the node for which a file is written.
#[derive(Clone, Debug)]
pub struct Outline {
    /// The cluster's name.
    pub cluster: String,
    /// The member's number. One that is not among the founding members joins.
    pub node: u64,
    /// The machines of the founding members in the order of their numbers; for a member that joins,
    /// its own alone. Where there are none, three members are listed that all live on this machine.
    pub hosts: Vec<String>,
}

impl Outline {
    fn founding(&self) -> u64 {
        if self.hosts.is_empty() { MEMBERS } else { self.hosts.len() as u64 }
    }

    fn joins(&self) -> bool {
        self.node > self.founding()
    }

    fn members(&self) -> Vec<u64> {
        if self.joins() { vec![self.node] } else { (1..=self.founding()).collect() }
    }

    /// On one machine every member needs ports of its own; on several the usual ones are best.
    fn member(&self, number: u64) -> [(String, String); 2] {
        let at = if self.joins() { Some(0) } else { usize::try_from(number - 1).ok() };
        let [peers, postgres] = match at.and_then(|at| self.hosts.get(at)) {
            Some(host) => [(host.as_str(), PEERS_PORT), (host, POSTGRES_PORT)],
            None => {
                let offset = u16::try_from(number).unwrap_or_default();
                [("127.0.0.1", PEERS_PORT), ("127.0.0.1", POSTGRES_PORT)]
                    .map(|(host, port)| (host, port.saturating_add(offset)))
            }
        };
        let address = |(host, port): (&str, u16)| {
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            format!("\"{host}:{port}\"")
        };
        [("peers".into(), address(peers)), ("postgres".into(), address(postgres))]
    }

    /// The keys that are set, as TOML.
    fn values(&self) -> BTreeMap<String, String> {
        let Self { cluster, node, .. } = self;
        let mut values = BTreeMap::from([
            ("cluster".to_owned(), format!("\"{cluster}\"")),
            ("node".to_owned(), node.to_string()),
            ("state_dir".to_owned(), format!("\"/var/lib/pg_replica/{cluster}-n{node}\"")),
            ("postgres.data_dir".to_owned(), format!("\"/var/lib/postgresql/{cluster}-n{node}\"")),
        ]);
        values.insert("postgres.secret_file".into(), "\"/etc/pg_replica/tls/secret\"".into());
        if self.joins() {
            values.insert("join".into(), "true".into());
        }
        if self.hosts.is_empty() {
            let port = super::API_PORT.saturating_add(u16::try_from(*node).unwrap_or_default());
            values.insert("api.listen".into(), format!("\"127.0.0.1:{port}\""));
        } else {
            for (key, file) in [("ca", "ca.crt".into()), ("cert", format!("n{node}.crt"))] {
                values.insert(format!("tls.{key}"), format!("\"/etc/pg_replica/tls/{file}\""));
            }
            values.insert("tls.key".into(), format!("\"/etc/pg_replica/tls/n{node}.key\""));
        }
        for number in self.members() {
            for (key, value) in self.member(number) {
                values.insert(format!("members.{number}.{key}"), value);
            }
        }
        values
    }
}

/// The text of a commented file. It passes every check of its own text.
#[must_use]
pub fn template(outline: &Outline) -> String {
    let values = outline.values();
    let mut text = String::new();
    comment(
        &mut text,
        "The configuration of one node of pg_replica. `node check` says whether it is in order. \
         What stands behind a # is what holds without the line, or an example where nothing does. \
         Every key can be set from outside too: `data_dir` in [postgres] by the variable \
         PG_REPLICA_POSTGRES_DATA_DIR, or by `--set postgres.data_dir=/elsewhere`.",
    );
    for (section, about) in SECTIONS {
        text.push('\n');
        comment(&mut text, about);
        if *section == "members.N" {
            for (at, number) in outline.members().into_iter().enumerate() {
                if at > 0 {
                    text.push('\n');
                }
                write_section(&mut text, &format!("members.{number}"), section, &values);
            }
        } else {
            write_section(&mut text, section, section, &values);
        }
    }
    text
}

/// One section: its heading, and each of its keys. The comments are those of the first member only.
fn write_section(text: &mut String, name: &str, pattern: &str, values: &BTreeMap<String, String>) {
    let keys: Vec<(&Key, String)> = KEYS
        .iter()
        .filter_map(|key| {
            let (section, last) = key.path.rsplit_once('.').unwrap_or(("", key.path));
            (section == pattern).then(|| (key, last.replace("NAME", "shared_buffers")))
        })
        .collect();
    if !name.is_empty() {
        let _ = writeln!(text, "[{name}]");
    }
    let first = pattern != "members.N" || name.ends_with(".1") || values.contains_key("join");
    for (key, last) in keys {
        let full = if name.is_empty() { last.clone() } else { format!("{name}.{last}") };
        let value = values.get(&full);
        if first {
            comment(text, key.about);
            if let (Kind::Choice(words), None) = (key.kind, value) {
                comment(text, &format!("One of {}.", words.join(", ")));
            }
        }
        match (value, key.absent) {
            (Some(value), _) => {
                let _ = writeln!(text, "{last} = {value}");
            }
            (None, Absent::Open(shown) | Absent::Value(shown) | Absent::Wrong(shown)) if first => {
                let _ = writeln!(text, "# {last} = {shown}");
            }
            (None, Absent::Open(_) | Absent::Value(_) | Absent::Wrong(_)) => {}
        }
    }
}

/// A sentence as lines of comment.
fn comment(text: &mut String, sentence: &str) {
    let mut line = String::from("#");
    for word in sentence.split_whitespace() {
        if line.len() + 1 + word.len() > COLUMNS_MAX {
            text.push_str(&line);
            text.push('\n');
            "#".clone_into(&mut line);
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}
