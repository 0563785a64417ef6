//! The switch: a bridge in a namespace of its own, and rules on it that drop what is cut.
//!
//! Every cut is made here, between the machines and not on them: one transaction of nftables says
//! who is out of touch with whom, so that a partition of any shape begins and ends at one instant.
//! The machines notice nothing but silence, as with a cable.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use sim::fabric::LinkFault;
use sim::streams::lock;

use super::cable::{Cable, Cables, Faults};
use super::space::Space;
use super::{Way, run, succeeded};

/// The ports of what managers say to each other, and operators to them.
const NODE_PORTS: &str = "{ 7400, 8008 }";
/// The port of the servers.
const POSTGRES_PORTS: &str = "{ 5432 }";

/// The rules that never change. Each direction has its own; what belongs to a connection goes both
/// ways, so the port may be on either end.
const TABLE: &str = "
table bridge lab {
    set silent { type ipv4_addr; }
    set cut_all { type ipv4_addr . ipv4_addr; }
    set cut_node { type ipv4_addr . ipv4_addr; }
    set cut_postgres { type ipv4_addr . ipv4_addr; }
    chain lossy { }
    chain between {
        type filter hook forward priority 0; policy accept;
        ip saddr @silent drop
        ip daddr @silent drop
        ip saddr . ip daddr @cut_all drop
        ip saddr . ip daddr @cut_node tcp dport NODE drop
        ip saddr . ip daddr @cut_node tcp sport NODE drop
        ip saddr . ip daddr @cut_postgres tcp dport POSTGRES drop
        ip saddr . ip daddr @cut_postgres tcp sport POSTGRES drop
        jump lossy
    }
}
";

/// What does not get through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Machines that hear nobody and are heard by nobody.
    pub silent: BTreeSet<Ipv4Addr>,
    /// Directions on which nothing passes.
    pub all: BTreeSet<Way>,
    /// Directions on which the managers' and operators' words do not pass.
    pub node: BTreeSet<Way>,
    /// Directions on which replication and clients do not pass.
    pub postgres: BTreeSet<Way>,
    /// Directions that lose packets.
    pub lossy: BTreeSet<Loss>,
}

/// A direction that loses packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Loss {
    /// The direction.
    pub way: Way,
    /// How many of a thousand.
    pub per_mille: u32,
}

/// The switch of a laboratory.
#[derive(Debug)]
pub struct Switch {
    space: String,
    /// What is wrong with each direction, where this program carries the cables.
    carried: Option<Faults>,
    cables: Mutex<Vec<Cable>>,
}

impl Switch {
    /// A switch, and what kind of cables machines get.
    pub(super) fn build(space: String, cables: Cables) -> io::Result<Self> {
        run("ip", &["netns", "add", &space])?;
        run("ip", &["-n", &space, "link", "add", "name", "hub", "type", "bridge"])?;
        run("ip", &["-n", &space, "link", "set", "hub", "up"])?;
        let carried = (cables == Cables::Carried).then(Faults::default);
        let switch = Self { space, carried, cables: Mutex::default() };
        switch.say(&TABLE.replace("NODE", NODE_PORTS).replace("POSTGRES", POSTGRES_PORTS))?;
        Ok(switch)
    }

    /// A new namespace with these addresses, on the switch; `port` is what the switch calls it.
    pub(super) fn plug(
        &self,
        space: &str,
        port: &str,
        addresses: &[Ipv4Addr],
    ) -> io::Result<Space> {
        let switch = self.space.as_str();
        run("ip", &["netns", "add", space])?;
        if let Some(faults) = &self.carried {
            let cable = Cable::lay((space, "eth0"), (switch, port), faults.clone())?;
            lock(&self.cables).push(cable);
        } else {
            let cable =
                ["-n", switch, "link", "add", "name", port, "type", "veth", "peer", "name", "eth0"];
            run("ip", &[&cable[..], &["netns", space]].concat())?;
        }
        run("ip", &["-n", switch, "link", "set", port, "master", "hub", "up"])?;
        run("ip", &["-n", space, "link", "set", "lo", "up"])?;
        for address in addresses {
            let address = format!("{address}/16");
            run("ip", &["-n", space, "address", "add", &address, "dev", "eth0"])?;
        }
        run("ip", &["-n", space, "link", "set", "eth0", "up"])?;
        Space::enter(space)
    }

    /// From now on this, besides loss, is wrong with a direction; by default nothing.
    pub fn disturb(&self, way: Way, fault: LinkFault) {
        if let Some(faults) = &self.carried {
            lock(faults).insert(way, fault);
        }
    }

    /// Nothing is wrong with any direction.
    pub fn calm(&self) {
        if let Some(faults) = &self.carried {
            lock(faults).clear();
        }
    }

    /// Takes away the cables that are carried by this program.
    pub(super) fn unplug(&self) {
        lock(&self.cables).clear();
    }

    /// From now on exactly this is cut.
    pub fn cut(&self, cut: &Cut) -> io::Result<()> {
        let mut rules = String::from("flush chain bridge lab lossy\n");
        let silent: Vec<String> = cut.silent.iter().map(ToString::to_string).collect();
        put(&mut rules, "silent", &silent);
        for (set, ways) in
            [("cut_all", &cut.all), ("cut_node", &cut.node), ("cut_postgres", &cut.postgres)]
        {
            let ways: Vec<String> =
                ways.iter().map(|(from, to)| format!("{from} . {to}")).collect();
            put(&mut rules, set, &ways);
        }
        for Loss { way: (from, to), per_mille } in &cut.lossy {
            let _ = writeln!(
                rules,
                "add rule bridge lab lossy ip saddr {from} ip daddr {to} \
                 numgen random mod 1000 < {per_mille} drop"
            );
        }
        self.say(&rules)
    }

    /// All of it at once, or nothing.
    fn say(&self, rules: &str) -> io::Result<()> {
        let arguments = ["netns", "exec", &self.space, "nft", "-f", "-"];
        let mut nft = Command::new("ip")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut input) = nft.stdin.take() {
            input.write_all(rules.as_bytes())?;
        }
        succeeded("ip", &arguments, nft.wait_with_output())
    }
}

fn put(rules: &mut String, set: &str, elements: &[String]) {
    let _ = writeln!(rules, "flush set bridge lab {set}");
    if !elements.is_empty() {
        let _ = writeln!(rules, "add element bridge lab {set} {{ {} }}", elements.join(", "));
    }
}
