//! The operator: gives orders to whichever member answers, and asks until it knows how
//! they ended.

use std::sync::Arc;
use std::time::Duration;

use pg_replica::control::OrderOutcome;
use pg_replica::env::{Clock, Entropy};
use pg_replica::ids::{CommandId, NodeId};
use pg_replica::os::{OsClock, OsEntropy};
use sim::invariants::OrderAnswer;
use sim::nemesis::Machines;
use sim::scenario::{Answer, Order, Target};
use sim::streams::lock;
use tokio::time::sleep;

use super::World;
use super::tale::Asked;

/// How long to wait before asking again.
const ASK_INTERVAL: Duration = Duration::from_millis(400);
/// How long an order is followed up.
const PATIENCE: Duration = Duration::from_secs(60);

impl World {
    pub(super) fn orders_pending(&self) -> bool {
        *lock(&self.orders_pending) > 0
    }

    /// Sends an order so many times under one name, and follows it up in tasks of their own.
    pub(super) fn give_order(
        self: Arc<Self>,
        order: Order,
        answer: Answer,
        times: u32,
        name: Option<u32>,
    ) {
        let id = match name {
            None => fresh(),
            Some(name) => *lock(&self.order_names).entry(name).or_insert_with(fresh),
        };
        // Who uses a name twice is told so, and what is told then is not about the first order.
        let first = name.is_none() || {
            let mut named = lock(&self.orders_named);
            *named.entry(id).or_insert_with(|| order.clone()) == order
        };
        self.prepare(&order);
        for _ in 0..times.max(1) {
            *lock(&self.orders_pending) += 1;
            let (world, order) = (self.clone(), order.clone());
            drop(self.lab.outside.spawn(async move {
                let end = world.carry_out(id, &order, first).await;
                world.note_end(&order, answer, &end);
                *lock(&world.orders_pending) -= 1;
            }));
        }
    }

    /// The new machine is admitted, and then the old number is removed, whose place it takes.
    pub(super) fn replace_member(self: Arc<Self>, old: NodeId, new: NodeId) {
        if old == new {
            let back = self.with_machine(old, |_| Some(()));
            debug_assert!(back.is_none(), "a machine that was destroyed is gone");
            if let Some(machine) = lock(&self.machines).get_mut(&old) {
                machine.destroyed = false;
            }
            return self.come_back(old);
        }
        let add = Order::Add { node: new, witness: !self.plan.cluster.keeps_data(old) };
        self.prepare(&add);
        *lock(&self.orders_pending) += 1;
        let world = self.clone();
        drop(self.lab.outside.spawn(async move {
            let limit = world.now() + PATIENCE;
            // Whoever is asked may reach nobody who could order it.
            while world.now() < limit && !world.members().contains_key(&new) {
                let added = world.carry_out(fresh(), &add, true).await;
                world.note_end(&add, Answer::Any, &added);
                if matches!(added, OrderAnswer::Known(OrderOutcome::Done(_))) {
                    break;
                }
                sleep(ASK_INTERVAL * 5).await;
            }
            let limit = world.now() + PATIENCE;
            let remove = Order::Remove { target: Target::Node(old) };
            while world.now() < limit {
                let end = world.carry_out(fresh(), &remove, true).await;
                world.note_end(&remove, Answer::Any, &end);
                let gone = !world.members().contains_key(&old);
                if gone || matches!(end, OrderAnswer::Known(OrderOutcome::Done(_))) {
                    break;
                }
                if let OrderAnswer::Known(end) = &end
                    && let Some(tag) = Order::instead_of_removal(new, end)
                {
                    let tagged = world.carry_out(fresh(), &tag, true).await;
                    world.note_end(&tag, Answer::Any, &tagged);
                }
                sleep(ASK_INTERVAL * 5).await;
            }
            *lock(&world.orders_pending) -= 1;
        }));
    }

    fn note_end(&self, order: &Order, answer: Answer, end: &OrderAnswer) {
        self.remark(format!("{order:?}: {end:?}"));
        lock(&self.order_lines).push(format!("{order:?}: {end:?}"));
        let right = match answer {
            Answer::Any => true,
            Answer::Done => matches!(end, OrderAnswer::Known(OrderOutcome::Done(_))),
            Answer::Refused => matches!(end, OrderAnswer::Known(OrderOutcome::Refused(_))),
        };
        if !right {
            self.failed("expect", format!("{order:?} should end {answer:?}, and ended {end:?}"));
        }
    }

    /// A machine that is to be admitted is there first.
    fn prepare(&self, order: &Order) {
        if let Order::Add { node, .. } = order
            && let Err(error) = self.add_machine(*node, true)
        {
            self.trouble(&format!("{node} cannot be made: {error}"));
        }
    }

    async fn carry_out(&self, id: CommandId, order: &Order, first: bool) -> OrderAnswer {
        if !first {
            return self.ask_until_known(id, order).await;
        }
        let at = self.now();
        lock(&self.tale).asked.push(Asked { id, at, answers: Vec::new() });
        let end = self.ask_until_known(id, order).await;
        let now = self.now();
        let mut tale = lock(&self.tale);
        if let Some(asked) = tale.asked.iter_mut().find(|asked| asked.id == id && asked.at == at) {
            asked.answers.push((now, end.clone()));
        }
        end
    }

    /// I10: the same name is asked for again and again, and that does it once.
    async fn ask_until_known(&self, id: CommandId, order: &Order) -> OrderAnswer {
        let limit = self.now() + PATIENCE;
        let mut last = OrderAnswer::Unknown;
        for turn in 0.. {
            if self.now() >= limit {
                break;
            }
            let hosts = self.hosts();
            let Some(to) = hosts.get(turn % hosts.len().max(1)) else { break };
            match self.subject.give(*to, id, order).await {
                None | Some(OrderOutcome::Pending) => {}
                Some(unknown @ OrderOutcome::Unknown(_)) => last = OrderAnswer::Known(unknown),
                Some(end @ (OrderOutcome::Done(_) | OrderOutcome::Refused(_))) => {
                    return OrderAnswer::Known(end);
                }
            }
            sleep(ASK_INTERVAL).await;
        }
        last
    }
}

fn fresh() -> CommandId {
    CommandId::fresh(OsClock.wall_ms(), OsEntropy.next_u64())
}
