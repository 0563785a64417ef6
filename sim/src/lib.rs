//! The deterministic simulator: worlds, faults, an oracle, and invariants that can fail.
//!
//! Reading order: `place` and `streams` (who is where, which random stream serves what), `rt`,
//! `clock`, `fabric`, `transport`, `disk`, `guard` (the environment that the node runs in),
//! `sockets` (TCP in its place, under the product's own transport),
//! `postgres` (the model of the server), `host` (a machine of the three), `workload` and `witness`
//! (clients, and what is seen of them from above), `invariants` (I1 to I10), `scenario` (what is to
//! happen), `nemesis` (makes it happen), `report` (what came of it), `world` (all of it together).
//! Then what is made of runs: `seen` (what a member is at an instant), `coverage` (how many states
//! of a cluster there were), `recording` and `timeline` (a run as one page), `shrink` (a smaller
//! plan that fails alike), `tools` (the command line's verbs).

#[cfg(not(madsim))]
compile_error!(
    "the simulator needs `--cfg madsim`, which .cargo/config.toml sets: a RUSTFLAGS variable in \
     the environment replaces that list, so unset it or add `--cfg madsim --cfg tokio_unstable`"
);

pub mod clock;
pub mod coverage;
pub mod disk;
pub mod fabric;
pub mod guard;
pub mod host;
pub mod invariants;
pub mod nemesis;
pub mod place;
pub mod postgres;
pub mod recording;
pub mod report;
pub mod rt;
pub mod scenario;
pub mod seen;
pub mod shrink;
pub mod since;
pub mod sockets;
pub mod sometimes;
pub mod streams;
pub mod timeline;
pub mod tools;
pub mod trace;
pub mod transport;
pub mod witness;
pub mod workload;
pub mod world;
