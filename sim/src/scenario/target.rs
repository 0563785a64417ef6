//! Whom a fault hits: names that are resolved when the fault happens, not when it is written.

use std::fmt;
use std::str::FromStr;

use pg_replica::ids::NodeId;

/// A name for some members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Whose Postgres acknowledges writes; failing that, whose did last.
    Primary,
    /// Where Raft leads.
    Leader,
    /// One standby, drawn.
    Standby,
    /// Every data member but the primary.
    Standbys,
    /// One standby, drawn from those whose confirmations count.
    SyncStandby,
    /// Who was primary before the present one.
    OldPrimary,
    /// One member, drawn.
    One,
    /// Fewer than half of the members, drawn.
    Minority,
    /// More than half of the members, the primary among them, drawn.
    MajorityWithPrimary,
    /// Everybody but the primary.
    Others,
    /// Every member.
    All,
    /// This one.
    Node(NodeId),
}

/// One side of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// The members, as far as no earlier side has them.
    pub members: Vec<Target>,
    /// How many of the clients that no earlier side has.
    pub clients: u32,
    /// Everybody and every client that no side names, and the operator.
    pub rest: bool,
}

/// Who is what at the moment, in the eyes of someone who sees everything.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    /// The members, in order.
    pub members: Vec<NodeId>,
    /// Those that keep data, in order.
    pub data: Vec<NodeId>,
    /// Whose Postgres acknowledges writes, or did last.
    pub primary: Option<NodeId>,
    /// Who did before that.
    pub old_primary: Option<NodeId>,
    /// Where Raft leads.
    pub leader: Option<NodeId>,
    /// Whose confirmations count.
    pub sync_standbys: Vec<NodeId>,
}

impl Target {
    /// Every name without a number.
    pub const NAMED: [Self; 11] = [
        Self::Primary,
        Self::Leader,
        Self::Standby,
        Self::Standbys,
        Self::SyncStandby,
        Self::OldPrimary,
        Self::One,
        Self::Minority,
        Self::MajorityWithPrimary,
        Self::Others,
        Self::All,
    ];

    /// The members that the name means now, in order. `draw(n)` yields a number below `n`.
    pub fn resolve(self, roles: &Roles, draw: &mut dyn FnMut(usize) -> usize) -> Vec<NodeId> {
        let others = |list: &[NodeId]| -> Vec<NodeId> {
            list.iter().copied().filter(|node| Some(*node) != roles.primary).collect()
        };
        let half = roles.members.len() / 2;
        match self {
            Self::Primary => roles.primary.into_iter().collect(),
            Self::Leader => roles.leader.into_iter().collect(),
            Self::OldPrimary => roles.old_primary.into_iter().collect(),
            Self::Standby => some_of(others(&roles.data), 1, draw),
            Self::SyncStandby => some_of(others(&roles.sync_standbys), 1, draw),
            Self::One => some_of(roles.members.clone(), 1, draw),
            Self::Minority => {
                let most = roles.members.len().saturating_sub(1) / 2;
                let count = if most == 0 { 0 } else { 1 + draw(most) };
                some_of(roles.members.clone(), count, draw)
            }
            Self::MajorityWithPrimary => {
                let mut chosen = some_of(others(&roles.members), half, draw);
                chosen.extend(roles.primary);
                chosen.sort();
                chosen
            }
            Self::Standbys => others(&roles.data),
            Self::Others => others(&roles.members),
            Self::All => roles.members.clone(),
            Self::Node(node) => vec![node],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Leader => "leader",
            Self::Standby => "standby",
            Self::Standbys => "standbys",
            Self::SyncStandby => "sync-standby",
            Self::OldPrimary => "old-primary",
            Self::One => "one",
            Self::Minority => "minority",
            Self::MajorityWithPrimary => "majority-with-primary",
            Self::Others => "others",
            Self::All => "all",
            Self::Node(_) => "node",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node:{}", node.0),
            Self::Primary
            | Self::Leader
            | Self::Standby
            | Self::Standbys
            | Self::SyncStandby
            | Self::OldPrimary
            | Self::One
            | Self::Minority
            | Self::MajorityWithPrimary
            | Self::Others
            | Self::All => f.write_str(self.name()),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(number) = text.strip_prefix("node:") {
            let number = number.parse().map_err(|_| format!("{number:?} is no member's number"))?;
            return Ok(Self::Node(NodeId(number)));
        }
        Self::NAMED.into_iter().find(|target| target.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::NAMED.iter().map(|target| target.name()).collect();
            format!("{text:?} is no target; there are {} and node:N", names.join(", "))
        })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.members.iter().map(ToString::to_string).collect();
        if self.clients > 0 {
            parts.push(format!("clients:{}", self.clients));
        }
        if self.rest {
            parts.push("others".into());
        }
        f.write_str(&parts.join(" + "))
    }
}

impl FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut side = Self { members: Vec::new(), clients: 0, rest: false };
        for part in text.split('+').map(str::trim) {
            if part == "others" {
                side.rest = true;
            } else if let Some(number) = part.strip_prefix("clients:") {
                side.clients = number.parse().map_err(|_| format!("{number:?} is no number"))?;
            } else {
                side.members.push(part.parse()?);
            }
        }
        Ok(side)
    }
}

/// `count` of `list`, drawn, in order.
fn some_of(
    mut list: Vec<NodeId>,
    count: usize,
    draw: &mut dyn FnMut(usize) -> usize,
) -> Vec<NodeId> {
    while list.len() > count {
        let index = draw(list.len());
        list.remove(index);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(count: u64) -> Roles {
        let members: Vec<NodeId> = (1..=count).map(NodeId).collect();
        Roles { data: members.clone(), members, primary: Some(NodeId(2)), ..Roles::default() }
    }

    #[test]
    fn every_name_is_read_as_it_is_written() {
        for target in Target::NAMED.into_iter().chain([Target::Node(NodeId(4))]) {
            assert_eq!(target.to_string().parse(), Ok(target));
        }
        let side: Side = "primary + node:3 + clients:2".parse().expect("a side");
        assert_eq!(side.to_string(), "primary + node:3 + clients:2");
        assert!("nobody".parse::<Target>().is_err());
    }

    #[test]
    fn a_majority_with_the_primary_is_one_and_a_minority_is_none() {
        for count in [3, 5, 7] {
            for turn in 0..20 {
                let mut draw = |n: usize| turn % n;
                let major = Target::MajorityWithPrimary.resolve(&roles(count), &mut draw);
                assert!(major.len() * 2 > count as usize && major.contains(&NodeId(2)));
                let minor = Target::Minority.resolve(&roles(count), &mut draw);
                assert!(!minor.is_empty() && minor.len() * 2 < count as usize);
            }
        }
    }
}
