//! The interface on a board that is fed by hand.

mod board;
pub(crate) mod fixtures;
mod operator;
mod orders;
mod pages;
