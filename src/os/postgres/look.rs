//! Looking at the server, and at its directory where it does not run.

use std::io;
use std::time::Duration;

use serde::Deserialize;
use tokio_postgres::{Client, Statement};

use crate::env::{
    Observation, PostgresError, Process, ReceiverState, Side, StreamState, SyncNames, TimelineBirth,
};
use crate::ids::{Lsn, SystemId, Timeline};

use super::Followed;
use super::births::{Births, newest_in_log, parse_lsn, switches};
use super::control_file::{ControlFile, end_of_record, record_length};
use super::directory::{lacks_log, now_complete};
use super::obedience::{Obeyed, is_over, obeyed};
use super::plan::{PostgresPlan, named};
use super::server::{Status, may_serve, postmaster, tail};
use super::session::{ANSWER_DEADLINE, NoAnswer, ask, connect};
use super::settings::{address_in, admits, word_in};
use super::tools::run;
use super::waits::Waits;

/// One question, so that its answer is of one moment as nearly as the server can give it. The
/// configuration is read before the positions: a commit that is acknowledged under another one is
/// then not covered by what is reported.
const QUESTION: &str = "\
select json_build_object(
    'recovers', pg_is_in_recovery(),
    'names', current_setting('synchronous_standby_names'),
    'sync_epoch', coalesce(current_setting('pg_replica.sync_epoch', true), ''),
    'system', (select system_identifier::text from pg_control_system()),
    'timeline', (select timeline_id from pg_control_checkpoint()),
    'insert_timeline', case when pg_is_in_recovery() then null
        else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end,
    'flushed', case when pg_is_in_recovery() then null
        else pg_current_wal_flush_lsn()::text end,
    'received', pg_last_wal_receive_lsn()::text,
    'replayed', pg_last_wal_replay_lsn()::text,
    'startup_waits', (select wait_event from pg_stat_activity where backend_type = 'startup'),
    'upstream', current_setting('primary_conninfo'),
    'receiver', (select json_build_object(
            'status', status,
            'timeline', received_tli,
            'silent', extract(epoch from clock_timestamp() - last_msg_receipt_time),
            'conninfo', conninfo)
        from pg_stat_wal_receiver),
    'streams', (select coalesce(json_agg(json_build_object(
            'name', application_name, 'state', state, 'flushed', flush_lsn::text)), '[]')
        from pg_stat_replication)
)::text";

/// The answer.
#[derive(Debug, Deserialize)]
struct Answer {
    recovers: bool,
    names: String,
    sync_epoch: String,
    system: String,
    timeline: u32,
    insert_timeline: Option<u32>,
    flushed: Option<String>,
    received: Option<String>,
    replayed: Option<String>,
    startup_waits: Option<String>,
    upstream: String,
    receiver: Option<Receiver>,
    streams: Vec<Stream>,
}

#[derive(Debug, Deserialize)]
struct Receiver {
    status: String,
    timeline: Option<u32>,
    silent: Option<f64>,
    conninfo: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Stream {
    name: String,
    state: Option<String>,
    flushed: Option<String>,
}

/// The kept connection, which knows the question: a new one for every look would cost the server a
/// process each time, and one that is not known has to be planned anew.
pub(super) type Kept = tokio::sync::Mutex<Option<(Client, Statement)>>;

/// Looks.
pub(super) async fn look(
    plan: &PostgresPlan,
    kept: &Kept,
    followed: &Followed,
) -> Result<Observation, PostgresError> {
    if !plan.data.join("PG_VERSION").exists() {
        return Ok(Observation::of_nothing());
    }
    let Some(server) = postmaster(&plan.data) else {
        // Children may live on after their postmaster; they cannot be asked, and they can answer.
        if may_serve(&plan.data) {
            return at_rest(plan, Process::Hung).await;
        }
        return at_rest(plan, Process::Down { clean: false }).await;
    };
    let mut kept = kept.lock().await;
    let obeyed = obeyed(plan, &server);
    match question(plan, &mut kept).await {
        Ok(answer) => understand(plan, &answer, followed, obeyed).map_err(|error| {
            PostgresError::Transient(format!("what the server says is not understood: {error}"))
        }),
        Err(why) => {
            *kept = None;
            let process = match (why, server.status) {
                (NoAnswer::Stopping, _) | (_, Status::Stopping) => Process::Stopping,
                (NoAnswer::Starting | NoAnswer::NoServer, _) | (_, Status::Starting) => {
                    Process::Starting
                }
                (NoAnswer::Silent, Status::Ready) => Process::Hung,
                (NoAnswer::Refused(why), Status::Ready) => {
                    return Err(PostgresError::Transient(why));
                }
            };
            let mut seen = at_rest(plan, process).await?;
            seen.starved = followed.log_from.and_then(|from| last_refusal(plan, from));
            Ok(seen)
        }
    }
}

async fn question(
    plan: &PostgresPlan,
    kept: &mut Option<(Client, Statement)>,
) -> Result<Answer, NoAnswer> {
    let (client, known) = match kept.take() {
        Some((client, known)) if !client.is_closed() => (client, known),
        Some(_) | None => {
            let client = connect(plan).await?;
            let known = ask(client.prepare(QUESTION), ANSWER_DEADLINE).await?;
            (client, known)
        }
    };
    let row = ask(client.query_one(&known, &[]), ANSWER_DEADLINE).await?;
    *kept = Some((client, known));
    let text: &str = row.get(0);
    serde_json::from_str(text).map_err(|error| NoAnswer::Refused(error.to_string()))
}

fn understand(
    plan: &PostgresPlan,
    answer: &Answer,
    followed: &Followed,
    obeyed: Option<Obeyed>,
) -> io::Result<Observation> {
    let lsn = |text: &Option<String>| text.as_deref().and_then(parse_lsn);
    let side = if answer.recovers { Side::Standby } else { Side::Primary };
    let (replayed, received) = (lsn(&answer.replayed), lsn(&answer.received));
    // Without a receiver, a server has on its disk what it can replay, once it has replayed it all.
    let replayed_all = matches!(
        answer.startup_waits.as_deref(),
        Some("RecoveryWalStream" | "RecoveryRetrieveRetryInterval")
    );
    let flushed = match side {
        Side::Primary => lsn(&answer.flushed),
        // In whole records: what was received may end in the middle of one.
        Side::Standby if replayed_all && answer.receiver.is_none() => replayed,
        Side::Standby if received.is_some() || replayed_all => received.max(replayed),
        Side::Standby => None,
    };
    let timeline = answer
        .insert_timeline
        .into_iter()
        .chain(answer.receiver.as_ref().and_then(|receiver| receiver.timeline))
        .chain([answer.timeline])
        .max()
        .map_or(Timeline(1), Timeline)
        .max(newest_in_log(&plan.data));
    let mut births = Births::read(&plan.data)?;
    if side == Side::Primary && births.settle(timeline) {
        births.write(&plan.data)?;
    }
    // It answers, so it has what it lacked.
    now_complete(&plan.data)?;
    let receiver = receiver(answer, followed);
    let hears = answer.receiver.as_ref().is_some_and(|receiver| receiver.status == "streaming");
    Ok(Observation {
        system: Some(SystemId(answer.system.parse().map_err(io::Error::other)?)),
        ever_started: true,
        process: Process::Up,
        side,
        complete: true,
        history: reached(births.history(timeline, &switches(&plan.data, timeline)?), flushed),
        flushed,
        replayed: if side == Side::Primary { flushed } else { replayed },
        receiver,
        starved: followed.log_from.filter(|_| !hears).and_then(|from| last_refusal(plan, from)),
        streams: answer.streams.iter().filter_map(stream).collect(),
        sync: in_force(plan, answer, obeyed),
        admits: admits(plan),
        ..Observation::of_nothing()
    })
}

/// The synchronous configuration that every process obeys: what was known of it before the server
/// was asked, and is what it says.
fn in_force(plan: &PostgresPlan, answer: &Answer, obeyed: Option<Obeyed>) -> SyncNames {
    let shown = Waits { names: answer.names.clone(), epoch: answer.sync_epoch.clone() };
    if answer.recovers && shown.are_for_ever() {
        return SyncNames::default();
    }
    let is_so = obeyed.as_ref().is_some_and(|it| it.waits == shown);
    if let Some(obeyed) = obeyed.filter(|_| !is_so) {
        is_over(plan, &obeyed);
    }
    // One that is not ours, or that may not be obeyed yet, is nobody's: it will be replaced.
    let nobodys = SyncNames { confirmations: u32::MAX, ..SyncNames::default() };
    shown.sync().filter(|_| is_so).unwrap_or(nobodys)
}

/// Without a last timeline of which not one byte has arrived.
fn reached(mut history: Vec<TimelineBirth>, flushed: Option<Lsn>) -> Vec<TimelineBirth> {
    let Some(flushed) = flushed else { return history };
    while history.len() > 1 && history.last().is_some_and(|last| flushed <= last.begins) {
        history.pop();
    }
    history
}

fn receiver(answer: &Answer, followed: &Followed) -> Option<ReceiverState> {
    let receiver = answer.receiver.as_ref()?;
    // The one that runs may still be the former one; what it says of itself counts.
    let said = receiver.conninfo.as_deref().unwrap_or(&answer.upstream);
    let (_, epoch) = named(word_in(said, "application_name")?)?;
    let upstream = followed.member_at(address_in(said)?)?;
    let silent = receiver.silent.filter(|_| receiver.status == "streaming").unwrap_or(0.0);
    let silent = Duration::from_secs_f64(silent.max(0.0));
    // An idle stream is silent for seconds; the server that sends it answers when it is asked.
    let asked = followed.ear.as_ref().and_then(|ear| ear.silent_for());
    Some(ReceiverState {
        upstream,
        epoch,
        silent_for: asked.map_or(silent, |asked| silent.min(asked)),
    })
}

fn stream(stream: &Stream) -> Option<StreamState> {
    let (node, epoch) = named(&stream.name)?;
    let streams = matches!(stream.state.as_deref(), Some("streaming" | "catchup"));
    let flushed = stream.flushed.as_deref().and_then(parse_lsn);
    streams.then(|| StreamState { node, epoch, flushed: flushed.unwrap_or_default() })
}

/// What the upstream said when it refused to stream for good: the server writes it into its log and
/// nowhere else.
fn last_refusal(plan: &PostgresPlan, from: u64) -> Option<String> {
    const FOR_GOOD: [&str; 4] = [
        "requested WAL segment",
        "is not in this server's history",
        "is not a child of this server's history",
        "is ahead of the WAL flush position of this server",
    ];
    let said = tail(&plan.log(), from);
    let line = said.lines().rev().find(|line| FOR_GOOD.iter().any(|sign| line.contains(sign)))?;
    Some(line.split_once("ERROR:").map_or(line, |(_, why)| why).trim().to_owned())
}

/// What there is to see in a directory whose server cannot be asked.
async fn at_rest(plan: &PostgresPlan, process: Process) -> Result<Observation, PostgresError> {
    let mut command = plan.command("pg_controldata");
    command.arg("-D").arg(&plan.data);
    let control = ControlFile::parse(&run(command).await?).map_err(PostgresError::Transient)?;
    let down = matches!(process, Process::Down { .. });
    let standby = plan.data.join("standby.signal").exists();
    let mut births = Births::read(&plan.data).map_err(refused)?;
    let timeline = control.timeline.max(newest_in_log(&plan.data));
    if !standby && births.settle(timeline) {
        births.write(&plan.data).map_err(refused)?;
    }
    let switches = switches(&plan.data, timeline).map_err(refused)?;
    let end = if down && control.clean && !control.in_recovery {
        end_of_log(plan, &control).await
    } else {
        // Only a recovery can tell.
        None
    };
    Ok(Observation {
        system: Some(control.system),
        ever_started: births.started,
        process: if down { Process::Down { clean: control.clean } } else { process },
        side: if standby { Side::Standby } else { Side::Primary },
        complete: !lacks_log(&plan.data),
        history: reached(births.history(timeline, &switches), end),
        flushed: end,
        replayed: end,
        admits: !down && admits(plan),
        ..Observation::of_nothing()
    })
}

/// Where the log of a server ends that was shut down: after the record of its last checkpoint.
async fn end_of_log(plan: &PostgresPlan, control: &ControlFile) -> Option<Lsn> {
    let at = control.checkpoint;
    let mut command = plan.command("pg_waldump");
    command
        .arg("-p")
        .arg(plan.data.join("pg_wal"))
        .args(["-t", &control.timeline.0.to_string(), "-n", "1"])
        .args(["-s", &format!("{:X}/{:X}", at.0 >> 32, at.0 & 0xffff_ffff)]);
    let length = record_length(&run(command).await.ok()?)?;
    Some(end_of_record(at, length, control.segment_bytes))
}

fn refused(error: io::Error) -> PostgresError {
    PostgresError::Transient(error.to_string())
}
