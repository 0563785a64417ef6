//! The table of keys, the documents and the template speak of the same things.

use crate::control::Timing;

use super::super::entries::Entries;
use super::super::keys::{self, Absent, KEYS, Key, SECTIONS};
use super::super::value::Value;
use super::*;

const DOCUMENT: &str = include_str!("../../../docs/configuration.md");

/// A key's line in the table of the document.
fn row(key: &Key) -> String {
    let without = match key.absent {
        Absent::Wrong(_) => "has to be given".to_owned(),
        Absent::Open(_) => String::new(),
        Absent::Value(value) => format!("`{value}`"),
    };
    format!(
        "| `{}` | {} | {without} | {} |",
        key.path.rsplit('.').next().unwrap_or_default(),
        key.kind.described(),
        key.about
    )
}

#[test]
fn every_key_is_in_the_document_as_it_is_in_the_table() {
    let mut expected = String::new();
    for (section, about) in SECTIONS {
        let title = if section.is_empty() {
            "Above the first section".into()
        } else {
            format!("`[{section}]`")
        };
        expected.push_str(&format!("\n### {title}\n\n{about}\n\n"));
        expected.push_str("| key | takes | without it | what it is for |\n|---|---|---|---|\n");
        for key in KEYS.iter().filter(|k| k.path.rsplit_once('.').map_or("", |p| p.0) == *section) {
            expected.push_str(&row(key));
            expected.push('\n');
        }
    }
    assert!(DOCUMENT.contains(&expected), "docs/configuration.md has to hold:\n{expected}");
}

#[test]
fn every_key_has_a_section_a_sentence_and_a_value_that_its_kind_accepts() {
    for key in KEYS {
        let section = key.path.rsplit_once('.').map_or("", |path| path.0);
        assert!(SECTIONS.iter().any(|(name, _)| *name == section), "{}", key.path);
        assert!(key.about.ends_with('.') && key.about.len() > 15, "{}", key.path);
        let shown = toml::de::DeValue::parse(key.shown()).expect("an example is TOML");
        let accepted = key.kind.accept(Value::of(shown.get_ref()));
        assert!(accepted.is_ok(), "{}: {accepted:?}", key.path);
    }
}

#[test]
fn no_two_keys_share_a_variable_and_every_variable_leads_back_to_its_key() {
    let mut seen = std::collections::BTreeSet::new();
    for key in KEYS {
        let path = key.path.replace('N', "3").replace("3AME", "work_mem");
        let variable = keys::variable(&path);
        assert!(seen.insert(variable.clone()), "{variable} is taken twice");
        let rest = variable.strip_prefix(keys::PREFIX).unwrap();
        assert_eq!(keys::overridden_by(rest).unwrap().1, path);
    }
    assert_eq!(
        keys::variable("postgres.parameters.a_b.c"),
        "PG_REPLICA_POSTGRES_PARAMETERS_A_B__C"
    );
}

#[test]
fn the_defaults_of_the_table_are_those_of_the_settings() {
    let entries = Entries::read("", "", &Overrides::default()).unwrap();
    let timing = serde_json::to_value(Timing::default()).unwrap();
    for (field, value) in timing.as_object().unwrap() {
        let default = entries.number(&format!("settings.{field}"));
        assert_eq!(default, value.as_u64(), "settings.{field}");
    }
    let settings = Settings::default();
    assert_eq!(entries.number("settings.max_lag_bytes"), Some(settings.max_lag_bytes));
    let mode = serde_json::to_value(settings.mode).unwrap();
    assert_eq!(entries.text("settings.mode").as_deref(), mode.as_str());
    let priority = u64::from(Member::USUAL_PRIORITY);
    assert_eq!(entries.number("members.1.priority"), Some(priority));
}

#[test]
fn the_template_passes_its_own_check_and_names_every_key() {
    for node in [1, 2, 3, 4, 77] {
        let text = template(&Outline { cluster: "main".into(), node, hosts: Vec::new() });
        let config = read_text(&text).unwrap_or_else(|bad| panic!("{bad}\n{text}"));
        assert_eq!((config.node.0, config.join), (node, node > 3));
        assert!(config.warnings().is_empty(), "{:?}", config.warnings());
        for key in KEYS {
            let last = key.path.rsplit('.').next().unwrap().replace("NAME", "shared_buffers");
            assert!(text.contains(&format!("{last} = ")), "{} is not in it", key.path);
        }
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}

#[test]
fn a_template_for_several_machines_has_their_addresses_and_certificates() {
    let hosts = ["db1.example.org", "10.0.0.2", "fd00::3"].map(str::to_owned).to_vec();
    let text = template(&Outline { cluster: "main".into(), node: 2, hosts });
    let config = read_text(&text).unwrap_or_else(|bad| panic!("{bad}\n{text}"));
    let peers: Vec<String> = config.members.values().map(|m| m.peers.to_string()).collect();
    assert_eq!(peers, ["db1.example.org:7400", "10.0.0.2:7400", "[fd00::3]:7400"]);
    assert_eq!(config.tls.unwrap().cert.to_str(), Some("/etc/pg_replica/tls/n2.crt"));
    assert_eq!(config.api.listen.to_string(), "10.0.0.2:8008");
}

#[test]
fn a_template_for_a_member_that_joins_has_its_own_address() {
    let hosts = vec!["10.0.0.4".to_owned()];
    let text = template(&Outline { cluster: "main".into(), node: 4, hosts });
    let config = read_text(&text).unwrap_or_else(|bad| panic!("{bad}\n{text}"));
    let peers: Vec<String> = config.members.values().map(|m| m.peers.to_string()).collect();
    assert_eq!((config.join, peers), (true, vec!["10.0.0.4:7400".to_owned()]));
    assert_eq!(config.me().postgres.as_ref().unwrap().to_string(), "10.0.0.4:5432");
}

#[test]
fn the_template_with_every_comment_taken_seriously_is_understood() {
    let text = template(&Outline { cluster: "main".into(), node: 1, hosts: Vec::new() });
    let is_key = |line: &str| {
        let name = line.strip_prefix("# ").and_then(|rest| rest.split_once(" = "));
        name.is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let taken: Vec<&str> =
        text.lines().map(|line| if is_key(line) { &line[2..] } else { line }).collect();
    let config = read_text(&taken.join("\n")).unwrap();
    assert_eq!(config.postgres.unwrap().parameters["shared_buffers"], "256MB");
}
