//! Who asks for the members' pages: a load balancer that looks for the primary, and the operator.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pg_replica::api::NOTHING_ORDERED;
use pg_replica::control::{MemberKind, Order, OrderOutcome};
use pg_replica::ids::{CommandId, NodeId};
use pg_replica::os::http::{HttpAnswer, HttpError, HttpRequest};
use serde_json::{Value, json};

use crate::clock::{sleep, true_now};
use crate::invariants::OrderAnswer;
use crate::place::Place;
use crate::scenario::{Fault, Plan};
use crate::sockets::{Service, address};
use crate::streams::lock;
use crate::trace::Kind;

use super::cluster::World;
use super::whole;

/// How often every member is asked whether it is the primary.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// How long the answer may take.
const CHECK_DEADLINE: Duration = Duration::from_secs(1);
/// How long an order may take: longer than a member follows it up.
const ORDER_DEADLINE: Duration = Duration::from_secs(55);

/// What the balancer was last told by each member: the status of `/primary`, if any.
pub(super) type Told = BTreeMap<NodeId, Option<u16>>;

impl World {
    /// The load balancer. It asks in clear text, as balancers do.
    pub(super) async fn balance(self: Arc<Self>) {
        loop {
            for node in self.hosts_in_order() {
                let world = self.clone();
                drop(madsim::task::spawn(async move { world.check(node).await }));
            }
            sleep(CHECK_EVERY).await;
        }
    }

    async fn check(&self, node: NodeId) {
        let asked = true_now();
        let request = request("GET", "/primary", None);
        let told = self.ask_page(node, request, false, CHECK_DEADLINE).await;
        let status = told.ok().map(|answer| answer.status);
        let before = lock(&self.told).insert(node, status);
        if before != Some(status) {
            let said = status.map_or("nothing".to_owned(), |status| status.to_string());
            let text = format_args!("/primary answers {said}");
            lock(&self.trace).push(true_now(), Some(node), Kind::Event, text);
        }
        if status == Some(200) {
            self.judge_the_check(node, asked);
        }
    }

    /// 200 is a promise: at some instant since the question the member had a lease.
    fn judge_the_check(&self, node: NodeId, asked: Duration) {
        let end = self.oracle.lease_end(node);
        if end.is_none_or(|end| end < asked) && clocks_are_true(&self.plan) {
            let ago = end.map(|end| asked.saturating_sub(end).as_millis());
            let lease =
                ago.map_or("there never was one".into(), |ms| format!("it ended {ms} ms ago"));
            let what = format!("{node} answers 200 at /primary without a lease: {lease}");
            self.expectation_failed("health", what);
        }
    }

    /// Once everybody has recovered, the balancer finds the primary and nobody else.
    pub(super) fn judge_the_balancer(&self, primary: NodeId) {
        let told = lock(&self.told).clone();
        for node in self.hosts_in_order() {
            let found = told.get(&node).copied().flatten() == Some(200);
            if found != (node == primary) {
                let said = told.get(&node).copied().flatten();
                let what = format!(
                    "{primary} is primary in the end, and {node} tells the balancer {said:?}"
                );
                self.expectation_failed("health", what);
            }
        }
    }

    /// Gives an order through a member's HTTP interface. `None` is asked again.
    pub(super) async fn order_through_pages(
        &self,
        id: CommandId,
        order: &Order,
    ) -> Option<OrderAnswer> {
        let hosts = self.hosts_in_order();
        let to = *hosts.get(self.draw_for_operator(hosts.len()))?;
        let (method, path, mut body) = as_request(order);
        body["id"] = id.0.into();
        let request = request(method, &path, Some(&body));
        let answer = self.ask_page(to, request, true, ORDER_DEADLINE).await.ok()?;
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
        let known = |outcome| Some(OrderAnswer::Known(outcome));
        match answer.status {
            200 => known(OrderOutcome::Done(text("message"))),
            // Nobody took it, so it may be given to somebody else; and what is not known may be
            // asked for again.
            409 if text("error").starts_with(NOTHING_ORDERED) => None,
            400 | 404 | 409 | 412 => known(OrderOutcome::Refused(text("error"))),
            _ => None,
        }
    }

    async fn ask_page(
        &self,
        node: NodeId,
        request: HttpRequest<'_>,
        as_operator: bool,
        deadline: Duration,
    ) -> Result<HttpAnswer, HttpError> {
        let wires = self.wires.as_ref().expect("pages are asked for in the sockets world alone");
        let tls = as_operator.then(whole::operators_way);
        let address = address(node, Service::Pages);
        request.send_over(&wires.at(Place::Operator), &address, tls.as_ref(), deadline).await
    }
}

/// Whether what a machine's clock says can be compared with what the world says.
fn clocks_are_true(plan: &Plan) -> bool {
    plan.events.iter().all(|event| match &event.fault {
        Fault::ClockRate { .. } => false,
        Fault::Pause { with_clock, .. } => !with_clock,
        Fault::Partition { .. }
        | Fault::Link { .. }
        | Fault::Crash { .. }
        | Fault::CrashLoop { .. }
        | Fault::PowerLoss { .. }
        | Fault::ReplaceMachine { .. }
        | Fault::ClockJump { .. }
        | Fault::Disk { .. }
        | Fault::Postgres { .. }
        | Fault::Sockets { .. }
        | Fault::Order { .. } => true,
    })
}

fn request<'a>(method: &str, path: &'a str, body: Option<&Value>) -> HttpRequest<'a> {
    HttpRequest {
        method: method.parse().expect("a method of HTTP"),
        path,
        token: None,
        body: body.map_or_else(Vec::new, |body| body.to_string().into_bytes()),
    }
}

/// An order as the HTTP interface takes it.
fn as_request(order: &Order) -> (&'static str, String, Value) {
    let name = |node: NodeId| format!("n{}", node.0);
    match order {
        Order::Switchover { to } => ("POST", "/switchover".into(), json!({ "to": to.map(name) })),
        Order::Failover { to, accept_data_loss } => (
            "POST",
            "/failover".into(),
            json!({ "to": to.map(name), "accept_data_loss": accept_data_loss }),
        ),
        Order::Pause => ("PATCH", "/config".into(), json!({ "pause": true })),
        Order::Resume => ("PATCH", "/config".into(), json!({ "pause": false })),
        Order::Configure(change) => {
            let mut patch = json!({});
            if let Some(version) = change.expected_version {
                patch["expected_version"] = version.into();
            }
            if let Some(mode) = change.mode {
                patch["mode"] = json!(mode);
            }
            if let Some(timing) = &change.timing {
                patch["timing"] = json!(timing);
            }
            if let Some(bytes) = change.max_lag_bytes {
                patch["max_lag_bytes"] = bytes.into();
            }
            if !change.parameters.is_empty() {
                patch["parameters"] = json!(change.parameters);
            }
            ("PATCH", "/config".into(), patch)
        }
        Order::AddMember { node, member } => (
            "POST",
            "/members".into(),
            json!({
                "node": name(*node),
                "address": member.address,
                "postgres": member.postgres,
                "witness": member.kind == MemberKind::Witness,
                "priority": member.priority,
                "no_failover": member.no_failover,
            }),
        ),
        Order::RemoveMember { node } => ("DELETE", format!("/members/{}", name(*node)), json!({})),
        Order::TagMember { node, priority, no_failover } => (
            "PATCH",
            format!("/members/{}", name(*node)),
            json!({ "priority": priority, "no_failover": no_failover }),
        ),
    }
}
