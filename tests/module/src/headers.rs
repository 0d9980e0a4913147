//! Header maps: what is in them, how they change, and how the ABI writes them into memory.

/// Header names and values, as bytes: a client may send anything.
pub type Headers = Vec<(Vec<u8>, Vec<u8>)>;

/// Headers from text.
#[must_use]
pub fn headers(pairs: &[(&str, &str)]) -> Headers {
    pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

/// A header map of a stream, numbered as the ABI does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Map {
    /// 0
    RequestHeaders,
    /// 1
    RequestTrailers,
    /// 2
    ResponseHeaders,
    /// 3
    ResponseTrailers,
}

impl Map {
    pub(crate) fn numbered(number: u32) -> Option<Self> {
        [Self::RequestHeaders, Self::RequestTrailers, Self::ResponseHeaders, Self::ResponseTrailers]
            .get(number as usize)
            .copied()
    }
}

/// How a header map was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MutationKind {
    /// Added beside others of its name.
    Add,
    /// Set in place of others of its name.
    Replace,
    /// Removed.
    Remove,
}

/// One change of a header map that the host accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mutation {
    /// Which map.
    pub map: Map,
    /// How.
    pub kind: MutationKind,
    /// In lower case.
    pub name: Vec<u8>,
    /// Empty for a removal.
    pub value: Vec<u8>,
}

/// The value of the first header of this name, as text.
pub(crate) fn find(headers: &Headers, name: &str) -> Option<String> {
    let (_, value) = headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

pub(crate) fn encode_pairs(headers: &Headers) -> Vec<u8> {
    if headers.is_empty() {
        return Vec::new();
    }
    let mut out = (headers.len() as u32).to_le_bytes().to_vec();
    for (name, value) in headers {
        out.extend((name.len() as u32).to_le_bytes());
        out.extend((value.len() as u32).to_le_bytes());
    }
    for part in headers.iter().flat_map(|(name, value)| [name, value]) {
        out.extend(part);
        out.push(0);
    }
    out
}

/// `None` where the bytes are not exactly what the ABI describes; no bytes at all mean no headers.
pub(crate) fn decode_pairs(bytes: &[u8]) -> Option<Headers> {
    fn word(bytes: &[u8], at: usize) -> Option<usize> {
        let word = bytes.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(word.try_into().ok()?) as usize)
    }
    fn part<'a>(bytes: &'a [u8], at: &mut usize, len: usize) -> Option<&'a [u8]> {
        let end = at.checked_add(len)?;
        let part = bytes.get(*at..end)?;
        if bytes.get(end) != Some(&0) {
            return None;
        }
        *at = end + 1;
        Some(part)
    }
    if bytes.is_empty() {
        return Some(Headers::new());
    }
    let count = word(bytes, 0)?;
    let mut at = count.checked_mul(8)?.checked_add(4)?;
    let mut headers = Headers::new();
    for index in 0..count {
        let (name, value) = (word(bytes, 4 + index * 8)?, word(bytes, 8 + index * 8)?);
        headers.push((part(bytes, &mut at, name)?.to_vec(), part(bytes, &mut at, value)?.to_vec()));
    }
    (at == bytes.len()).then_some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_survive_both_ways_and_anything_else_is_refused() {
        let headers: Headers = vec![(b"a".to_vec(), Vec::new()), (b"b\xff".to_vec(), b"two".to_vec())];
        let bytes = encode_pairs(&headers);
        assert_eq!(decode_pairs(&bytes), Some(headers));
        assert_eq!(decode_pairs(&[]), Some(Headers::new()));
        assert_eq!(decode_pairs(&[0, 0, 0, 0]), Some(Headers::new()));
        for len in 1..bytes.len() {
            assert_eq!(decode_pairs(&bytes[..len]), None, "cut at {len}");
        }
        assert_eq!(decode_pairs(&[255; 12]), None);
    }
}
