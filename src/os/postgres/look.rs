//! Looking at the server, and at its directory where it does not run.

use std::fmt::Display;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;
use tokio_postgres::{Client, Statement};

use crate::env::{
    Observation, PostgresError, Process, ReceiverState, Side, StreamState, SyncNames, TimelineBirth,
};
use crate::ids::{Lsn, SystemId, Timeline};

use super::Followed;
use super::births::{Births, newest_in_log, parse_lsn, switches};
use super::control_file::{ControlFile, end_of_record, is_page_end, record_length};
use super::directory::{control_file, lacks_log, now_complete};
use super::obedience::{Obeyed, is_over, obeyed};
use super::plan::{PostgresPlan, named};
use super::promised;
use super::server::{Postmaster, Status, may_serve, postmaster, tail};
use super::session::{ANSWER_DEADLINE, NoAnswer, ask, connect};
use super::settings::{address_in, admits, word_in};
use super::tools::run;
use super::waits::Waits;

/// What a scan of the log takes, and much more.
const SURELY_RESCANNED: Duration = Duration::from_secs(1);

/// One question, so that its answer is of one moment as nearly as the server can give it. The
/// configuration is read before the positions: a commit that is acknowledged under another one is
/// then not covered by what is reported. And whether anything is received or replayed any more is
/// read before what was.
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
    'receiver', (select json_build_object(
            'status', status,
            'timeline', received_tli,
            'silent', extract(epoch from clock_timestamp() - last_msg_receipt_time),
            'conninfo', conninfo)
        from pg_stat_wal_receiver),
    'startup_waits', (select wait_event from pg_stat_activity where backend_type = 'startup'),
    'received', pg_last_wal_receive_lsn()::text,
    'replayed', pg_last_wal_replay_lsn()::text,
    'rescans_after', extract(epoch from current_setting('wal_retrieve_retry_interval')::interval),
    'upstream', current_setting('primary_conninfo'),
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
    rescans_after: f64,
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

/// How far a standby without a receiver has replayed its log, and since when it has been there.
///
/// It waits a little before it reads on its disk what a receiver wrote last, and looks meanwhile
/// like one that has replayed everything. So where more was received than is replayed, that has to
/// be no whole record; or else it has to stay where it is for longer than it waits.
#[derive(Debug, Default)]
pub(super) struct Resting(Mutex<Option<(Reached, Instant)>>);

/// What was received, and what is replayed.
type Reached = (Option<Lsn>, Lsn);

impl Resting {
    fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn for_long(&self, answer: &Answer, replayed: Lsn, now: Instant) -> bool {
        let mut resting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rescanned = Duration::from_secs_f64(answer.rescans_after.max(0.0)) + SURELY_RESCANNED;
        let reached = (answer.received(), replayed);
        match *resting {
            Some((at, since)) if at == reached => now.duration_since(since) > rescanned,
            Some(_) | None => {
                *resting = Some((reached, now));
                false
            }
        }
    }
}

impl Answer {
    fn received(&self) -> Option<Lsn> {
        self.received.as_deref().and_then(parse_lsn)
    }

    fn replayed(&self) -> Option<Lsn> {
        self.replayed.as_deref().and_then(parse_lsn)
    }

    /// Whether the startup process found nothing more to replay when it looked last.
    fn replayed_all(&self) -> bool {
        matches!(
            self.startup_waits.as_deref(),
            Some("RecoveryWalStream" | "RecoveryRetrieveRetryInterval")
        )
    }
}

/// Whether what a standby has replayed is all that it has on its disk.
async fn is_at_the_end(plan: &PostgresPlan, answer: &Answer, resting: &Resting) -> bool {
    if !answer.recovers || !answer.replayed_all() || answer.receiver.is_some() {
        resting.end();
        return false;
    }
    let Some(replayed) = answer.replayed() else { return false };
    if answer.received() <= Some(replayed) {
        return true;
    }
    let timeline = Timeline(answer.timeline).max(newest_in_log(&plan.data));
    // A whole record may be there that this server will never replay, of a timeline that left it.
    !may_be_record(plan, timeline, replayed).await
        || resting.for_long(answer, replayed, Instant::now())
}

/// Whether a whole record begins there; it may where nobody can tell.
async fn may_be_record(plan: &PostgresPlan, timeline: Timeline, at: Lsn) -> bool {
    if is_page_end(at) {
        // It would begin behind the header of the page.
        return true;
    }
    match first_record(plan, timeline, at).await {
        Ok(said) => record_length(&said).is_some() && !said.contains("skipping over"),
        Err(why) => !why.to_string().contains("valid record"),
    }
}

/// Looks.
pub(super) async fn look(
    plan: &PostgresPlan,
    kept: &Kept,
    followed: &Followed,
    resting: &Resting,
) -> Result<Observation, PostgresError> {
    if !holds_a_database(plan)? {
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
        Ok(answer) => {
            let at_the_end = is_at_the_end(plan, &answer, resting).await;
            let seen = understand(plan, &answer, followed, at_the_end, obeyed);
            let seen = seen.map_err(|error| {
                PostgresError::Transient(format!("what the server says is not understood: {error}"))
            })?;
            with_promise(plan, &server, seen)
        }
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
            let mut seen = with_promise(plan, &server, at_rest(plan, process).await?)?;
            seen.starved = followed.log_from.and_then(|from| last_refusal(plan, from));
            Ok(seen)
        }
    }
}

/// What a server was told is over once it has done it.
fn with_promise(
    plan: &PostgresPlan,
    server: &Postmaster,
    mut seen: Observation,
) -> Result<Observation, PostgresError> {
    if seen.side == Side::Standby {
        seen.promoting = promised::to(plan, server).map_err(refused)?;
    }
    Ok(seen)
}

/// What cannot be seen is not taken for gone, nor is a directory under a server that runs in it.
fn holds_a_database(plan: &PostgresPlan) -> Result<bool, PostgresError> {
    let version = plan.data.join("PG_VERSION");
    let blind = |why: &dyn Display| {
        PostgresError::Transient(format!("{} cannot be seen: {why}", version.display()))
    };
    let holds = version.try_exists().map_err(|error| blind(&error))?;
    if !holds && may_serve(&plan.data) {
        return Err(blind(&"a server works in a directory that holds no database"));
    }
    Ok(holds)
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
    at_the_end: bool,
    obeyed: Option<Obeyed>,
) -> io::Result<Observation> {
    let side = if answer.recovers { Side::Standby } else { Side::Primary };
    let (replayed, received) = (answer.replayed(), answer.received());
    // Without a receiver, a server has on its disk what it can replay, once it has replayed it all.
    let flushed = match side {
        Side::Primary => answer.flushed.as_deref().and_then(parse_lsn),
        // In whole records: what was received may end in the middle of one.
        Side::Standby if at_the_end => replayed,
        Side::Standby if answer.replayed_all() && answer.receiver.is_none() => None,
        Side::Standby if received.is_some() || answer.replayed_all() => received.max(replayed),
        Side::Standby => None,
    };
    let timeline = match answer.insert_timeline {
        // What else lies in its log, it does not write.
        Some(writes) => Timeline(writes),
        None => {
            let received = answer.receiver.as_ref().and_then(|receiver| receiver.timeline);
            Timeline(answer.timeline.max(received.unwrap_or_default()))
                .max(newest_in_log(&plan.data))
        }
    };
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
    refusal_in(&tail(&plan.log(), from))
}

/// The last refusal among these lines. Only the receiver's own words are one: others ask this
/// server for log that it has not, and it says the same to them.
fn refusal_in(said: &str) -> Option<String> {
    const FOR_GOOD: [&str; 5] = [
        // Of a timeline that was over when the upstream was copied.
        ".history\": No such file",
        "requested WAL segment",
        "is not in this server's history",
        "is not a child of this server's history",
        "is ahead of the WAL flush position of this server",
    ];
    const RECEIVER: [&str; 3] = [
        "could not start WAL streaming",
        "could not receive data from WAL stream",
        "could not receive timeline history file",
    ];
    let has = |line: &str, signs: &[&str]| signs.iter().any(|sign| line.contains(sign));
    let mut lines = said.lines().rev();
    let line = lines.find(|line| has(line, &FOR_GOOD) && has(line, &RECEIVER))?;
    Some(line.rsplit_once("ERROR:").map_or(line, |(_, why)| why).trim().to_owned())
}

/// What there is to see in a directory whose server cannot be asked.
async fn at_rest(plan: &PostgresPlan, process: Process) -> Result<Observation, PostgresError> {
    let control = control_file(plan).await?;
    let down = matches!(process, Process::Down { .. });
    let signal = plan.data.join("standby.signal").exists();
    let mut births = Births::read(&plan.data).map_err(refused)?;
    let timeline = control.timeline.max(newest_in_log(&plan.data));
    if !signal && births.settle(timeline) {
        births.write(&plan.data).map_err(refused)?;
    }
    // A promotion takes the sign of a standby away first and writes the control file last. Cut
    // short in between it leaves a server that would go on as a primary, on the timeline that it
    // was to leave: that is a standby, which begins anew.
    let standby = signal || births.is_intended() || control.timeline < timeline;
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
    let length = record_length(&first_record(plan, control.timeline, at).await.ok()?)?;
    Some(end_of_record(at, length, control.segment_bytes))
}

/// What is said of the first record from there on.
async fn first_record(
    plan: &PostgresPlan,
    timeline: Timeline,
    at: Lsn,
) -> Result<String, PostgresError> {
    let mut command = plan.command("pg_waldump");
    command
        .arg("-p")
        .arg(plan.data.join("pg_wal"))
        .args(["-t", &timeline.0.to_string(), "-n", "1"])
        .args(["-s", &at.to_string()]);
    run(command).await
}

fn refused(error: io::Error) -> PostgresError {
    PostgresError::Transient(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_at_its_end_once_it_has_looked_for_what_its_receiver_left() {
        let answer = |received: &str, replayed: &str| -> Answer {
            serde_json::from_value(serde_json::json!({
                "recovers": true, "names": "", "sync_epoch": "", "system": "1", "timeline": 1,
                "received": received, "replayed": replayed, "rescans_after": 0.2,
                "startup_waits": "RecoveryRetrieveRetryInterval", "upstream": "", "streams": [],
            }))
            .unwrap()
        };
        let (resting, begin) = (Resting::default(), Instant::now());
        let long = |replayed, ms| {
            let answer = answer("0/3100", replayed);
            resting.for_long(&answer, answer.replayed().unwrap(), begin + Duration::from_millis(ms))
        };
        assert!(!long("0/3000", 10));
        assert!(!long("0/3000", 200));
        // It had more to replay.
        assert!(!long("0/3080", 220));
        assert!(!long("0/3080", 1_300));
        assert!(long("0/3080", 1_500), "the rest is no whole record");
    }

    #[test]
    fn a_refusal_is_what_the_receiver_was_told_and_not_what_others_were() {
        let removed = "ERROR:  requested WAL segment 000000010000000000000003 has already been \
                       removed";
        let own = format!("FATAL:  could not receive data from WAL stream: {removed}");
        let others = format!("{removed}\nSTATEMENT:  START_REPLICATION 0/3000000 TIMELINE 1");
        assert_eq!(refusal_in(&others), None);
        let said = refusal_in(&format!("{own}\n{others}\n")).unwrap();
        assert!(said.starts_with("requested WAL segment"), "{said}");
        let lacks = "FATAL:  could not receive timeline history file from the primary server: \
                     ERROR:  could not open file \"pg_wal/00000002.history\": No such file";
        let said = refusal_in(lacks).unwrap();
        assert!(said.ends_with("00000002.history\": No such file"), "{said}");
    }
}
