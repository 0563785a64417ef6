//! Words to a server: over the laboratory's network, or through its private socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use pg_replica::env::SyncNames;
use pg_replica::ids::{Epoch, Lsn, NodeId, Timeline};
use sim::witness::{Row, Untold};
use tokio::net::{TcpSocket, UnixStream};
use tokio::task::AbortHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::subject::Person;

/// What a write says of itself, from inside the transaction.
const RETURNING: &str = "pg_walfile_name(pg_current_wal_insert_lsn()) as wal, \
                         pg_current_wal_insert_lsn()::text as lsn, \
                         current_setting('synchronous_standby_names') as names";

/// What a reader asks for: a server in recovery has no file of a log of its own.
const READING: &str = "select case when pg_is_in_recovery() then null \
                       else pg_walfile_name(pg_current_wal_insert_lsn()) end, \
                       current_setting('synchronous_standby_names'), writer, number, waited_for \
                       from (select) as one left join (select writer, number, waited_for \
                       from written order by ctid desc limit 64) as newest on true";

/// An open session. Dropping it ends it, whatever is under way.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    talk: AbortHandle,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.talk.abort();
    }
}

/// What a server said when it had committed a row.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) timeline: Timeline,
    pub(super) lsn: Lsn,
    pub(super) sync: SyncNames,
    /// The row that was in the register, where it was asked for and there was one.
    pub(super) found: Option<Row>,
}

/// What a primary showed to a reader.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) timeline: Timeline,
    /// Whom commits wait for now.
    pub(super) sync: SyncNames,
    /// Its newest rows, and whether the commit of each waited for somebody.
    pub(super) rows: Vec<Untold>,
}

/// Why there is no such word.
#[derive(Clone, Debug)]
pub(super) enum NotTold {
    /// Nothing was written.
    Refused,
    /// It may have been.
    Broken,
}

impl Session {
    /// From one address of the laboratory to a server at another.
    pub(super) async fn over_network(
        from: Ipv4Addr,
        to: Ipv4Addr,
        port: u16,
        who: &Person,
    ) -> Result<Self, String> {
        let told = |error: std::io::Error| error.to_string();
        let socket = TcpSocket::new_v4().map_err(told)?;
        socket.bind(SocketAddr::from((from, 0))).map_err(told)?;
        let stream = socket.connect(SocketAddr::from((to, port))).await.map_err(told)?;
        let _ = stream.set_nodelay(true);
        Self::open(stream, &config(who, &who.role)).await
    }

    /// Through the private socket, which no fault of a network cuts.
    pub(super) async fn at(
        socket: &(std::path::PathBuf, u16),
        who: &Person,
        database: &str,
    ) -> Result<Self, String> {
        let path = Path::new(&socket.0).join(format!(".s.PGSQL.{}", socket.1));
        let stream = UnixStream::connect(path).await.map_err(|error| error.to_string())?;
        Self::open(stream, &config(who, database)).await
    }

    async fn open<S>(stream: S, config: &Config) -> Result<Self, String>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let opened = config.connect_raw(stream, NoTls).await;
        let (client, connection) = opened.map_err(|error| error.to_string())?;
        let talk = tokio::spawn(async move {
            // Its end shows in the next question.
            let _ = connection.await;
        });
        Ok(Self { client, talk: talk.abort_handle() })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Commits a row.
    pub(super) async fn write(&self, row: Row) -> Result<Told, NotTold> {
        self.commit("", row).await
    }

    /// Commits a row, and puts it into the register in the same transaction.
    pub(super) async fn swap(&self, row: Row) -> Result<Told, NotTold> {
        let Row { client, number } = row;
        let swap = format!(
            "select writer, number from register for update; \
             update register set writer = {client}, number = {number}; "
        );
        self.commit(&swap, row).await
    }

    async fn commit(&self, before: &str, row: Row) -> Result<Told, NotTold> {
        let statement = format!(
            "{before}insert into written (writer, number) values ({}, {}) returning {RETURNING}",
            row.client, row.number
        );
        let said = match self.client.simple_query(&statement).await {
            Ok(said) => said,
            Err(error) => return Err(not_told(&error)),
        };
        // The whole answer was read, and the last of it comes after the commit.
        let rows = || said.iter().filter_map(row_in);
        let found = rows().find_map(|row| {
            let client = word(row, "writer")?.parse().ok()?;
            Some(Row { client, number: word(row, "number")?.parse().ok()? })
        });
        let told = rows().find_map(|row| {
            let timeline = timeline_of(word(row, "wal")?)?;
            let lsn = parse_lsn(word(row, "lsn")?)?;
            Some(Told { timeline, lsn, sync: parse_names(word(row, "names")?), found })
        });
        told.ok_or(NotTold::Broken)
    }

    /// The rows of an answer, as texts.
    pub(super) async fn ask(&self, question: &str) -> Result<Vec<Vec<Option<String>>>, String> {
        let said = self.client.simple_query(question).await.map_err(|error| error.to_string())?;
        let texts = |row: &SimpleQueryRow| {
            (0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect()
        };
        Ok(said.iter().filter_map(row_in).map(texts).collect())
    }

    /// The newest rows, on a primary; on another server, whose rows nobody has promised, nothing.
    pub(super) async fn read(&self) -> Result<Option<Seen>, String> {
        let said = self.ask(READING).await?;
        let mut seen = None;
        for row in said {
            let mut columns = row.into_iter().flatten();
            let (Some(wal), Some(names)) = (columns.next(), columns.next()) else { break };
            let Some(timeline) = timeline_of(&wal) else { break };
            let seen = seen.get_or_insert_with(|| {
                let sync = parse_names(&names);
                Seen { timeline, sync, rows: Vec::new() }
            });
            let mut one = || {
                let client = columns.next()?.parse().ok()?;
                let row = Row { client, number: columns.next()?.parse().ok()? };
                Some(Untold { row, waited: parse_names(&columns.next()?).confirmations })
            };
            seen.rows.extend(one());
        }
        Ok(seen)
    }

    /// Whether it takes writes, as `target_session_attrs=read-write` asks.
    pub(super) async fn is_writable(&self) -> bool {
        let said = self.ask("show transaction_read_only").await.unwrap_or_default();
        said.first().and_then(|row| row.first()).is_some_and(|it| it.as_deref() == Some("off"))
    }

    /// Every row, with the timeline that it was written on.
    pub(super) async fn rows(&self) -> Result<Vec<(Row, Timeline)>, String> {
        let said = self.ask("select writer, number, wal from written").await?;
        let rows = said.into_iter().map(|row| {
            let mut columns = row.iter().flatten();
            let mut read = || {
                let client = columns.next()?.parse().ok()?;
                let number = columns.next()?.parse().ok()?;
                Some((Row { client, number }, timeline_of(columns.next()?)?))
            };
            read().ok_or_else(|| format!("{row:?} is no row that anybody wrote"))
        });
        rows.collect()
    }
}

fn row_in(message: &SimpleQueryMessage) -> Option<&SimpleQueryRow> {
    if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None }
}

/// What a row says in this column, where it has such a one.
fn word<'a>(row: &'a SimpleQueryRow, column: &str) -> Option<&'a str> {
    row.try_get(column).ok().flatten()
}

fn config(who: &Person, database: &str) -> Config {
    let mut config = Config::new();
    config.user(&who.role).password(&who.password).dbname(database);
    config.application_name("chaos");
    config
}

/// Only what is certain not to have been written counts as refused.
fn not_told(error: &tokio_postgres::Error) -> NotTold {
    const READ_ONLY: &str = "25006";
    match error.as_db_error() {
        Some(refusal) if refusal.code().code() == READ_ONLY => NotTold::Refused,
        Some(_) | None => NotTold::Broken,
    }
}

/// The timeline in the name of a file of the log.
pub(super) fn timeline_of(wal: &str) -> Option<Timeline> {
    u32::from_str_radix(wal.get(..8)?, 16).ok().map(Timeline)
}

pub(super) fn parse_lsn(text: &str) -> Option<Lsn> {
    let (high, low) = text.split_once('/')?;
    let part = |text| u64::from_str_radix(text, 16).ok();
    Some(Lsn((part(high)? << 32) | part(low)?))
}

/// How many confirmations a commit waits for, and of whom: `ANY 1 ("pg_replica_n2_e1", …)`. Of
/// nobody, where it waits for a standby that does not exist.
fn parse_names(text: &str) -> SyncNames {
    let parsed = text.strip_prefix("ANY ").and_then(|rest| rest.split_once(' '));
    let confirmations = parsed.and_then(|(count, _)| count.parse().ok()).unwrap_or_default();
    let standbys = text.split('"').skip(1).step_by(2).filter_map(node_in).collect();
    SyncNames { epoch: Epoch::default(), confirmations, standbys }
}

/// The member in a standby's name.
fn node_in(name: &str) -> Option<NodeId> {
    let part = name.split('_').find_map(|part| part.strip_prefix('n')?.parse().ok());
    part.map(NodeId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_a_commit_is_understood() {
        assert_eq!(timeline_of("0000000A0000000000000003"), Some(Timeline(10)));
        assert_eq!(parse_lsn("1/A0"), Some(Lsn((1 << 32) | 0xa0)));
        let sync = parse_names("ANY 2 (\"pg_replica_n2_e7\", \"pg_replica_n3_e7\")");
        assert_eq!(sync.confirmations, 2);
        assert_eq!(sync.standbys, [2, 3].map(NodeId).into());
        let held = parse_names("ANY 1 (\"pg_replica_nobody\")");
        assert!(held.confirmations == 1 && held.standbys.is_empty());
        assert_eq!(parse_names("").confirmations, 0);
    }
}
