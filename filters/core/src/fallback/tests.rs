//! Which entry answers.
