//! An answer that a filter makes its own on the way back: rewritten in place, piece by piece, or replaced by a reply from
//! its response headers.

mod broken;
mod direct;
mod framing;
mod front;
mod in_place;
mod local;
mod scene;
