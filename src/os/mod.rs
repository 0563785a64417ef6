//! The production environment: the only place that touches the operating system.
#![allow(
    clippy::disallowed_methods,
    reason = "everybody else gets time, tasks and randomness from here"
)]

mod absent;
pub mod authority;
mod clock;
mod disk;
mod entropy;
mod env;
pub mod guard;
pub mod hooks;
pub mod http;
pub mod net;
mod places;
pub mod ports;
pub mod postgres;
pub mod sockets;

pub use absent::IfAny;
pub use clock::OsClock;
pub use disk::OsDisk;
pub use entropy::OsEntropy;
pub use env::OsEnv;
