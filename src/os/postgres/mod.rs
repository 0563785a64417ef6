//! The real server.
//!
//! `plan` is what the node is told of it, `install` finds its programs, `settings` writes its
//! files, `server` starts and ends its processes, `session` speaks to it, `look` observes, `births`
//! keeps which primacy created which timeline, `promised` that a server was told to begin one,
//! `hearsay` forgets those that it was only told of where they are in the way, `ear` hears whether
//! an upstream lives, `directory` makes, copies and rewinds data directories, `adopt` prepares
//! those that others made, and `slots` keeps the log for whom it is needed by. This file puts the
//! verbs of the contract together from them.

mod adopt;
mod births;
mod control_file;
mod directory;
mod ear;
mod given;
mod guest;
mod hearsay;
mod install;
mod introduction;
mod look;
mod obedience;
mod plan;
mod promised;
mod server;
mod session;
mod settings;
mod slots;
mod tools;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select, try_join};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::env::{
    Entropy, Observation, Postgres, PostgresError, RewindReport, Side, StartAs, StopHow, SyncNames,
    TimelineBirth, Upstream,
};
use crate::ids::{Epoch, Moment, NodeId, SystemId};

pub use adopt::{Adopted, adopt};
pub use guest::welcome_guest;
pub use install::{Installation, NoPostgres};
pub use plan::{Account, KEEPER, PostgresPlan, ServerTls};
pub use session::read_secret;

use super::OsEntropy;
use births::Births;
use ear::Ear;
use given::Given;
use introduction::{Introduced, Introductions};
use look::{Kept, Resting};
use session::{ANSWER_DEADLINE, NoAnswer, ask, connect, connect_at};
use settings::{Wanted, host_and_port};
use waits::Waits;

/// How soon it is looked again whether the server has taken something up.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long no receiver must have been seen: one that was being begun while the setting changed
/// shows within it.
const SURELY_GONE: Duration = Duration::from_millis(50);
/// How long a promotion may take before its outcome is called unknown.
const PROMOTION_DEADLINE: Duration = Duration::from_secs(30);
/// How long it may take until every process obeys a configuration.
const OBEDIENCE_DEADLINE: Duration = Duration::from_secs(10);
/// How long of that it may take until no walsender counts. Nothing is acknowledged meanwhile.
const WALSENDERS_DEADLINE: Duration = Duration::from_secs(2);

/// The server of this machine. Clones share everything.
#[derive(Clone)]
pub struct OsPostgres(Arc<Inner>);

struct Inner {
    plan: PostgresPlan,
    kept: Kept,
    resting: Resting,
    /// What the server is to be, as far as this process knows.
    wanted: Mutex<Wanted>,
    followed: Mutex<Followed>,
    introductions: Introductions,
    given: Mutex<Given>,
    /// Ends the verb under way, where a stop comes in the middle of it.
    stopping: Mutex<CancellationToken>,
    /// Whoever does something to the server.
    at_work: tokio::sync::Mutex<()>,
    /// Until when a server that did not obey is left in peace.
    rests_until: Mutex<Option<Instant>>,
    /// Nobody does anything to it any more.
    retired: AtomicBool,
}

/// What is known of those that were followed.
#[derive(Clone, Debug, Default)]
struct Followed {
    /// Their addresses: a receiver says where it streams from, and not from whom.
    upstreams: BTreeMap<NodeId, String>,
    /// Whether the present one is heard.
    ear: Option<Arc<Ear>>,
    /// How long the server's log was when it was told to follow the present one; `None` where it
    /// follows nobody.
    log_from: Option<u64>,
}

impl Followed {
    /// The member whose server is there.
    fn member_at(&self, at: (&str, u16)) -> Option<NodeId> {
        let mut all = self.upstreams.iter();
        all.find(|(_, address)| host_and_port(address) == Some(at)).map(|(node, _)| *node)
    }
}

impl fmt::Debug for OsPostgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OsPostgres({})", self.0.plan.data.display())
    }
}

impl OsPostgres {
    /// The server of this plan, whether it runs already or not.
    pub fn new(plan: PostgresPlan) -> io::Result<Self> {
        plan.prepare()?;
        let given = Given { parameters: given::kept(&plan)?, pending: Vec::new() };
        Ok(Self(Arc::new(Inner {
            given: Mutex::new(given),
            // A server may run that an earlier node has told how to be.
            wanted: Mutex::new(Wanted::read(&plan)),
            plan,
            kept: Kept::default(),
            resting: Resting::default(),
            followed: Mutex::default(),
            introductions: Introductions::default(),
            stopping: Mutex::default(),
            at_work: tokio::sync::Mutex::default(),
            rests_until: Mutex::default(),
            retired: AtomicBool::new(false),
        })))
    }

    /// From here on nothing but a stop is done: what a node began before it ended may still be on
    /// its way here.
    pub fn retire(&self) {
        self.0.retired.store(true, Ordering::SeqCst);
    }

    fn plan(&self) -> &PostgresPlan {
        &self.0.plan
    }

    /// Runs a verb, unless a stop ends it.
    async fn unless_stopped<T>(
        &self,
        verb: impl Future<Output = Result<T, PostgresError>>,
    ) -> Result<T, PostgresError> {
        // Held until nothing of the verb is left: a stop waits for that.
        let _at_work = self.0.at_work.lock().await;
        if self.0.retired.load(Ordering::SeqCst) {
            return Err(PostgresError::Transient("this node ends".into()));
        }
        let stopping = lock(&self.0.stopping).clone();
        let stopped = std::pin::pin!(stopping.cancelled());
        match select(stopped, std::pin::pin!(verb)).await {
            Either::Left(_) => Err(PostgresError::Unknown("ended by a stop".into())),
            Either::Right((outcome, _)) => outcome,
        }
    }

    /// Changes what is wanted, writes it down, and has the server read it where it runs. Returns
    /// the mark by which a session knows that it was read.
    fn want(&self, change: impl FnOnce(&mut Wanted)) -> Result<u64, PostgresError> {
        let mut wanted = lock(&self.0.wanted);
        change(&mut wanted);
        let mark = OsEntropy.next_u64();
        settings::write(self.plan(), &wanted, mark).map_err(transient)?;
        server::reload(&self.plan().data);
        Ok(mark)
    }

    /// Waits until a new session knows the mark: the server has read its files then, and has told
    /// every process of its to do so too.
    async fn in_force(&self, mark: u64) -> Result<(), PostgresError> {
        let question = format!("select current_setting('{}', true)", settings::MARK);
        loop {
            // A session that exists may read the files later than one that begins.
            let client = connect(self.plan()).await?;
            let row = ask(client.query_one(&question, &[]), ANSWER_DEADLINE).await?;
            if row.get::<_, Option<&str>>(0) == Some(mark.to_string().as_str()) {
                return Ok(());
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn number(&self, question: &str) -> Result<i64, PostgresError> {
        let client = connect(self.plan()).await?;
        let row = ask(client.query_one(question, &[]), ANSWER_DEADLINE).await?;
        Ok(row.get(0))
    }

    /// Whether the server takes these parameters, and if not, why.
    pub async fn vet(&self, parameters: &BTreeMap<String, String>) -> Result<(), String> {
        given::vet(self.plan(), parameters).await.map_err(|why| why.to_string())
    }

    /// The parameters that wait for a restart.
    async fn pending(&self) -> Result<Vec<String>, PostgresError> {
        const PENDING: &str = "select name from pg_settings where pending_restart order by name";
        let client = connect(self.plan()).await?;
        let rows = ask(client.query(PENDING, &[]), ANSWER_DEADLINE).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// What has to be so before the server may be told to stream from there. Returns whether
    /// commits wait for nobody there.
    fn prepare_to_follow(
        &self,
        upstream: &Upstream,
        known: Introduced,
        seen: &Observation,
    ) -> Result<bool, PostgresError> {
        // Every byte that comes from there can be told apart from here on.
        promised::refuse(seen, None)?;
        let own = seen.history.last().map(|birth| birth.timeline).unwrap_or_default();
        let mut births = Births::read(&self.plan().data).map_err(transient)?;
        births.adopt(&known.births, own);
        births.write(&self.plan().data).map_err(transient)?;
        let log_from = fs::metadata(self.plan().log()).map_or(0, |log| log.len());
        let mut followed = lock(&self.0.followed);
        followed.upstreams.insert(upstream.node, upstream.address.clone());
        followed.log_from = Some(log_from);
        let ear = Ear::of(self.plan(), &upstream.address, known.client);
        followed.ear = Some(Arc::new(ear));
        Ok(known.nobody)
    }

    async fn follow_nobody(&self) {
        self.0.introductions.end().await;
        let mut followed = lock(&self.0.followed);
        followed.log_from = None;
        followed.ear = None;
    }

    /// It has no upstream any more, and nothing comes.
    async fn end_following(&self) -> Result<(), PostgresError> {
        let mark = self.want(|wanted| wanted.follow(self.plan(), None))?;
        self.follow_nobody().await;
        self.in_force(mark).await?;
        self.end_receiver().await
    }

    /// Ends the receiver of a server that has no upstream any more, and returns when none was seen
    /// twice. The server ends it by itself only once it has replayed everything, and lets it
    /// confirm until then; ended by a signal it flushes what it has before it goes, and is not
    /// begun again.
    async fn end_receiver(&self) -> Result<(), PostgresError> {
        const RECEIVER: &str = "select coalesce(max(pid), 0)::bigint from pg_stat_activity \
             where backend_type = 'walreceiver'";
        let mut absent = 0;
        while absent < 2 {
            match Pid::from_raw(i32::try_from(self.number(RECEIVER).await?).unwrap_or_default()) {
                Some(receiver) => {
                    absent = 0;
                    // Nothing is wrong with a process that is gone already.
                    let _ = kill_process(receiver, Signal::TERM);
                    sleep(LOOK_AGAIN).await;
                }
                None => {
                    absent += 1;
                    sleep(SURELY_GONE).await;
                }
            }
        }
        Ok(())
    }
}

impl Postgres for OsPostgres {
    async fn observe(&self) -> Result<Observation, PostgresError> {
        let followed = lock(&self.0.followed).clone();
        let seen = look::look(self.plan(), &self.0.kept, &followed, &self.0.resting).await?;
        let Given { parameters, pending } = lock(&self.0.given).clone();
        Ok(Observation { parameters, pending_restart: pending, ..seen })
    }

    async fn initialise(&self, epoch: Epoch) -> Result<SystemId, PostgresError> {
        self.unless_stopped(directory::initialise(self.plan(), epoch)).await
    }

    async fn clone_from(&self, source: &Upstream) -> Result<(), PostgresError> {
        self.unless_stopped(directory::clone_from(self.plan(), source)).await
    }

    async fn rewind(&self, source: &Upstream) -> Result<RewindReport, PostgresError> {
        let seen = self.observe().await?;
        self.unless_stopped(directory::rewind(self.plan(), source, &seen)).await
    }

    async fn start(&self, how: &StartAs) -> Result<(), PostgresError> {
        self.unless_stopped(self.bring_up(how)).await
    }

    async fn promote(&self, epoch: Epoch) -> Result<TimelineBirth, PostgresError> {
        let seen = self.observe().await?;
        let last = seen.history.last().copied();
        let done = last.filter(|birth| birth.born == epoch && seen.side == Side::Primary);
        if let Some(birth) = done {
            return Ok(birth);
        }
        if seen.receiver.is_some() || lock(&self.0.wanted).upstream().is_some() {
            let why = "a receiver is configured: detach first";
            return Err(PostgresError::Transient(why.into()));
        }
        promised::refuse(&seen, Some(epoch))?;
        self.unless_stopped(async {
            self.forget_what_is_no_parent(&seen).await?;
            let from = last.map(|birth| birth.timeline).unwrap_or_default();
            let mut births = Births::read(&self.plan().data).map_err(transient)?;
            births.intend(epoch, from);
            births.write(&self.plan().data).map_err(transient)?;
            if lock(&self.0.wanted).waits.are_for_ever() {
                // Nobody has said whom its commits are to wait for.
                self.bring_into_force(&SyncNames { epoch, ..SyncNames::default() }).await?;
            }
            if !lock(&self.0.wanted).waits.are_for_nobody() {
                self.shut_out_clients().await?;
            }
            let birth = self.end_recovery(epoch).await?;
            if !lock(&self.0.wanted).admits {
                // Who was just being let in when the doors were shut.
                self.end_sessions().await?;
            }
            Ok(birth)
        })
        .await
    }

    async fn follow(&self, upstream: &Upstream) -> Result<(), PostgresError> {
        self.unless_stopped(async {
            let known = self.0.introductions.make(self.plan(), upstream).await?;
            if lock(&self.0.wanted).upstream().is_some() {
                // What still comes from there is not what the births will say.
                self.end_following().await?;
            }
            let seen = self.observe().await?;
            self.forget_what_lost(&seen, known.line.as_ref()).await?;
            let nobody = self.prepare_to_follow(upstream, known, &seen)?;
            let (recovers, _) = shown_sync(&connect(self.plan()).await?).await?;
            let before = lock(&self.0.wanted).waits.clone();
            let waits = if recovers { Waits::of_standby(nobody) } else { before.clone() };
            if waits != before {
                obedience::forget(self.plan()).map_err(transient)?;
            }
            let mark = self.want(|wanted| {
                wanted.follow(self.plan(), Some(upstream));
                wanted.waits = waits;
            })?;
            self.in_force(mark).await
        })
        .await
    }

    async fn detach(&self) -> Result<(), PostgresError> {
        self.unless_stopped(self.end_following()).await
    }

    async fn set_sync(&self, sync: &SyncNames) -> Result<(), PostgresError> {
        self.unless_stopped(self.bring_into_force(sync)).await
    }

    async fn configure(&self, parameters: &BTreeMap<String, String>) -> Result<(), PostgresError> {
        self.unless_stopped(async {
            let plan = self.plan();
            given::vet(plan, parameters).await?;
            given::keep(plan, parameters).map_err(transient)?;
            let mark = self.want(|_| {})?;
            let mut given = Given { parameters: parameters.clone(), pending: Vec::new() };
            if server::postmaster(&plan.data).is_some() {
                self.in_force(mark).await?;
                given.pending = self.pending().await?;
            }
            *lock(&self.0.given) = given;
            Ok(())
        })
        .await
    }

    async fn keep_log_for(&self, members: &BTreeSet<NodeId>) -> Result<(), PostgresError> {
        const IN_RECOVERY: &str = "select pg_is_in_recovery()";
        let plan = self.plan();
        let server = connect(plan).await?;
        let present = slots::of(&server).await?;
        let deeds = if ask(server.query_one(IN_RECOVERY, &[]), ANSWER_DEADLINE).await?.get(0) {
            // One that follows nobody is about to follow somebody, or to be primary.
            let wanted = lock(&self.0.wanted).clone();
            let Some(upstream) = wanted.upstream() else { return Ok(()) };
            let theirs = slots::of(&connect_at(plan, upstream).await?).await?;
            let needs = slots::needs(&theirs, lock(&self.0.followed).member_at(upstream));
            let restart_point = slots::restart_point(&server).await?;
            slots::deeds_of_standby(&present, members, &needs, restart_point)
        } else {
            slots::deeds_of_primary(&present, members)
        };
        let mut failed = None;
        for deed in deeds {
            // One that cannot be done keeps none of the others from being done.
            failed = slots::perform(&server, deed).await.err().or(failed);
        }
        failed.map_or(Ok(()), |why| Err(why.into()))
    }

    async fn admit(&self) -> Result<(), PostgresError> {
        self.unless_stopped(async {
            let mark = self.want(|wanted| wanted.admits = true)?;
            try_join(self.in_force(mark), self.access_is_understood()).await.map(|_| ())
        })
        .await
    }

    async fn extend_lease(&self, _epoch: Epoch, _until: Moment) -> Result<bool, PostgresError> {
        // The commit fence is a library that the server loads, and none is loaded.
        Ok(false)
    }

    async fn stop(&self, how: StopHow) -> Result<(), PostgresError> {
        let under_way = std::mem::replace(&mut *lock(&self.0.stopping), CancellationToken::new());
        under_way.cancel();
        drop(self.0.at_work.lock().await);
        match how {
            StopHow::Fast => server::stop_fast(&self.plan().data).await,
            StopHow::Immediate => server::stop_now(&self.plan().data).await,
        }
        Ok(())
    }
}

impl OsPostgres {
    /// Starts the server, and waits until it answers.
    async fn bring_up(&self, how: &StartAs) -> Result<(), PostgresError> {
        let plan = self.plan();
        lock(&self.0.given).pending.clear();
        server::turn_log_over(plan).map_err(transient)?;
        directory::check_startable(plan)?;
        let signal = plan.data.join("standby.signal");
        // What it was told last, or the server that it is a copy of.
        let mut nobody = Wanted::read(plan).waits.are_for_nobody();
        let mut wanted = Wanted::default();
        match how {
            StartAs::Primary { sync, .. } => {
                if Births::read(&plan.data).map_err(transient)?.is_intended() {
                    let why = "its promotion did not take place: it is a standby";
                    return Err(PostgresError::Transient(why.into()));
                }
                match fs::remove_file(&signal) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(transient(error));
                    }
                    Ok(()) | Err(_) => {}
                }
                wanted.waits = Waits::of(sync);
            }
            StartAs::Standby { upstream } => {
                births::write_whole(&signal, b"").map_err(transient)?;
                wanted.admits = true;
                wanted.follow(plan, upstream.as_ref());
            }
        }
        match how {
            StartAs::Standby { upstream: Some(upstream) } => {
                let known = self.0.introductions.make(plan, upstream).await?;
                let seen = self.observe().await?;
                nobody = self.prepare_to_follow(upstream, known, &seen)?;
            }
            StartAs::Standby { upstream: None } | StartAs::Primary { .. } => {
                self.follow_nobody().await;
            }
        }
        if matches!(how, StartAs::Standby { .. }) {
            wanted.waits = Waits::of_standby(nobody);
        }
        let waits = wanted.waits.clone();
        obedience::forget(plan).map_err(transient)?;
        self.want(|present| *present = wanted)?;
        directory::note_started(plan).map_err(transient)?;
        let raised = match how {
            StartAs::Standby { .. } => {
                let control = directory::control_file(plan).await?;
                hearsay::forget_at_rest(&plan.data, control.timeline).map_err(transient)?;
                given::too_low(plan, control.at_least).await?
            }
            StartAs::Primary { .. } => Vec::new(),
        };
        server::start(plan, &raised).await?;
        lock(&self.0.given).pending = raised.iter().map(|(name, _)| (*name).to_owned()).collect();
        connect(plan).await?;
        // Every process has begun with it.
        obedience::note(plan, &waits).map_err(transient)
    }

    /// Whoever read here until now would read what nobody has confirmed yet.
    async fn shut_out_clients(&self) -> Result<(), PostgresError> {
        let mark = self.want(|wanted| wanted.admits = false)?;
        self.in_force(mark).await?;
        self.end_sessions().await
    }

    /// A server goes on by the file that it had before, where it does not understand a line.
    async fn access_is_understood(&self) -> Result<(), PostgresError> {
        let client = connect(self.plan()).await?;
        let question = "select line_number, error from pg_hba_file_rules where error is not null";
        let wrong = ask(client.query(question, &[]), ANSWER_DEADLINE).await?;
        let Some(first) = wrong.first() else { return Ok(()) };
        let (line, why): (i32, String) = (first.get(0), first.get(1));
        let file = self.plan().access_file();
        Err(PostgresError::Transient(format!(
            "nobody is let in: line {line} of {} is not understood ({why}); correct postgres.hba, \
             or pg_hba.conf in the data directory",
            file.display()
        )))
    }

    async fn end_sessions(&self) -> Result<(), PostgresError> {
        let client = connect(self.plan()).await?;
        // One that is still being let in has no name yet.
        let question = "select pg_terminate_backend(pid) from pg_stat_activity \
                        where backend_type = 'client backend' and usename is distinct from $1";
        ask(client.execute(question, &[&plan::KEEPER]), ANSWER_DEADLINE).await?;
        Ok(())
    }

    async fn end_recovery(&self, epoch: Epoch) -> Result<TimelineBirth, PostgresError> {
        let client = connect(self.plan()).await?;
        promised::note(self.plan(), epoch).map_err(transient)?;
        let question = "select pg_promote(true, 30)";
        match ask(client.query_one(question, &[]), PROMOTION_DEADLINE).await {
            Ok(row) if row.get::<_, bool>(0) => {}
            Ok(_) => return Err(PostgresError::Unknown("the promotion takes long".into())),
            // Once it was asked for, it may take place whatever became of the question.
            Err(why) => {
                let why = PostgresError::from(why);
                return Err(PostgresError::Unknown(format!("the end of the promotion: {why}")));
            }
        }
        // Others compare control files, and this one's names the new timeline from here on.
        drop(tokio::spawn(async move {
            let _ = client.batch_execute("checkpoint").await;
        }));
        let seen = self.observe().await?;
        let birth = seen.history.last().copied();
        birth.filter(|birth| birth.born == epoch).ok_or_else(|| {
            PostgresError::Unknown("the server was promoted by somebody else".into())
        })
    }

    async fn bring_into_force(&self, sync: &SyncNames) -> Result<(), PostgresError> {
        let plan = self.plan();
        let waits = Waits::of(sync);
        let client = connect(plan).await?;
        let (recovers, shown) = shown_sync(&client).await?;
        let before = lock(&self.0.wanted).clone();
        // What the server says now counts, whoever told it so.
        let obeyed = server::postmaster(&plan.data)
            .and_then(|server| obedience::obeyed(plan, &server))
            .map(|obeyed| obeyed.waits)
            .filter(|obeyed| *obeyed == shown);
        if before.waits == waits && obeyed.as_ref() == Some(&waits) {
            return Ok(());
        }
        obedience::forget(plan).map_err(transient)?;
        let old = obeyed.as_ref().and_then(Waits::sync);
        let lingers = old.is_some_and(|old| obedience::may_linger(&old, sync));
        if !recovers && !waits.are_for_nobody() && !lingers {
            self.stop_acknowledging(&client, &before, obeyed.is_some()).await?;
        }
        let mark = self.want(|wanted| wanted.waits = waits.clone())?;
        let taking_up = async {
            self.in_force(mark).await?;
            obedience::walsenders_know(&client, &Waits::bearers(sync)).await?;
            if !recovers && waits.are_for_nobody() {
                obedience::commits_pass(&client).await?;
            }
            Ok::<(), PostgresError>(())
        };
        within(OBEDIENCE_DEADLINE, taking_up).await?;
        // On a standby nothing can be seen to wait: it has to have been so before.
        let waited = obeyed.is_some_and(|before| !before.are_for_nobody());
        if !recovers || waits.are_for_nobody() || waited {
            obedience::note(plan, &waits).map_err(transient)?;
        }
        if !recovers && !waits.are_for_nobody() {
            obedience::provoke_confirmations(&client).await?;
        }
        Ok(())
    }

    /// By way of nobody: returns when nothing can be acknowledged any more. Where that does not
    /// come about soon, what was before is put back, and not tried again at once: clients wait
    /// meanwhile.
    async fn stop_acknowledging(
        &self,
        client: &Client,
        before: &Wanted,
        known: bool,
    ) -> Result<(), PostgresError> {
        let plan = self.plan();
        if lock(&self.0.rests_until).is_some_and(|until| Instant::now() < until) {
            let why = "the server did not obey a moment ago; it is told again soon";
            return Err(PostgresError::Transient(why.into()));
        }
        let stopping = async {
            if before.waits.are_for_nobody() {
                // Nobody may be left who is about to take this up, and to tell the sessions so.
                obedience::commits_pass(client).await?;
            }
            let mark = self.want(|wanted| wanted.waits = Waits::for_ever())?;
            self.in_force(mark).await?;
            within(WALSENDERS_DEADLINE, obedience::walsenders_know(client, &[])).await?;
            Ok::<(), PostgresError>(obedience::commits_wait(plan, client).await?)
        };
        let Err(why) = within(OBEDIENCE_DEADLINE, stopping).await else { return Ok(()) };
        *lock(&self.0.rests_until) = Some(Instant::now() + OBEDIENCE_DEADLINE);
        self.want(|wanted| wanted.waits = before.waits.clone())?;
        if known {
            // Nobody went by anything in between that was less.
            obedience::note(plan, &before.waits).map_err(transient)?;
        }
        Err(why)
    }
}

/// Whether the server is a standby, and what a session that begins now goes by.
async fn shown_sync(client: &Client) -> Result<(bool, Waits), NoAnswer> {
    const SHOWN: &str = "select pg_is_in_recovery(), \
         current_setting('synchronous_standby_names'), \
         coalesce(current_setting('pg_replica.sync_epoch', true), '')";
    let row = ask(client.query_one(SHOWN, &[]), ANSWER_DEADLINE).await?;
    Ok((row.get(0), Waits { names: row.get(1), epoch: row.get(2) }))
}

/// Not longer than that, until every process obeys.
async fn within<T, E: Into<PostgresError>>(
    deadline: Duration,
    taking_up: impl Future<Output = Result<T, E>>,
) -> Result<T, PostgresError> {
    match timeout(deadline, taking_up).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(_) => Err(PostgresError::Transient(format!(
            "not every process of the server obeys within {} s: its checkpointer may be busy, or \
             a walsender stuck",
            deadline.as_secs()
        ))),
    }
}

fn transient(error: io::Error) -> PostgresError {
    PostgresError::Transient(error.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
