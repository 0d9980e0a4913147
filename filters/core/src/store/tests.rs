//! `update`: conflicts, giving up, and what it presents to a compare-and-swap.

use super::*;
use std::collections::VecDeque;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const KEY: &[u8] = b"key";

/// One value, and a script of how the next calls go wrong.
#[derive(Default)]
struct Scripted {
    value: Option<Versioned>,
    reads: VecDeque<Unavailable>,
    writes: VecDeque<PutError>,
    gets: u32,
    puts: Vec<(Vec<u8>, Expected)>,
}

impl Store for Scripted {
    fn get(&mut self, key: &[u8]) -> Result<Option<Versioned>, Unavailable> {
        assert_eq!(key, KEY);
        self.gets += 1;
        self.reads.pop_front().map_or_else(|| Ok(self.value.clone()), Err)
    }

    fn put(&mut self, key: &[u8], bytes: &[u8], expected: Expected) -> Result<(), PutError> {
        assert_eq!(key, KEY);
        self.puts.push((bytes.to_vec(), expected));
        let version = self.value.as_ref().map(|value| value.version);
        if let Some(error) = self.writes.pop_front() {
            if error == PutError::Conflict {
                // Somebody else's write: one more letter and a number of its own.
                let mut bytes = self.value.take().map_or_else(Vec::new, |value| value.bytes);
                bytes.push(b'x');
                self.value = Some(Versioned { bytes, version: version.unwrap_or(0) + 10 });
            }
            return Err(error);
        }
        assert_eq!(expected, version.map_or(Expected::Absent, Expected::Version));
        self.value = Some(Versioned { bytes: bytes.to_vec(), version: version.unwrap_or(0) + 1 });
        Ok(())
    }
}

/// Appends a letter; the answer is the length found.
fn append(found: Option<&Versioned>) -> Change<usize> {
    let found = found.map(Versioned::bytes).unwrap_or_default();
    Change::Write([found, b"a"].concat(), found.len())
}

#[test]
fn a_first_write_expects_absence() {
    let mut store = Scripted::default();
    let updated = update(&mut store, KEY, append);
    assert_eq!((updated.answer, updated.wrote, updated.conflicts), (Some(0), true, 0));
    assert_eq!(store.puts, [(b"a".to_vec(), Expected::Absent)]);
}

#[test]
fn a_later_write_expects_what_was_read() {
    let mut store =
        Scripted { value: Some(Versioned { bytes: b"aa".to_vec(), version: 7 }), ..Default::default() };
    let updated = update(&mut store, KEY, append);
    assert_eq!((updated.answer, updated.wrote), (Some(2), true));
    assert_eq!(store.puts, [(b"aaa".to_vec(), Expected::Version(7))]);
    assert_eq!(store.gets, 1);
}

#[test]
fn keeping_writes_nothing() {
    let mut store = Scripted::default();
    let updated = update(&mut store, KEY, |found| Change::Keep(found.is_none()));
    assert_eq!((updated.answer, updated.wrote, updated.conflicts), (Some(true), false, 0));
    assert!(store.puts.is_empty());
}

#[test]
fn a_conflict_runs_the_change_again_on_what_is_there_now() {
    let mut store = Scripted { writes: [PutError::Conflict; 3].into(), ..Default::default() };
    let updated = update(&mut store, KEY, append);
    assert_eq!((updated.answer, updated.wrote, updated.conflicts), (Some(3), true, 3));
    assert_eq!(store.value.unwrap().bytes, b"xxxa");
    assert_eq!(store.puts[3].1, Expected::Version(30));
}

#[test]
fn a_change_may_find_nothing_left_to_do_after_a_conflict() {
    let mut store = Scripted { writes: [PutError::Conflict].into(), ..Default::default() };
    let updated = update(&mut store, KEY, |found| match found {
        None => Change::Write(b"mine".to_vec(), "written"),
        Some(_) => Change::Keep("kept"),
    });
    assert_eq!((updated.answer, updated.wrote, updated.conflicts), (Some("kept"), false, 1));
}

#[test]
fn gives_up_after_the_bound_and_not_before() {
    let bound = usize::try_from(ATTEMPTS).unwrap();
    let mut store = Scripted { writes: vec![PutError::Conflict; bound - 1].into(), ..Default::default() };
    let updated = update(&mut store, KEY, append);
    assert_eq!((updated.answer, updated.conflicts), (Some(bound - 1), ATTEMPTS - 1));

    let mut store = Scripted { writes: vec![PutError::Conflict; bound].into(), ..Default::default() };
    let updated = update(&mut store, KEY, append);
    assert_eq!((updated.answer, updated.wrote, updated.conflicts), (None, false, ATTEMPTS));
    assert_eq!((store.gets, store.puts.len()), (ATTEMPTS, bound), "and no call more");
}

#[test]
fn a_store_that_does_not_answer_is_not_asked_again() {
    let mut store = Scripted { reads: [Unavailable].into(), ..Default::default() };
    let updated = update(&mut store, KEY, append);
    assert_eq!((updated.answer, updated.wrote, updated.conflicts), (None, false, 0));
    assert_eq!((store.gets, store.puts.len()), (1, 0));

    let mut store =
        Scripted { writes: [PutError::Conflict, PutError::Unavailable].into(), ..Default::default() };
    let updated = update(&mut store, KEY, append);
    assert_eq!((updated.answer, updated.wrote, updated.conflicts), (None, false, 1));
    assert_eq!((store.gets, store.puts.len()), (2, 2));
}
