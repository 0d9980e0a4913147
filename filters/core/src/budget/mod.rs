//! The retry budget.

mod settings;

pub use settings::Settings;
