//! HTTP over the machine's sockets: the server under `api`, the client under the command line, and
//! the file that a token is read from.

mod client;
mod server;
#[cfg(test)]
pub(crate) mod tests;
mod timer;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub use client::{HttpAnswer, HttpError, HttpRequest};
pub use server::serve;

/// The longest token file that is read: it holds one line.
const TOKEN_MAX: u64 = 4_096;

/// Reads a token from a file that nobody but its owner may read.
pub fn read_token(path: &Path) -> io::Result<String> {
    let told = |why: String| io::Error::other(format!("{}: {why}", path.display()));
    let metadata = fs::metadata(path).map_err(|error| told(error.to_string()))?;
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        return Err(told(format!("its mode is {mode:o}, so others may read it; chmod 600 it")));
    }
    if metadata.len() > TOKEN_MAX {
        return Err(told(format!("it is longer than {TOKEN_MAX} bytes: that is no token")));
    }
    let text = fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(told("it holds no token: one line without blanks is expected".into()));
    }
    Ok(token.to_owned())
}
