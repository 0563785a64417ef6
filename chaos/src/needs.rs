//! What this world needs of a machine, and a sentence for whatever is missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use pg_replica::os::postgres::Installation;
use rustix::process::geteuid;
use sim::scenario::Plan;

use crate::lab::{self, Cables, Disks};

/// Everything that is missing, one sentence each; empty where nothing is.
#[must_use]
pub fn missing(program: &Path) -> Vec<String> {
    let mut missing = Vec::new();
    if !geteuid().is_root() {
        missing.push("only root can make network namespaces: run it as root".to_owned());
    }
    for (tool, package) in [("ip", "iproute2"), ("nft", "nftables")] {
        if !runs(tool, "-V") {
            missing.push(format!("`{tool}` is not installed: apt-get install {package}"));
        }
    }
    if missing.is_empty()
        && let Err(error) = lab::attempt()
    {
        missing.push(format!(
            "this machine gives no network namespaces with a bridge and nftables between them \
             ({error}): load the modules `bridge`, `veth` and `nf_tables`, or run it outside of \
             the container"
        ));
    }
    if let Err(error) = Installation::find(None, None) {
        missing.push(format!("{error} (ci/install does)"));
    }
    if !program.is_file() {
        missing.push(format!(
            "{} is not there: cargo build --release --bin node, or name the program with --node",
            program.display()
        ));
    }
    missing
}

/// Why this machine cannot break disks.
static DISKS: LazyLock<Option<String>> = LazyLock::new(|| {
    lab::attempt_disks().err().map(|error| {
        format!(
            "this machine mounts no files, which scenarios need that fill or stall a disk \
             ({error}): apt-get install e2fsprogs, or run it outside of the container"
        )
    })
});

/// Why it cannot delay packets.
static CABLES: LazyLock<Option<String>> = LazyLock::new(|| {
    lab::attempt_cables().err().map(|error| {
        format!(
            "this machine gives no `tap` interfaces, which scenarios need that delay packets \
             ({error}): load the module `tun`, or run it outside of the container"
        )
    })
});

/// What is missing for some scenarios alone, where nothing is that all of them need.
#[must_use]
pub fn missing_for_some() -> Vec<String> {
    [&DISKS, &CABLES].into_iter().filter_map(|missing| (**missing).clone()).collect()
}

/// What is missing besides for this plan.
#[must_use]
pub fn missing_for_plan(plan: &Plan) -> Option<String> {
    let disks = Disks::are_for(plan).then(|| DISKS.clone()).flatten();
    let carried = Cables::of(plan) == Cables::Carried;
    disks.or_else(|| carried.then(|| CABLES.clone()).flatten())
}

/// Where `ci/install-patroni` puts Patroni. The servers' account has to get there.
pub const PATRONI: &str = "/var/tmp/pg_replica-patroni/bin/patroni";

/// What is missing besides for clusters of Patroni's.
#[must_use]
pub fn missing_for_patroni(program: &Path) -> Vec<String> {
    let mut missing = Vec::new();
    if !runs("etcd", "--version") {
        missing.push("`etcd` is not installed: ci/install-patroni does".to_owned());
    }
    if !program.is_file() {
        missing.push(format!(
            "{} is not there: ci/install-patroni installs Patroni, or name the program with \
             --patroni",
            program.display()
        ));
    }
    missing
}

/// The program of a node beside this one.
#[must_use]
pub fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("chaos"));
    own.with_file_name("node")
}

fn runs(tool: &str, argument: &str) -> bool {
    let mut command = Command::new(tool);
    let quiet = command.arg(argument).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
