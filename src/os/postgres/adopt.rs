//! Taking over a database that somebody else made: what has to be so before the node may start it,
//! and what it needs there. Done twice it changes nothing more.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::ids::{SystemId, Timeline};

use super::births::{Births, write_whole};
use super::directory::{check_startable, control_file, make_roles, remove, sync_tree};
use super::plan::PostgresPlan;
use super::server::is_running;
use super::settings::{FILE, Wanted, write};

/// Where Debian keeps the configuration of its clusters, by version and name.
const DEBIAN: &str = "/etc/postgresql";
/// Parameters that say where files of one machine are. In a copy of the directory, on another
/// machine, they would be wrong; the server finds these files without them.
const PLACES: [&str; 4] = ["data_directory", "hba_file", "ident_file", "external_pid_file"];

/// A database that is ready to be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Which one.
    pub system: SystemId,
    /// The timeline that it is on.
    pub timeline: Timeline,
}

/// Prepares the directory of the plan, whose server is down. `configuration` is the folder of
/// `postgresql.conf`, where that is not in the directory and not where Debian puts it.
pub async fn adopt(plan: &PostgresPlan, configuration: Option<&Path>) -> Result<Adopted, String> {
    let data = plan.data.display();
    check_startable(plan).map_err(|why| why.to_string())?;
    check_owner(plan)?;
    if is_running(&plan.data) {
        return Err(format!(
            "a server runs on {data}; end it and see to it that nothing starts it again, for \
             example with `systemctl disable --now postgresql`"
        ));
    }
    check_unmanaged(plan)?;
    let before = control_file(plan).await.map_err(|why| why.to_string())?;
    let prepared = plan.data.join(FILE).exists();
    let signal = plan.data.join("standby.signal");
    if before.in_recovery || (!prepared && signal.exists()) {
        return Err(format!(
            "{data} is a standby's; take over the primary's, and let this member copy it: its own \
             directory is set aside then"
        ));
    }
    if !before.clean {
        return Err(format!(
            "the server of {data} was not shut down cleanly; start it once more as you did before, \
             and stop it with `pg_ctl stop -m fast`"
        ));
    }
    let spaces = fs::read_dir(plan.data.join("pg_tblspc")).map_err(|why| why.to_string())?;
    if spaces.count() > 0 {
        return Err(format!(
            "{data} has tablespaces outside of it, which a member that copies it would need at the \
             same paths; move their tables to pg_default and drop them"
        ));
    }
    let told = |why: io::Error| format!("{data} cannot be prepared: {why}");
    plan.prepare().map_err(told)?;
    bring_configuration(plan, configuration)?;
    write(plan, &Wanted::default(), 0).map_err(told)?;
    remove(&signal).map_err(told)?;
    // In single-user mode: the parameters of the node are in force from here on, and nobody else
    // gets in meanwhile.
    make_roles(plan, &plan.data).await.map_err(|why| why.to_string())?;
    write_whole(&signal, b"").map_err(told)?;
    sync_tree(&plan.data).map_err(told)?;
    Ok(Adopted { system: before.system, timeline: before.timeline })
}

fn check_owner(plan: &PostgresPlan) -> Result<(), String> {
    let owner = fs::metadata(&plan.data).map_err(|why| why.to_string())?.uid();
    let runs = plan.account.map_or_else(|| geteuid().as_raw(), |account| account.user);
    if owner == runs {
        return Ok(());
    }
    Err(format!(
        "{} belongs to user {owner}, and the server would run as user {runs}: set postgres.user, \
         or run this as the owner",
        plan.data.display()
    ))
}

fn check_unmanaged(plan: &PostgresPlan) -> Result<(), String> {
    let births = Births::read(&plan.data).map_err(|why| why.to_string())?;
    if births.any() {
        return Err(format!(
            "{} is in the care of a cluster already: it keeps which primacy made it; where that \
             cluster is gone and this is a backup of it, docs/operations.md has the way",
            plan.data.display()
        ));
    }
    Ok(())
}

/// The files of the configuration, beside the data, where a copy takes them along.
fn bring_configuration(plan: &PostgresPlan, given: Option<&Path>) -> Result<(), String> {
    if plan.data.join("postgresql.conf").exists() {
        return Ok(());
    }
    let folder = match given {
        Some(folder) => folder.to_owned(),
        None => debians(plan).ok_or_else(|| {
            format!(
                "there is no postgresql.conf in {}, and none in {DEBIAN} names it as its \
                 data_directory; say --config-dir",
                plan.data.display()
            )
        })?,
    };
    let told = |file: &Path, why: io::Error| format!("{}: {why}", file.display());
    for name in ["pg_hba.conf", "pg_ident.conf"] {
        let file = folder.join(name);
        let bytes = fs::read(&file).map_err(|why| told(&file, why))?;
        write_whole(&plan.data.join(name), &bytes).map_err(|why| told(&file, why))?;
    }
    bring_parts(plan, &folder).map_err(|why| told(&folder.join("conf.d"), why))?;
    // The last one: where it is, all of them are.
    let file = folder.join("postgresql.conf");
    let text = fs::read_to_string(&file).map_err(|why| told(&file, why))?;
    let text = without_places(&text);
    let there = plan.data.join("postgresql.conf");
    write_whole(&there, text.as_bytes()).map_err(|why| told(&file, why))
}

fn bring_parts(plan: &PostgresPlan, folder: &Path) -> io::Result<()> {
    let parts = folder.join("conf.d");
    if !parts.is_dir() {
        return Ok(());
    }
    let copy = plan.data.join("conf.d");
    fs::create_dir_all(&copy)?;
    plan.give(&copy)?;
    for entry in fs::read_dir(&parts)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|suffix| suffix == "conf") {
            write_whole(&copy.join(entry.file_name()), &fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

/// The folder in which Debian keeps the configuration of this directory.
fn debians(plan: &PostgresPlan) -> Option<PathBuf> {
    let versions = Path::new(DEBIAN).join(plan.installation.major().to_string());
    let folders = fs::read_dir(versions).ok()?.flatten().map(|entry| entry.path());
    let names = |text: &str| {
        text.lines().any(|line| {
            let Some((key, value)) = line.split_once('=') else { return false };
            let value = value.split('#').next().unwrap_or_default().trim().trim_matches('\'');
            key.trim() == "data_directory" && Path::new(value) == plan.data
        })
    };
    let mut folders = folders.filter(|folder| {
        fs::read_to_string(folder.join("postgresql.conf")).is_ok_and(|text| names(&text))
    });
    folders.next()
}

fn without_places(text: &str) -> String {
    let is_place = |line: &str| {
        let key = line.split(['=', ' ']).next().unwrap_or_default().trim();
        PLACES.contains(&key)
    };
    let mut kept = String::new();
    for line in text.lines() {
        if is_place(line.trim_start()) {
            kept.push('#');
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_places_of_one_machine_is_taken_out() {
        let text = "data_directory = '/var/lib/postgresql/15/main'\nwork_mem=4MB\n hba_file='x'\n";
        let expected =
            "#data_directory = '/var/lib/postgresql/15/main'\nwork_mem=4MB\n# hba_file='x'\n";
        assert_eq!(without_places(text), expected);
    }
}
