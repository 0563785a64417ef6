//! Making, copying and rewinding data directories, all of them beside the one that is in use, so
//! that what is cut short leaves the old one as it was. Nothing is ever removed that somebody may
//! want back: it is set aside.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::io::AsyncWriteExt;

use crate::env::{Observation, PostgresError, RewindReport, Upstream};
use crate::ids::{Epoch, SystemId};
use crate::os::guard::{end_filling, end_postgres};

use super::births::{Births, beside, parse_lsn};
use super::control_file::ControlFile;
use super::install::made_by;
use super::plan::{KEEPER, PostgresPlan, STREAMER};
use super::server::is_running;
use super::session::{ask, connect_to};
use super::settings::{Wanted, reach, write};
use super::tools::{last_words, run};

/// The mark of a directory that a rewind is working on: while it is there the directory is worth
/// nothing. Beside the directory, like the other: the tool removes from it what its source has not.
const REWINDING: &str = "rewinding.mark";
/// The mark of a directory that was rewound and lacks the log which its source wrote meanwhile. Its
/// server is not consistent before it has streamed that.
const LACKING: &str = "lacking.mark";

/// For a checkpoint of the source's, which may have much to write.
const CHECKPOINT_DEADLINE: Duration = Duration::from_secs(8);
/// For a question that costs nothing.
const VERSION_DEADLINE: Duration = Duration::from_secs(2);

/// Whether the directory needs an upstream to become consistent.
pub(super) fn lacks_log(data: &Path) -> bool {
    beside(data, LACKING).exists()
}

/// A server in the directory was consistent: it can do without an upstream from now on.
pub(super) fn now_complete(data: &Path) -> io::Result<()> {
    remove(&beside(data, LACKING))
}

/// Whether a server may be started here, and why not. What only a copy mends is permanent; that the
/// programs are of another version is not: a copy would be of the same version again.
pub(super) fn check_startable(plan: &PostgresPlan) -> Result<(), PostgresError> {
    let data = plan.data.display();
    if beside(&plan.data, REWINDING).exists() {
        let why = "a rewind of the data directory was cut short: only a copy mends it";
        return Err(PostgresError::Permanent(why.into()));
    }
    let version = match made_by(&plan.data) {
        Ok(version) => version,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(PostgresError::Permanent(format!("{data} holds no database")));
        }
        Err(error) => {
            let why = format!("which version made {data} cannot be read: {error}");
            return Err(PostgresError::Transient(why));
        }
    };
    let major = plan.installation.major();
    if version != major {
        return Err(PostgresError::Transient(format!(
            "{data} was made by PostgreSQL {version}, and the programs are of {major}: install \
             that version's and set postgres.bin_dir to them"
        )));
    }
    Ok(())
}

/// A copy is of its source's version, whichever programs make it.
async fn check_version_of(plan: &PostgresPlan, source: &Upstream) -> Result<(), PostgresError> {
    let client = connect_to(plan, &source.address).await?;
    let question = client.query_one("select current_setting('server_version_num')::int4", &[]);
    let answer = ask(question, VERSION_DEADLINE).await.map_err(PostgresError::from);
    // Nothing was begun yet whose outcome could be unknown.
    let number: i32 = answer.map_err(|why| PostgresError::Transient(why.to_string()))?.get(0);
    let (theirs, ours) = (number.unsigned_abs() / 10_000, plan.installation.major());
    if theirs == ours {
        return Ok(());
    }
    Err(PostgresError::Transient(format!(
        "{} runs PostgreSQL {theirs}, and the programs here are of {ours}: install that version's \
         and set postgres.bin_dir to them",
        source.node
    )))
}

/// Notes that a server was started here: from now on there may be somebody's data.
pub(super) fn note_started(plan: &PostgresPlan) -> io::Result<()> {
    let mut births = Births::read(&plan.data)?;
    if !births.started {
        births.started = true;
        births.write(&plan.data)?;
    }
    Ok(())
}

/// Makes a new database cluster.
pub(super) async fn initialise(
    plan: &PostgresPlan,
    epoch: Epoch,
) -> Result<SystemId, PostgresError> {
    if !is_empty(&plan.data).map_err(transient)? {
        let why = format!("{} is not empty", plan.data.display());
        return Err(PostgresError::Permanent(why));
    }
    let fresh = beside(&plan.data, "new");
    let (emptied, home) = (fresh.clone(), plan.home.clone());
    let emptying = tokio::task::spawn_blocking(move || {
        // What another manager began may still be at work there, and so may a server of its.
        end_filling(&home);
        end_postgres(&emptied);
        clear(&emptied)
    });
    emptying.await.map_err(io::Error::other).and_then(|done| done).map_err(transient)?;
    let mut command = plan.command("initdb");
    // It is found by where it works, should its parent be killed.
    command.current_dir(&plan.home);
    command
        .arg("-D")
        .arg(&fresh)
        .args(["-U", &plan.superuser, "--encoding", "UTF8", "--locale", "C.UTF-8"])
        .args(["--data-checksums", "--auth-local", "peer", "--auth-host", "scram-sha-256"])
        .args(["--no-instructions"]);
    run(command).await?;
    make_roles(plan, &fresh).await?;
    Births::first(epoch).write(&fresh).map_err(transient)?;
    let there = PostgresPlan { data: fresh.clone(), ..plan.clone() };
    write(&there, &Wanted::default(), 0).map_err(transient)?;
    let system = control_file(&there).await?.system;
    sync_tree(&fresh).map_err(transient)?;
    put_in_place(&fresh, &plan.data).map_err(transient)?;
    Ok(system)
}

/// The roles of the node and of the members, made while nobody else can be there, or given what
/// they need where they are there already. The password goes through a pipe: arguments can be read
/// by everybody.
pub(super) async fn make_roles(plan: &PostgresPlan, data: &Path) -> Result<(), PostgresError> {
    let checkpoint = if plan.installation.major() >= 15 {
        format!("grant pg_checkpoint to {STREAMER};\n")
    } else {
        String::new()
    };
    let made = |role: &str| {
        format!(
            "if not exists (select from pg_roles where rolname = '{role}') \
             then create role {role}; end if;"
        )
    };
    let statements = format!(
        "do $$begin {keeper} {streamer} end$$;\n\
         alter role {KEEPER} superuser login password '{secret}';\n\
         alter role {STREAMER} replication login password '{secret}';\n\
         grant execute on function pg_ls_dir(text, boolean, boolean) to {STREAMER};\n\
         grant execute on function pg_stat_file(text, boolean) to {STREAMER};\n\
         grant execute on function pg_read_binary_file(text) to {STREAMER};\n\
         grant execute on function pg_read_binary_file(text, bigint, bigint, boolean) to \
         {STREAMER};\n\
         {checkpoint}",
        keeper = made(KEEPER),
        streamer = made(STREAMER),
        secret = plan.secret
    );
    let mut command = plan.command("postgres");
    command
        .args(["--single", "-j", "-D"])
        .arg(data)
        .args(["-c", "password_encryption=scram-sha-256", "-c", "log_statement=none", "postgres"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(transient)?;
    if let Some(mut pipe) = child.stdin.take() {
        // With -j a statement ends with a semicolon and an empty line.
        let text = statements.replace(";\n", ";\n\n");
        pipe.write_all(text.as_bytes()).await.map_err(transient)?;
    }
    let output = child.wait_with_output().await.map_err(transient)?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || said.contains("ERROR:") {
        let why = last_words(&said).replace(&plan.secret, "***");
        return Err(PostgresError::Transient(format!("the roles cannot be made: {why}")));
    }
    Ok(())
}

/// Copies the source. The old directory stays until the copy is whole.
pub(super) async fn clone_from(
    plan: &PostgresPlan,
    source: &Upstream,
) -> Result<(), PostgresError> {
    check_version_of(plan, source).await?;
    let copy = beside(&plan.data, "copy");
    let (emptied, home) = (copy.clone(), plan.home.clone());
    let emptying = tokio::task::spawn_blocking(move || {
        // What another manager began may still be at work there, and a rewind would go on in the
        // directory that takes the place of its own.
        end_filling(&emptied);
        end_filling(&home);
        clear(&emptied)?;
        fs::create_dir(&emptied)
    });
    emptying.await.map_err(io::Error::other).and_then(|done| done).map_err(transient)?;
    plan.give(&copy).map_err(transient)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o700)).map_err(transient)?;
    let mut command = plan.command("pg_basebackup");
    // Its processes are found by where they work: one of them outlives a killed parent.
    command.current_dir(&copy).arg("-D").arg(&copy);
    command.args(["-d", &reach(plan, &source.address), "-X", "stream", "-c", "fast"]);
    command.arg("--no-password");
    let copying = Copying(&copy);
    run(command).await?;
    drop(copying);
    super::births::write_whole(&copy.join("standby.signal"), b"").map_err(transient)?;
    sync_tree(&copy).map_err(transient)?;
    if !is_empty(&plan.data).map_err(transient)? {
        let aside = set_aside_path(plan, "data");
        fs::rename(&plan.data, &aside).map_err(|error| {
            let why = format!("{} cannot be set aside: {error}", plan.data.display());
            PostgresError::Transient(why)
        })?;
        tracing::info!("the former data directory was set aside as {}", aside.display());
    }
    put_in_place(&copy, &plan.data).map_err(transient)?;
    // They were about the directory that is gone.
    remove(&beside(&plan.data, REWINDING)).map_err(transient)?;
    now_complete(&plan.data).map_err(transient)
}

/// A base backup in this folder: no process of it is left behind.
struct Copying<'a>(&'a Path);

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        end_filling(self.0);
    }
}

/// Takes the directory back to where its history and the source's part.
pub(super) async fn rewind(
    plan: &PostgresPlan,
    source: &Upstream,
    seen: &Observation,
) -> Result<RewindReport, PostgresError> {
    check_startable(plan)?;
    let home = plan.home.clone();
    let ended = tokio::task::spawn_blocking(move || end_filling(&home)).await;
    ended.map_err(io::Error::other).map_err(transient)?;
    if is_running(&plan.data) {
        return Err(PostgresError::Transient("the server runs".into()));
    }
    let client = connect_to(plan, &source.address).await?;
    let kept = keep_log(plan).map_err(transient)?;
    // The source's control file names its timeline only after a checkpoint, and it is what the
    // tool compares.
    if let Err(why) = ask(client.batch_execute("checkpoint"), CHECKPOINT_DEADLINE).await {
        // The log is still where it was.
        clear(&kept).map_err(transient)?;
        return Err(why.into());
    }
    drop(client);
    let end = seen.flushed.unwrap_or_default();
    super::births::write_whole(&beside(&plan.data, REWINDING), b"").map_err(transient)?;
    super::births::write_whole(&beside(&plan.data, LACKING), b"").map_err(transient)?;
    // The tool recovers what a crash left, but not a standby's.
    remove(&plan.data.join("standby.signal")).map_err(transient)?;
    let mut command = plan.command("pg_rewind");
    // It is found by where it works, should its parent be killed. That is not the data directory:
    // the programs that it asks for their version are called like a server.
    command.current_dir(&plan.home);
    command
        .arg("-D")
        .arg(&plan.data)
        .args(["--source-server", &format!("{} dbname=postgres", reach(plan, &source.address))])
        .args(["--config-file", &plan.data.join("postgresql.conf").display().to_string()]);
    let (said, outcome) = run_aloud(command).await;
    outcome?;
    remove(&beside(&plan.data, REWINDING)).map_err(transient)?;
    super::births::write_whole(&plan.data.join("standby.signal"), b"").map_err(transient)?;
    tracing::info!("the log of the former history was kept in {}", kept.display());
    let parted = said.lines().find_map(|line| {
        line.split_once("servers diverged at WAL location")?.1.split_whitespace().next()
    });
    let diverged_from = parted.and_then(parse_lsn).unwrap_or(end);
    Ok(RewindReport { diverged_from, diverged_to: end.max(diverged_from) })
}

/// Runs a program whose words are wanted also where it succeeds.
async fn run_aloud(mut command: tokio::process::Command) -> (String, Result<(), PostgresError>) {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    match command.output().await {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let outcome = if output.status.success() {
                Ok(())
            } else {
                Err(super::tools::judge(last_words(&said)))
            };
            (said, outcome)
        }
        Err(error) => (String::new(), Err(transient(error))),
    }
}

/// I7: what only this directory has is kept before a rewind takes it away: its log, from the last
/// checkpoints on, which is what there is. A copy that does not become whole is removed: where the
/// disk is full, trying again does not fill it further.
fn keep_log(plan: &PostgresPlan) -> io::Result<PathBuf> {
    let partial = plan.aside().join("wal-aside.partial");
    clear(&partial)?;
    let copied = copy_log(&plan.data.join("pg_wal"), &partial);
    if copied.is_err() {
        clear(&partial)?;
    }
    copied?;
    let aside = set_aside_path(plan, "wal");
    fs::rename(&partial, &aside)?;
    fs::File::open(plan.aside())?.sync_all()?;
    Ok(aside)
}

fn copy_log(log: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(log)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    sync_tree(to)
}

pub(super) async fn control_file(plan: &PostgresPlan) -> Result<ControlFile, PostgresError> {
    let mut command = plan.command("pg_controldata");
    command.arg("-D").arg(&plan.data);
    ControlFile::parse(&run(command).await?).map_err(PostgresError::Transient)
}

fn set_aside_path(plan: &PostgresPlan, what: &str) -> PathBuf {
    let now = clock_gettime(ClockId::Realtime);
    let parent = if what == "data" {
        // A rename stays within one file system.
        plan.data.parent().unwrap_or(Path::new("/")).to_owned()
    } else {
        plan.aside()
    };
    let name = plan.data.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut number = 0;
    loop {
        let suffix = if number == 0 { String::new() } else { format!("-{number}") };
        let path = parent.join(format!("{name}.{what}-aside-{}{suffix}", now.tv_sec));
        if !path.exists() {
            return path;
        }
        number += 1;
    }
}

pub(super) fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes what an earlier attempt left: it was never a data directory of anybody.
fn clear(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn is_empty(folder: &Path) -> io::Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn put_in_place(from: &Path, to: &Path) -> io::Result<()> {
    // An empty directory is replaced by a rename; one that holds something is not.
    fs::rename(from, to)?;
    fs::File::open(to.parent().unwrap_or(Path::new("/")))?.sync_all()
}

pub(super) fn sync_tree(folder: &Path) -> io::Result<()> {
    let file = fs::File::open(folder)?;
    rustix::fs::syncfs(&file).map_err(io::Error::from)
}

fn transient(error: io::Error) -> PostgresError {
    PostgresError::Transient(error.to_string())
}
