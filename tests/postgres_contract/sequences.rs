//! Verbs in an order that is drawn: what one case at a time does not reach.
//!
//! Two machines, of which one is primary at most. A ledger says what has to be so after each step;
//! in the end both are one cluster again, and every row that the last primary had is on both.

use pg_replica::env::{Observation, Postgres, Process, Side, StartAs, StopHow, SyncNames};
use pg_replica::ids::Epoch;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::ground::{
    Ground, PATIENCE, Wrote, follow, found, join, promote, start_behind, until, until_rows,
    upstream,
};

const STEPS: u32 = 14;

/// How a server stands, as far as the steps have brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Primary,
    /// Down, and it may come back in its epoch.
    FallenPrimary,
    /// Up, and attached to nobody.
    Detached,
    Streaming,
    /// Down, and a part of the primary's history.
    Stopped,
    /// Down, and left behind by a promotion elsewhere.
    LeftBehind,
}

struct Ledger<G> {
    ground: G,
    epoch: u64,
    standing: [Standing; 2],
    /// What the primary has acknowledged and every successor has to have.
    rows: Vec<u64>,
    next_row: u64,
}

impl<G: Ground> Ledger<G> {
    async fn new(ground: G) -> Self {
        found(&ground, 1, SyncNames::default()).await;
        join(&ground, 2, 1, 1).await;
        let standing = [Standing::Primary, Standing::Streaming];
        Self { ground, epoch: 1, standing, rows: Vec::new(), next_row: 1 }
    }

    fn of(&self, node: u64) -> Standing {
        self.standing[usize::try_from(node - 1).unwrap()]
    }

    fn note(&mut self, node: u64, standing: Standing) {
        self.standing[usize::try_from(node - 1).unwrap()] = standing;
    }

    fn other(node: u64) -> u64 {
        3 - node
    }

    /// Whose history counts: the primary, up or fallen.
    fn primary(&self) -> u64 {
        let is = |node: &u64| matches!(self.of(*node), Standing::Primary | Standing::FallenPrimary);
        [1, 2].into_iter().find(is).unwrap()
    }

    async fn step(&mut self, draw: &mut ChaCha8Rng) {
        let primary = self.primary();
        let standby = Self::other(primary);
        let up = self.of(primary) == Standing::Primary;
        match (draw.random_range(0..8), self.of(standby)) {
            (0 | 1, _) => self.write(primary, up).await,
            (2, _) if up => self.stop(primary, draw).await,
            (2, _) => self.come_back(primary).await,
            (3, Standing::Streaming | Standing::Detached) => self.stop(standby, draw).await,
            (3 | 4, Standing::Stopped) => {
                let server = self.ground.server(standby);
                server.start(&StartAs::Standby { upstream: None }).await.unwrap();
                self.note(standby, Standing::Detached);
            }
            (4, Standing::Streaming) => {
                self.ground.server(standby).detach().await.unwrap();
                self.note(standby, Standing::Detached);
            }
            (5 | 6, Standing::Detached) if up => {
                follow(&self.ground, standby, primary, self.epoch).await;
                self.note(standby, Standing::Streaming);
            }
            (5..=7, Standing::LeftBehind) if up => self.rejoin(standby, primary, draw).await,
            (7, Standing::Streaming) if up => self.hand_over(primary, standby, draw).await,
            _ => self.write(primary, up).await,
        }
    }

    async fn write(&mut self, primary: u64, up: bool) {
        let row = self.next_row;
        self.next_row += 1;
        let wrote = self.ground.write(primary, row, PATIENCE).await;
        assert_eq!(wrote, if up { Wrote::Acknowledged } else { Wrote::Refused });
        if up {
            self.rows.push(row);
        }
        assert_eq!(self.ground.write(Self::other(primary), row, PATIENCE).await, Wrote::Refused);
    }

    async fn stop(&mut self, node: u64, draw: &mut ChaCha8Rng) {
        let how = if draw.random_bool(0.5) { StopHow::Fast } else { StopHow::Immediate };
        self.ground.server(node).stop(how).await.unwrap();
        let fallen = self.of(node) == Standing::Primary;
        self.note(node, if fallen { Standing::FallenPrimary } else { Standing::Stopped });
    }

    async fn come_back(&mut self, node: u64) {
        let server = self.ground.server(node);
        let sync = SyncNames::default();
        server.start(&StartAs::Primary { epoch: Epoch(self.epoch), sync }).await.unwrap();
        server.admit().await.unwrap();
        self.note(node, Standing::Primary);
    }

    /// A failover, or a planned one: then the standby has everything.
    async fn hand_over(&mut self, old: u64, new: u64, draw: &mut ChaCha8Rng) {
        let planned = draw.random_bool(0.5);
        let how = if planned { StopHow::Fast } else { StopHow::Immediate };
        self.ground.server(old).stop(how).await.unwrap();
        self.note(old, Standing::LeftBehind);
        self.epoch += 1;
        promote(&self.ground, new, self.epoch).await;
        self.note(new, Standing::Primary);
        let kept = self.ground.rows(new).await;
        assert!(self.rows.starts_with(&kept), "{kept:?} is no beginning of {:?}", self.rows);
        if planned {
            assert_eq!(kept, self.rows, "a clean shutdown sends everything");
        }
        self.rows = kept;
    }

    async fn rejoin(&mut self, node: u64, primary: u64, draw: &mut ChaCha8Rng) {
        let source = upstream(&self.ground, primary, self.epoch);
        let server = self.ground.server(node);
        if draw.random_bool(0.7) {
            server.rewind(&source).await.unwrap();
        } else {
            server.clone_from(&source).await.unwrap();
        }
        start_behind(&self.ground, node, &source).await;
        follow(&self.ground, node, primary, self.epoch).await;
        self.note(node, Standing::Streaming);
    }

    async fn check(&self) {
        for node in [1, 2] {
            let standing = self.of(node);
            let fits = |seen: &Observation| {
                let down = matches!(seen.process, Process::Down { .. });
                let (up, side) = (seen.process == Process::Up, seen.side);
                match standing {
                    Standing::Primary => up && side == Side::Primary && seen.admits,
                    Standing::FallenPrimary | Standing::LeftBehind => down && !seen.may_write(),
                    Standing::Stopped => down && side == Side::Standby,
                    Standing::Detached => up && side == Side::Standby && seen.receiver.is_none(),
                    Standing::Streaming => up && side == Side::Standby,
                }
            };
            until(&self.ground, node, &format!("{standing:?}"), fits).await;
        }
        let newest = self.ground.server(self.primary()).observe().await.unwrap().history;
        assert_eq!(newest.last().map(|birth| birth.born), Some(Epoch(self.epoch)));
    }

    /// One cluster again.
    async fn settle(&mut self, draw: &mut ChaCha8Rng) {
        let primary = self.primary();
        let standby = Self::other(primary);
        if self.of(primary) == Standing::FallenPrimary {
            self.come_back(primary).await;
        }
        match self.of(standby) {
            Standing::LeftBehind => self.rejoin(standby, primary, draw).await,
            Standing::Stopped => {
                let server = self.ground.server(standby);
                server.start(&StartAs::Standby { upstream: None }).await.unwrap();
                follow(&self.ground, standby, primary, self.epoch).await;
            }
            Standing::Primary
            | Standing::FallenPrimary
            | Standing::Detached
            | Standing::Streaming => follow(&self.ground, standby, primary, self.epoch).await,
        }
        self.write_last(primary).await;
        until_rows(&self.ground, standby, &self.rows).await;
        assert_eq!(self.ground.rows(primary).await, self.rows);
    }

    async fn write_last(&mut self, primary: u64) {
        let row = self.next_row;
        assert_eq!(self.ground.write(primary, row, PATIENCE).await, Wrote::Acknowledged);
        self.rows.push(row);
    }
}

async fn drawn<G: Ground>(ground: G, seed: u64) {
    let mut draw = ChaCha8Rng::seed_from_u64(seed);
    let mut ledger = Ledger::new(ground).await;
    for _ in 0..STEPS {
        ledger.step(&mut draw).await;
        ledger.check().await;
    }
    ledger.settle(&mut draw).await;
}

pub(crate) async fn verbs_in_an_order_that_is_drawn<G: Ground>(ground: G) {
    drawn(ground, 1).await;
}

pub(crate) async fn verbs_in_another_order<G: Ground>(ground: G) {
    drawn(ground, 2).await;
}

pub(crate) async fn verbs_in_a_third_order<G: Ground>(ground: G) {
    drawn(ground, 3).await;
}
