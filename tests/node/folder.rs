//! A temporary folder of a test's own, gone when the test is over.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Below the machine's folder for temporary things; the server's account can get through.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("node-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a temporary folder");
        Self(folder)
    }

    /// One in which every account may write.
    pub(crate) fn for_everybody(name: &str) -> Self {
        let folder = Self::new(name);
        set_mode(&folder.0, 0o777);
        folder
    }

    pub(crate) fn all(&self) -> &Path {
        &self.0
    }

    /// The path of what is called `name` in it, to be put into an argument.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    pub(crate) fn is_empty(&self) -> bool {
        fs::read_dir(&self.0).expect("it is there").next().is_none()
    }

    /// Makes the password of the members, and returns its path.
    pub(crate) fn secret(&self) -> String {
        let secret = self.path("secret");
        fs::write(&secret, "0123456789abcdef\n").expect("it can be written");
        set_mode(Path::new(&secret), 0o600);
        secret
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}
