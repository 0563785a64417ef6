//! The pure core: the protocol, and nothing else.
//!
//! No IO, no waiting, no clock, no failure and no consensus library in here: [`Core::step`] takes
//! one [`Event`] and appends the [`Action`]s that follow from it. Failures arrive as events. What
//! is written here is what the simulator attacks and what production runs.
//!
//! # Two vocabularies
//!
//! *Leader*, *follower* and *term* are Raft's: the control plane, which carries small decisions.
//! *Primary*, *standby* and *timeline* are Postgres's: the data plane, which moves the bytes. What
//! joins them is **primacy**: the right to be primary, `{epoch, holder}` in the replicated control
//! state. There is at most one holder per epoch, and epochs grow by one per decision.
//!
//! # Two machines
//!
//! The **agent** (`agent`, `desire`, `fencing`) runs on every member and answers: what must my
//! Postgres be, and may it still write? The **coordinator** (`coordinator`, `election`, `sync`,
//! `membership`) runs where Raft leads and answers: who should hold primacy, and whose
//! confirmations count? They share the control state and the [`Report`]s, nothing else, so each can
//! be read alone.
//!
//! # The protocol in ten sentences
//!
//! 1. The holder notes an instant, asks the leader to renew its lease, and may write until that
//!    instant plus the lease (`lease`, L1); the leader grants only after a quorum has confirmed,
//!    since the request arrived, that it leads, and while the applied control state names this
//!    holder (L2).
//! 2. A lease counts only once the guard, a separate process, is armed with its end; manager, guard
//!    and commit fence (where the server has one) each end or silence Postgres before the lease is
//!    over, the manager first (`fencing`, I5).
//! 3. A failover needs two signals, a silent holder and standbys that do not hear its Postgres, and
//!    begins with `Vacate`: renewals are refused from there on (`coordinator`).
//! 4. Every member that applies it detaches its receiver *first* and reports where its log ends
//!    *afterwards* (`desire::in_vacancy`, `look::note_detachment`), so that no position moves after
//!    it was counted.
//! 5. `Elect` follows when the former holder is certainly harmless: it was seen to end; or, L5, so
//!    many standbys of every recorded synchronous configuration have detached that it cannot gather
//!    its confirmations any more; or, L4, its lease is over by a clock that may be off by the
//!    stated rate.
//! 6. The most advanced of those that answered is chosen, by the epoch in which its timeline was
//!    born, then by what is on its disk (`election`, I3, I4).
//! 7. The new holder gets a lease of its own, puts the epoch's synchronous configuration in force
//!    and promotes; the history that results is recorded (`Born`) before anybody follows it (I2).
//! 8. Clients are let in when enough standbys have confirmed what the promotion or the recovery
//!    left behind, so that nobody reads a row that the next failover would take back.
//! 9. A change of the synchronous configuration is joint: both sets count for an election until the
//!    new one is proven to hold everything (`sync`). An election is such a change, too: the
//!    configurations of earlier epochs stay on record until the new epoch's standbys have its
//!    history.
//! 10. Whoever comes back compares its history with the recorded one, by birth and not by number,
//!     and follows, rewinds, or is copied anew; what only it had is set aside, never destroyed
//!     (`rejoin`, I7).
//!
//! # The invariants
//!
//! **I1** single writer · **I2** one holder per epoch · **I3** durability in quorum-sync · **I4**
//! bounded loss in async · **I5** self-fencing · **I6** membership · **I7** nothing destroyed ·
//! **I8** Raft · **I9** liveness · **I10** every order is done once, refused, or reported as
//! unknown.
//!
//! `docs/safety.md` states them in full, with the proof, and leads from each number to its check in
//! the simulator, to the scenarios that would fail without it, and to the sabotage that it catches.
//!
//! # Caveats
//!
//! In quorum-sync no clock is needed for safety. In async the lease is what keeps two primaries
//! apart, so clocks may differ by the stated rate only, and a host that freezes needs the commit
//! fence. A client that turns synchronous commit off for itself has chosen what it gets.

mod action;
mod agent;
mod chores;
mod coordinator;
mod desire;
mod election;
mod event;
mod fencing;
mod lease;
mod look;
mod membership;
mod patience;
mod rejoin;
mod report;
mod role;
mod state;
mod step;
mod sync;
#[cfg(test)]
mod tests;
mod timers;

pub use action::{Action, Divergence, Verb};
pub use event::{
    Ask, Chore, Event, Finished, HeartbeatAnswer, NEAR_ENTRIES_MAX, RaftView, RequestId,
};
pub use lease::Lease;
pub use report::{ReceiverReport, Report};
pub use role::Role;
pub use state::Core;
