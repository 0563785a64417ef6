//! The model of a PostgreSQL server.
