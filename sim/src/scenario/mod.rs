//! What is to happen: scenarios, plans and the random budgets that plans are drawn from.
//!
//! A *scenario* is a file of timed events that opens with the claim which it proves. A *profile*
//! is a file with a `[swarm]`: a random budget of faults. Both become a [`Plan`], in which nothing
//! is left open but what the seed decides, and a plan is written out as a scenario again: that is
//! what the corpus, replays and reviews work on. `docs/scenarios.md` is the reference for users.
//!
//! Reading is strict. What is not known, not used or not possible is an error with a line and a
//! column, because a fault that silently does nothing proves nothing.

mod fault;
mod guarantee;
mod plan;
mod read;
mod read_event;
mod swarm;
mod target;
mod text;
mod vary;
mod write;

use pg_replica::sabotage::Saboteur;

pub use fault::{
    Answer, DiskFlaw, Fault, LinkFlaw, Links, Order, Ports, PostgresFlaw, Process, Shape,
    SocketFlaw,
};
pub use guarantee::unpromised;
pub use plan::{
    Bounds, Cluster, EndPrimary, Expect, FORMAT, Overlap, Plan, PlanEvent, Workload, fnv1a,
};
pub use read::{Document, read, read_file};
pub use swarm::Profile;
pub use target::{Roles, Side, Target};
pub use text::{BadInput, parse_duration, write_duration};
pub use write::mode_name;

/// A saboteur's name in files and on the command line: `guard-never-fires`.
#[must_use]
pub fn saboteur_name(saboteur: Saboteur) -> String {
    let mut name = String::new();
    for letter in format!("{saboteur:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// A saboteur by its name.
pub fn saboteur_named(name: &str) -> Result<Saboteur, String> {
    Saboteur::ALL.iter().copied().find(|saboteur| saboteur_name(*saboteur) == name).ok_or_else(
        || {
            let names: Vec<String> = Saboteur::ALL.iter().copied().map(saboteur_name).collect();
            format!("{name:?} is no saboteur; there are {}", names.join(", "))
        },
    )
}
