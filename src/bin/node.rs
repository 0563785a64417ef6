//! The node's command line, as far as this version has one.
//!
//! The protocol, the control state and the simulator are here; the environment that manages a real
//! Postgres is not. So this program says what it does and what it does not do, and pretends
//! nothing.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A PostgreSQL cluster with exactly one writable primary: the node that runs on every member.
#[derive(Parser)]
#[command(name = "node", version, after_help = STATUS)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Print the version, and the formats of what members keep and send.
    Version,
}

/// What a stranger has to know before anything else.
const STATUS: &str = "\
This version holds the heart of pg_replica: the decisions (src/ha), the replicated control
state, the consensus on disk, and a simulator that attacks all of it.
It does not manage a real Postgres yet: it opens no port, starts no server, touches no data.

See a cluster survive a partition, in simulation:
    cargo run -p sim -- run scenarios/quorum-partitioned-primary.toml --trace
Run its tests:
    cargo test --features sim";

fn main() -> ExitCode {
    match Cli::parse().verb {
        Some(Verb::Version) => {
            println!("pg_replica {}", env!("CARGO_PKG_VERSION"));
            println!("control state format {}", pg_replica::control::FORMAT);
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("There is nothing for `node` to run yet.\n\n{STATUS}");
            ExitCode::from(2)
        }
    }
}
