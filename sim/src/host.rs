//! A machine: a manager, a Postgres, a guard and a disk.
