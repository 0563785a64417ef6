//! What is shown, and the health checks that load balancers live on.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, Version};
use serde_json::json;

use crate::api::Status;
use crate::env::Process;
use crate::env::{Observation, Side};
use crate::ha::Event;
use crate::runtime::wire::Heard;

use super::fixtures::{Bench, Site, primary, report, standby};

#[tokio::test]
async fn the_primary_is_one_for_as_long_as_its_lease_covers_the_instant_of_the_answer() {
    let mut bench = Bench::primary();
    let site = Site::new(&bench, 1_001);
    for path in ["/", "/primary", "/read-write", "/leader", "/read-only", "/health", "/readiness"] {
        assert_eq!(site.code(path).await, 200, "{path}");
    }
    for path in ["/replica", "/async", "/sync", "/quorum", "/standby-leader"] {
        assert_eq!(site.code(path).await, 503, "{path}");
    }
    // The lease ends at 3000, and the manager stops 200 before. Nothing was told to the board.
    site.desk.set(2_799);
    assert_eq!(site.code("/primary").await, 200);
    site.desk.set(2_800);
    let (status, said) = site.get("/primary").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(said["error"], "its lease of e1 has run out");
    assert_eq!(said["role"], "replica", "nobody may take it for one that accepts writes");
    assert_eq!(site.code("/leader").await, 503);
    // Renewed, and seen again, it is one again.
    bench.renewed(2_790);
    assert_eq!(site.code("/primary").await, 200);
}

#[tokio::test]
async fn a_primary_that_is_down_closed_or_being_stopped_is_none() {
    let closed = Observation { admits: false, ..primary(1_000) };
    let down = Observation { process: Process::Down { clean: false }, ..primary(1_000) };
    let hung = Observation { process: Process::Hung, ..primary(1_000) };
    let promoting = Observation { side: Side::Standby, ..primary(1_000) };
    for (seen, why) in
        [(closed, "clients"), (down, "preparing"), (hung, "answer"), (promoting, "preparing")]
    {
        let mut bench = Bench::primary();
        bench.sees(1_200, seen);
        let (status, said) = Site::new(&bench, 1_201).get("/primary").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{why}");
        assert!(said["error"].as_str().unwrap().contains(why), "{said}");
    }
    // A manager that stands still sees nothing, and believes nothing for long.
    let mut bench = Bench::primary();
    for renewed in [2_700, 4_400, 6_100] {
        bench.renewed(renewed);
    }
    let (status, said) = Site::new(&bench, 6_101).get("/primary").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(said["error"].as_str().unwrap().contains("not seen"), "{said}");
}

#[tokio::test]
async fn head_and_options_answer_with_the_code_alone_as_haproxy_asks() {
    let site = Site::new(&Bench::primary(), 1_001);
    for (path, code) in [("/primary", 200), ("/replica", 503), ("/read-only", 200)] {
        for method in [Method::OPTIONS, Method::HEAD] {
            // `option httpchk OPTIONS /primary`: HTTP/1.0, without a Host.
            let mut request = Request::new(Body::empty());
            *request.method_mut() = method.clone();
            *request.uri_mut() = path.parse().unwrap();
            *request.version_mut() = Version::HTTP_10;
            let (status, body) = site.raw(request).await;
            assert_eq!(status.as_u16(), code, "{method} {path}");
            assert!(body.is_empty(), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_standby_is_measured_by_what_it_has_replayed() {
    let mut bench = Bench::new(2);
    bench.sees(1_000, Observation { replayed: Some(crate::ids::Lsn(400)), ..standby(900) });
    let site = Site::new(&bench, 1_001);
    assert_eq!(site.code("/replica").await, 200);
    assert_eq!(site.code("/read-only").await, 200);
    assert_eq!(site.code("/primary").await, 503);
    // Where the primary is was never heard: a limit cannot be kept, and the answer says so.
    let (status, said) = site.get("/replica?lag=10MB").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(said["error"].as_str().unwrap().contains("not known"), "{said}");
    *site.desk.heard.lock().unwrap() =
        vec![Heard { report: report(1, &primary(1_000)), age_ms: 20 }];
    site.desk.set(2_000);
    assert_eq!(site.code("/replica?lag=600").await, 200);
    assert_eq!(site.code("/replica?lag=599").await, 503);
    assert_eq!(site.code("/replica?lag=100&mode=write").await, 200);
    assert_eq!(site.code("/readiness").await, 200);
    // The leader falls silent: the last known end stays, for a primary alone writes no more.
    site.desk.heard.lock().unwrap().clear();
    site.desk.set(4_000);
    assert_eq!(site.code("/replica?lag=599").await, 503);
    assert_eq!(site.code("/replica?lag=600").await, 200);
}

#[tokio::test]
async fn a_crowd_of_checks_costs_the_leader_one_question() {
    let site = Site::new(&Bench::standby(), 1_001);
    *site.desk.heard.lock().unwrap() =
        vec![Heard { report: report(1, &primary(1_000)), age_ms: 20 }];
    for _ in 0..20 {
        assert_eq!(site.code("/replica?lag=1MB").await, 200);
    }
    assert_eq!(*site.desk.asked.lock().unwrap(), 1);
    assert_eq!(site.code("/replica").await, 200);
    site.desk.set(1_600);
    assert_eq!(site.code("/cluster").await, 200);
    assert_eq!(*site.desk.asked.lock().unwrap(), 2);
}

#[tokio::test]
async fn a_standby_whose_confirmation_counts_is_a_quorum_standby_and_no_other() {
    let site = Site::new(&Bench::standby(), 1_001);
    assert_eq!(site.code("/quorum").await, 200);
    assert_eq!(site.code("/sync").await, 503, "one of two is enough");
    assert_eq!(site.code("/async").await, 503);
    assert_eq!(site.get("/patroni").await.1["quorum_standby"], true);
}

#[tokio::test]
async fn a_filter_that_is_not_understood_is_refused_and_not_ignored() {
    let site = Site::new(&Bench::standby(), 1_001);
    for query in ["lag=much", "tag_site=a", "mode=soon", "lag="] {
        let (status, said) = site.get(&format!("/replica?{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        assert!(said["error"].is_string());
    }
    assert_eq!(site.code("/replica?replication_state=streaming").await, 200);
}

#[tokio::test]
async fn a_loop_that_stands_still_is_not_alive() {
    let site = Site::new(&Bench::primary(), 1_001);
    assert_eq!(site.code("/liveness").await, 200);
    site.desk.set(3_001);
    assert_eq!(site.code("/liveness").await, 503);
    let site = Site::new(&Bench::standby(), 3_001);
    assert_eq!(site.code("/liveness").await, 200, "a standby is given twice as long");
    site.desk.set(5_001);
    assert_eq!(site.code("/liveness").await, 503);
}

#[tokio::test]
async fn the_cluster_is_shown_in_patronis_shape() {
    let mut bench = Bench::standby();
    let behind = report(3, &standby(250));
    bench.leads(1_100, vec![report(1, &primary(1_000)), behind, report(2, &standby(900))]);
    let site = Site::new(&bench, 1_101);
    let (_, cluster) = site.get("/cluster").await;
    assert_eq!(cluster["scope"], "test");
    let members = cluster["members"].as_array().unwrap();
    let first = json!({
        "name": "n1", "role": "leader", "state": "running", "host": "10.0.0.1", "port": 5432,
        "timeline": 1, "lsn": "0/3E8",
    });
    assert_eq!(members[0], first);
    assert_eq!(members[1]["role"], "quorum_standby");
    assert_eq!((&members[1]["state"], &members[1]["lag"]), (&json!("streaming"), &json!(100)));
    assert_eq!(members[2]["lag"], 750);
    assert_eq!(*site.desk.asked.lock().unwrap(), 0, "it leads and knows");
    let (_, own) = site.get("/patroni").await;
    assert_eq!(own["patroni"]["name"], "n2");
    assert_eq!(own["xlog"]["replayed_location"], 900);
    assert_eq!(own["database_system_identifier"], "77");
    assert_eq!(site.get("/history").await.1, json!([]));
    assert_eq!(site.get("/events").await.1[0]["what"], "cluster test founded with 3 members");
    assert_eq!(site.get("/config").await.1["synchronous_mode"], "quorum");
}

#[tokio::test]
async fn status_says_why_each_member_is_not_primary_and_what_it_waits_for() {
    let mut bench = Bench::standby();
    let mut third = report(3, &Observation { receiver: None, ..standby(250) });
    third.trouble = Some("follow n1 in e1 failed: no route".into());
    bench.leads(1_100, vec![report(1, &primary(1_000)), third, report(2, &standby(900))]);
    let site = Site::new(&bench, 1_101);
    let (_, body) = site.get("/status").await;
    let status: Status = serde_json::from_value(body).unwrap();
    assert_eq!((status.holder.as_deref(), status.epoch), (Some("n1"), 1));
    assert_eq!(status.synchronous, "any 1 (n2,n3) of e1");
    assert_eq!(status.why_no_writes.as_deref(), Some("n2 is standby: n1 holds e1"));
    let [first, second, third] = &status.members[..] else { panic!("three members") };
    assert!(first.primary && first.leased && first.admits);
    assert_eq!((second.role.as_str(), second.lag_bytes), ("synchronous standby", Some(100)));
    assert_eq!(second.obstacles, Vec::<String>::new());
    assert_eq!(third.state, "running");
    assert_eq!(
        third.waits_for,
        ["its stream from n1 to begin", "follow n1 in e1 failed: no route"]
    );
    // Ten seconds later nobody has said anything more.
    site.desk.set(11_000);
    let status: Status = serde_json::from_value(site.get("/status").await.1).unwrap();
    assert!(status.members[0].obstacles[0].contains("nothing was heard of it for"));
    assert_eq!(status.members[0].role, "unknown");
}

#[tokio::test]
async fn metrics_are_prometheus_text_with_patronis_names_and_ours() {
    let mut bench = Bench::primary();
    bench.step(
        1_100,
        Event::HeartbeatAnswered {
            to: crate::ids::NodeId(3),
            sent: super::fixtures::at(1_090),
            answer: None,
        },
    );
    let site = Site::new(&bench, 1_500);
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = "/metrics".parse().unwrap();
    let (status, body) = site.raw(request).await;
    let text = String::from_utf8(body).unwrap();
    assert_eq!(status, StatusCode::OK);
    for line in [
        "patroni_primary{scope=\"test\",name=\"n1\"} 1",
        "patroni_xlog_location{scope=\"test\",name=\"n1\"} 1000",
        "patroni_postgres_timeline{scope=\"test\",name=\"n1\"} 1",
        "pg_replica_role{scope=\"test\",name=\"n1\",role=\"primary\"} 1",
        "pg_replica_role{scope=\"test\",name=\"n1\",role=\"standby\"} 0",
        "pg_replica_lease_left_seconds{scope=\"test\",name=\"n1\"} 1.500",
        "pg_replica_heartbeats_unanswered_total{scope=\"test\",name=\"n1\"} 1",
        "pg_replica_raft_term{scope=\"test\",name=\"n1\"} 4",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} is not in\n{text}");
    }
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        assert!(seen.insert(line.to_owned()), "{line} twice");
    }
}

#[tokio::test]
async fn what_is_not_there_is_refused_with_a_sentence() {
    let site = Site::new(&Bench::primary(), 1_001);
    let (status, said) = site.get("/nowhere").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(said["error"], "there is nothing at /nowhere");
    let (status, said) = site.get("/switchover").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(said["error"], "/switchover does not answer GET");
}
