//! Every way a request can end, as `docs/evidence.md` lists them: the table, and the world in which its rows are played.

mod client;
mod table;
mod world;

pub use client::Client;
pub use table::{Outcome, Row, TABLE};
pub use world::{World, filters_behind, route_of};
