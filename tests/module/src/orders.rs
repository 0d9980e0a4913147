//! Callbacks of a stream, in every order a host might think of.

use crate::shop::{End, answer};
use crate::{Action, FakeStream};

/// A callback of a stream, and its name.
pub type Callback = (&'static str, fn(&FakeStream));

/// What the upstream answers.
pub const ANSWERS: [Callback; 3] = [
    ("headers", |stream| answer(stream, End::Status(200)).unwrap()),
    ("failure", |stream| answer(stream, End::Status(500)).unwrap()),
    ("trailers", |stream| assert_eq!(stream.trailers().unwrap(), Action::Continue)),
];

/// What a host that has these callbacks says of the end.
pub const ENDINGS: [Callback; 2] =
    [("log", |stream| stream.log().unwrap()), ("done", |stream| stream.done().unwrap())];

/// Every order of these.
#[must_use]
pub fn orders<T: Copy>(of: &[T]) -> Vec<Vec<T>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let begun_with = |first: usize| {
        let rest: Vec<T> = of.iter().enumerate().filter(|(at, _)| *at != first).map(|(_, it)| *it).collect();
        orders(&rest).into_iter().map(move |order| [vec![of[first]], order].concat())
    };
    (0..of.len()).flat_map(begun_with).collect()
}
