//! Independent random streams, one per concern.
