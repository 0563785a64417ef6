//! `node history`: what happened to the cluster.

use clap::Args as ClapArgs;
use serde_json::{Value, json};

use super::remote::{Client, Common, Failure};
use super::terminal::{say, say_json, table};

/// Show what happened.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// What every verb understands.
    #[command(flatten)]
    pub common: Common,
}

/// Shows it, oldest first.
pub(super) async fn run(_args: &Args, client: &Client) -> Result<(), Failure> {
    let events = client.page("/events").await?;
    let timelines = client.page("/history").await?;
    if client.json() {
        say_json(&json!({ "events": events, "timelines": timelines }));
    } else {
        say(&text(&events, &timelines));
    }
    Ok(())
}

pub(super) fn text(events: &Value, timelines: &Value) -> String {
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    let rows_of = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut rows = vec![vec!["EPOCH".to_owned(), "WHAT HAPPENED".to_owned()]];
    for event in rows_of(events) {
        rows.push(vec![format!("e{}", event["epoch"]), word(&event["what"])]);
    }
    let mut text = table(&rows);
    let turns = rows_of(timelines);
    if !turns.is_empty() {
        let heading = ["TIMELINE", "ENDED AT", "BECAUSE", "NEXT PRIMARY"];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        for turn in turns {
            let end = turn[1].as_u64().map(crate::ids::Lsn);
            let end = end.map_or_else(|| "-".into(), |end| end.to_string());
            rows.push(vec![word(&turn[0]), end, word(&turn[2]), word(&turn[4])]);
        }
        text.push('\n');
        text.push_str(&table(&rows));
    }
    text
}
