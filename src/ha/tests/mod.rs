//! Decision tables: what the core asks for, given what it knows.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test picks the one arm it is about")]
#![allow(clippy::type_complexity, reason = "a script is a literal table")]

mod agent;
mod coordinator;
mod election;
mod fixtures;
mod liveness;
mod membership;
mod sync;
