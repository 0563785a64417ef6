//! The model of a PostgreSQL server.
//!
//! It behaves as the real one does where the cluster's safety can tell the difference, and keeps
//! no more than that. The log is a list of records, each of which may commit one row.
//!
//! **A commit** appends its record, waits for the disk, waits until enough standbys of the
//! configuration confirmed it under a name of the configuration's epoch, passes the commit fence
//! where one is loaded, and is then answered. Until the wait ends no reader sees the row. A crash,
//! a restart and a promotion make everything visible that is in the log, confirmed or not.
//!
//! **Streaming** is push: a primary ships what is on its own disk as soon as it is there. A standby
//! attaches with its timeline's number and the end of its log, and the upstream compares these
//! with its own history as Postgres does: by number and switch point. Two timelines of the same
//! number that different primacies created look the same to it; telling them apart is the
//! manager's part, and what the epoch in each birth is for.
//!
//! **A process** is one task (`process`) in front of a directory (`durable`). Commands of the
//! manager, clients and other servers reach it through its inbox; a frozen machine reads none.
//! Killing it keeps what is on disk and some of what the operating system had; a power loss keeps
//! the former only.
//!
//! Reading order: `durable`, `state`, `process`, `commit`, `walsender`, `receiver`, `wire` and
//! `session` (connections), `verbs`, `introduction` and `tools` (what the manager does), `server`
//! (what the world does and sees).

mod commit;
mod control;
mod durable;
mod introduction;
mod process;
mod receiver;
mod server;
mod session;
mod state;
mod tools;
mod verbs;
mod walsender;
mod wire;

pub use durable::{CutPromotion, Directory, Fork, Record, SetAside};
pub use server::{FOREIGN, FOREIGN_ROW, Server, ServerConfig};
pub use session::{Broken, ConnectError, Seen, Session, WriteOutcome};
pub use verbs::SimPostgres;
pub use wire::Registry;
