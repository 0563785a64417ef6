//! What may be ordered, by whom, and what is answered.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};

use crate::api::{Access, Caller, OrderEnd};
use crate::control::{MemberKind, Mode, Order};
use crate::ids::{CommandId, Incarnation, NodeId};

use super::fixtures::{Bench, Site};

const TWO: Option<NodeId> = Some(NodeId(2));

#[tokio::test]
async fn patronis_words_for_a_handover_are_understood() {
    let site = Site::new(&Bench::primary(), 1_001);
    let body = r#"{"leader": "n1", "candidate": "n2"}"#;
    let (status, said) = site.post("/switchover", body).await;
    assert_eq!((status, &said["outcome"]), (StatusCode::OK, &"done".into()));
    assert_eq!(said["id"], 4711);
    assert_eq!(site.post("/switchover", "").await.0, StatusCode::OK);
    let forced = r#"{"candidate": 2, "accept_data_loss": true}"#;
    assert_eq!(site.post("/failover", forced).await.0, StatusCode::OK);
    let ordered = site.desk.ordered();
    assert_eq!(ordered[0], Order::Switchover { to: TWO });
    assert_eq!(ordered[1], Order::Switchover { to: None });
    assert_eq!(ordered[2], Order::Failover { to: TWO, accept_data_loss: true });
}

#[tokio::test]
async fn an_order_keeps_the_name_that_its_giver_chose() {
    let site = Site::new(&Bench::primary(), 1_001);
    let end = OrderEnd::Unknown("ask again".into());
    *site.desk.end.lock().unwrap() = Some(end);
    let (status, said) = site.post("/switchover", r#"{"to": "n2", "id": 99}"#).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!((&said["error"], &said["id"]), (&"ask again".into(), &99.into()));
    assert_eq!(site.desk.orders.lock().unwrap()[0].0, CommandId(99));
    let end = OrderEnd::Refused("n2 is primary already".into());
    *site.desk.end.lock().unwrap() = Some(end);
    let (status, said) = site.post("/switchover", r#"{"to": "n2"}"#).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(said["error"], "n2 is primary already");
}

#[tokio::test]
async fn what_is_not_understood_is_never_ordered() {
    let site = Site::new(&Bench::primary(), 1_001);
    for (path, body, code) in [
        ("/switchover", r#"{"leader": "n3", "candidate": "n2"}"#, 412),
        ("/switchover", r#"{"candidate": "two"}"#, 400),
        ("/switchover", r#"{"candiate": "n2"}"#, 400),
        ("/switchover", r#"{"scheduled_at": "2030-01-01T00:00"}"#, 501),
        ("/switchover", "[1]", 400),
        ("/switchover", "{", 400),
        ("/failover", "{}", 400),
        ("/failover", r#"{"to": "n2", "accept_data_loss": "yes"}"#, 400),
        ("/members", r#"{"node": "n4"}"#, 400),
        ("/members", r#"{"node": "n4", "address": "1.2.3.4:7400", "witness": true}"#, 502),
        ("/restart", r#"{"node": "n9"}"#, 409),
        ("/restart", r#"{"schedule": "now"}"#, 400),
        ("/reinitialize", "[]", 400),
    ] {
        let (status, said) = site.post(path, body).await;
        assert_eq!(status.as_u16(), code, "{path} {body}");
        assert!(said["error"].is_string(), "{path} {body}");
    }
    let long = format!("{{\"to\": \"{}\"}}", "x".repeat(70_000));
    assert_eq!(site.post("/switchover", &long).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(site.desk.ordered(), []);
}

#[tokio::test]
async fn a_chore_is_of_the_member_that_is_asked_or_of_another_that_is_named() {
    let site = Site::new(&Bench::primary(), 1_001);
    for (path, body, said) in [
        ("/restart", "", "restart of n1"),
        ("/reload", r#"{"node": "n2"}"#, "reload of n2"),
        ("/reinitialize", r#"{"node": 3, "force": true}"#, "fresh copy of n3"),
    ] {
        let (status, answer) = site.post(path, body).await;
        assert_eq!(status, StatusCode::OK, "{path} {body}");
        assert_eq!(answer["message"], said);
    }
    for (node, status) in [(9, StatusCode::CONFLICT), (8, StatusCode::GATEWAY_TIMEOUT)] {
        let (code, _) = site.post("/restart", &format!("{{\"node\": {node}}}")).await;
        assert_eq!(code, status, "n{node}");
    }
    assert_eq!(site.desk.ordered(), []);
}

#[tokio::test]
async fn a_parameter_that_the_server_would_not_start_with_is_never_ordered() {
    let site = Site::new(&Bench::primary(), 1_001);
    let patch = r#"{"parameters": {"work_mem": "banana"}}"#;
    let (status, said) = site.ask(Method::PATCH, "/config", patch).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(said["error"].as_str().unwrap().contains("banana"));
    assert_eq!(site.desk.ordered(), []);
    let patch = r#"{"parameters": {"work_mem": "8MB", "jit": null}}"#;
    assert_eq!(site.ask(Method::PATCH, "/config", patch).await.0, StatusCode::OK);
    assert_eq!(site.desk.ordered().len(), 1);
}

#[tokio::test]
async fn a_lease_that_is_too_short_for_the_elections_is_not_ordered() {
    let site = Site::new(&Bench::primary(), 1_001);
    let patch = r#"{"timing": {"lease_ms": 900}}"#;
    let (status, said) = site.ask(Method::PATCH, "/config", patch).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(said.to_string().contains("two rounds have to fit into a lease"), "{said}");
    assert_eq!(site.desk.ordered(), []);
}

#[tokio::test]
async fn settings_and_members_are_changed_by_orders_like_everything() {
    let site = Site::new(&Bench::primary(), 1_001);
    let (status, _) = site.ask(Method::PATCH, "/config", r#"{"mode": "async"}"#).await;
    assert_eq!(status, StatusCode::OK);
    site.ask(Method::PATCH, "/config", r#"{"pause": true}"#).await;
    let added = r#"{"node": "n4", "address": "10.0.0.4:7400", "postgres": "10.0.0.4:5432"}"#;
    assert_eq!(site.post("/members", added).await.0, StatusCode::OK);
    site.ask(Method::PATCH, "/members/n3", r#"{"no_failover": true}"#).await;
    site.ask(Method::DELETE, "/members/3", "").await;
    let mut ordered = site.desk.ordered().into_iter();
    let Some(Order::Configure(change)) = ordered.next() else { panic!("a change") };
    assert_eq!(change.mode, Some(Mode::Async));
    assert_eq!(ordered.next(), Some(Order::Pause));
    let Some(Order::AddMember { node, member }) = ordered.next() else { panic!("an admission") };
    assert_eq!((node, member.kind), (NodeId(4), MemberKind::Data));
    assert_eq!(member.priority, 100, "as a founding member has where nobody says anything");
    assert_eq!(member.incarnation, Incarnation(400), "the store that answered at that address");
    let tagged = Order::TagMember { node: NodeId(3), priority: 1, no_failover: true };
    assert_eq!(ordered.next(), Some(tagged));
    assert_eq!(ordered.next(), Some(Order::RemoveMember { node: NodeId(3) }));
    let (status, _) = site.ask(Method::PATCH, "/members/n9", "{}").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

fn order_from(caller: Option<Caller>, token: Option<&str>) -> Request<Body> {
    let mut request = Request::post("/switchover").body(Body::empty()).unwrap();
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
    }
    request
}

#[tokio::test]
async fn whoever_may_not_change_anything_may_still_look() {
    let bench = Bench::primary();
    let far = || Some(Caller::default());
    let near = || Some(Caller { loopback: true, ..Caller::default() });
    let open = Site::new(&bench, 1_001);
    assert_eq!(open.raw(order_from(far(), None)).await.0, StatusCode::FORBIDDEN);
    assert_eq!(open.raw(order_from(None, None)).await.0, StatusCode::FORBIDDEN);
    assert_eq!(open.raw(order_from(near(), None)).await.0, StatusCode::OK);

    let closed = Site::with(&bench, 1_001, Access::with_token("open sesame"));
    assert_eq!(closed.raw(order_from(near(), None)).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(closed.raw(order_from(near(), Some("open"))).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(closed.raw(order_from(far(), Some("open sesame"))).await.0, StatusCode::OK);
    assert_eq!(closed.code("/primary").await, 200);
    assert_eq!(closed.desk.ordered().len(), 1);
    for path in ["/failover", "/restart", "/reinitialize", "/reload", "/members"] {
        assert_eq!(closed.post(path, "").await.0, StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(closed.ask(Method::PATCH, "/config", "{}").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(closed.ask(Method::DELETE, "/members/n3", "").await.0, StatusCode::UNAUTHORIZED);
}
