//! Whom an event hit, in words and as a list of members, and when.

use std::collections::BTreeSet;
use std::time::Duration;

use pg_replica::ids::NodeId;

use crate::place::Place;
use crate::recording::{Recording, Strike};
use crate::scenario::{Fault, Plan, PostgresFlaw, Process, SocketFlaw};

/// How many cut directions are named one by one.
const WAYS_NAMED: usize = 6;

/// Whom it hit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Whom {
    /// Whose lanes show it: who is on the smaller side of a cut, and not everybody.
    pub(super) nodes: BTreeSet<NodeId>,
    /// For a reader.
    pub(super) text: String,
}

/// What one event of the plan did to some of the members. One that strikes them again and again, as
/// a crash loop does, is one hit.
pub(super) struct Hit {
    event: usize,
    /// What it is.
    pub(super) fault: Fault,
    /// When it began.
    pub(super) from: Duration,
    /// When it was over, where it was before the end and was not over at once.
    pub(super) healed: Option<Duration>,
    /// How often it struck.
    pub(super) times: usize,
    /// Whom it hit.
    pub(super) whom: Whom,
}

/// All hits of a run, in the order in which they began.
pub(super) fn hits(plan: &Plan, recording: &Recording) -> Vec<Hit> {
    let members: Vec<NodeId> = recording.members.keys().copied().collect();
    let clients = plan.workload.clients();
    let mut hits: Vec<Hit> = Vec::new();
    for strike in &recording.strikes {
        let Some(fault) = plan.events.get(strike.event).map(|event| event.fault.clone()) else {
            continue;
        };
        let whom = whom(strike, &fault, &members, clients);
        let (event, from, healed) = (strike.event, strike.at, strike.healed);
        match hits.iter_mut().find(|hit| hit.event == event && hit.whom == whom) {
            Some(hit) => (hit.healed, hit.times) = (healed, hit.times + 1),
            None => hits.push(Hit { event, fault, from, healed, times: 1, whom }),
        }
    }
    hits
}

/// Whether it is over at once.
pub(super) fn is_instant(fault: &Fault) -> bool {
    match fault {
        Fault::Order { .. } | Fault::ClockJump { .. } => true,
        Fault::Postgres { flaw, .. } => *flaw == PostgresFlaw::WalRecycled,
        Fault::Sockets { flaw, .. } => *flaw == SocketFlaw::HalfOpen,
        // Its manager starts it again.
        Fault::Crash { process, .. } => *process == Process::Postgres,
        Fault::Partition { .. }
        | Fault::Link { .. }
        | Fault::CrashLoop { .. }
        | Fault::Pause { .. }
        | Fault::PowerLoss { .. }
        | Fault::ReplaceMachine { .. }
        | Fault::ClockRate { .. }
        | Fault::Disk { .. } => false,
    }
}

/// Whom `strike` hit, in a run with these members and clients.
fn whom(strike: &Strike, fault: &Fault, members: &[NodeId], clients: u32) -> Whom {
    if strike.ways.is_empty() {
        let nodes: BTreeSet<NodeId> = strike.nodes.iter().copied().collect();
        return Whom { text: names(nodes.iter().copied().map(Place::Host)), nodes };
    }
    if matches!(fault, Fault::Partition { .. })
        && let Some(sides) = sides(strike, members, clients)
    {
        return sides;
    }
    let named = |place: &Place| if let Place::Host(node) = place { Some(*node) } else { None };
    let touches = |node: &NodeId| {
        let place = Place::Host(*node);
        strike.ways.iter().all(|(from, to)| *from == place || *to == place)
    };
    let central: BTreeSet<NodeId> = members.iter().copied().filter(touches).collect();
    let senders: BTreeSet<NodeId> =
        strike.ways.iter().filter_map(|(from, _)| named(from)).collect();
    let everybody = senders.len() == members.len();
    let text = if strike.ways.len() <= WAYS_NAMED {
        let ways = strike.ways.iter().map(|(from, to)| format!("{from} \u{2192} {to}"));
        ways.collect::<Vec<String>>().join(", ")
    } else if central.is_empty() && everybody {
        "everybody".into()
    } else {
        let who = if central.is_empty() { &senders } else { &central };
        names(who.iter().copied().map(Place::Host))
    };
    let nodes = match (central.is_empty(), everybody) {
        (false, _) => central,
        (true, false) => senders,
        (true, true) => BTreeSet::new(),
    };
    Whom { nodes, text }
}

/// The sides of a cut, where it has some: who is left on each when every link that is cut both ways
/// is taken away.
fn sides(strike: &Strike, members: &[NodeId], clients: u32) -> Option<Whom> {
    let ways: BTreeSet<(Place, Place)> = strike.ways.iter().copied().collect();
    let hosts = members.iter().copied().map(Place::Host);
    let everybody = hosts.chain((0..clients).map(Place::Client)).chain([Place::Operator]);
    let mut left: BTreeSet<Place> = everybody.collect();
    let mut sides: Vec<BTreeSet<Place>> = Vec::new();
    while let Some(first) = left.pop_first() {
        let mut side = BTreeSet::from([first]);
        let mut open = vec![first];
        while let Some(place) = open.pop() {
            // Clients talk to machines only, and so does the operator.
            let linked = |other: &Place| {
                let machine = matches!(place, Place::Host(_)) || matches!(other, Place::Host(_));
                machine && !(ways.contains(&(place, *other)) && ways.contains(&(*other, place)))
            };
            let reached: Vec<Place> = left.iter().copied().filter(linked).collect();
            for other in reached {
                left.remove(&other);
                side.insert(other);
                open.push(other);
            }
        }
        sides.push(side);
    }
    let machines = |side: &BTreeSet<Place>| {
        side.iter().filter(|place| matches!(place, Place::Host(_))).count()
    };
    sides.sort_by_key(|side| std::cmp::Reverse(machines(side)));
    if sides.iter().filter(|side| machines(side) > 0).count() < 2 {
        return None;
    }
    let cut_off = sides.iter().skip(1).flatten();
    let nodes = cut_off.filter_map(|place| match place {
        Place::Host(node) => Some(*node),
        Place::Client(_) | Place::Operator => None,
    });
    let text: Vec<String> = sides.iter().map(|side| names(side.iter().copied())).collect();
    Some(Whom { nodes: nodes.collect(), text: text.join(" | ") })
}

fn names(places: impl Iterator<Item = Place>) -> String {
    places.map(|place| place.to_string()).collect::<Vec<String>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Document, Ports, Shape, Target, read};

    const MEMBERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    fn strike(nodes: &[u64], ways: &[(Place, Place)]) -> Strike {
        let nodes = nodes.iter().copied().map(NodeId).collect();
        Strike { event: 0, at: Duration::ZERO, healed: None, nodes, ways: ways.to_vec() }
    }

    fn host(number: u64) -> Place {
        Place::Host(NodeId(number))
    }

    fn cut() -> Fault {
        Fault::Partition { shape: Shape::Halves, ports: Ports::All }
    }

    #[test]
    fn a_cut_has_sides_and_the_smaller_one_shows_it() {
        let mut ways = Vec::new();
        for inside in [host(3), Place::Client(0)] {
            for outside in [host(1), host(2), Place::Client(1), Place::Operator] {
                ways.extend([(inside, outside), (outside, inside)]);
            }
        }
        ways.extend([(Place::Client(1), host(3)), (host(3), Place::Client(1))]);
        let whom = whom(&strike(&[], &ways), &cut(), &MEMBERS, 2);
        assert_eq!(whom.nodes, BTreeSet::from([NodeId(3)]));
        assert_eq!(whom.text, "n1 n2 client1 operator | n3 client0");
    }

    #[test]
    fn a_one_way_cut_names_its_direction() {
        let whom = whom(&strike(&[], &[(host(1), host(2))]), &cut(), &MEMBERS, 0);
        assert_eq!(whom.nodes, BTreeSet::from([NodeId(1), NodeId(2)]));
        assert_eq!(whom.text, "n1 \u{2192} n2");
    }

    #[test]
    fn a_fault_of_machines_names_them() {
        let whom = whom(&strike(&[1, 2], &[]), &cut(), &MEMBERS, 0);
        assert_eq!((whom.text.as_str(), whom.nodes.len()), ("n1 n2", 2));
    }

    #[test]
    fn a_connection_that_is_forgotten_is_over_at_once_and_a_flood_is_not() {
        let fault = |flaw| Fault::Sockets { target: Target::Primary, flaw };
        assert!(is_instant(&fault(SocketFlaw::HalfOpen)));
        assert!(!is_instant(&fault(SocketFlaw::Flood)) && !is_instant(&cut()));
    }

    #[test]
    fn what_strikes_the_same_members_again_is_one_hit() {
        let text = "claim = \"c\"\nduration = \"9s\"\n[[event]]\nat = \"1s\"\n\
                    fault = \"crash-loop\"\nprocess = \"postgres\"\nperiod = \"1s\"\n\
                    target = \"node:2\"\nfor = \"3s\"\n";
        let Ok(Document::Plan(plan)) = read("test.toml", text) else { panic!("a scenario") };
        let at = |nodes: &[u64], from, until| Strike {
            at: Duration::from_secs(from),
            healed: Some(Duration::from_secs(until)),
            ..strike(nodes, &[])
        };
        let strikes = vec![at(&[2], 1, 2), at(&[3], 2, 3), at(&[2], 3, 4)];
        let hits = hits(&plan, &Recording { strikes, ..Recording::default() });
        let seen: Vec<_> = hits
            .iter()
            .map(|hit| (hit.whom.text.as_str(), hit.from, hit.healed, hit.times))
            .collect();
        let second = Duration::from_secs;
        assert_eq!(
            seen,
            [("n2", second(1), Some(second(4)), 2), ("n3", second(2), Some(second(3)), 1)]
        );
    }
}
