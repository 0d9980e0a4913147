//! What a caller takes.
