//! The certificates of simulated members: files, and so made outside of every run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pg_replica::ids::NodeId;
use pg_replica::os::authority::{Wanted, provide};

use crate::sockets::{CLUSTER, MEMBERS_MAX};

/// The folder of the authority that all simulated clusters share. It is made once, by the product,
/// and kept. It must be there before a run begins: inside of one there is nothing but the run.
pub(crate) fn authority() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| made().expect("certificates can be made in the target folder"))
}

fn made() -> io::Result<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let (folder, own) = (
        target.join("sim-authority"),
        target.join(format!("sim-authority-{}", std::process::id())),
    );
    if !folder.join("ca.crt").exists() {
        let wanted = Wanted {
            cluster: CLUSTER.into(),
            nodes: (1..=MEMBERS_MAX).map(NodeId).collect(),
            hosts: Vec::new(),
            folder: own.clone(),
        };
        provide(&wanted).map_err(io::Error::other)?;
        // Whole or not at all, also where two processes do this at a time.
        if fs::rename(&own, &folder).is_err() {
            fs::remove_dir_all(&own)?;
        }
    }
    Ok(folder)
}
