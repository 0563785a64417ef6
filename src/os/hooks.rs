//! Hooks: commands of the operator's that run when the role changes.
//!
//! They run one after the other, in the order of the changes, in a task of their own. One that
//! hangs is ended after its time, together with everything that it started; meanwhile the changes
//! queue up, and the node neither waits for a hook nor asks what it said. A fence never does.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use crate::api::RoleChange;

/// How long a hook that was asked to end may take to do so.
const END_GRACE: Duration = Duration::from_millis(500);
/// How much of what a hook complains about gets into the log.
const COMPLAINT_MAX: usize = 512;
/// What a hook does not inherit: of the node's own environment, whatever has such a word in it.
const SECRETS: [&str; 3] = ["TOKEN", "PASSWORD", "SECRET"];

/// A command to run on every change of the role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The program and its first arguments.
    pub command: Vec<String>,
    /// How long it may take.
    pub limit: Duration,
}

impl Hook {
    /// A line for the shell, which finds the arguments in `$1` to `$4`.
    #[must_use]
    pub fn shell(line: &str, limit: Duration) -> Self {
        let command = ["/bin/sh", "-c", line, "hook"].map(str::to_owned).to_vec();
        Self { command, limit }
    }
}

/// Runs the hooks for every change, until nobody calls changes out any more.
pub async fn run(mut changes: Receiver<RoleChange>, hooks: Vec<Hook>) {
    loop {
        match changes.recv().await {
            Ok(change) => {
                for hook in &hooks {
                    carry_out(hook, &change).await;
                }
            }
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!("the hooks were too slow: {missed} changes of the role are skipped");
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Runs one hook for one change, and says in the log how it ended where it did not end well.
async fn carry_out(hook: &Hook, change: &RoleChange) {
    // Of a line for the shell, the line says more than the shell's name.
    let Some(name) = hook.command.get(2).or(hook.command.first()) else { return };
    match attempt(hook, change).await {
        Ok(Some((status, complaint))) if !status.success() => {
            tracing::warn!("hook {name} for {}: {status} {complaint}", change.to);
        }
        Ok(Some(_)) => tracing::debug!("hook {name} for {}: done", change.to),
        Ok(None) => {
            let limit = hook.limit.as_millis();
            tracing::warn!("hook {name} for {} was ended after {limit} ms", change.to);
        }
        Err(error) => tracing::warn!("hook {name} for {} cannot be run: {error}", change.to),
    }
}

/// `None` where it was ended.
async fn attempt(hook: &Hook, change: &RoleChange) -> io::Result<Option<(ExitStatus, String)>> {
    let Some(mut command) = prepare(hook, change) else {
        return Err(io::Error::other("it names no program"));
    };
    let mut child = command.spawn()?;
    let complaints = child.stderr.take().map(|pipe| tokio::spawn(complaint(pipe)));
    let ended = timeout(hook.limit, child.wait()).await;
    let Ok(status) = ended else {
        end(&mut child).await;
        if let Some(reading) = complaints {
            reading.abort();
        }
        return Ok(None);
    };
    let status = status?;
    let text = match complaints {
        // Whatever it left running may hold the pipe for ever.
        Some(mut reading) => match timeout(END_GRACE, &mut reading).await {
            Ok(text) => text.unwrap_or_default(),
            Err(_) => {
                reading.abort();
                String::new()
            }
        },
        None => String::new(),
    };
    Ok(Some((status, text)))
}

/// The arguments are Patroni's, `on_role_change ROLE CLUSTER`, with the reason after them.
fn prepare(hook: &Hook, change: &RoleChange) -> Option<Command> {
    let (program, arguments) = hook.command.split_first()?;
    let RoleChange { node, cluster, from, to, epoch, reason } = change;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .args(["on_role_change", &to.to_string(), cluster, reason])
        .env("PG_REPLICA_HOOK_NODE", node.to_string())
        .env("PG_REPLICA_HOOK_CLUSTER", cluster)
        .env("PG_REPLICA_HOOK_ROLE", to.to_string())
        .env("PG_REPLICA_HOOK_PREVIOUS_ROLE", from.to_string())
        .env("PG_REPLICA_HOOK_EPOCH", epoch.0.to_string())
        .env("PG_REPLICA_HOOK_REASON", reason)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // A group of its own, so that what it starts can be ended with it.
        .process_group(0)
        .kill_on_drop(true);
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("PG_REPLICA_") && SECRETS.iter().any(|word| name.contains(word)) {
            command.env_remove(key);
        }
    }
    Some(command)
}

/// Asks it to end, and everything that it started with it; then does not ask any more.
async fn end(child: &mut Child) {
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let tell = |signal| {
        // A group that is gone has ended, which is what is wanted.
        let _ = group.map(|group| kill_process_group(group, signal));
    };
    tell(Signal::TERM);
    let _ = timeout(END_GRACE, child.wait()).await;
    tell(Signal::KILL);
    let _ = timeout(END_GRACE, child.wait()).await;
}

/// The beginning of what it wrote; the rest is read and forgotten, so that it is not held up.
async fn complaint(mut pipe: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut piece = [0; 1_024];
    while let Ok(length @ 1..) = pipe.read(&mut piece).await {
        let room = COMPLAINT_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(&piece[..length.min(room)]);
    }
    String::from_utf8_lossy(&kept).trim().replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use tokio::sync::broadcast;
    use tokio::time::Instant;

    use crate::ha::Role;
    use crate::ids::{Epoch, NodeId};

    use super::*;

    fn change(to: Role) -> RoleChange {
        RoleChange {
            node: NodeId(1),
            cluster: "test".into(),
            from: Role::Standby,
            to,
            epoch: Epoch(3),
            reason: "n2 holds e3".into(),
        }
    }

    fn scratch(name: &str) -> PathBuf {
        let name = format!("pg_replica-hook-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        path
    }

    fn written(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_hook_is_told_the_role_the_cluster_and_the_reason_in_the_order_of_the_changes() {
        let path = scratch("order");
        let script = format!(
            "echo \"$1|$2|$3|$4|$PG_REPLICA_HOOK_ROLE|$PG_REPLICA_HOOK_EPOCH\" >> {}",
            path.display()
        );
        let (sender, receiver) = broadcast::channel(8);
        for role in [Role::Preparing, Role::Primary] {
            sender.send(change(role)).unwrap();
        }
        drop(sender);
        run(receiver, vec![Hook::shell(&script, Duration::from_secs(10))]).await;
        let said = written(&path);
        assert_eq!(
            said,
            "on_role_change|preparing|test|n2 holds e3|preparing|3\n\
             on_role_change|primary|test|n2 holds e3|primary|3\n"
        );
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended_with_everything_it_started_and_the_next_one_runs() {
        let path = scratch("hang");
        let hangs = Hook::shell("trap '' TERM; sleep 60 & sleep 60", Duration::from_millis(100));
        let began = Instant::now();
        let ended = attempt(&hangs, &change(Role::Primary)).await.unwrap();
        assert!(ended.is_none());
        assert!(began.elapsed() < Duration::from_secs(10), "it is not waited for");
        let (sender, receiver) = broadcast::channel(8);
        sender.send(change(Role::Primary)).unwrap();
        drop(sender);
        let writes =
            Hook::shell(&format!("echo ran > {}", path.display()), Duration::from_secs(10));
        run(receiver, vec![hangs, writes]).await;
        assert_eq!(written(&path), "ran\n");
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn a_failure_is_told_with_its_first_words_and_hurts_nobody() {
        let talks =
            Hook::shell("yes complaint | head -c 100000 >&2; exit 3", Duration::from_secs(10));
        let (status, said) = attempt(&talks, &change(Role::Standby)).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(3));
        assert!(said.starts_with("complaint; complaint") && said.len() < COMPLAINT_MAX * 2);
        let nothing = Hook { command: vec!["/no/such/program".into()], limit: END_GRACE };
        assert!(attempt(&nothing, &change(Role::Standby)).await.is_err());
        carry_out(&nothing, &change(Role::Standby)).await;
        carry_out(&Hook { command: vec![], limit: END_GRACE }, &change(Role::Standby)).await;
    }
}
