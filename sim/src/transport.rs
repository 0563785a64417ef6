//! Requests between members over the fabric.
