//! What is said to a node over HTTP: questions for its page, and orders.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::Method;
use pg_replica::api::{NOTHING_ORDERED, Status};
use pg_replica::control::{Mode, OrderOutcome};
use pg_replica::ids::{CommandId, NodeId};
use pg_replica::os::http::HttpRequest;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sim::scenario::{Order, Target};

use super::NodeCluster;
use crate::subject::View;

/// How long a page may take.
const PAGE_WITHIN: Duration = Duration::from_millis(500);
/// How long one question may take: a node follows an order up for nearly a minute.
const ASK_DEADLINE: Duration = Duration::from_secs(20);

/// An order as a request.
struct Letter {
    method: Method,
    path: String,
    body: Value,
}

/// A member's page.
pub(super) async fn view(node: NodeId) -> Option<View> {
    let page: Status = page(node, "/status").await?;
    let primary = page.members.iter().find(|member| member.primary);
    let members = page.members.iter();
    Some(View {
        epoch: page.epoch,
        blind: page.blind.is_some(),
        primary: primary.and_then(|member| node_named(&member.node)),
        leader: page.leader.as_deref().and_then(node_named).map(|leader| (page.term, leader)),
        members: members
            .filter_map(|member| Some((node_named(&member.node)?, !member.postgres.is_empty())))
            .collect(),
        paused: page.paused,
        // Its first primary writes nothing before that.
        in_step: true,
    })
}

/// The parameters in the settings that a member has applied.
pub(super) async fn parameters(node: NodeId) -> Option<BTreeMap<String, String>> {
    let page: Value = page(node, "/config").await?;
    serde_json::from_value(page["postgresql"]["parameters"].clone()).ok()
}

async fn page<T: DeserializeOwned>(node: NodeId, path: &str) -> Option<T> {
    let request = HttpRequest { method: Method::GET, path, token: None, body: Vec::new() };
    let answer = request.send(&NodeCluster::api(node), None, PAGE_WITHIN).await.ok()?;
    serde_json::from_slice(&answer.body).ok()
}

/// Gives a member an order.
pub(super) async fn give(
    to: NodeId,
    id: CommandId,
    order: &Order,
    token: &str,
) -> Option<OrderOutcome> {
    let Letter { method, path, mut body } = letter(order);
    body["id"] = id.0.into();
    let body = body.to_string().into_bytes();
    let request = HttpRequest { method, path: &path, token: Some(token), body };
    let answer = request.send(&NodeCluster::api(to), None, ASK_DEADLINE).await.ok()?;
    let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
    match answer.status {
        200 => Some(OrderOutcome::Done(text("message"))),
        // A machine that is to be admitted may still be starting.
        502 | 503 => Some(OrderOutcome::Pending),
        504 => Some(OrderOutcome::Unknown(text("error"))),
        // Nobody took it, so it may be given to somebody else.
        409 if text("error").starts_with(NOTHING_ORDERED) => None,
        400 | 404 | 409 | 412 => Some(OrderOutcome::Refused(text("error"))),
        _ => None,
    }
}

/// What the API understands. The nemesis has said who is meant.
fn letter(order: &Order) -> Letter {
    let named = |target: &Option<Target>| target.as_ref().map(name_of);
    let post = |path: &str, body| Letter { method: Method::POST, path: path.into(), body };
    let change = |body| Letter { method: Method::PATCH, path: "/config".into(), body };
    match order {
        Order::Switchover { to } => post("/switchover", json!({ "to": named(to) })),
        Order::Failover { to, accept_data_loss } => {
            post("/failover", json!({ "to": named(to), "accept_data_loss": accept_data_loss }))
        }
        Order::Pause => change(json!({ "pause": true })),
        Order::Resume => change(json!({ "pause": false })),
        Order::SetMode(Mode::Async) => change(json!({ "mode": "async" })),
        Order::SetMode(Mode::QuorumSync) => change(json!({ "mode": "quorum-sync" })),
        Order::SetLease(lease) => {
            change(json!({ "timing": { "lease_ms": lease.as_millis() as u64 } }))
        }
        Order::SetMaxLag(bytes) => change(json!({ "max_lag_bytes": bytes })),
        Order::SetParameter(name, value) => change(json!({ "parameters": { name: value } })),
        Order::Add { node, witness } => {
            let (address, postgres) = NodeCluster::listens(*node);
            let mut body = json!({ "node": node.to_string(), "address": address });
            body["witness"] = (*witness).into();
            if !witness {
                body["postgres"] = postgres.into();
            }
            post("/members", body)
        }
        Order::Remove { target } => Letter {
            method: Method::DELETE,
            path: format!("/members/{}", name_of(target)),
            body: json!({}),
        },
        Order::Tag { target, priority, no_failover } => Letter {
            method: Method::PATCH,
            path: format!("/members/{}", name_of(target)),
            body: json!({ "priority": priority, "no_failover": no_failover }),
        },
    }
}

fn name_of(target: &Target) -> String {
    if let Target::Node(node) = target { node.to_string() } else { target.to_string() }
}

fn node_named(name: &str) -> Option<NodeId> {
    name.strip_prefix('n')?.parse().ok().map(NodeId)
}
