//! TOML with positions: every value remembers where it stands, so that an error can say so.
//!
//! It owns the words for durations and ranges, and knows nothing of scenarios.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a reader wants one kind of value, and refuses or passes over every other"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadInput {
    /// The file, as the user named it.
    pub file: String,
    /// Line, from one.
    pub line: usize,
    /// Column, from one.
    pub column: usize,
    /// One sentence.
    pub what: String,
}

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "{}: {}", self.file, self.what);
        }
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.what)
    }
}

impl std::error::Error for BadInput {}

impl BadInput {
    /// An error about a file as a whole.
    #[must_use]
    pub fn about(file: &str, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, what: what.into() }
    }
}

/// Where a value begins and ends, in bytes.
pub(super) type Span = Range<usize>;

/// A file being read.
pub(super) struct Source<'a> {
    /// Its name.
    pub(super) file: &'a str,
    /// Its text.
    pub(super) text: &'a str,
}

/// What stands in a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    Text(String),
    Whole(i64),
    Real(f64),
    Flag(bool),
    List(Vec<Value>),
    Table(BTreeMap<String, (Span, Value)>),
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Value {
    pub(super) span: Span,
    pub(super) item: Item,
}

/// A table from which fields are taken one by one; what is left at the end is an error.
pub(super) struct Fields<'a> {
    source: &'a Source<'a>,
    what: String,
    span: Span,
    left: BTreeMap<String, (Span, Value)>,
    asked: BTreeSet<&'static str>,
}

impl<'a> Source<'a> {
    /// An error at a place of this file.
    pub(super) fn bad(&self, span: &Span, what: impl Into<String>) -> BadInput {
        let before = &self.text[..span.start.min(self.text.len())];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        BadInput {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            what: what.into(),
        }
    }

    /// The whole file as a table.
    pub(super) fn parse(&'a self) -> Result<Fields<'a>, BadInput> {
        let table = DeTable::parse(self.text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            self.bad(&span, error.message().replace('\n', " "))
        })?;
        let span = table.span();
        let entries = self.table(table.get_ref())?;
        Ok(Fields::new(self, "a file", span, entries))
    }

    fn table(&self, table: &DeTable<'_>) -> Result<BTreeMap<String, (Span, Value)>, BadInput> {
        let mut entries = BTreeMap::new();
        for (key, value) in table {
            let converted = self.value(value.get_ref(), value.span())?;
            entries.insert(key.get_ref().to_string(), (key.span(), converted));
        }
        Ok(entries)
    }

    fn value(&self, value: &DeValue<'_>, span: Span) -> Result<Value, BadInput> {
        let item = match value {
            DeValue::String(text) => Item::Text(text.to_string()),
            DeValue::Integer(number) => Item::Whole(
                i64::from_str_radix(number.as_str(), number.radix())
                    .map_err(|_| self.bad(&span, format!("{number} is too large a number")))?,
            ),
            DeValue::Float(number) => Item::Real(
                number
                    .as_str()
                    .parse()
                    .map_err(|_| self.bad(&span, format!("{number} is not a number")))?,
            ),
            DeValue::Boolean(flag) => Item::Flag(*flag),
            DeValue::Datetime(_) => return Err(self.bad(&span, "dates have no meaning here")),
            DeValue::Array(array) => {
                let mut list = Vec::new();
                for entry in array.iter() {
                    list.push(self.value(entry.get_ref(), entry.span())?);
                }
                Item::List(list)
            }
            DeValue::Table(table) => Item::Table(self.table(table)?),
        };
        Ok(Value { span, item })
    }
}

impl<'a> Fields<'a> {
    pub(super) fn new(
        source: &'a Source<'a>,
        what: &str,
        span: Span,
        left: BTreeMap<String, (Span, Value)>,
    ) -> Self {
        Self { source, what: what.to_owned(), span, left, asked: BTreeSet::new() }
    }

    pub(super) fn source(&self) -> &'a Source<'a> {
        self.source
    }

    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// What the table is called in errors.
    pub(super) fn rename(&mut self, what: &str) {
        what.clone_into(&mut self.what);
    }

    /// An error about the table as a whole.
    pub(super) fn bad(&self, what: impl Into<String>) -> BadInput {
        self.source.bad(&self.span, what)
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.insert(key);
        self.left.remove(key).map(|(_, value)| value)
    }

    pub(super) fn need(&mut self, key: &'static str) -> Result<Value, BadInput> {
        self.take(key).ok_or_else(|| self.bad(format!("{} needs `{key}`", self.what)))
    }

    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<String>, BadInput> {
        self.take(key).map(|value| value.text(self.source, key)).transpose()
    }

    pub(super) fn duration(&mut self, key: &'static str) -> Result<Option<Duration>, BadInput> {
        self.take(key).map(|value| value.duration(self.source, key)).transpose()
    }

    pub(super) fn whole(&mut self, key: &'static str) -> Result<Option<u64>, BadInput> {
        self.take(key).map(|value| value.whole(self.source, key)).transpose()
    }

    pub(super) fn percent(&mut self, key: &'static str) -> Result<Option<u32>, BadInput> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = value.whole(self.source, key)?;
        if number > 100 {
            return Err(self.source.bad(&value.span, format!("{number} percent is too many")));
        }
        Ok(Some(u32::try_from(number).expect("at most 100")))
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, BadInput> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.item {
            Item::Flag(flag) => Ok(Some(flag)),
            _ => Err(self.source.bad(&value.span, format!("`{key}` is true or false"))),
        }
    }

    pub(super) fn list(&mut self, key: &'static str) -> Result<Option<Vec<Value>>, BadInput> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.item {
            Item::List(list) => Ok(Some(list)),
            _ => Err(self.source.bad(&value.span, format!("`{key}` is a list"))),
        }
    }

    /// A table inside this one.
    pub(super) fn sub(
        &mut self,
        key: &'static str,
        what: &str,
    ) -> Result<Option<Fields<'a>>, BadInput> {
        let Some(value) = self.take(key) else { return Ok(None) };
        value.fields(self.source, what).map(Some)
    }

    /// Whether the field is there.
    pub(super) fn has(&mut self, key: &'static str) -> bool {
        self.asked.insert(key);
        self.left.contains_key(key)
    }

    /// Everything that is left, whatever its name.
    pub(super) fn rest(self) -> BTreeMap<String, (Span, Value)> {
        self.left
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(self) -> Result<(), BadInput> {
        let Some((key, (span, _))) = self.left.first_key_value() else { return Ok(()) };
        let known: Vec<&str> = self.asked.iter().copied().collect();
        Err(self.source.bad(
            span,
            format!("`{key}` means nothing to {}, which takes {}", self.what, known.join(", ")),
        ))
    }
}

impl Value {
    pub(super) fn text(&self, source: &Source<'_>, key: &str) -> Result<String, BadInput> {
        match &self.item {
            Item::Text(text) => Ok(text.clone()),
            _ => Err(source.bad(&self.span, format!("`{key}` is a text in quotation marks"))),
        }
    }

    pub(super) fn whole(&self, source: &Source<'_>, key: &str) -> Result<u64, BadInput> {
        let number = self.signed(source, key)?;
        u64::try_from(number)
            .map_err(|_| source.bad(&self.span, format!("`{key}` cannot be negative")))
    }

    pub(super) fn signed(&self, source: &Source<'_>, key: &str) -> Result<i64, BadInput> {
        match &self.item {
            Item::Whole(number) => Ok(*number),
            _ => Err(source.bad(&self.span, format!("`{key}` is a whole number"))),
        }
    }

    pub(super) fn duration(&self, source: &Source<'_>, key: &str) -> Result<Duration, BadInput> {
        let text = self.text(source, key)?;
        parse_duration(&text).map_err(|why| source.bad(&self.span, format!("`{key}`: {why}")))
    }

    pub(super) fn fields<'a>(
        self,
        source: &'a Source<'a>,
        what: &str,
    ) -> Result<Fields<'a>, BadInput> {
        match self.item {
            Item::Table(entries) => Ok(Fields::new(source, what, self.span, entries)),
            _ => Err(source.bad(&self.span, format!("{what} is a table"))),
        }
    }
}

/// Reads `10s`, `250ms`, `1.5s`, `2m`. Nothing finer than a millisecond exists.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let help = || format!("{text:?} is no duration; write \"10s\", \"250ms\", \"1.5s\" or \"2m\"");
    let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(help)?;
    let (number, unit) = text.split_at(split);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(help()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 3 || (number.contains('.') && fraction.is_empty()) {
        return Err(help());
    }
    let digits = |part: &str| -> Result<u64, String> {
        if part.bytes().all(|b| b.is_ascii_digit()) {
            part.parse().map_err(|_| help())
        } else {
            Err(help())
        }
    };
    let thousandths = if fraction.is_empty() { 0 } else { digits(&format!("{fraction:0<3}"))? };
    let total = digits(whole)?
        .checked_mul(unit_ms)
        .filter(|ms| *ms <= 86_400_000)
        .ok_or_else(|| format!("{text:?} is longer than a day"))?;
    if !(thousandths * unit_ms).is_multiple_of(1_000) {
        return Err(format!("{text:?} is finer than a millisecond"));
    }
    Ok(Duration::from_millis(total + thousandths * unit_ms / 1_000))
}

/// Writes a duration so that [`parse_duration`] reads the same one.
#[must_use]
pub fn write_duration(span: Duration) -> String {
    let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    match (ms / 1_000, ms % 1_000) {
        (seconds, 0) => format!("{seconds}s"),
        (0, ms) => format!("{ms}ms"),
        (seconds, ms) => {
            let fraction = format!("{ms:03}");
            format!("{seconds}.{}s", fraction.trim_end_matches('0'))
        }
    }
}

/// Splits `a..b`.
pub(super) fn split_range(text: &str) -> Option<(&str, &str)> {
    text.split_once("..").map(|(low, high)| (low.trim(), high.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_survive_writing_and_reading() {
        for ms in [1, 20, 250, 999, 1_000, 1_500, 1_050, 61_001, 86_400_000] {
            let span = Duration::from_millis(ms);
            assert_eq!(parse_duration(&write_duration(span)), Ok(span));
        }
        for wrong in ["", "5", "s", "5 s", "1.s", "1.2345s", "0.5ms", "-1s", "+1s", "3h", "99999m"]
        {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1_500)));
    }
}
