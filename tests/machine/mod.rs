//! What tests on the real machine need of it: PostgreSQL's programs, its account, and ports.

use pg_replica::os::ports;
use pg_replica::os::postgres::{Account, Installation};

/// The server programs. Where there are none a test fails, unless somebody said that this is known.
pub(crate) fn installation() -> Option<Installation> {
    match Installation::find(None, None) {
        Ok(installation) => Some(installation),
        Err(why) if std::env::var_os("WITHOUT_POSTGRES").is_some() => {
            eprintln!("left out: {why}");
            None
        }
        Err(why) => panic!("{why}; ci/install does, or set WITHOUT_POSTGRES=1"),
    }
}

/// Whose processes servers are: a test that is root's has to give them another's.
pub(crate) fn account() -> Option<Account> {
    let is_root = rustix::process::geteuid().is_root();
    is_root.then(|| Account::named("postgres").expect("the package makes a user"))
}

/// Ports of this machine that nobody listens at, no two of them alike.
pub(crate) fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let free = ports::free(COUNT).expect("free ports");
    free.try_into().expect("as many as were asked for")
}
