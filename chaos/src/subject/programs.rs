//! PostgreSQL's programs in a folder of a machine's own, with a door-keeper before some of them.
//!
//! The door-keeper notes each rewind and each copy that succeeded, and lets one fail where a
//! scenario says so. Everything else is a link to the installed program.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use pg_replica::os::postgres::Installation;

/// A program that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// `pg_rewind`.
    Rewind,
    /// `pg_basebackup`.
    Clone,
    /// `initdb`.
    Founding,
}

impl Watched {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rewind, Self::Clone, Self::Founding];

    fn program(self) -> &'static str {
        match self {
            Self::Rewind => "pg_rewind",
            Self::Clone => "pg_basebackup",
            Self::Founding => "initdb",
        }
    }

    /// What each success is noted as.
    fn noted(self) -> &'static str {
        match self {
            Self::Rewind => "rewinds",
            Self::Clone => "clones",
            Self::Founding => "foundings",
        }
    }
}

/// What was done on a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Rewinds.
    pub rewinds: u64,
    /// Base backups.
    pub clones: u64,
}

/// The programs of one machine.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Those of the machine whose folder this is.
    #[must_use]
    pub fn of(machine: &Path) -> Self {
        Self { folder: machine.join("bin") }
    }

    /// Where they are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Links and door-keepers.
    pub(super) fn lay_out(&self) -> io::Result<()> {
        let installed = Installation::find(None, None).map_err(io::Error::other)?;
        let real = installed.program("postgres");
        let real = real.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(&self.folder)?;
        for entry in fs::read_dir(real)? {
            let name = entry?.file_name();
            let link = self.folder.join(&name);
            match Watched::ALL.iter().find(|watched| name == watched.program()) {
                Some(watched) => self.watch(&real.join(&name), &link, watched.noted())?,
                None if !link.exists() => symlink(real.join(&name), link)?,
                None => {}
            }
        }
        // The door-keeper writes as the server's account.
        let notes = self.notes();
        fs::create_dir_all(&notes)?;
        fs::set_permissions(notes, fs::Permissions::from_mode(0o777))
    }

    fn watch(&self, real: &Path, link: &Path, noted: &str) -> io::Result<()> {
        let (real, notes) = (real.display(), self.notes().display().to_string());
        let script = format!(
            "#!/bin/sh\n\
             case \"$*\" in *--version*) exec {real} \"$@\";; esac\n\
             if [ -e {notes}/{noted}-fail ]; then echo 'this fails on purpose' >&2; exit 1; fi\n\
             {real} \"$@\"\n\
             code=$?\n\
             [ $code -eq 0 ] && echo done >>{notes}/{noted}\n\
             exit $code\n"
        );
        fs::write(link, script)?;
        fs::set_permissions(link, fs::Permissions::from_mode(0o755))
    }

    fn notes(&self) -> PathBuf {
        self.folder.join("notes")
    }

    /// Lets a program fail, or not any more.
    pub fn fail(&self, watched: Watched, on: bool) -> io::Result<()> {
        let flag = self.notes().join(format!("{}-fail", watched.noted()));
        if on { fs::write(flag, "") } else { fs::remove_file(flag) }
    }

    /// What succeeded so far.
    #[must_use]
    pub fn done(&self) -> Done {
        let count = |watched: Watched| {
            let noted = self.notes().join(watched.noted());
            let lines = fs::read_to_string(noted).unwrap_or_default();
            lines.lines().count() as u64
        };
        Done { rewinds: count(Watched::Rewind), clones: count(Watched::Clone) }
    }
}
