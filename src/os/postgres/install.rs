//! Where PostgreSQL's programs are, and which version they are.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest major version whose `pg_rewind` and reloadable `primary_conninfo` this rests on.
const OLDEST: u32 = 14;

/// Why there is no PostgreSQL to run.
#[derive(Debug, thiserror::Error)]
pub enum NoPostgres {
    /// None was found.
    #[error(
        "no PostgreSQL server programs were found (looked for `initdb` in {looked}): install the \
         package `postgresql`, or set postgres.bin_dir"
    )]
    Missing {
        /// Where.
        looked: String,
    },
    /// One was found that cannot be used.
    #[error("{folder}: {why}")]
    Unusable {
        /// Its folder.
        folder: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The programs of one PostgreSQL version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    folder: PathBuf,
    major: u32,
}

impl fmt::Display for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL {}", self.major)
    }
}

impl Installation {
    /// The programs in `configured`; or else those of the version that made the directory `data`;
    /// or else the newest that are installed. Looked for are those that `pg_config` names, and
    /// those where Debian puts them.
    pub fn find(configured: Option<&Path>, data: Option<&Path>) -> Result<Self, NoPostgres> {
        if let Some(folder) = configured {
            return Self::at(folder);
        }
        let mut folders: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
            .map(|entries| entries.flatten().map(|entry| entry.path().join("bin")).collect())
            .unwrap_or_default();
        folders.extend(told_by_pg_config());
        let found = folders.iter().filter_map(|folder| Self::at(folder).ok());
        let made_by = data.and_then(|data| made_by(data).ok());
        found.max_by_key(|found| (Some(found.major) == made_by, found.major)).ok_or_else(|| {
            folders.push("/usr/lib/postgresql/*/bin".into());
            let looked: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
            NoPostgres::Missing { looked: looked.join(", ") }
        })
    }

    fn at(folder: &Path) -> Result<Self, NoPostgres> {
        let unusable =
            |why: String| NoPostgres::Unusable { folder: folder.display().to_string(), why };
        let output = Command::new(folder.join("postgres"))
            .arg("--version")
            .output()
            .map_err(|error| unusable(format!("`postgres` cannot be run there: {error}")))?;
        for program in ["initdb", "pg_basebackup", "pg_rewind", "pg_controldata", "pg_waldump"] {
            if !folder.join(program).is_file() {
                return Err(unusable(format!("`{program}` is missing there")));
            }
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let major = major_of(&said)
            .ok_or_else(|| unusable(format!("`postgres --version` says `{}`", said.trim())))?;
        if major < OLDEST {
            return Err(unusable(format!(
                "this is PostgreSQL {major}, and the oldest that works is {OLDEST}"
            )));
        }
        Ok(Self { folder: folder.to_owned(), major })
    }

    /// The path of one of its programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The major version: data directories of another one are not touched.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }
}

/// The major version that made a data directory.
pub(super) fn made_by(data: &Path) -> io::Result<u32> {
    let text = fs::read_to_string(data.join("PG_VERSION"))?;
    let major = text.trim().split('.').next().unwrap_or_default().parse();
    major.map_err(|_| io::Error::other(format!("`{}` is no version", text.trim())))
}

fn told_by_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    (!folder.trim().is_empty()).then(|| folder.trim().into())
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian …)`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(2)?;
    number.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_the_server_says() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_of("bash: no such file"), None);
    }

    #[test]
    fn a_folder_without_a_server_is_refused_by_name() {
        let refused =
            Installation::find(Some(Path::new("/nowhere")), None).unwrap_err().to_string();
        assert!(refused.starts_with("/nowhere: `postgres` cannot be run there"), "{refused}");
    }
}
