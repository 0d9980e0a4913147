//! Sorted indexes over byte strings. Nothing here hashes: there is no seed that could be guessed, an index of one key takes
//! the memory of one key, and a look-up compares no further than the first byte that differs.

/// Values by key.
#[derive(Debug)]
pub(super) struct Keyed<V>(Box<[(Box<[u8]>, V)]>);

impl<V> Default for Keyed<V> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<V> Keyed<V> {
    /// An index in which each key has what `build` makes of its items, which are in the order in which they came.
    pub(super) fn new<I>(items: Vec<(Vec<u8>, I)>, build: impl Fn(Vec<I>) -> V) -> Self {
        let mut sorted = items;
        sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut sorted = sorted.into_iter().peekable();
        let mut groups = Vec::new();
        while let Some((key, first)) = sorted.next() {
            let mut group = vec![first];
            while let Some((_, next)) = sorted.next_if(|(next, _)| *next == key) {
                group.push(next);
            }
            groups.push((key.into_boxed_slice(), build(group)));
        }
        Self(groups.into_boxed_slice())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&V> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }
}

/// Values by what a text begins with.
///
/// Among sorted keys, those that a text begins with all are beginnings of the last key that is not behind the text. Each key
/// knows the longest other one that it begins with, so one bisection finds all of them, however many lengths they have.
#[derive(Debug)]
pub(super) struct Beginnings<V> {
    keyed: Keyed<V>,
    /// For each key the position of the longest other key that it begins with.
    within: Box<[Option<usize>]>,
}

impl<V> Default for Beginnings<V> {
    fn default() -> Self {
        Self { keyed: Keyed::default(), within: Box::default() }
    }
}

impl<V> Beginnings<V> {
    /// An index as [`Keyed::new`] makes it.
    pub(super) fn new<I>(items: Vec<(Vec<u8>, I)>, build: impl Fn(Vec<I>) -> V) -> Self {
        let keyed = Keyed::new(items, build);
        let mut within = Vec::with_capacity(keyed.0.len());
        let mut open: Vec<(usize, &[u8])> = Vec::new();
        for (at, (key, _)) in keyed.0.iter().enumerate() {
            while open.pop_if(|(_, around)| !key.starts_with(around)).is_some() {}
            within.push(open.last().map(|(around, _)| *around));
            open.push((at, key));
        }
        Self { within: within.into_boxed_slice(), keyed }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keyed.is_empty()
    }

    /// The keys that a text begins with, as their lengths and values, longest first.
    pub(super) fn of(&self, text: &[u8]) -> impl Iterator<Item = (usize, &V)> + use<'_, V> {
        let entry = |at: usize| self.keyed.0.get(at);
        let before = self.keyed.0.partition_point(|(key, _)| **key <= *text).checked_sub(1);
        let nearest = before.and_then(entry).map_or(&[][..], |(key, _)| key);
        let common = nearest.iter().zip(text).take_while(|(one, other)| one == other).count();
        std::iter::successors(before, |at| self.within.get(*at).copied().flatten())
            .filter_map(entry)
            .map(|(key, value)| (key.len(), value))
            .skip_while(move |(length, _)| *length > common)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const KEYS: [&str; 9] = ["b", "abc", "a", "ab", "abcde", "abd", "", "ba", "ab"];

    fn items() -> Vec<(Vec<u8>, usize)> {
        KEYS.iter().enumerate().map(|(at, key)| (key.as_bytes().to_vec(), at)).collect()
    }

    #[test]
    fn a_key_has_its_items_in_their_order() {
        let index = Keyed::new(items(), |group| group);
        for (at, key) in KEYS.iter().enumerate() {
            let expected = if *key == "ab" { vec![3, 8] } else { vec![at] };
            assert_eq!(index.get(key.as_bytes()), Some(&expected), "{key}");
        }
        for key in ["aa", "abcd", "c", "abcdef"] {
            assert_eq!(index.get(key.as_bytes()), None, "{key}");
        }
        assert!(Keyed::<()>::default().get(b"a").is_none());
    }

    #[test]
    fn the_beginnings_of_a_text_are_those_that_it_begins_with_longest_first() {
        let index = Beginnings::new(items(), |group| group.len());
        let letters = ["", "a", "b", "c", "d", "e"];
        for text in letters.iter().flat_map(|one| letters.map(|two| format!("{one}{two}"))) {
            for text in ["", "ab", "abc"].map(|before| format!("{before}{text}")) {
                let mut expected: Vec<_> =
                    KEYS.iter().filter(|key| text.starts_with(**key)).map(|key| key.len()).collect();
                expected.sort_unstable_by_key(|length| std::cmp::Reverse(*length));
                expected.dedup();
                let found: Vec<_> = index.of(text.as_bytes()).map(|(length, _)| length).collect();
                assert_eq!(found, expected, "{text}");
            }
        }
        assert_eq!(Beginnings::<()>::default().of(b"a").count(), 0);
    }
}
