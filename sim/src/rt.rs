//! The task runtime that the consensus library runs on, over madsim.
