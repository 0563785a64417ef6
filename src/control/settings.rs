//! The settings of the whole cluster. They live in the control state and change at run time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::env::KEEPALIVE;

/// When a commit is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// When the primary has it on disk. A failover may lose the last moments, at most `max_lag`.
    #[default]
    Async,
    /// When enough standbys have it on disk that no failover can lose it.
    QuorumSync,
}

/// Postgres parameters that decide who replicates from whom, or that a failover rests on. The node
/// sets them itself, anew for every role.
const OWN_PARAMETERS: &[&str] = &[
    "cluster_name",
    "config_file",
    "data_directory",
    "data_sync_retry",
    "external_pid_file",
    "fsync",
    "full_page_writes",
    "hba_file",
    "hot_standby",
    "ident_file",
    "lc_messages",
    "listen_addresses",
    "log_destination",
    "logging_collector",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restart_after_crash",
    "restore_command",
    "synchronous_commit",
    "synchronous_standby_names",
    "unix_socket_directories",
    "wal_log_hints",
];

/// Whether nobody but the node sets this parameter of Postgres, whose names have no case.
#[must_use]
pub fn is_own_parameter(name: &str) -> bool {
    OWN_PARAMETERS.contains(&name.to_ascii_lowercase().as_str())
}

/// The longest duration that a setting may name. Far beyond every use, and so far below what the
/// numbers can hold that no arithmetic on a checked setting overflows.
const DURATION_MAX_MS: u64 = 3_600_000;
/// The largest bound on clock rates: no clock is off by more than a fifth.
const CLOCK_RATE_MAX_PPM: u64 = 200_000;

/// The durations that the safety argument rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// How long a renewal lets its holder act, counted from before the request was sent.
    pub lease_ms: u64,
    /// How often the holder renews and every member reports.
    pub heartbeat_ms: u64,
    /// How long the holder may be silent before the second signal is looked for.
    pub suspect_ms: u64,
    /// The bound on the difference between two machines' clock rates, in parts per million.
    pub clock_rate_ppm: u64,
    /// How long before the end of the lease the manager starts to stop Postgres.
    pub fence_margin_ms: u64,
    /// How long before the end of the lease the guard ends it. Smaller than `fence_margin_ms`.
    pub guard_margin_ms: u64,
    /// How long a Postgres that crashed may take to come back before its primacy is given up.
    pub restart_ms: u64,
    /// How long a new holder may take to become primary before another is chosen.
    pub promote_ms: u64,
    /// How long a planned stop may take before it is cut short.
    pub stop_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease_ms: 2_000,
            heartbeat_ms: 200,
            suspect_ms: 600,
            clock_rate_ppm: 10_000,
            fence_margin_ms: 200,
            guard_margin_ms: 50,
            restart_ms: 5_000,
            promote_ms: 5_000,
            stop_ms: 2_000,
        }
    }
}

impl Timing {
    /// The lease.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// L4: how long a leader waits until a lease of `lease_ms` that somebody else's clock measures
    /// is over for certain.
    #[must_use]
    pub fn lease_wait(&self, lease_ms: u64) -> Duration {
        Duration::from_micros(lease_ms * 1_000 + lease_ms * self.clock_rate_ppm / 1_000)
    }

    /// What is wrong with these numbers, in one sentence, if anything is.
    pub fn check(&self) -> Result<(), String> {
        let t = self;
        // First each alone, then one with another: the sums below must not overflow.
        t.check_bounds()?;
        if t.heartbeat_ms * 3 > t.lease_ms {
            return Err(format!(
                "heartbeat_ms is {} and lease_ms is {}: at least three heartbeats must fit into a \
                 lease",
                t.heartbeat_ms, t.lease_ms
            ));
        }
        if t.guard_margin_ms >= t.fence_margin_ms {
            return Err(format!(
                "guard_margin_ms is {} and fence_margin_ms is {}: the manager must act before \
                 the guard does",
                t.guard_margin_ms, t.fence_margin_ms
            ));
        }
        if t.fence_margin_ms + t.heartbeat_ms * 2 > t.lease_ms {
            return Err(format!(
                "fence_margin_ms is {} and lease_ms is {}: one lost heartbeat would fence the \
                 primary",
                t.fence_margin_ms, t.lease_ms
            ));
        }
        if t.suspect_ms < t.heartbeat_ms * 2 {
            return Err(format!(
                "suspect_ms is {} and heartbeat_ms is {}: one lost heartbeat would be taken for \
                 a failure",
                t.suspect_ms, t.heartbeat_ms
            ));
        }
        let word_ms = u64::try_from(KEEPALIVE.as_millis()).unwrap_or(u64::MAX);
        if t.suspect_ms <= t.heartbeat_ms.saturating_add(word_ms) {
            return Err(format!(
                "suspect_ms is {} and heartbeat_ms is {}: standbys hear from their primary \
                 every {word_ms} ms, and report it a heartbeat later",
                t.suspect_ms, t.heartbeat_ms
            ));
        }
        Ok(())
    }

    fn check_bounds(&self) -> Result<(), String> {
        let durations = [
            ("lease_ms", self.lease_ms),
            ("heartbeat_ms", self.heartbeat_ms),
            ("suspect_ms", self.suspect_ms),
            ("fence_margin_ms", self.fence_margin_ms),
            ("guard_margin_ms", self.guard_margin_ms),
            ("restart_ms", self.restart_ms),
            ("promote_ms", self.promote_ms),
            ("stop_ms", self.stop_ms),
        ];
        for (name, value) in durations {
            if value == 0 || value > DURATION_MAX_MS {
                return Err(format!("{name} is {value}: it must be from 1 to {DURATION_MAX_MS}"));
            }
        }
        if self.clock_rate_ppm > CLOCK_RATE_MAX_PPM {
            return Err(format!(
                "clock_rate_ppm is {}: no clock is off by more than a fifth",
                self.clock_rate_ppm
            ));
        }
        Ok(())
    }
}

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Grows with every change.
    pub version: u64,
    /// When commits are acknowledged.
    pub mode: Mode,
    /// The durations.
    pub timing: Timing,
    /// The longest lease that was ever in force: a new leader waits for that one, because it
    /// cannot know under which setting the last renewal was granted.
    pub longest_lease_ms: u64,
    /// The most bytes that an automatic failover may lose in asynchronous mode.
    pub max_lag_bytes: u64,
    /// Maintenance: no automatic failover. Leases are enforced as ever.
    pub paused: bool,
    /// Postgres parameters for every member.
    pub parameters: BTreeMap<String, String>,
}

impl Settings {
    /// What is wrong with these settings, in one sentence, if anything is.
    pub fn check(&self) -> Result<(), String> {
        self.timing.check()?;
        if self.longest_lease_ms > DURATION_MAX_MS {
            return Err(format!(
                "longest_lease_ms is {}: no lease is longer than {DURATION_MAX_MS}",
                self.longest_lease_ms
            ));
        }
        Ok(())
    }
}

impl Default for Settings {
    fn default() -> Self {
        let timing = Timing::default();
        Self {
            version: 0,
            mode: Mode::default(),
            longest_lease_ms: timing.lease_ms,
            timing,
            max_lag_bytes: 1 << 20,
            paused: false,
            parameters: BTreeMap::new(),
        }
    }
}

/// A change of some settings; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SettingsChange {
    /// The version that the change was written for; `None` accepts any.
    pub expected_version: Option<u64>,
    /// A new mode.
    pub mode: Option<Mode>,
    /// New durations.
    pub timing: Option<Timing>,
    /// A new bound on loss.
    pub max_lag_bytes: Option<u64>,
    /// Postgres parameters to set, or to remove where the value is `None`.
    pub parameters: BTreeMap<String, Option<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Timing)) -> String {
        let mut timing = Timing::default();
        change(&mut timing);
        timing.check().expect_err("it must be refused")
    }

    #[test]
    fn what_is_set_by_default_is_in_order() {
        assert_eq!(Settings::default().check(), Ok(()));
    }

    /// A committed command that panics would end every member, at each of its starts.
    #[test]
    fn a_duration_without_measure_is_refused_and_never_computed_with() {
        let fields: [fn(&mut Timing) -> &mut u64; 8] = [
            |t| &mut t.lease_ms,
            |t| &mut t.heartbeat_ms,
            |t| &mut t.suspect_ms,
            |t| &mut t.fence_margin_ms,
            |t| &mut t.guard_margin_ms,
            |t| &mut t.restart_ms,
            |t| &mut t.promote_ms,
            |t| &mut t.stop_ms,
        ];
        for field in fields {
            for value in [0, DURATION_MAX_MS + 1, u64::MAX / 2, u64::MAX] {
                let why = refused(|timing| *field(timing) = value);
                assert!(why.contains("_ms is "), "{why}");
            }
        }
        assert!(refused(|t| t.clock_rate_ppm = u64::MAX).contains("clock_rate_ppm"));
    }

    #[test]
    fn the_longest_lease_can_be_waited_for() {
        let longest = Timing { clock_rate_ppm: CLOCK_RATE_MAX_PPM, ..Timing::default() };
        let wait = longest.lease_wait(DURATION_MAX_MS);
        assert_eq!(wait, Duration::from_millis(DURATION_MAX_MS / 5 * 6));
        let endless = Settings { longest_lease_ms: u64::MAX, ..Settings::default() };
        assert!(endless.check().is_err());
    }
}
