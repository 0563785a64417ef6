//! The clients against two servers that take turns: no Postgres, no cluster, only the clients.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use madsim::runtime::Runtime;
use pg_replica::ids::NodeId;
use sim::clock::{sleep, true_now};
use sim::place::Place;
use sim::report::gaps;
use sim::streams::Streams;
use sim::witness::Row;
use sim::workload::{ClientPlan, Ended, Servers, Session, Truth, Workload, Written, miscounted};

const THINK: Duration = Duration::from_millis(100);

/// What both servers share.
#[derive(Debug, Default)]
struct Stage {
    /// Who takes writes.
    primary: Option<NodeId>,
    /// Whose sessions answer nothing at the moment.
    silent: BTreeSet<NodeId>,
    /// Who says that it takes writes, and answers none.
    stalled: Option<NodeId>,
    rows: Vec<Row>,
}

#[derive(Clone, Debug, Default)]
struct Pair(Arc<Mutex<Stage>>);

struct Seat {
    stage: Pair,
    server: NodeId,
}

impl Pair {
    fn change(&self, change: impl FnOnce(&mut Stage)) {
        change(&mut self.0.lock().expect("one thread"));
    }

    async fn reach(&self, server: NodeId) {
        sleep(Duration::from_millis(2)).await;
        let silent = self.0.lock().expect("one thread").silent.contains(&server);
        if silent {
            std::future::pending::<()>().await;
        }
    }
}

impl Servers for Pair {
    type Session = Seat;

    fn now(&self) -> Duration {
        true_now()
    }

    async fn sleep(&self, span: Duration) {
        sleep(span).await;
    }

    async fn connect(&self, _from: Place, to: NodeId) -> Result<Seat, String> {
        self.reach(to).await;
        Ok(Seat { stage: self.clone(), server: to })
    }
}

impl Session for Seat {
    async fn write(&self, row: Row) -> Written {
        self.stage.reach(self.server).await;
        if self.stage.0.lock().expect("one thread").stalled == Some(self.server) {
            std::future::pending::<()>().await;
        }
        let mut stage = self.stage.0.lock().expect("one thread");
        if stage.primary != Some(self.server) {
            return Written::Refused;
        }
        let found = stage.rows.last().copied();
        stage.rows.push(row);
        Written::Acknowledged { found }
    }

    async fn read(&self) -> bool {
        self.stage.reach(self.server).await;
        true
    }

    fn is_writable(&self) -> bool {
        let stage = self.stage.0.lock().expect("one thread");
        [stage.primary, stage.stalled].contains(&Some(self.server))
    }

    fn is_broken(&self) -> bool {
        false
    }
}

/// Ten seconds on n1, a silent n1 while n2 takes over, and n1 back without primacy.
fn takeover(seed: u64) -> (Workload, Pair) {
    let runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
    runtime.block_on(async move {
        let (pair, workload) = (Pair::default(), Workload::new(Streams::new(seed)));
        let hosts = [NodeId(1), NodeId(2)];
        pair.change(|stage| stage.primary = Some(NodeId(1)));
        for number in 0..2 {
            workload.start(&pair, ClientPlan::quick_writer(number, THINK), &hosts);
        }
        workload.start(&pair, ClientPlan::patient_writer(2, THINK), &hosts);
        workload.start(&pair, ClientPlan::reader(3, THINK), &hosts);
        sleep(Duration::from_secs(10)).await;
        pair.change(|stage| {
            stage.silent.insert(NodeId(1));
            stage.primary = None;
        });
        sleep(Duration::from_secs(1)).await;
        pair.change(|stage| stage.primary = Some(NodeId(2)));
        sleep(Duration::from_secs(3)).await;
        pair.change(|stage| stage.silent.clear());
        sleep(Duration::from_secs(6)).await;
        workload.stop();
        sleep(Duration::from_secs(2)).await;
        (workload, pair)
    })
}

#[test]
fn clients_find_the_next_primary_and_the_outage_is_what_they_noticed() {
    let (workload, _) = takeover(7);
    workload.history(|history| {
        let (from, until) = (Duration::from_secs(1), Duration::from_secs(20));
        let told = history.operations().iter().filter(|o| o.ended == Ended::Acknowledged);
        let told: Vec<Duration> = told.map(|operation| operation.ended_at).collect();
        let outages = gaps(&told, until, (from, Duration::from_secs(15)));
        assert_eq!(outages.len(), 1, "{outages:?}");
        let length = outages[0].lasted;
        assert!(length >= Duration::from_secs(1), "{length:?}");
        assert!(length <= Duration::from_millis(1_800), "{length:?}");
        assert!(history.reads() > 50);
    });
}

#[test]
fn a_patient_client_keeps_its_connection_to_the_former_primary() {
    let (workload, _) = takeover(7);
    workload.history(|history| {
        assert!(history.stale_attempts() > 0);
        let mut last = history.operations().iter().filter(|o| o.row.client == 2);
        let last = last.next_back().expect("it wrote");
        assert_eq!((last.server, last.ended), (NodeId(2), Ended::Acknowledged));
    });
}

#[test]
fn every_row_is_written_once_and_every_acknowledged_row_is_there() {
    let (workload, pair) = takeover(8);
    let rows = pair.0.lock().expect("one thread").rows.clone();
    let unique: BTreeSet<Row> = rows.iter().copied().collect();
    assert_eq!(unique.len(), rows.len());
    workload.history(|history| {
        let wrong = miscounted(history, Truth::Linearizable, &rows, Duration::MAX);
        assert_eq!(wrong, Vec::new());
        assert!(history.count(Ended::Acknowledged) > 300);
    });
}

#[test]
fn the_same_seed_gives_the_same_history_and_another_seed_another_one() {
    let operations = |seed| takeover(seed).0.history(|history| history.operations().to_vec());
    assert_eq!(operations(3), operations(3));
    assert_ne!(operations(3), operations(4));
}

#[test]
fn one_that_moves_on_is_not_held_by_a_server_that_says_yes_and_commits_nothing() {
    let told_by_the_second = |moves_on| {
        let runtime = Runtime::with_seed_and_config(5, madsim::Config::default());
        runtime.block_on(async move {
            let (pair, workload) = (Pair::default(), Workload::new(Streams::new(5)));
            pair.change(|stage| {
                stage.primary = Some(NodeId(2));
                stage.stalled = Some(NodeId(1));
            });
            let plan = ClientPlan { moves_on, ..ClientPlan::quick_writer(0, THINK) };
            workload.start(&pair, plan, &[NodeId(1), NodeId(2)]);
            sleep(Duration::from_secs(2)).await;
            workload.stop();
            workload.history(|history| history.count(Ended::Acknowledged))
        })
    };
    assert_eq!(told_by_the_second(false), 0);
    assert!(told_by_the_second(true) > 10);
}
