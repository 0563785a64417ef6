//! What tests on the real machine need of it: PostgreSQL's programs, its account, and ports.

use std::net::TcpListener;

use pg_replica::os::postgres::{Account, Installation};

/// The server programs. Where there are none a test fails, unless somebody said that this is known.
pub(crate) fn installation() -> Option<Installation> {
    match Installation::find(None) {
        Ok(installation) => Some(installation),
        Err(why) if std::env::var_os("PG_REPLICA_WITHOUT_POSTGRES").is_some() => {
            eprintln!("left out: {why}");
            None
        }
        Err(why) => panic!("{why}; ci/install does, or set PG_REPLICA_WITHOUT_POSTGRES=1"),
    }
}

/// Whose processes servers are: a test that is root's has to give them another's.
pub(crate) fn account() -> Option<Account> {
    let is_root = rustix::process::geteuid().is_root();
    is_root.then(|| Account::named("postgres").expect("the package makes a user"))
}

/// Ports of this machine that nobody listens at, no two of them alike.
pub(crate) fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let taken = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    taken.map(|listener| listener.local_addr().expect("it has one").port())
}
