//! `/config`: the settings as JSON, in our words and, where they mean the same, in Patroni's; and
//! a patch of them as an order.
//!
//! A key that is not known is refused with a sentence: a setting that somebody believes to be in
//! force and is not would be worse.

use serde_json::{Map, Value, json};

use crate::control::{Mode, Order, Settings, SettingsChange, Timing, is_own_parameter};

/// The settings.
pub(super) fn show(settings: &Settings) -> Value {
    let synchronous = match settings.mode {
        Mode::Async => Value::Bool(false),
        Mode::QuorumSync => "quorum".into(),
    };
    json!({
        "version": settings.version,
        "mode": settings.mode,
        "synchronous_mode": synchronous,
        "max_lag_bytes": settings.max_lag_bytes,
        "maximum_lag_on_failover": settings.max_lag_bytes,
        "pause": settings.paused,
        "timing": settings.timing,
        "longest_lease_ms": settings.longest_lease_ms,
        "postgresql": { "parameters": settings.parameters },
    })
}

/// The order that a patch asks for, or what is wrong with it.
pub(super) fn order(patch: &Map<String, Value>, present: &Settings) -> Result<Order, String> {
    if patch.is_empty() {
        return Err("the patch is empty: name at least one setting".into());
    }
    if let Some(pause) = patch.get("pause") {
        if patch.len() > 1 {
            return Err("pause is an order of its own: send it alone".into());
        }
        return match pause {
            Value::Bool(true) => Ok(Order::Pause),
            Value::Bool(false) | Value::Null => Ok(Order::Resume),
            Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                Err(format!("pause is true or false, not {pause}"))
            }
        };
    }
    let mut change = SettingsChange::default();
    for (key, value) in patch {
        take(&mut change, key, value, present)?;
    }
    Ok(Order::Configure(change))
}

fn take(
    change: &mut SettingsChange,
    key: &str,
    value: &Value,
    present: &Settings,
) -> Result<(), String> {
    match key {
        "version" | "expected_version" => change.expected_version = Some(number(key, value)?),
        "mode" => change.mode = Some(mode(value)?),
        "synchronous_mode" => change.mode = Some(synchronous_mode(value)?),
        "max_lag_bytes" | "maximum_lag_on_failover" => {
            change.max_lag_bytes = Some(bytes_of(key, value)?);
        }
        "timing" => {
            change.timing = Some(timing(value, &present.timing)?);
            // The durations are read, changed and written as one: not over somebody else's change.
            change.expected_version.get_or_insert(present.version);
        }
        "parameters" => parameters(change, value)?,
        "postgresql" => {
            let Value::Object(inner) = value else {
                return Err("postgresql is an object with the key parameters".into());
            };
            for (key, value) in inner {
                if key != "parameters" {
                    return Err(format!("postgresql.{key} is not known: only parameters is"));
                }
                parameters(change, value)?;
            }
        }
        "ttl" => return Err("ttl is called timing.lease_ms here, in milliseconds".into()),
        "loop_wait" => return Err("loop_wait is called timing.heartbeat_ms here".into()),
        "retry_timeout" | "master_start_timeout" | "primary_start_timeout" => {
            return Err(format!("{key} is called timing.restart_ms here, in milliseconds"));
        }
        "master_stop_timeout" | "primary_stop_timeout" => {
            return Err(format!("{key} is called timing.stop_ms here, in milliseconds"));
        }
        "longest_lease_ms" => return Err("longest_lease_ms follows from timing.lease_ms".into()),
        other => {
            return Err(format!(
                "{other} is not known; there are mode, max_lag_bytes, pause, timing and \
                 postgresql.parameters"
            ));
        }
    }
    Ok(())
}

fn number(key: &str, value: &Value) -> Result<u64, String> {
    value.as_u64().ok_or_else(|| format!("{key} is a whole number, not {value}"))
}

fn bytes_of(key: &str, value: &Value) -> Result<u64, String> {
    let parsed = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => bytes(text),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    parsed.ok_or_else(|| format!("{key} is a number of bytes, such as 1048576 or \"1MB\""))
}

/// `10MB`, `64kB`, `1048576`: Postgres's units, by powers of 1024.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let factor: u64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" | "k" => 1 << 10,
        "mb" | "m" => 1 << 20,
        "gb" | "g" => 1 << 30,
        "tb" | "t" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

fn mode(value: &Value) -> Result<Mode, String> {
    serde_json::from_value(value.clone())
        .map_err(|_| format!("mode is \"async\" or \"quorum-sync\", not {value}"))
}

fn synchronous_mode(value: &Value) -> Result<Mode, String> {
    match value {
        Value::Bool(false) | Value::Null => Ok(Mode::Async),
        Value::String(text) if text == "off" => Ok(Mode::Async),
        Value::String(text) if text == "quorum" => Ok(Mode::QuorumSync),
        Value::Bool(true)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => Err(format!(
            "synchronous_mode is false or \"quorum\" here, not {value}: commits wait for any \
             standbys that make a majority, never for a chosen one"
        )),
    }
}

fn timing(value: &Value, present: &Timing) -> Result<Timing, String> {
    let Value::Object(wanted) = value else {
        return Err("timing is an object of durations in milliseconds".into());
    };
    let Ok(Value::Object(mut all)) = serde_json::to_value(present) else {
        return Err("the present durations cannot be read".into());
    };
    for (key, value) in wanted {
        let Some(known) = all.get_mut(key) else {
            let names: Vec<&str> = all.keys().map(String::as_str).collect();
            return Err(format!("timing.{key} is not known; there are {}", names.join(", ")));
        };
        *known = number(&format!("timing.{key}"), value)?.into();
    }
    serde_json::from_value(Value::Object(all)).map_err(|why| format!("timing: {why}"))
}

fn parameters(change: &mut SettingsChange, value: &Value) -> Result<(), String> {
    let Value::Object(wanted) = value else {
        return Err("parameters is an object of Postgres's parameters".into());
    };
    for (key, value) in wanted {
        let name = !key.is_empty()
            && key.chars().all(|letter| letter.is_ascii_alphanumeric() || "_.".contains(letter));
        if !name {
            return Err(format!("{key:?} is no name of a parameter"));
        }
        if is_own_parameter(key) {
            return Err(format!("{key} is set by the node itself, and by nobody else"));
        }
        let text = match value {
            Value::Null => None,
            Value::Bool(true) => Some("on".to_owned()),
            Value::Bool(false) => Some("off".to_owned()),
            Value::Number(number) => Some(number.to_string()),
            Value::String(text) => Some(text.clone()),
            Value::Array(_) | Value::Object(_) => {
                return Err(format!("{key} is a word, a number, true, false or null"));
            }
        };
        change.parameters.insert(key.clone(), text);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(json: Value) -> Result<Order, String> {
        let Value::Object(patch) = json else { panic!("an object") };
        order(&patch, &Settings { version: 4, ..Settings::default() })
    }

    fn change(json: Value) -> SettingsChange {
        match patched(json) {
            Ok(Order::Configure(change)) => change,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bytes_are_read_as_postgres_writes_them() {
        assert_eq!(bytes("10MB"), Some(10 << 20));
        assert_eq!(bytes(" 64 kB "), Some(64 << 10));
        assert_eq!(bytes("1048576"), Some(1 << 20));
        for wrong in ["", "MB", "-1", "1.5MB", "10XB", "99999999999999TB"] {
            assert_eq!(bytes(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn patronis_words_are_understood_where_they_mean_the_same() {
        assert_eq!(patched(json!({ "pause": true })), Ok(Order::Pause));
        assert_eq!(patched(json!({ "pause": null })), Ok(Order::Resume));
        let both = change(json!({
            "synchronous_mode": "quorum",
            "maximum_lag_on_failover": 33554432,
            "postgresql": { "parameters": { "work_mem": "8MB", "jit": false, "gone": null } },
        }));
        assert_eq!(both.mode, Some(Mode::QuorumSync));
        assert_eq!(both.max_lag_bytes, Some(32 << 20));
        assert_eq!(both.parameters.get("jit"), Some(&Some("off".to_owned())));
        assert_eq!(both.parameters.get("gone"), Some(&None));
    }

    #[test]
    fn one_duration_changes_and_the_others_stay_as_they_were_read() {
        let timing = change(json!({ "timing": { "lease_ms": 3000 } }));
        assert_eq!(timing.timing, Some(Timing { lease_ms: 3_000, ..Timing::default() }));
        assert_eq!(timing.expected_version, Some(4), "not over somebody else's change");
    }

    #[test]
    fn what_is_not_understood_is_refused_with_a_remedy() {
        for (patch, remedy) in [
            (json!({}), "at least one"),
            (json!({ "ttl": 30 }), "timing.lease_ms"),
            (json!({ "synchronous_mode": true }), "quorum"),
            (json!({ "mode": "sync" }), "quorum-sync"),
            (json!({ "timing": { "lease": 3 } }), "lease_ms"),
            (json!({ "timing": { "lease_ms": -3 } }), "whole number"),
            (json!({ "pause": true, "mode": "async" }), "alone"),
            (json!({ "postgresql": { "pg_hba": [] } }), "parameters"),
            (json!({ "parameters": { "primary_conninfo": "host=x" } }), "the node itself"),
            (json!({ "parameters": { "FSync": false } }), "the node itself"),
            (json!({ "parameters": { "a b": "x" } }), "no name"),
            (json!({ "standby_cluster": {} }), "is not known"),
        ] {
            let said = patched(patch).unwrap_err();
            assert!(said.contains(remedy), "{said}");
        }
    }
}
