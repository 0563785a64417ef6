//! The operator: gives orders to whichever member answers, and asks until it knows how they ended.

use std::collections::BTreeMap;
use std::time::Duration;

use pg_replica::control::{
    Applied, Command, Member, MemberKind, Order as ControlOrder, OrderOutcome, SettingsChange,
};
use pg_replica::ids::{CommandId, Incarnation, NodeId};
use pg_replica::runtime::wire::{Request, Response};

use crate::clock::{sleep, true_now};
use crate::invariants::OrderAnswer;
use crate::nemesis::Machines;
use crate::place::Place;
use crate::scenario::{Answer, Order, Target};
use crate::streams::lock;

use super::cluster::World;

/// How long one question may take.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// How long to wait before asking again.
const ASK_INTERVAL: Duration = Duration::from_millis(400);
/// How long an order is followed up.
const PATIENCE: Duration = Duration::from_secs(90);

/// What was asked for, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Orders {
    next: u64,
    next_member: usize,
    pending: u32,
    /// The names that the plan chose, and the first order of each.
    named: BTreeMap<CommandId, Order>,
    lines: Vec<String>,
    wrong: Vec<String>,
}

impl World {
    pub(super) fn orders_pending(&self) -> bool {
        lock(&self.orders).pending > 0
    }

    pub(super) fn order_lines(&self) -> Vec<String> {
        lock(&self.orders).lines.clone()
    }

    pub(super) fn wrong_answers(&self) -> Vec<String> {
        lock(&self.orders).wrong.clone()
    }

    /// Sends an order so many times under one name, and follows it up in tasks of their own.
    pub(super) fn give_order(&self, order: Order, answer: Answer, times: u32, name: Option<u32>) {
        let id = name.map_or_else(|| self.next_order(), named);
        // Who uses a name twice is told so, and what is told then is not about the first order.
        let first = name.is_none() || {
            let mut orders = lock(&self.orders);
            *orders.named.entry(id).or_insert_with(|| order.clone()) == order
        };
        for _ in 0..times.max(1) {
            let world = self.itself();
            let order = order.clone();
            lock(&self.orders).pending += 1;
            madsim::task::spawn(async move {
                let end = world.carry_out(id, &order, first).await;
                world.note_end(&order, answer, end);
            });
        }
    }

    /// The new machine is admitted, and then the old number is removed, whose place it takes.
    pub(super) fn replace_member(&self, old: NodeId, new: NodeId) {
        let world = self.itself();
        let keeps_data = self.oracle.newest().keeps_data(old);
        lock(&self.orders).pending += 1;
        madsim::task::spawn(async move {
            let add = Order::Add { node: new, witness: !keeps_data };
            let added = world.carry_out(world.next_order(), &add, true).await;
            world.note_line(&add, &added);
            let limit = true_now() + PATIENCE;
            let remove = Order::Remove { target: Target::Node(old) };
            while true_now() < limit {
                let end = world.carry_out(world.next_order(), &remove, true).await;
                world.note_line(&remove, &end);
                let gone = !world.oracle.newest().members.contains_key(&old);
                if gone || matches!(end, OrderAnswer::Known(OrderOutcome::Done(_))) {
                    break;
                }
                if let OrderAnswer::Known(end) = &end
                    && let Some(tag) = Order::instead_of_removal(new, end)
                {
                    let tagged = world.carry_out(world.next_order(), &tag, true).await;
                    world.note_line(&tag, &tagged);
                }
                sleep(ASK_INTERVAL * 5).await;
            }
            lock(&world.orders).pending -= 1;
        });
    }

    fn next_order(&self) -> CommandId {
        let mut orders = lock(&self.orders);
        orders.next += 1;
        CommandId(orders.next)
    }

    fn note_line(&self, order: &Order, end: &OrderAnswer) {
        let line = format!("{order:?}: {end:?}");
        self.note(line.clone());
        lock(&self.orders).lines.push(line);
    }

    fn note_end(&self, order: &Order, answer: Answer, end: OrderAnswer) {
        self.note_line(order, &end);
        let right = match answer {
            Answer::Any => true,
            Answer::Done => matches!(end, OrderAnswer::Known(OrderOutcome::Done(_))),
            Answer::Refused => matches!(end, OrderAnswer::Known(OrderOutcome::Refused(_))),
        };
        let mut orders = lock(&self.orders);
        orders.pending -= 1;
        if !right {
            orders.wrong.push(format!("{order:?} should end {answer:?}, and ended {end:?}"));
        }
    }

    async fn carry_out(&self, id: CommandId, order: &Order, first: bool) -> OrderAnswer {
        let Some(order) = self.translate(order).await else { return OrderAnswer::Unknown };
        if !first {
            return self.ask_until_known(id, order).await;
        }
        self.oracle.order_sent(id);
        let end = self.ask_until_known(id, order).await;
        self.oracle.order_answered(id, &end);
        end
    }

    /// I10: the same name is asked for again and again, and that does it once.
    async fn ask_until_known(&self, id: CommandId, order: ControlOrder) -> OrderAnswer {
        let limit = true_now() + PATIENCE;
        if self.wires.is_some() {
            while true_now() < limit {
                if let Some(answer) = self.order_through_pages(id, &order).await {
                    return answer;
                }
                sleep(ASK_INTERVAL).await;
            }
            return OrderAnswer::Unknown;
        }
        let command = Command::Operate { id, order };
        let mut last = OrderAnswer::Unknown;
        while true_now() < limit {
            match self.ask(Request::Propose(Box::new(command.clone()))).await {
                Some(Response::Proposed(Applied::Done)) => {
                    // Whether it is over or has only begun, the next answer tells.
                    last = OrderAnswer::Known(OrderOutcome::Pending);
                    continue;
                }
                Some(Response::Proposed(Applied::Refused(why))) => {
                    return OrderAnswer::Known(OrderOutcome::Refused(why));
                }
                Some(Response::Proposed(Applied::Repeated(OrderOutcome::Pending))) => {
                    last = OrderAnswer::Known(OrderOutcome::Pending);
                }
                Some(Response::Proposed(Applied::Repeated(outcome))) => {
                    return OrderAnswer::Known(outcome);
                }
                Some(_) | None => {}
            }
            sleep(ASK_INTERVAL).await;
        }
        last
    }

    /// Asks any member that runs.
    async fn ask(&self, request: Request<crate::rt::SimRt>) -> Option<Response<crate::rt::SimRt>> {
        let hosts = self.hosts_in_order();
        let to = *hosts.get(self.draw_for_operator(hosts.len()))?;
        self.exchange.operator_call(Place::Operator, to, request, ASK_DEADLINE).await.ok()
    }

    pub(super) fn draw_for_operator(&self, n: usize) -> usize {
        let mut orders = lock(&self.orders);
        // Round robin: draws of the product's making must not move the nemesis's stream.
        orders.next_member = orders.next_member.wrapping_add(1);
        orders.next_member % n.max(1)
    }

    /// What the product understands; a new machine is made, started and greeted on the way.
    async fn translate(&self, order: &Order) -> Option<ControlOrder> {
        // The nemesis has said who is meant. Whether that member exists, the product has to answer.
        let named = |target: &Target| {
            if let Target::Node(node) = target { Some(*node) } else { None }
        };
        let change = |change: SettingsChange| Some(ControlOrder::Configure(change));
        match order {
            Order::Switchover { to } => {
                Some(ControlOrder::Switchover { to: to.as_ref().and_then(named) })
            }
            Order::Failover { to, accept_data_loss } => Some(ControlOrder::Failover {
                to: to.as_ref().and_then(named),
                accept_data_loss: *accept_data_loss,
            }),
            Order::Pause => Some(ControlOrder::Pause),
            Order::Resume => Some(ControlOrder::Resume),
            Order::Add { node, witness } => self.admission(*node, *witness).await,
            Order::Remove { target } => Some(ControlOrder::RemoveMember { node: named(target)? }),
            Order::SetMode(mode) => {
                change(SettingsChange { mode: Some(*mode), ..SettingsChange::default() })
            }
            Order::SetLease(lease) => {
                let mut timing = self.oracle.newest().settings.timing.clone();
                timing.lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
                change(SettingsChange { timing: Some(timing), ..SettingsChange::default() })
            }
            Order::SetMaxLag(bytes) => {
                change(SettingsChange { max_lag_bytes: Some(*bytes), ..SettingsChange::default() })
            }
            Order::SetParameter(name, value) => {
                let parameters = [(name.clone(), Some(value.clone()))].into();
                change(SettingsChange { parameters, ..SettingsChange::default() })
            }
            Order::Tag { target, priority, no_failover } => Some(ControlOrder::TagMember {
                node: named(target)?,
                priority: *priority,
                no_failover: *no_failover,
            }),
        }
    }

    async fn admission(&self, node: NodeId, witness: bool) -> Option<ControlOrder> {
        if self.machine(node).is_none() {
            self.add_machine(node, BTreeMap::new());
            self.start_machine(node);
        }
        // Where the order goes through a member's pages, that member greets.
        let incarnation = match &self.wires {
            Some(_) => Incarnation::default(),
            None => self.greet(node).await?,
        };
        let kind = if witness { MemberKind::Witness } else { MemberKind::Data };
        let member = Member {
            kind,
            address: node.to_string(),
            postgres: format!("{node}-postgres"),
            incarnation,
            priority: 1,
            no_failover: false,
        };
        Some(ControlOrder::AddMember { node, member })
    }

    async fn greet(&self, node: NodeId) -> Option<Incarnation> {
        let limit = true_now() + PATIENCE;
        while true_now() < limit {
            let greeting =
                self.exchange.operator_call(Place::Operator, node, Request::Hello, ASK_DEADLINE);
            if let Ok(Response::Hello { incarnation, .. }) = greeting.await {
                return Some(incarnation);
            }
            sleep(ASK_INTERVAL).await;
        }
        None
    }
}

/// The name that a plan has chosen: far from those that are drawn.
fn named(name: u32) -> CommandId {
    CommandId(u64::from(name) << 32)
}
