//! The guard, which outlives the manager and freezes with its host.
