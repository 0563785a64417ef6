//! Running PostgreSQL's programs.

use std::process::Stdio;

use tokio::process::Command;

use crate::env::PostgresError;

/// How much of what a program said is repeated.
const LINES_MAX: usize = 3;

/// Runs a program to its end and returns what it printed. Ends it where the caller gives up.
pub(super) async fn run(mut command: Command) -> Result<String, PostgresError> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let name = name.rsplit('/').next().unwrap_or(&name).to_owned();
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = command
        .output()
        .await
        .map_err(|error| PostgresError::Transient(format!("{name} cannot be run: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let why = format!("{name}: {}", last_words(&said));
    Err(judge(why))
}

/// The lines that say why, without the program's progress.
pub(super) fn last_words(said: &str) -> String {
    let telling: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| {
            ["error:", "ERROR:", "FATAL:", "PANIC:", "fatal:", "could not"]
                .iter()
                .any(|word| line.contains(word))
        })
        .collect();
    let chosen: Vec<&str> = if telling.is_empty() {
        said.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
    } else {
        telling
    };
    let from = chosen.len().saturating_sub(LINES_MAX);
    chosen[from..].join("; ")
}

/// Whether trying again can help. Only what is known to stay as it is is called permanent.
pub(super) fn judge(why: String) -> PostgresError {
    const FOR_GOOD: [&str; 9] = [
        "could not find common ancestor",
        "source and target clusters are from different systems",
        "database files are incompatible with server",
        "has wrong ownership",
        "could not locate required checkpoint record",
        "could not locate a valid checkpoint record",
        "could not find previous WAL record",
        "requested WAL segment",
        "requested timeline",
    ];
    if FOR_GOOD.iter().any(|sign| why.contains(sign)) {
        PostgresError::Permanent(why)
    } else {
        PostgresError::Transient(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_said_last_is_repeated_without_its_progress() {
        let said = "pg_rewind: servers diverged at WAL location 0/3000158 on timeline 1\n\
                    pg_rewind: error: could not find common ancestor of the source and target\n";
        assert!(last_words(said).starts_with("pg_rewind: error: could not find common"));
        assert!(!judge(last_words(said)).is_transient());
        assert!(judge("connection refused".into()).is_transient());
        assert_eq!(last_words("one\ntwo\n\n"), "one; two");
    }
}
