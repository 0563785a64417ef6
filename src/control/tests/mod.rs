//! Commands against the control state: what each of them may do, and what it answers.

mod births;
mod fixtures;
mod members;
mod orders;
mod sync;
