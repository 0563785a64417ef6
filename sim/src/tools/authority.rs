//! The certificates of simulated members: files, and so made outside of every run.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use pg_replica::ids::NodeId;
use pg_replica::os::authority::{Wanted, provide};

use super::trouble;
use crate::report::WorldKind;
use crate::scenario::BadInput;
use crate::sockets::{CLUSTER, MEMBERS_MAX};

/// Whether runs of this world will find their certificates; if not, what keeps them from it.
pub(super) fn ready(world: WorldKind) -> Result<(), BadInput> {
    match world {
        WorldKind::Messages => Ok(()),
        WorldKind::Sockets => made_once().as_ref().map(|_| ()).map_err(trouble),
    }
}

/// The folder of the authority that all simulated clusters share.
pub(crate) fn authority() -> &'static Path {
    match made_once() {
        Ok(folder) => folder,
        Err(why) => panic!("{why}"),
    }
}

/// It is made once, by the product, and kept. It must be there before a run begins, and whoever
/// makes it does so on a thread of its own: inside of a run, and on its thread, there is nothing
/// but the run.
fn made_once() -> &'static Result<PathBuf, String> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let made = thread::scope(|scope| scope.spawn(made).join());
        made.expect("whoever makes certificates does not panic")
    })
}

fn made() -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let made = made_in(&target, MEMBERS_MAX).and_then(|folder| {
        // What another account made may be there without being legible.
        let names = (1..=MEMBERS_MAX).map(|member| format!("n{member}"));
        for name in names.chain(["operator".to_owned()]) {
            File::open(folder.join(format!("{name}.key")))?;
        }
        Ok(folder)
    });
    made.map_err(|error| {
        let folder = folder_for(&target, MEMBERS_MAX);
        format!(
            "{} cannot be used for the certificates of simulated members: {error}: run it as \
             whoever owns it, or remove it",
            folder.display()
        )
    })
}

fn folder_for(target: &Path, members: u64) -> PathBuf {
    target.join(format!("sim-authority-{members}"))
}

/// The folder for so many members. One that was made for another number is left to those who know
/// it, another commit perhaps.
fn made_in(target: &Path, members: u64) -> io::Result<PathBuf> {
    let folder = folder_for(target, members);
    // The last that is asked for: where it is, all are.
    let last = folder.join(format!("n{members}.crt"));
    if last.exists() {
        return Ok(folder);
    }
    let own = target.join(format!("sim-authority-{members}.{}", std::process::id()));
    let wanted = Wanted {
        cluster: CLUSTER.into(),
        nodes: (1..=members).map(NodeId).collect(),
        hosts: Vec::new(),
        folder: own.clone(),
    };
    provide(&wanted).map_err(io::Error::other)?;
    // Whole or not at all, also where two processes do this at a time.
    if fs::rename(&own, &folder).is_err() {
        if last.exists() {
            fs::remove_dir_all(&own)?;
        } else {
            fs::remove_dir_all(&folder)?;
            fs::rename(&own, &folder)?;
        }
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_that_lacks_its_last_member_is_made_anew_and_a_whole_one_is_kept() {
        let target = std::env::temp_dir().join(format!("sim-authority-{}", std::process::id()));
        let _ = fs::remove_dir_all(&target);
        let read = |folder: &Path| fs::read(folder.join("ca.crt")).expect("an authority");
        let two = made_in(&target, 2).expect("a folder");
        let first = read(&two);
        assert_eq!(read(&made_in(&target, 2).expect("a folder")), first);
        // With a member more there is a whole authority, and the old one is left as it is.
        let three = made_in(&target, 3).expect("a folder");
        assert!(three.join("n3.key").exists() && read(&two) == first && read(&three) != first);
        fs::remove_file(two.join("n2.crt")).expect("it was there");
        assert!(read(&made_in(&target, 2).expect("a folder")) != first);
        assert!(two.join("n2.crt").exists());
        fs::remove_dir_all(&target).expect("it was there");
    }
}
