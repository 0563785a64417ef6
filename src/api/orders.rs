//! Requests that change something: read strictly, given as an order, answered with how it ended.

use std::collections::BTreeMap;

use axum::body::{Body, to_bytes};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::control::{ControlState, Member, MemberKind, Order};
use crate::ha::Chore;
use crate::ids::{CommandId, Incarnation, NodeId};

use super::answer::{Refusal, with_json};
use super::operator::{Desk, OrderEnd};
use super::picture::Sources;
use super::settings;

/// The largest body that is read: settings with a few hundred parameters.
const BODY_MAX: usize = 64 << 10;

/// A body that is a JSON object, or nothing, which is an empty one.
pub(super) async fn object(body: Body) -> Result<Map<String, Value>, Refusal> {
    let bytes = to_bytes(body, BODY_MAX).await.map_err(|_| {
        let why = format!("the body is longer than {BODY_MAX} bytes, or broke off");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, why)
    })?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Refusal::bad("the body is JSON, and no object")),
        Err(why) => Err(Refusal::bad(format!("the body is no JSON: {why}"))),
    }
}

/// A member's name as people write it: `n2`, or its number alone.
pub(super) fn node(text: &str) -> Option<NodeId> {
    text.strip_prefix('n').unwrap_or(text).parse().ok().map(NodeId)
}

/// The fields of a body, each taken once; what is left over was not understood.
struct Fields(Map<String, Value>);

impl Fields {
    fn node(&mut self, key: &str) -> Result<Option<NodeId>, Refusal> {
        let named = match self.0.remove(key) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Number(number)) => number.as_u64().map(NodeId),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => node(&text),
            Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => None,
        };
        let why = || Refusal::bad(format!("{key} is the name of a member, such as \"n2\""));
        named.map(Some).ok_or_else(why)
    }

    fn flag(&mut self, key: &str) -> Result<Option<bool>, Refusal> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(Refusal::bad(format!("{key} is true or false"))),
        }
    }

    fn number(&mut self, key: &str) -> Result<Option<u64>, Refusal> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(Refusal::bad(format!("{key} is a whole number, not {value}"))),
            },
        }
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, Refusal> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(Refusal::bad(format!("{key} is a text, and not an empty one"))),
        }
    }

    /// The order's name, where the caller chose one so as to be able to ask again.
    fn id(&mut self, desk: &dyn Desk) -> Result<CommandId, Refusal> {
        Ok(self.number("id")?.map_or_else(|| desk.new_id(), CommandId))
    }

    fn end(self) -> Result<(), Refusal> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((key, _)) if key == "scheduled_at" => Err(Refusal::new(
                StatusCode::NOT_IMPLEMENTED,
                "scheduled_at: nothing can be scheduled in this version; ask when it is time",
            )),
            Some((key, _)) => Err(Refusal::bad(format!("{key} is not understood here"))),
        }
    }
}

/// `POST /switchover`: Patroni's `leader` and `candidate`; `to` says the same as `candidate`.
pub(super) async fn switchover(sources: &Sources, body: Body) -> Result<Response, Refusal> {
    let mut fields = Fields(object(body).await?);
    let id = fields.id(&*sources.desk)?;
    let leader = fields.node("leader")?;
    let to = fields.node("to")?.or(fields.node("candidate")?);
    fields.end()?;
    let control = sources.board.snapshot().control.clone();
    if let Some(leader) = leader
        && control.primacy.holder != Some(leader)
    {
        let why = match control.primacy.holder {
            Some(holder) => format!("{holder} holds primacy, not {leader}"),
            None => format!("nobody holds primacy, and {leader} does not either"),
        };
        return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, why));
    }
    give(sources, id, Order::Switchover { to }).await
}

/// `POST /failover`: Patroni's `candidate`, or `to`; and whether a loss is accepted.
pub(super) async fn failover(sources: &Sources, body: Body) -> Result<Response, Refusal> {
    let mut fields = Fields(object(body).await?);
    let id = fields.id(&*sources.desk)?;
    let to = fields.node("to")?.or(fields.node("candidate")?);
    let accept_data_loss = fields.flag("accept_data_loss")?.unwrap_or_default();
    fields.end()?;
    if to.is_none() {
        return Err(Refusal::bad("a failover names its candidate: {\"candidate\": \"n2\"}"));
    }
    give(sources, id, Order::Failover { to, accept_data_loss }).await
}

/// `POST /restart`, `/reload` and `/reinitialize`: of the member that is asked, or of `node`.
pub(super) async fn chore(
    sources: &Sources,
    chore: Chore,
    body: Body,
) -> Result<Response, Refusal> {
    let mut fields = Fields(object(body).await?);
    let node = fields.node("node")?.unwrap_or(sources.board.snapshot().node);
    // It is not agreed on, so the name is of no use; nor is Patroni's word for haste.
    let _ = (fields.id(&*sources.desk)?, fields.flag("force")?);
    fields.end()?;
    match sources.desk.chore(node, chore).await {
        OrderEnd::Done(what) => Ok(with_json(StatusCode::OK, &json!({ "message": what }))),
        OrderEnd::Refused(why) => Err(Refusal::new(StatusCode::CONFLICT, why)),
        OrderEnd::Unknown(why) => Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, why)),
    }
}

/// `PATCH /config`.
pub(super) async fn configure(sources: &Sources, body: Body) -> Result<Response, Refusal> {
    let mut fields = Fields(object(body).await?);
    let id = fields.id(&*sources.desk)?;
    let present = sources.board.snapshot().control.settings.clone();
    let order = settings::order(&fields.0, &present).map_err(Refusal::bad)?;
    if let Order::Configure(change) = &order {
        sources.desk.vet(change.clone()).await.map_err(Refusal::bad)?;
    }
    give(sources, id, order).await
}

/// `POST /members`: admits a machine that runs already.
pub(super) async fn add_member(sources: &Sources, body: Body) -> Result<Response, Refusal> {
    let mut fields = Fields(object(body).await?);
    let id = fields.id(&*sources.desk)?;
    let missing = |key: &str| Refusal::bad(format!("{key} is missing"));
    let node = fields.node("node")?.ok_or_else(|| missing("node"))?;
    let address = fields.text("address")?.ok_or_else(|| missing("address"))?;
    let witness = fields.flag("witness")?.unwrap_or_default();
    let postgres = fields.text("postgres")?;
    let priority = priority(&mut fields)?.unwrap_or(Member::USUAL_PRIORITY);
    let no_failover = fields.flag("no_failover")?.unwrap_or_default();
    fields.end()?;
    let kind = if witness { MemberKind::Witness } else { MemberKind::Data };
    let postgres = match (postgres, kind) {
        (Some(postgres), _) => postgres,
        (None, MemberKind::Witness) => String::new(),
        (None, MemberKind::Data) => return Err(missing("postgres")),
    };
    if node == NodeId::default() {
        return Err(Refusal::bad("members are numbered from 1"));
    }
    let incarnation = sources.desk.greet(node, address.clone()).await.map_err(|why| {
        Refusal::new(StatusCode::BAD_GATEWAY, format!("{node} cannot be admitted: {why}"))
    })?;
    if incarnation == Incarnation::default() {
        let why = format!("{node} has no store yet; try again when it runs");
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, why));
    }
    let member = Member { kind, address, postgres, incarnation, priority, no_failover };
    give(sources, id, Order::AddMember { node, member }).await
}

/// `DELETE /members/<node>`: for ever.
pub(super) async fn remove_member(
    sources: &Sources,
    name: &str,
    body: Body,
) -> Result<Response, Refusal> {
    let mut fields = Fields(object(body).await?);
    let id = fields.id(&*sources.desk)?;
    fields.end()?;
    let node = named(name)?;
    give(sources, id, Order::RemoveMember { node }).await
}

/// `PATCH /members/<node>`: the tags.
pub(super) async fn tag_member(
    sources: &Sources,
    name: &str,
    body: Body,
) -> Result<Response, Refusal> {
    let mut fields = Fields(object(body).await?);
    let id = fields.id(&*sources.desk)?;
    let node = named(name)?;
    let priority = priority(&mut fields)?;
    let no_failover = fields.flag("no_failover")?;
    fields.end()?;
    let control: std::sync::Arc<ControlState> = sources.board.snapshot().control.clone();
    let Some(member) = control.members.get(&node) else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, format!("{node} is no member")));
    };
    let priority = priority.unwrap_or(member.priority);
    let no_failover = no_failover.unwrap_or(member.no_failover);
    give(sources, id, Order::TagMember { node, priority, no_failover }).await
}

fn named(name: &str) -> Result<NodeId, Refusal> {
    node(name).ok_or_else(|| Refusal::bad(format!("{name:?} is no member's name, such as n2")))
}

fn priority(fields: &mut Fields) -> Result<Option<u32>, Refusal> {
    let Some(number) = fields.number("priority")? else { return Ok(None) };
    let why = |_| Refusal::bad("priority is a small whole number");
    u32::try_from(number).map(Some).map_err(why)
}

/// Gives the order, and answers with how it ended.
async fn give(sources: &Sources, id: CommandId, order: Order) -> Result<Response, Refusal> {
    let end = sources.desk.carry_out(id, order).await;
    let refused = |status, why| Refusal { status, why, id: Some(id.0) };
    match end {
        OrderEnd::Done(text) => {
            let mut said: BTreeMap<&str, Value> = BTreeMap::new();
            said.insert("id", id.0.into());
            said.insert("outcome", "done".into());
            said.insert("message", text.into());
            Ok(with_json(StatusCode::OK, &json!(said)))
        }
        OrderEnd::Refused(why) => Err(refused(StatusCode::CONFLICT, why)),
        OrderEnd::Unknown(why) => Err(refused(StatusCode::GATEWAY_TIMEOUT, why)),
    }
}
