//! What a newcomer sees: the table of the members, the writer, and what to try.

use std::io::{self, IsTerminal};

use serde_json::json;

use crate::api::Status;
use crate::cli::client::status_table;
use crate::cli::say;
use crate::os::postgres::Installation;

use super::nodes::Nodes;
use super::writer::Written;

/// How many outages are shown.
const OUTAGES_SHOWN: usize = 6;

/// What has to change before another picture is worth its lines: who holds primacy, whether
/// anybody writes, and how many outages there were.
type Shown = (Option<String>, u64, Option<usize>, usize);

pub(super) struct Screen {
    live: bool,
    json: bool,
    server: String,
    /// What was last shown where nothing can be drawn over.
    shown: Option<Shown>,
    explained: bool,
}

impl Screen {
    pub(super) fn new(installation: &Installation, json: bool) -> Self {
        let server = installation.to_string();
        Self { live: io::stdout().is_terminal(), json, server, shown: None, explained: false }
    }

    /// On a terminal over and over; elsewhere where something has changed.
    pub(super) fn draw(
        &mut self,
        nodes: &Nodes,
        status: Option<&Status>,
        written: Option<&Written>,
    ) {
        let text = self.text(nodes, status, written);
        if self.live {
            say(&format!("\x1b[H\x1b[2J{text}"));
            return;
        }
        let key = status.map(|status| {
            let outages = written.map(|written| written.outages.len());
            let primaries = status.members.iter().filter(|member| member.primary).count();
            (status.holder.clone(), status.epoch, outages, primaries)
        });
        if key.is_some() && key != self.shown {
            self.shown = key;
            say(&text);
        }
    }

    fn text(
        &mut self,
        nodes: &Nodes,
        status: Option<&Status>,
        written: Option<&Written>,
    ) -> String {
        let folder = nodes.folder().display();
        let mut text = format!("pg_replica: three nodes, {} ({folder})\n\n", self.server);
        match status {
            Some(status) => text += &status_table(status),
            None => text += "the nodes are starting\n",
        }
        let Some(written) = written else { return text + "\n" };
        text += &format!("\n{}\n", sentence(written));
        if self.live || !self.explained {
            self.explained = true;
            text += &advice(nodes, status);
        }
        text
    }

    /// What came of it.
    pub(super) fn sum_up(&self, written: &Written) -> Result<(), String> {
        if self.json {
            let outages: Vec<u128> =
                written.outages.iter().map(|(_, gap)| gap.as_millis()).collect();
            let Written { acknowledged, lost, .. } = written;
            let told = json!({ "acknowledged": acknowledged, "lost": lost, "outages_ms": outages });
            say(&format!("{told}\n"));
        } else {
            say(&format!("\n{}\n", sentence(written)));
        }
        match written.lost {
            Some(0) | None => Ok(()),
            Some(lost) => Err(format!("{lost} acknowledged rows are gone")),
        }
    }
}

fn sentence(written: &Written) -> String {
    let Written { acknowledged, rate, silent_for, outages, lost } = written;
    let lately = if silent_for.as_millis() > 250 {
        format!("nothing for {:.1} s", silent_for.as_secs_f64())
    } else {
        format!("{rate} commits per second")
    };
    let lost = lost.map(|lost| format!(", {lost} lost")).unwrap_or_default();
    let skipped = outages.len().saturating_sub(OUTAGES_SHOWN);
    let shown: Vec<String> =
        outages[skipped..].iter().map(|(_, gap)| format!("{:.2} s", gap.as_secs_f64())).collect();
    let outages = match (shown.is_empty(), skipped) {
        (true, _) => "none".to_owned(),
        (false, 0) => shown.join(", "),
        (false, skipped) => format!("{skipped} more, {}", shown.join(", ")),
    };
    format!("writers  {lately}, {acknowledged} acknowledged{lost}; outages: {outages}")
}

fn advice(nodes: &Nodes, status: Option<&Status>) -> String {
    let guest = nodes.guest();
    let hosts: Vec<String> = nodes.hosts().iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let address = format!(
        "postgresql://{}:{}@{}/{}?target_session_attrs=read-write",
        guest.role,
        guest.password,
        hosts.join(","),
        guest.role
    );
    let holder = status.and_then(|status| status.holder.clone()).unwrap_or_else(|| "n1".into());
    let folder = nodes.folder().join(&holder);
    let folder = folder.display();
    let program = std::env::current_exe().map(|p| p.display().to_string());
    let program = program.unwrap_or_else(|_| "node".into());
    let api = nodes.apis().join(",");
    format!(
        "connect  psql '{address}'\n\n\
         Try, in another terminal:\n  \
         kill -9 $(head -1 {folder}/state/data/postmaster.pid)   # the primary's Postgres\n  \
         pkill -9 -f {folder}/   # all of {holder}: manager, guard and Postgres; it comes back\n  \
         {program} switchover --yes --api {api}\n  \
         {program} explain n2 --api {api}\n\
         Ctrl-C ends it and leaves nothing behind.\n"
    )
}
