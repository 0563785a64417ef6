//! `node config`: the settings of the whole cluster.

use axum::http::Method;
use clap::{Args as ClapArgs, Subcommand};
use serde_json::{Map, Value};

use super::remote::{Client, Common, Failure};
use super::terminal::{say, say_json, table};

/// Show or change settings.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub what: What,
    /// What every verb understands.
    #[command(flatten)]
    pub common: Common,
}

/// What to do with the settings.
#[derive(Debug, Subcommand)]
pub enum What {
    /// Show them.
    Show,
    /// Change some: mode=quorum-sync max_lag_bytes=10MB timing.lease_ms=3000 parameters.jit=off
    Set {
        /// KEY=VALUE; a parameter with an empty value is removed.
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
}

/// Does it.
pub(super) async fn run(args: &Args, client: &Client) -> Result<(), Failure> {
    match &args.what {
        What::Show => {
            let settings = client.page("/config").await?;
            if client.json() {
                say_json(&settings);
            } else {
                say(&text(&settings));
            }
        }
        What::Set { settings } => {
            let body = patch(settings).map_err(Failure::Usage)?;
            let answer = client.order(Method::PATCH, "/config", body).await?;
            client.tell(&answer);
        }
    }
    Ok(())
}

/// One line per setting, as `set` takes it. Patroni's names for the same things are left out.
pub(super) fn text(settings: &Value) -> String {
    const TWICE: [&str; 2] = ["synchronous_mode", "maximum_lag_on_failover"];
    let mut rows = Vec::new();
    for (key, value) in settings.as_object().into_iter().flatten() {
        match value {
            _ if TWICE.contains(&key.as_str()) => {}
            Value::Object(inner) if key == "postgresql" => {
                let parameters = inner.get("parameters").and_then(Value::as_object);
                for (name, value) in parameters.into_iter().flatten() {
                    rows.push(vec![format!("parameters.{name}"), word(value)]);
                }
            }
            Value::Object(inner) => {
                let lines = inner.iter();
                rows.extend(lines.map(|(name, value)| vec![format!("{key}.{name}"), word(value)]));
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => rows.push(vec![key.clone(), word(value)]),
        }
    }
    table(&rows)
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The patch that was typed.
pub(super) fn patch(settings: &[String]) -> Result<Map<String, Value>, String> {
    let mut patch = Map::new();
    for setting in settings {
        let Some((key, value)) = setting.split_once('=') else {
            return Err(format!("{setting} is no KEY=VALUE, such as mode=quorum-sync"));
        };
        let (key, value) = (key.trim(), value.trim());
        match key.split_once('.') {
            Some(("parameters", name)) => {
                let value = if value.is_empty() { Value::Null } else { value.into() };
                inner(&mut patch, "parameters").insert(name.to_owned(), value);
            }
            Some((group, name)) => {
                inner(&mut patch, group).insert(name.to_owned(), scalar(value));
            }
            None => {
                patch.insert(key.to_owned(), scalar(value));
            }
        }
    }
    Ok(patch)
}

fn inner<'a>(patch: &'a mut Map<String, Value>, group: &str) -> &'a mut Map<String, Value> {
    let entry = patch.entry(group.to_owned()).or_insert_with(|| Value::Object(Map::new()));
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    entry.as_object_mut().expect("it was just made one")
}

fn scalar(text: &str) -> Value {
    match text {
        "true" => true.into(),
        "false" => false.into(),
        "null" => Value::Null,
        text => text.parse::<u64>().map_or_else(|_| text.into(), Value::from),
    }
}
