//! A value by its kind: what is accepted, and what is said of the rest.

use toml::de::DeValue;

use super::address::Address;
use super::keys::{Absent, Key, Kind};
use super::place::quoted;

/// A value as it was given, and, once a kind has accepted it, as that kind wants it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// A text.
    Text(String),
    /// A whole number.
    Whole(i64),
    /// Any other number, as it was written.
    Real(String),
    /// Yes or no.
    Flag(bool),
    /// A list.
    List(Vec<Value>),
    /// A table within a list, or a date: nothing takes either.
    Other(&'static str),
}

impl Value {
    pub(crate) fn of(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(whole) => Self::Whole(whole),
                    Err(_) => Self::Real(number.to_string()),
                }
            }
            DeValue::Float(number) => Self::Real(number.as_str().to_owned()),
            DeValue::Boolean(flag) => Self::Flag(*flag),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Array(list) => {
                Self::List(list.iter().map(|entry| Self::of(entry.get_ref())).collect())
            }
            DeValue::Table(_) => Self::Other("a table"),
        }
    }

    /// What holds where the key is not given.
    pub(crate) fn without(key: &Key) -> Option<Self> {
        match key.absent {
            Absent::Value(text) => DeValue::parse(text).ok().map(|value| Self::of(value.get_ref())),
            Absent::Wrong(_) | Absent::Open(_) => None,
        }
    }

    fn described(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Whole(_) => "a whole number",
            Self::Real(_) => "a number",
            Self::Flag(_) => "true or false",
            Self::List(_) => "a list",
            Self::Other(what) => what,
        }
    }
}

impl Kind {
    /// What the kind takes, for a sentence and for the documents.
    pub(crate) fn described(self) -> String {
        match self {
            Self::ClusterName => "a name".into(),
            Self::Text => "a text".into(),
            Self::Path => "a path from the root".into(),
            Self::Address => "`host:port`".into(),
            Self::Number(least, i64::MAX) => format!("a whole number from {least}"),
            Self::Number(least, most) => format!("a whole number from {least} to {most}"),
            Self::Flag => "`true` or `false`".into(),
            Self::Choice(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
                words.join(" or ")
            }
            Self::Lines => "a list of texts".into(),
            Self::Parameter => "a text, a number, `true` or `false`".into(),
        }
    }

    /// What was written in a variable or behind a flag, as the value that it means here.
    pub(crate) fn written(self, text: &str) -> Result<Value, String> {
        let value = match self {
            Self::ClusterName
            | Self::Text
            | Self::Path
            | Self::Address
            | Self::Choice(_)
            | Self::Parameter => Some(Value::Text(text.to_owned())),
            Self::Number(..) => text.parse().ok().map(Value::Whole),
            Self::Flag => text.parse().ok().map(Value::Flag),
            Self::Lines => {
                let list = DeValue::parse(text).ok().map(|value| Value::of(value.get_ref()));
                list.filter(|value| matches!(value, Value::List(_)))
            }
        };
        value.ok_or_else(|| format!("{} is not {}", quoted(text), self.described()))
    }

    /// The value as this kind wants it, or why it does not.
    pub(crate) fn accept(self, value: Value) -> Result<Value, String> {
        match (self, value) {
            (Self::ClusterName, Value::Text(text)) => cluster_name(text),
            (Self::Text, Value::Text(text)) => line(text),
            (Self::Path, Value::Text(text)) => path(text),
            (Self::Address, Value::Text(text)) => match text.parse::<Address>() {
                Ok(address) => Ok(Value::Text(address.to_string())),
                Err(why) => Err(format!("{} {why}; write `host:port`", quoted(&text))),
            },
            (Self::Number(least, most), Value::Whole(number)) => {
                if (least..=most).contains(&number) {
                    return Ok(Value::Whole(number));
                }
                Err(format!("{number} is not {}", self.described()))
            }
            (Self::Number(..), Value::Real(number)) => {
                Err(format!("{number} is not {}", self.described()))
            }
            (Self::Flag, Value::Flag(flag)) => Ok(Value::Flag(flag)),
            (Self::Choice(words), Value::Text(text)) => {
                if words.contains(&text.as_str()) {
                    return Ok(Value::Text(text));
                }
                Err(format!("{} is not {}", quoted(&text), self.described()))
            }
            (Self::Lines, Value::List(list)) => {
                let lines = list.into_iter().map(|entry| Self::Text.accept(entry));
                lines.collect::<Result<_, _>>().map(Value::List)
            }
            (Self::Parameter, Value::Text(text)) if text.is_empty() => Ok(Value::Text(text)),
            (Self::Parameter, Value::Text(text)) => line(text),
            (Self::Parameter, Value::Whole(number)) => Ok(Value::Text(number.to_string())),
            (Self::Parameter, Value::Real(number)) => Ok(Value::Text(number)),
            (Self::Parameter, Value::Flag(flag)) => {
                Ok(Value::Text(if flag { "on" } else { "off" }.into()))
            }
            (_, other) => {
                Err(format!("it takes {}, and this is {}", self.described(), other.described()))
            }
        }
    }
}

/// The longest cluster name: it is a label in certificates and part of file names.
const CLUSTER_NAME_MAX: usize = 40;

fn cluster_name(text: String) -> Result<Value, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let good = (1..=CLUSTER_NAME_MAX).contains(&text.len())
        && text.bytes().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if good {
        return Ok(Value::Text(text));
    }
    Err(format!(
        "{} is no name for a cluster; take up to {CLUSTER_NAME_MAX} of a-z, 0-9 and hyphens \
         between them",
        quoted(&text)
    ))
}

fn line(text: String) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Err("it is empty; leave it out where nothing is meant".into());
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{} is more than one plain line; write one line", quoted(&text)));
    }
    Ok(Value::Text(text))
}

fn path(text: String) -> Result<Value, String> {
    if !text.starts_with('/') {
        return Err(format!(
            "{} does not begin at the root, so it would lead elsewhere from another directory; \
             write the whole path, from `/` on",
            quoted(&text)
        ));
    }
    if text.split('/').any(|part| part == "..") {
        return Err(format!("{} goes back with `..`; write the path without", quoted(&text)));
    }
    line(text)
}

/// Whether this can be the name of a cluster; if not, why.
pub fn check_cluster_name(name: &str) -> Result<(), String> {
    cluster_name(name.to_owned()).map(|_| ())
}
