//! A cluster, its clients, its faults and its watchers, run from one plan and one seed.
