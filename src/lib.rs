//! `pg_replica` keeps a PostgreSQL cluster with exactly one writable primary.
//!
//! The reading order is the order of the modules below: the words, the protocol, what the members
//! agree on, what the protocol needs from outside, and the loop that brings them together. What a
//! person touches, the command line and the configuration, comes last.

pub mod api;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod env;
pub mod ha;
pub mod ids;
pub mod os;
pub mod runtime;
pub mod sabotage;
pub mod service;
