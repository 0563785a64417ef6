//! What was given, by key: out of a file, out of variables and flags, each value with its place.
//!
//! It knows which keys exist and of which kind they are, and nothing of what they mean together.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::keys::{self, Key, Kind};
use super::place::{BadConfig, Place, quoted};
use super::value::Value;

/// Names that are looked for near a misspelt one are at most this long.
const MISSPELT_MAX: usize = 64;

/// Values from variables and flags, which stand above those of the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides(Vec<(String, Place, Value)>);

impl Overrides {
    /// Takes those of the variables that begin with `PG_REPLICA_`, and then the flags, each
    /// `key=value`; of two for one key the later one counts, and flags are later than variables.
    pub fn new(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &[String],
    ) -> Result<Self, BadConfig> {
        let mut overrides = Self::default();
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            let Some(rest) = name.strip_prefix(keys::PREFIX) else { continue };
            if is_of_others(rest) {
                continue;
            }
            let place = Place::Variable(name.to_owned());
            let Some((key, called)) = keys::overridden_by(rest) else {
                return Err(BadConfig::at(place, unknown_variable(rest)));
            };
            let Some(value) = value.to_str() else {
                return Err(BadConfig::at(place, "its value is no UTF-8; set it anew"));
            };
            overrides.add(key, called, place, value)?;
        }
        for flag in flags {
            let Some((name, value)) = flag.split_once('=') else {
                let what = format!("{} has no value; write `--set key=value`", quoted(flag));
                return Err(BadConfig::at(Place::CommandLine, what));
            };
            let path: Vec<String> = name.trim().split('.').map(str::to_owned).collect();
            let place = Place::Flag(name.trim().to_owned());
            let Some((key, called)) = keys::find(&path) else {
                return Err(BadConfig::at(place, unknown(&path)));
            };
            overrides.add(key, called, place, value)?;
        }
        Ok(overrides)
    }

    fn add(
        &mut self,
        key: &'static Key,
        called: String,
        place: Place,
        text: &str,
    ) -> Result<(), BadConfig> {
        let accepted = key.kind.written(text).and_then(|value| key.kind.accept(value));
        match accepted {
            Ok(value) => self.0.push((called, place, value)),
            Err(why) => {
                return Err(BadConfig::at(place, format!("{why} (it stands for `{called}`)")));
            }
        }
        Ok(())
    }
}

/// Variables with our prefix that are no keys: the file's own name, whom the commands ask, what
/// hooks are told, and what Kubernetes tells every container of a service that is called
/// `pg-replica`.
fn is_of_others(rest: &str) -> bool {
    ["API", "API_CA", "API_CERT", "API_KEY", "CONFIG", "PORT"].contains(&rest)
        || ["PORT_", "SERVICE_", "HOOK_"].iter().any(|start| rest.starts_with(start))
}

/// What was given.
#[derive(Clone, Debug)]
pub(crate) struct Entries {
    file: String,
    values: BTreeMap<String, (Place, Value)>,
    sections: BTreeMap<String, Place>,
}

impl Entries {
    /// Reads the text of `file` and puts the overrides above it.
    pub(crate) fn read(file: &str, text: &str, overrides: &Overrides) -> Result<Self, BadConfig> {
        let mut reader = Reader { file, text, found: Vec::new() };
        let table = DeTable::parse(text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            let message = error.message().replace('\n', ", ");
            BadConfig::at(reader.place(&span), format!("this is not TOML ({message}); see toml.io"))
        })?;
        reader.walk(&mut Vec::new(), table.get_ref());
        let mut entries =
            Self { file: file.to_owned(), values: BTreeMap::new(), sections: BTreeMap::new() };
        // In the order of the file, so that the first mistake is the one that is told.
        reader.found.sort_by_key(|found| found.span.start);
        for found in std::mem::take(&mut reader.found) {
            let place = reader.place(&found.span);
            entries.take(found, place.clone()).map_err(|what| BadConfig::at(place, what))?;
        }
        for (called, place, value) in &overrides.0 {
            entries.values.insert(called.clone(), (place.clone(), value.clone()));
        }
        Ok(entries)
    }

    fn take(&mut self, found: Found, place: Place) -> Result<(), String> {
        let Some(value) = found.value else {
            if keys::find(&found.path).is_some_and(|(key, _)| key.kind != Kind::Parameter) {
                return Err(format!(
                    "{} is a key and not a section; write it as `key = value`",
                    quoted(&found.path.join("."))
                ));
            }
            if !keys::is_section(&found.path) {
                return Err(unknown(&found.path));
            }
            self.sections.entry(found.path.join(".")).or_insert(place);
            return Ok(());
        };
        let Some((key, called)) = keys::find(&found.path) else {
            return Err(unknown(&found.path));
        };
        let accepted = key.kind.accept(value).map_err(|why| {
            let name = called.rsplit('.').next().unwrap_or(&called);
            format!("`{name}`: {why} (for example `{name} = {}`)", key.shown())
        })?;
        match self.values.insert(called.clone(), (place, accepted)) {
            None => Ok(()),
            Some(_) => Err(format!("`{called}` is given twice; leave one out")),
        }
    }

    /// Whether the key was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The value of a key, given or not.
    fn value(&self, name: &str) -> Option<Value> {
        match self.values.get(name) {
            Some((_, value)) => Some(value.clone()),
            None => keys::named(name).and_then(Value::without),
        }
    }

    /// The value of a key that takes text.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        let Some(Value::Text(text)) = self.value(name) else { return None };
        Some(text)
    }

    /// The value of a key that takes text and has to be given.
    pub(crate) fn need(&self, name: &str) -> Result<String, BadConfig> {
        self.text(name).ok_or_else(|| self.missing(name))
    }

    /// The value of a key that takes a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        let Some(Value::Whole(number)) = self.value(name) else { return None };
        u64::try_from(number).ok()
    }

    /// The value of a key that takes true or false.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.value(name) == Some(Value::Flag(true))
    }

    /// The value of a key that takes a list.
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let Some(Value::List(list)) = self.value(name) else { return Vec::new() };
        let text = |value| if let Value::Text(text) = value { Some(text) } else { None };
        list.into_iter().filter_map(text).collect()
    }

    /// The names that were given right below a section.
    pub(crate) fn below(&self, section: &str) -> Vec<String> {
        let prefix = format!("{section}.");
        let given = self.values.keys().chain(self.sections.keys());
        let mut names: Vec<String> =
            given.filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect();
        names.sort();
        names.dedup();
        names
    }

    /// What was overridden, and by what.
    pub(crate) fn overridden(&self) -> Vec<(String, Place)> {
        let outside = |place: &Place| matches!(place, Place::Variable(_) | Place::Flag(_));
        let overridden = self.values.iter().filter(|(_, (place, _))| outside(place));
        overridden.map(|(name, (place, _))| (name.clone(), place.clone())).collect()
    }

    /// The sentence for a key that has to be given.
    pub(crate) fn missing(&self, name: &str) -> BadConfig {
        let (section, last) = name.rsplit_once('.').unwrap_or(("", name));
        let key = keys::named(name);
        let about = key.map_or("", |key| key.about).trim_end_matches('.');
        let about = about.replacen(char::is_uppercase, &about[..1].to_ascii_lowercase(), 1);
        let shown = key.map_or("", Key::shown);
        let place = match section {
            "" => "above the first section".to_owned(),
            section => format!("below `[{section}]`"),
        };
        let what = format!("`{name}` is missing ({about}); write `{last} = {shown}` {place}");
        self.wrong(section, what)
    }

    /// An error at the place of a key, or of the section around it, or of the file.
    pub(crate) fn wrong(&self, name: &str, what: impl Into<String>) -> BadConfig {
        let mut name = name;
        loop {
            let value = self.values.get(name).map(|(place, _)| place);
            if let Some(place) = value.or_else(|| self.sections.get(name)) {
                return BadConfig::at(place.clone(), what);
            }
            match name.rsplit_once('.') {
                Some((section, _)) => name = section,
                None => return BadConfig::at(Place::File(self.file.clone()), what),
            }
        }
    }
}

/// A value, or a section where there is none, somewhere in a file.
struct Found {
    path: Vec<String>,
    span: Range<usize>,
    value: Option<Value>,
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    found: Vec<Found>,
}

impl Reader<'_> {
    /// The recursion is bounded by the parser, which refuses what is nested deeper than it likes.
    fn walk(&mut self, path: &mut Vec<String>, table: &DeTable<'_>) {
        for (key, entry) in table {
            path.push(key.get_ref().to_string());
            let span = key.span();
            if let DeValue::Table(inner) = entry.get_ref() {
                self.found.push(Found { path: path.clone(), span, value: None });
                self.walk(path, inner);
            } else {
                let value = Some(Value::of(entry.get_ref()));
                self.found.push(Found { path: path.clone(), span, value });
            }
            path.pop();
        }
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let bytes = &self.text.as_bytes()[..span.start.min(self.text.len())];
        let before = String::from_utf8_lossy(bytes);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Place::Line {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// The sentence for a path of names that leads nowhere.
fn unknown(path: &[String]) -> String {
    let name = path.join(".");
    let said = quoted(&name);
    if let [first, number, ..] = path
        && first == "members"
        && !keys::is_section(&path[..2])
    {
        return format!(
            "{} is no number of a member; name a member by a whole number from 1 to 999999, as in \
             `[members.1]`",
            quoted(number)
        );
    }
    if let [first, second, ..] = path
        && first == "postgres"
        && second == "parameters"
    {
        return format!("{said} cannot be the name of a Postgres parameter; correct or remove it");
    }
    if keys::is_section(path) {
        return format!("{said} is a section; write `[{name}]`, and its keys on the lines below");
    }
    match nearest(path) {
        Some(near) if path.len() > 1 && !near.contains('.') => {
            return format!("{said} means nothing; `{near}` stands above the first section");
        }
        Some(near) => return format!("{said} means nothing; did you mean `{near}`?"),
        None => {}
    }
    let section = &path[..path.len().saturating_sub(1)];
    let known: Vec<&str> = keys::KEYS
        .iter()
        .filter(|key| keys::is_section(section) && is_right_below(section, key.path))
        .filter_map(|key| key.path.rsplit('.').next())
        .collect();
    if known.is_empty() {
        return format!("{said} means nothing here; remove it, or see docs/configuration.md");
    }
    format!("{said} means nothing here; known are {}", known.join(", "))
}

fn is_right_below(section: &[String], path: &str) -> bool {
    let wanted: Vec<&str> = path.split('.').collect();
    wanted.len() == section.len() + 1
        && wanted.iter().zip(section).all(|(wanted, given)| *wanted == "N" || wanted == given)
}

/// The known name that was probably meant: the one with the fewest letters changed, or the same
/// name in another section.
fn nearest(path: &[String]) -> Option<String> {
    let name = path.join(".");
    if name.len() > MISSPELT_MAX {
        return None;
    }
    let last = path.last()?;
    let number = path.get(1).filter(|_| path[0] == "members");
    let candidates =
        keys::KEYS.iter().filter(|key| key.kind != Kind::Parameter).map(|key| match number {
            Some(number) => key.path.replace('N', number),
            None => key.path.to_owned(),
        });
    let sections = keys::SECTIONS.iter().map(|(section, _)| (*section).to_owned());
    let candidates: Vec<String> = candidates.chain(sections).collect();
    let near = candidates.iter().map(|known| (changes(&name, known), known)).min();
    // A slip of the pen is likelier than a key in another section, and that than another word.
    let within = |few: usize| near.filter(|(changes, _)| *changes <= few).map(|(_, known)| known);
    let elsewhere = |known: &&String| known.rsplit('.').next() == Some(last.as_str());
    let found = within(1).or_else(|| candidates.iter().find(elsewhere));
    found.or_else(|| within((last.len() / 3).max(2))).cloned()
}

fn unknown_variable(rest: &str) -> String {
    let near = keys::KEYS
        .iter()
        .map(|key| keys::variable(key.path))
        .map(|known| (changes(&known[keys::PREFIX.len()..], rest), known))
        .filter(|(changes, _)| *changes <= 2 && rest.len() <= MISSPELT_MAX)
        .min();
    match near {
        Some((_, known)) => format!("it overrides no key; did you mean {known}?"),
        None => "it overrides no key; unset it, or see docs/configuration.md for the names".into(),
    }
}

/// How many letters have to be put in, left out or replaced to make one of the other.
fn changes(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, wanted) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *wanted);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
