//! From what was given to a [`Config`]: section by section, nothing left out, nothing made up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::control::{MemberKind, Mode, Settings, Timing};
use crate::ids::{NodeId, SystemId};

use super::address::Address;
use super::check;
use super::entries::{Entries, Overrides};
use super::place::BadConfig;
use super::{
    API_PORT, ApiConfig, Config, HooksConfig, LogConfig, LogFormat, LogLevel, MemberConfig,
    PostgresConfig, RaftPace, TlsFiles,
};

/// Reads the text of `file` with the overrides above it, and checks it. It looks at no other file.
pub fn read(file: &str, text: &str, overrides: &Overrides) -> Result<Config, BadConfig> {
    let entries = Entries::read(file, text, overrides)?;
    let cluster = entries.need("cluster")?;
    let node = NodeId(entries.number("node").ok_or_else(|| entries.missing("node"))?);
    let state_dir = PathBuf::from(entries.need("state_dir")?);
    let members = members(&entries)?;
    let join = entries.flag("join");
    check::own_place(&entries, node, join, &members)?;
    let me = members.get(&node).ok_or_else(|| entries.missing("members.1.peers"))?;
    let config = Config {
        peers_listen: address(&entries, "peers.listen").unwrap_or_else(|| me.peers.clone()),
        api: ApiConfig {
            listen: address(&entries, "api.listen").unwrap_or_else(|| me.peers.at_port(API_PORT)),
            token_file: entries.text("api.token_file").map(PathBuf::from),
        },
        tls: tls(&entries)?,
        allow_cleartext: entries.flag("tls.allow_cleartext"),
        postgres: postgres(&entries, me)?,
        adopt: adopt(&entries)?,
        settings: settings(&entries)?,
        raft: RaftPace {
            heartbeat_ms: entries.number("raft.heartbeat_ms").unwrap_or_default(),
            election_min_ms: entries.number("raft.election_min_ms").unwrap_or_default(),
            election_max_ms: entries.number("raft.election_max_ms").unwrap_or_default(),
        },
        hooks: HooksConfig {
            on_role_change: entries.lines("hooks.on_role_change"),
            time_limit_ms: entries.number("hooks.time_limit_ms").unwrap_or_default(),
        },
        watchdog: entries.text("guard.watchdog").map(PathBuf::from),
        log: log(&entries),
        cluster,
        node,
        state_dir,
        join,
        members,
        entries,
    };
    check::together(&config)?;
    Ok(config)
}

fn address(entries: &Entries, name: &str) -> Option<Address> {
    entries.text(name).and_then(|text| text.parse().ok())
}

fn members(entries: &Entries) -> Result<BTreeMap<NodeId, MemberConfig>, BadConfig> {
    let numbers: BTreeSet<u64> = entries
        .below("members")
        .iter()
        .filter_map(|name| name.split('.').next()?.parse().ok())
        .collect();
    let member = |number| Ok((NodeId(number), member(entries, &format!("members.{number}"))?));
    numbers.into_iter().map(member).collect()
}

fn member(entries: &Entries, section: &str) -> Result<MemberConfig, BadConfig> {
    let named = |key: &str| format!("{section}.{key}");
    let kind = match entries.text(&named("kind")).as_deref() {
        Some("witness") => MemberKind::Witness,
        Some(_) | None => MemberKind::Data,
    };
    let peers = address(entries, &named("peers"));
    let postgres = address(entries, &named("postgres"));
    match (kind, &postgres) {
        (MemberKind::Data, None) => return Err(entries.missing(&named("postgres"))),
        (MemberKind::Witness, Some(_)) => {
            return Err(entries.wrong(
                &named("postgres"),
                "a witness keeps no data and has no Postgres; remove this line, or make the member \
                 `kind = \"data\"`",
            ));
        }
        (MemberKind::Data, Some(_)) | (MemberKind::Witness, None) => {}
    }
    Ok(MemberConfig {
        kind,
        peers: peers.ok_or_else(|| entries.missing(&named("peers")))?,
        postgres,
        priority: number_u32(entries, &named("priority")),
        no_failover: entries.flag(&named("no_failover")),
    })
}

fn number_u32(entries: &Entries, name: &str) -> u32 {
    entries.number(name).and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
}

fn tls(entries: &Entries) -> Result<Option<TlsFiles>, BadConfig> {
    let names = ["tls.ca", "tls.cert", "tls.key"];
    if !names.iter().any(|name| entries.has(name)) {
        return Ok(None);
    }
    let need = |name: &str| entries.need(name).map(PathBuf::from);
    Ok(Some(TlsFiles { ca: need(names[0])?, cert: need(names[1])?, key: need(names[2])? }))
}

fn postgres(entries: &Entries, me: &MemberConfig) -> Result<Option<PostgresConfig>, BadConfig> {
    let Some(address) = me.postgres.clone() else { return Ok(None) };
    let parameters = entries.below("postgres.parameters").into_iter().filter_map(|name| {
        let value = entries.text(&format!("postgres.parameters.{name}"))?;
        Some((name, value))
    });
    Ok(Some(PostgresConfig {
        data_dir: PathBuf::from(entries.need("postgres.data_dir")?),
        bin_dir: entries.text("postgres.bin_dir").map(PathBuf::from),
        user: entries.need("postgres.user")?,
        superuser: entries.need("postgres.superuser")?,
        secret_file: PathBuf::from(entries.need("postgres.secret_file")?),
        listen: entries.text("postgres.listen").unwrap_or_else(|| address.host().to_owned()),
        address,
        hba: entries.lines("postgres.hba"),
        parameters: parameters.collect(),
    }))
}

/// A text, because these numbers are larger than those of TOML.
fn adopt(entries: &Entries) -> Result<Option<SystemId>, BadConfig> {
    let Some(text) = entries.text("adopt") else { return Ok(None) };
    let number = text.parse().ok().filter(|number| *number > 0);
    number.map(|number| Some(SystemId(number))).ok_or_else(|| {
        let why =
            format!("`{text}` is no system identifier; `node adopt` prints that of the database");
        entries.wrong("adopt", why)
    })
}

fn settings(entries: &Entries) -> Result<Settings, BadConfig> {
    // The durations are read by their names in the type, so that one which is added there and not
    // to the table of keys is found by a test and not by an operator.
    let mut timing = serde_json::to_value(Timing::default()).unwrap_or_default();
    for (field, value) in timing.as_object_mut().into_iter().flatten() {
        if let Some(number) = entries.number(&format!("settings.{field}")) {
            *value = number.into();
        }
    }
    let timing: Timing = serde_json::from_value(timing)
        .map_err(|error| entries.wrong("settings", format!("{error}; correct the value")))?;
    let mode = match entries.text("settings.mode").as_deref() {
        Some("quorum-sync") => Mode::QuorumSync,
        Some(_) | None => Mode::Async,
    };
    Ok(Settings {
        mode,
        longest_lease_ms: timing.lease_ms,
        timing,
        max_lag_bytes: entries.number("settings.max_lag_bytes").unwrap_or_default(),
        ..Settings::default()
    })
}

fn log(entries: &Entries) -> LogConfig {
    let format = match entries.text("log.format").as_deref() {
        Some("json") => LogFormat::Json,
        Some(_) | None => LogFormat::Text,
    };
    let level = match entries.text("log.level").as_deref() {
        Some("error") => LogLevel::Error,
        Some("warn") => LogLevel::Warn,
        Some("debug") => LogLevel::Debug,
        Some("trace") => LogLevel::Trace,
        Some(_) | None => LogLevel::Info,
    };
    LogConfig { format, level }
}
