//! Disks that lose what was not synced.
