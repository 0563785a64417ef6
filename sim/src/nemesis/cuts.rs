//! Who is cut from whom: shapes as pairs of places.

use pg_replica::ids::NodeId;

use crate::fabric::Port;
use crate::place::Place;
use crate::scenario::{Links, Ports, Shape, Side, Target};

use super::Machines;

/// Directions, each from one place to another.
type Ways = Vec<(Place, Place)>;

/// What one event draws on.
pub(super) struct Dice<'a> {
    /// Resolves a target to the machines that exist.
    pub(super) resolve: &'a dyn Fn(Target) -> Vec<NodeId>,
    /// A number below this one.
    pub(super) draw: &'a dyn Fn(usize) -> usize,
}

/// The port of a cut; `None` is both.
pub(super) fn port(ports: Ports) -> Option<Port> {
    match ports {
        Ports::All => None,
        Ports::Node => Some(Port::Node),
        Ports::Postgres => Some(Port::Postgres),
    }
}

/// The directions that a shape cuts.
pub(super) fn of(shape: &Shape, dice: &Dice<'_>, machines: &impl Machines) -> Ways {
    let resolve = dice.resolve;
    match shape {
        Shape::Halves => {
            let hosts = shuffled(machines.hosts(), dice);
            let clients = shuffled(machines.clients(), dice);
            let (left, right) = hosts.split_at(hosts.len() / 2);
            let (with_left, with_right) = clients.split_at(clients.len() / 2);
            apart(&[places(left, with_left), with_operator(places(right, with_right))])
        }
        Shape::Minority => around(&resolve(Target::Minority), None, dice, machines),
        Shape::Isolate { target, clients } => {
            around(&resolve(*target), Some(*clients), dice, machines)
        }
        Shape::MajoritiesRing => ring(&shuffled(machines.hosts(), dice)),
        Shape::OneWay { from, to } => pairs(&resolve(*from), &resolve(*to)),
        Shape::PeersOnly { target } => {
            let inside = resolve(*target);
            let mut outside = machines.hosts();
            outside.retain(|node| !inside.contains(node));
            let mut ways = pairs(&inside, &outside);
            ways.extend(pairs(&outside, &inside));
            ways
        }
        Shape::Sides(sides) => apart(&groups(sides, dice, machines)),
    }
}

/// The directions whose links a flaw concerns.
pub(super) fn links(links: Links, dice: &Dice<'_>, machines: &impl Machines) -> Ways {
    let resolve = dice.resolve;
    let everywhere = with_operator(places(&machines.hosts(), &machines.clients()));
    let all = everywhere
        .iter()
        .flat_map(|from| everywhere.iter().map(move |to| (*from, *to)))
        .filter(|(from, to)| from != to);
    match links {
        Links::All => all.collect(),
        Links::Of(target) => {
            let ends = places(&resolve(target), &[]);
            all.filter(|(from, to)| ends.contains(from) || ends.contains(to)).collect()
        }
        Links::OneWay { from, to } => pairs(&resolve(from), &resolve(to)),
    }
}

/// These machines and so many clients against the rest; `None` takes a fair share of the clients.
fn around(
    inside: &[NodeId],
    clients: Option<u32>,
    dice: &Dice<'_>,
    machines: &impl Machines,
) -> Ways {
    let hosts = machines.hosts();
    if inside.is_empty() || inside.len() == hosts.len() {
        return Vec::new();
    }
    let mut outside_clients = shuffled(machines.clients(), dice);
    let fair = outside_clients.len() * inside.len() / hosts.len();
    let count = clients.map_or(fair, |count| count as usize).min(outside_clients.len());
    let inside_clients: Vec<u32> = outside_clients.drain(..count).collect();
    let outside: Vec<NodeId> = hosts.into_iter().filter(|node| !inside.contains(node)).collect();
    let outer = with_operator(places(&outside, &outside_clients));
    apart(&[places(inside, &inside_clients), outer])
}

/// Sides as they are written: who is named earlier is not taken again.
fn groups(sides: &[Side], dice: &Dice<'_>, machines: &impl Machines) -> Vec<Vec<Place>> {
    let mut free_hosts = machines.hosts();
    let mut free_clients = machines.clients();
    let mut groups = Vec::new();
    for side in sides {
        let mut group = Vec::new();
        for node in side.members.iter().flat_map(|target| (dice.resolve)(*target)) {
            if let Some(index) = free_hosts.iter().position(|free| *free == node) {
                free_hosts.remove(index);
                group.push(Place::Host(node));
            }
        }
        let count = (side.clients as usize).min(free_clients.len());
        group.extend(free_clients.drain(..count).map(Place::Client));
        groups.push(group);
    }
    // Who is on no side stays in touch with everybody, except where a side takes the others.
    if let Some(index) = sides.iter().position(|side| side.rest) {
        groups[index].extend(with_operator(places(&free_hosts, &free_clients)));
    }
    groups
}

/// Every member sees a majority, itself included, and no two see the same one. With three members
/// that is a chain.
fn ring(hosts: &[NodeId]) -> Ways {
    let count = hosts.len();
    let reach = (count / 2).div_ceil(2);
    let mut ways = Vec::new();
    for (index, from) in hosts.iter().enumerate() {
        for (other, to) in hosts.iter().enumerate() {
            let apart = index.abs_diff(other).min(count - index.abs_diff(other));
            let chain_end = count <= 2 * reach + 1 && index.abs_diff(other) + 1 == count;
            if index != other && (apart > reach || chain_end) {
                ways.push((Place::Host(*from), Place::Host(*to)));
            }
        }
    }
    ways
}

fn apart(groups: &[Vec<Place>]) -> Ways {
    let mut ways = Vec::new();
    for (index, left) in groups.iter().enumerate() {
        for right in &groups[index + 1..] {
            for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b))) {
                ways.push((a, b));
                ways.push((b, a));
            }
        }
    }
    ways
}

fn pairs(from: &[NodeId], to: &[NodeId]) -> Ways {
    from.iter()
        .flat_map(|a| to.iter().map(move |b| (Place::Host(*a), Place::Host(*b))))
        .filter(|(a, b)| a != b)
        .collect()
}

fn places(hosts: &[NodeId], clients: &[u32]) -> Vec<Place> {
    let hosts = hosts.iter().copied().map(Place::Host);
    hosts.chain(clients.iter().copied().map(Place::Client)).collect()
}

fn with_operator(mut group: Vec<Place>) -> Vec<Place> {
    group.push(Place::Operator);
    group
}

fn shuffled<T>(mut list: Vec<T>, dice: &Dice<'_>) -> Vec<T> {
    for end in (1..list.len()).rev() {
        list.swap(end, (dice.draw)(end + 1));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_ring_of_majorities_everybody_sees_a_different_majority() {
        for count in [3_u64, 5, 7] {
            let hosts: Vec<NodeId> = (1..=count).map(NodeId).collect();
            let ways = ring(&hosts);
            assert!(!ways.is_empty());
            for node in &hosts {
                let cut = ways.iter().filter(|(from, _)| *from == Place::Host(*node)).count();
                assert!((hosts.len() - cut) * 2 > hosts.len(), "{node} of {count} sees a majority");
            }
        }
    }
}
