//! The world of processes: the simulator's scenarios, with nothing in them simulated.
//!
//! Real `node` programs, real PostgreSQL, real clients; each member has a network namespace of its
//! own. The scenarios, the clients, the nemesis and the oracle are the simulator's: this crate is
//! another world under them, and decides nothing about right and wrong but how much later a real
//! machine may be (`slack`).
//!
//! Reading order: `lab` (namespaces, the switch between them, and who takes them away), `subject`
//! (the cluster under test), `impossible` (what no single kernel can do), `world` (a run, from the
//! founding to the judgement), `slack`, `runs`, `race` (the same faults for another kind of
//! cluster) and `cli`.
#![allow(clippy::disallowed_methods, reason = "it runs on the machine's own time and tasks")]

pub mod cli;
pub mod impossible;
pub mod lab;
pub mod needs;
pub mod race;
pub mod runs;
pub mod slack;
pub mod subject;
pub mod world;
