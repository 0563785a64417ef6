//! **I9 liveness.** Once faults end, within a bounded time there is one writable primary, every
//! running member streams its timeline, and lag reaches zero.
//!
//! The world says which servers are healed, since when, and how long they may take (the rest may
//! stay broken). Checked whenever all servers are looked at: exactly one server could acknowledge,
//! it is one of the healed, and each of the others runs, streams from it on its timeline, and has
//! been seen without lag since that primary is there. The clients need not pause for that. And Raft
//! is led by another member than that primary, so that the next loss of a machine costs one of them
//! and not both.
//!
//! And no member spins, whatever is broken: what comes to nothing is not begun again at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pg_replica::ids::NodeId;

use super::{Findings, Healed, Invariant, ServerView, WorldView};

/// How much a member may tell its Postgres within [`SPIN_WINDOW`]. A handful is usual.
const VERBS_MAX: u32 = 100;
/// See [`VERBS_MAX`].
const SPIN_WINDOW: Duration = Duration::from_secs(1);

/// Who told its Postgres how much, from when on.
#[derive(Debug)]
struct Told {
    since: Duration,
    verbs: u32,
}

/// The check.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    expected: Option<Healed>,
    primary: Option<NodeId>,
    caught_up: BTreeSet<NodeId>,
    recovered_at: Option<Duration>,
    judged: bool,
    leader: Option<NodeId>,
    told: BTreeMap<NodeId, Told>,
}

impl Liveness {
    /// From here on a recovery is expected.
    pub(super) fn healed(&mut self, healed: Healed) {
        let told = std::mem::take(&mut self.told);
        *self = Self { expected: Some(healed), leader: self.leader, told, ..Self::default() };
    }

    /// Who leads Raft now.
    pub(super) fn led_by(&mut self, leader: Option<NodeId>) {
        self.leader = leader;
    }

    /// A member tells its Postgres something.
    pub(super) fn verb(&mut self, at: Duration, node: NodeId, findings: &mut Findings) {
        let told = self.told.entry(node).or_insert(Told { since: at, verbs: 0 });
        if at > told.since + SPIN_WINDOW {
            *told = Told { since: at, verbs: 0 };
        }
        told.verbs += 1;
        if told.verbs == VERBS_MAX {
            let lasted = (at - told.since).as_millis();
            let what = format!("{node} told its Postgres {VERBS_MAX} things within {lasted} ms");
            findings.broken(Invariant::I9, at, what);
        }
    }

    /// When the recovery that is expected was complete.
    pub(super) fn recovered_at(&self) -> Option<Duration> {
        self.recovered_at
    }

    pub(super) fn look(&mut self, at: Duration, view: &WorldView, findings: &mut Findings) {
        if self.recovered_at.is_some() || self.judged {
            return;
        }
        let Some(healed) = self.expected.clone() else { return };
        match self.lacks(&healed, view) {
            None => self.recovered_at = Some(at),
            Some(lack) if at > healed.at + healed.within => {
                self.judged = true;
                findings.broken(
                    Invariant::I9,
                    at,
                    format!("{} ms after the faults ended, {lack}", (at - healed.at).as_millis()),
                );
            }
            Some(_) => {}
        }
    }

    /// What is missing, in words.
    fn lacks(&mut self, healed: &Healed, view: &WorldView) -> Option<String> {
        let willing: Vec<&ServerView> =
            view.servers.iter().filter(|s| s.could_acknowledge).collect();
        let [primary] = willing[..] else {
            self.primary = None;
            return Some(format!("{} servers could acknowledge", willing.len()));
        };
        if !healed.servers.contains(&primary.node) {
            return Some(format!("the primary is {}, which is not healed", primary.node));
        }
        if self.primary != Some(primary.node) {
            self.primary = Some(primary.node);
            self.caught_up.clear();
        }
        if !primary.configured {
            return Some(format!("{} has other parameters than the cluster", primary.node));
        }
        let others = healed.servers.iter().filter(|node| **node != primary.node);
        let mut lack = None;
        for node in others {
            let server = view.servers.iter().find(|s| s.node == *node);
            let problem = self.lag_of(*node, server, primary);
            lack = lack.or(problem);
        }
        if self.leader == Some(primary.node) && healed.servers.len() > 1 {
            lack = lack.or(Some(format!("{} is primary and leads Raft as well", primary.node)));
        }
        lack
    }

    fn lag_of(
        &mut self,
        node: NodeId,
        server: Option<&ServerView>,
        primary: &ServerView,
    ) -> Option<String> {
        let Some(server) = server.filter(|s| s.up) else {
            return Some(format!("{node} does not run"));
        };
        if server.streaming_from != Some(primary.node) {
            return Some(format!("{node} does not stream from {}", primary.node));
        }
        if !server.configured {
            return Some(format!("{node} has other parameters than the cluster"));
        }
        let timeline = |s: &ServerView| s.position.map(|p| (p.timeline, p.born));
        if timeline(server) != timeline(primary) {
            return Some(format!("{node} is not on the timeline of {}", primary.node));
        }
        if server.lag_bytes == 0 {
            self.caught_up.insert(node);
        }
        if self.caught_up.contains(&node) {
            return None;
        }
        Some(format!("{node} lags by {} bytes and was never without", server.lag_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_broken, assert_kept, ms, primary, standby};
    use super::*;

    fn healed() -> Liveness {
        let mut check = Liveness::default();
        let servers = [1, 2, 3].map(NodeId).into();
        check.healed(Healed { at: ms(0), within: ms(1_000), servers });
        check
    }

    fn good() -> WorldView {
        WorldView { servers: vec![primary(1, 2), standby(2, 1, 2), standby(3, 1, 2)] }
    }

    #[test]
    fn a_recovery_in_time_is_right_and_is_noted() {
        let (mut check, mut findings) = (healed(), Findings::default());
        let mut late = good();
        late.servers[2].up = false;
        check.look(ms(500), &late, &mut findings);
        assert_eq!(check.recovered_at(), None);
        check.look(ms(900), &good(), &mut findings);
        check.look(ms(5_000), &late, &mut findings);
        assert_kept(&findings);
        assert_eq!(check.recovered_at(), Some(ms(900)));
    }

    #[test]
    fn lag_may_come_back_under_load_once_it_was_gone() {
        let (mut check, mut findings) = (healed(), Findings::default());
        let (mut first, mut second) = (good(), good());
        first.servers[1].lag_bytes = 10;
        second.servers[2].lag_bytes = 10;
        check.look(ms(100), &first, &mut findings);
        check.look(ms(200), &second, &mut findings);
        assert_eq!(check.recovered_at(), Some(ms(200)));
    }

    #[test]
    fn a_missing_primary_is_seen_once() {
        let (mut check, mut findings) = (healed(), Findings::default());
        let nobody = WorldView { servers: vec![standby(2, 1, 2), standby(3, 1, 2)] };
        check.look(ms(1_000), &nobody, &mut findings);
        assert_kept(&findings);
        check.look(ms(1_100), &nobody, &mut findings);
        check.look(ms(1_200), &nobody, &mut findings);
        assert_broken(&findings, Invariant::I9, "0 servers could acknowledge");
    }

    #[test]
    fn a_server_with_other_parameters_than_the_cluster_is_seen() {
        let (mut check, mut findings) = (healed(), Findings::default());
        let mut apart = good();
        apart.servers[2].configured = false;
        check.look(ms(2_000), &apart, &mut findings);
        assert_broken(&findings, Invariant::I9, "n3 has other parameters than the cluster");
    }

    #[test]
    fn a_standby_on_another_timeline_is_seen() {
        let (mut check, mut findings) = (healed(), Findings::default());
        let mut diverged = good();
        diverged.servers[1] = standby(2, 1, 1);
        check.look(ms(2_000), &diverged, &mut findings);
        assert_broken(&findings, Invariant::I9, "n2 is not on the timeline of n1");
    }

    #[test]
    fn leadership_that_stays_on_the_primary_is_seen() {
        let (mut check, mut findings) = (healed(), Findings::default());
        check.led_by(Some(NodeId(1)));
        check.look(ms(500), &good(), &mut findings);
        assert_eq!(check.recovered_at(), None);
        check.look(ms(2_000), &good(), &mut findings);
        assert_broken(&findings, Invariant::I9, "n1 is primary and leads Raft as well");
    }

    #[test]
    fn a_member_that_begins_the_same_thing_again_at_once_is_seen() {
        let (mut check, mut findings) = (Liveness::default(), Findings::default());
        for n in 0..u64::from(VERBS_MAX) {
            check.verb(ms(15 * n), NodeId(1), &mut findings);
            check.verb(ms(n), NodeId(2 + n % 2), &mut findings);
        }
        assert_kept(&findings);
        for n in 0..u64::from(VERBS_MAX) {
            check.verb(ms(5_000 + n), NodeId(2), &mut findings);
        }
        assert_broken(&findings, Invariant::I9, "n2 told its Postgres 100 things within 99 ms");
    }

    #[test]
    fn nothing_is_expected_before_the_faults_have_ended() {
        let (mut check, mut findings) = (Liveness::default(), Findings::default());
        check.look(ms(9_000), &WorldView::default(), &mut findings);
        assert_kept(&findings);
    }
}
