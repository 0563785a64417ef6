//! What happened, hashed and readable.
