//! What people read, and what goes to the nodes, over real sockets to an API that is fed by hand.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use clap::Parser;
use serde_json::{Map, Value, json};

use crate::api::tests::fixtures::{Bench, Fake, primary, report};
use crate::api::{Access, MemberStatus, NOTHING_ORDERED, OrderEnd, Status, router};
use crate::control::{Mode, Order};
use crate::env::Clock as _;
use crate::os::OsClock;
use crate::os::http::tests::serve_here;
use crate::runtime::wire::Heard;

use super::{Client, Common, Failure, Verb, config, explain, history, members, status};

#[derive(Debug, Parser)]
struct Typed {
    #[command(subcommand)]
    verb: Verb,
}

fn typed(line: &str) -> Result<Verb, String> {
    let words = std::iter::once("node").chain(line.split(' '));
    Typed::try_parse_from(words).map(|typed| typed.verb).map_err(|error| error.to_string())
}

fn cluster() -> Status {
    let member = |node: &str, role: &str| MemberStatus {
        node: node.into(),
        role: role.into(),
        state: "streaming".into(),
        timeline: Some(2),
        epoch: Some(3),
        lsn: Some("0/3000060".into()),
        heard_ms: Some(40),
        address: format!("{node}:7400"),
        postgres: format!("{node}:5432"),
        priority: 1,
        ..MemberStatus::default()
    };
    let first = MemberStatus {
        state: "running".into(),
        primary: true,
        leased: true,
        lease_left_ms: Some(1_840),
        ..member("n1", "primary")
    };
    let second = MemberStatus { lag_bytes: Some(0), ..member("n2", "synchronous standby") };
    let third = MemberStatus {
        lag_bytes: Some(3 << 20),
        obstacles: vec!["it is tagged no_failover: nobody fails over to it".into()],
        waits_for: vec!["its stream from n1 to begin".into()],
        no_failover: true,
        ..member("n3", "standby")
    };
    Status {
        cluster: "test".into(),
        node: "n2".into(),
        epoch: 3,
        holder: Some("n1".into()),
        leader: Some("n3".into()),
        term: 7,
        voters: vec!["n1".into(), "n2".into()],
        mode: Mode::QuorumSync,
        synchronous: "any 1 (n2) of e3".into(),
        members: vec![first, second, third],
        ..Status::default()
    }
}

#[test]
fn the_table_marks_the_primary_and_says_why_the_others_are_none() {
    let shown = status::text(&cluster());
    let expected = "\
cluster test: n1 holds e3; quorum-sync, any 1 (n2) of e3; n3 leads t7; seen from n2
   NODE  ROLE                 STATE      TL  LSN        LAG     EPOCH  LEASE  WHY NOT PRIMARY
*  n1    primary              running    2   0/3000060  -       e3     1.8 s
   n2    synchronous standby  streaming  2   0/3000060  0 B     e3     -      ready to take over
   n3    standby              streaming  2   0/3000060  3.0 MB  e3     -      it is tagged \
no_failover: nobody fails over to it (and 1 more)
";
    assert_eq!(shown, expected);
}

#[test]
fn what_a_table_cannot_hold_stands_below_it() {
    let troubled = Status {
        holder: None,
        vacated: Some("silent".into()),
        obstacle: Some("too few reports".into()),
        paused: true,
        blind: Some("n3 did not answer in time".into()),
        trouble: Some("no leader has heard it for 7 s".into()),
        ..cluster()
    };
    let shown = status::text(&troubled);
    for line in [
        "nobody holds primacy, e3 has ended",
        "the last primacy ended: silent",
        "nobody is elected: too few reports",
        "paused: there is no automatic failover",
        ": no leader has heard it for 7 s",
        "the leader cannot be asked, so news of others may be old: n3 did not answer in time",
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
}

#[test]
fn an_explanation_tells_every_reason() {
    let status = cluster();
    let shown = explain::text(&status, &status.members[2]);
    assert!(shown.contains("could not be chosen:\n  - it is tagged"), "{shown}");
    assert!(shown.contains("It waits for:\n  - its stream from n1 to begin"), "{shown}");
    let ready = explain::text(&status, &status.members[1]);
    assert!(ready.contains("it could be chosen"), "{ready}");
    let first = explain::text(&status, &status.members[0]);
    assert!(first.contains("It is the primary of e3."), "{first}");
}

#[test]
fn members_and_history_are_tables() {
    let shown = members::text(&cluster());
    assert!(shown.lines().nth(3).unwrap().ends_with("1         never     no"), "{shown}");
    let events = json!([{ "epoch": 1, "what": "n1 was elected" }]);
    let turns = json!([[1, 100_663_392, "e2 began tl2", null, "n2"]]);
    let shown = history::text(&events, &turns);
    assert!(shown.contains("e1     n1 was elected\n"), "{shown}");
    assert!(shown.contains("0/6000060"), "{shown}");
}

#[test]
fn settings_are_shown_as_they_are_set() {
    let settings = json!({
        "mode": "async", "synchronous_mode": false, "maximum_lag_on_failover": 1,
        "timing": { "lease_ms": 2000 },
        "postgresql": { "parameters": { "work_mem": "8MB" } },
    });
    let shown = config::text(&settings);
    assert_eq!(
        shown,
        "mode                 async\nparameters.work_mem  8MB\ntiming.lease_ms      2000\n"
    );
    let words = ["mode=async", "timing.lease_ms=3000", "parameters.a.b=x=y", "parameters.gone="];
    let patch = config::patch(&words.map(str::to_owned)).unwrap();
    let expected = json!({
        "mode": "async", "timing": { "lease_ms": 3000 },
        "parameters": { "a.b": "x=y", "gone": null },
    });
    assert_eq!(Value::Object(patch), expected);
    assert!(config::patch(&["mode".into()]).unwrap_err().contains("KEY=VALUE"));
}

#[test]
fn every_verb_is_read_and_its_mistakes_are_named() {
    for line in [
        "status",
        "status --watch",
        "status --watch 5 --json --api a:1,b:2",
        "history",
        "switchover --yes",
        "switchover --to n2 -y",
        "failover --to n2 --accept-data-loss",
        "pause",
        "resume",
        "config show",
        "config set mode=async",
        "members list",
        "members add n4 --address h:1 --postgres h:2 --priority 3",
        "members add n5 --address h:1 --witness",
        "members tag n4 --no-failover true",
        "members remove n4 --yes",
        "explain n2",
    ] {
        typed(line).unwrap_or_else(|why| panic!("{line}: {why}"));
    }
    for line in ["failover", "config set", "members add n4 --address h:1", "explain", "statsu"] {
        assert!(typed(line).is_err(), "{line}");
    }
}

/// A node's API on a socket, and the desk behind it.
async fn node(access: Access) -> (String, Arc<Fake>) {
    let desk = Fake::at(1_001);
    let routes = router(Bench::standby().board, desk.clone(), access);
    (serve_here(routes).await, desk)
}

fn client(addresses: &[&str], token_file: Option<PathBuf>) -> Client {
    let api = addresses.iter().map(ToString::to_string).collect();
    Client::new(&Common { api, token_file, ca: None, cert: None, key: None, json: false })
}

#[tokio::test]
async fn half_of_what_tls_needs_is_named() {
    let common = Common {
        api: vec![NOBODY.into()],
        token_file: None,
        ca: None,
        cert: Some("n1.crt".into()),
        key: None,
        json: false,
    };
    let refused = Client::new(&common).page("/status").await.unwrap_err();
    assert_eq!(refused.exit_code(), 2);
    assert!(refused.to_string().contains("--cert and --key go together"), "{refused}");
}

const NOBODY: &str = "127.0.0.1:1";

#[tokio::test]
async fn the_first_node_that_answers_is_believed() {
    let (address, _) = node(Access::default()).await;
    let pasted = format!("http://{address}/");
    let status: Status = client(&[NOBODY, &pasted], None).get("/status").await.unwrap();
    assert_eq!((status.node.as_str(), status.holder.as_deref()), ("n2", Some("n1")));
    let silent = client(&[NOBODY], None).get::<Status>("/status").await.unwrap_err();
    assert_eq!(silent.exit_code(), 4);
    assert!(silent.to_string().contains("--api"), "{silent}");
}

/// It is frozen: the kernel accepts connections for it.
#[tokio::test]
async fn one_that_says_nothing_is_passed_over() {
    let frozen = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = frozen.local_addr().unwrap().to_string();
    let (address, desk) = node(Access::default()).await;
    let asks = client(&[&silent, &address], None);
    let began = OsClock.now();
    let status: Status = asks.get("/status").await.unwrap();
    assert_eq!(status.node, "n2");
    asks.order(Method::POST, "/switchover", Map::new()).await.unwrap();
    assert_eq!(desk.orders.lock().unwrap().len(), 1);
    let took = OsClock.now().since(began);
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test]
async fn an_order_is_one_order_however_many_nodes_hear_it() {
    let ((one, first), (two, second)) =
        (node(Access::default()).await, node(Access::default()).await);
    *first.end.lock().unwrap() = Some(OrderEnd::Unknown("ask again".into()));
    let asks = client(&[NOBODY, &one, &two], None);
    let answer = asks.order(Method::POST, "/switchover", Map::new()).await.unwrap();
    assert_eq!(answer["message"], "as you wish");
    let id = first.orders.lock().unwrap()[0].0;
    assert_eq!(*second.orders.lock().unwrap(), [(id, Order::Switchover { to: None })]);
    assert_eq!(answer["id"], id.0);
    // Where nobody knows, that is what is said.
    let alone = client(&[&one, NOBODY], None);
    let end = alone.order(Method::POST, "/switchover", Map::new()).await.unwrap_err();
    assert_eq!((end.exit_code(), end.to_string().as_str()), (3, "ask again"));
}

/// It may be cut off, and the next one is not.
#[tokio::test]
async fn who_reaches_nobody_is_not_the_last_to_be_asked() {
    let ((one, first), (two, second)) =
        (node(Access::default()).await, node(Access::default()).await);
    let why = format!("{NOTHING_ORDERED}: nobody leads");
    *first.end.lock().unwrap() = Some(OrderEnd::Refused(why.clone()));
    let order = |places: &[&str]| {
        let asks = client(places, None);
        async move { asks.order(Method::POST, "/switchover", Map::new()).await }
    };
    order(&[&one, &two]).await.unwrap();
    assert_eq!((first.ordered().len(), second.ordered().len()), (1, 1));
    let refused = order(&[&one, NOBODY]).await.unwrap_err();
    assert_eq!(refused, Failure::Refused(format!("{one}: {why}")));
    // What it shows is shown where nobody knows more.
    let status: Status = client(&[&one, &two], None).get("/status").await.unwrap();
    assert!(status.blind.is_some());
    let (sees, third) = node(Access::default()).await;
    *third.heard.lock().unwrap() = vec![Heard { report: report(1, &primary(1_000)), age_ms: 20 }];
    let status: Status = client(&[&one, &sees], None).get("/status").await.unwrap();
    assert_eq!(status.blind, None);
}

/// What is not agreed on is not asked of another one where it may have been done.
#[tokio::test]
async fn a_chore_that_may_have_been_done_is_not_asked_for_again() {
    let ((one, first), (two, second)) =
        (node(Access::default()).await, node(Access::default()).await);
    let asks = client(&[&one, &two], None);
    let body = |node: &str| Map::from_iter([("node".to_owned(), node.into())]);
    let end = asks.chore("/restart", body("n8")).await.unwrap_err();
    assert_eq!((end.exit_code(), end.to_string().as_str()), (3, "n8 may do it, or not"));
    let asked = |desk: &Fake| *desk.chores.lock().unwrap();
    assert_eq!((asked(&first), asked(&second)), (1, 0));
}

#[tokio::test]
async fn a_refusal_is_told_in_the_nodes_own_words() {
    let (address, desk) = node(Access::default()).await;
    *desk.end.lock().unwrap() = Some(OrderEnd::Refused("paused already".into()));
    let patch = config::patch(&["pause=true".into()]).unwrap();
    let asks = client(&[&address], None);
    let refused = asks.order(Method::PATCH, "/config", patch).await.unwrap_err();
    assert_eq!(refused, Failure::Refused("paused already".into()));
    let (closed, desk) = node(Access::with_token("open-sesame")).await;
    let stranger = client(&[&closed], None);
    let refused = stranger.order(Method::POST, "/switchover", Map::new()).await.unwrap_err();
    assert!(refused.to_string().contains("--token-file"), "{refused}");
    assert_eq!(desk.ordered(), []);
}

/// Whoever looks a command up and edits it puts the flags at its end.
#[test]
fn what_every_verb_understands_may_stand_at_the_end() {
    for line in [
        "config set mode=async --api https://db1:8008 --ca ca.crt --cert n1.crt --key n1.key",
        "config --api https://db1:8008 --ca ca.crt --cert n1.crt set --key n1.key mode=async",
    ] {
        let Ok(Verb::Config(config)) = typed(line) else { panic!("{line}") };
        let Common { api, ca, cert, key, .. } = config.common;
        assert_eq!(api, ["https://db1:8008"], "{line}");
        let files = [ca, cert, key].map(|file| file.map(|path| path.display().to_string()));
        assert_eq!(files, ["ca.crt", "n1.crt", "n1.key"].map(|name| Some(name.to_owned())));
    }
    let Ok(Verb::Members(members)) = typed("members list --json --api db1:8008,db2:8008") else {
        panic!("it is understood")
    };
    assert!(members.common.json && members.common.api == ["db1:8008", "db2:8008"]);
}
