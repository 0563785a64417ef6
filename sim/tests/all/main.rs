//! The tests of the simulator, in one program: each of many would bring all of the house along.

#![allow(clippy::unwrap_used, reason = "a test says by panicking that it cannot go on")]

mod bad_input;
mod client_truth;
mod determinism;
mod house;
mod kernel_clock;
mod kernel_disk;
mod kernel_fabric;
mod kernel_host;
mod kernel_raft;
mod kernel_runtime;
mod mutants;
mod output;
mod postgres_commit;
mod postgres_replication;
mod postgres_support;
mod scenario_files;
mod scenario_reading;
mod sockets;
mod watch_workload;
mod world_smoke;
