//! Clients: writers and readers on both sides of every cut.
