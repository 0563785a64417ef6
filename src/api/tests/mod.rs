//! The interface on a board that is fed by hand.
#![allow(clippy::wildcard_enum_match_arm, reason = "a test picks the one arm it is about")]

mod board;
pub(crate) mod fixtures;
mod operator;
mod orders;
mod pages;
