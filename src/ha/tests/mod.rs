//! Decision tables: what the core asks for, given what it knows.

mod agent;
mod coordinator;
mod election;
mod fixtures;
mod sync;
