//! A role and a database of its own for somebody who looks around.

use std::path::Path;

use tokio_postgres::{Client, Config, NoTls};

use super::session::{ANSWER_DEADLINE, ask};

/// Makes the role, its database and the table that the demonstration writes to, at a primary that
/// is reached through its private socket as `keeper`, who may do everything there. Both are a name
/// and a password. Done twice it changes nothing.
pub async fn welcome_guest(
    socket: &Path,
    port: u16,
    keeper: (&str, &str),
    (role, password): (&str, &str),
) -> Result<(), String> {
    let known = |text: &str| text.chars().all(|letter| letter.is_ascii_alphanumeric());
    if !known(role) || !known(password) {
        return Err("a guest has a name and a password of letters and digits".into());
    }
    let server = connect(socket, port, "postgres", keeper).await?;
    let there = format!("select from pg_roles where rolname = '{role}'");
    if found(&server, &there).await? == 0 {
        say(&server, &format!("create role {role} login password '{password}'")).await?;
    }
    let there = format!("select from pg_database where datname = '{role}'");
    if found(&server, &there).await? == 0 {
        // Copies a directory, and waits for a checkpoint: longer than a question may take.
        let create = format!("create database {role} owner {role}");
        server.batch_execute(&create).await.map_err(|error| error.to_string())?;
    }
    let inside = connect(socket, port, role, keeper).await?;
    let table = format!(
        "set role {role}; create table if not exists written \
         (writer int, number bigint, at timestamptz default now(), primary key (writer, number))"
    );
    say(&inside, &table).await
}

async fn connect(
    socket: &Path,
    port: u16,
    database: &str,
    (role, password): (&str, &str),
) -> Result<Client, String> {
    let mut config = Config::new();
    config.host_path(socket).port(port).user(role).password(password).dbname(database);
    config.connect_timeout(ANSWER_DEADLINE);
    let (client, connection) = config.connect(NoTls).await.map_err(|error| error.to_string())?;
    drop(tokio::spawn(connection));
    Ok(client)
}

async fn found(client: &Client, question: &str) -> Result<usize, String> {
    let rows = ask(client.query(question, &[]), ANSWER_DEADLINE).await;
    rows.map(|rows| rows.len()).map_err(|why| format!("{why:?}"))
}

async fn say(client: &Client, statement: &str) -> Result<(), String> {
    ask(client.batch_execute(statement), ANSWER_DEADLINE).await.map_err(|why| format!("{why:?}"))
}
