//! What a client gets of an answer, and whether it can make sense of it.

use crate::headers::{Headers, Map, find};

/// What went on to the client of an answer that is no local response.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Received {
    /// Its headers, once they went on.
    pub headers: Option<Headers>,
    /// Its body, piece by piece.
    pub pieces: Vec<Vec<u8>>,
    /// Its trailers, if any came.
    pub trailers: Option<Headers>,
    /// Whether it is there whole.
    pub ended: bool,
}

impl Received {
    pub(crate) fn pass(&mut self, map: Map, headers: Headers, end: bool) {
        match map {
            Map::ResponseHeaders => (self.headers, self.ended) = (Some(headers), end),
            Map::ResponseTrailers => (self.trailers, self.ended) = (Some(headers), true),
            Map::RequestHeaders | Map::RequestTrailers => {}
        }
    }

    pub(crate) fn pass_piece(&mut self, piece: Vec<u8>, end: bool) {
        self.pieces.push(piece);
        self.ended = end;
    }

    /// The value of the first header of this name, as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        find(self.headers.as_ref()?, name)
    }

    /// The whole body.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        self.pieces.concat()
    }

    /// Whether a client that asked with this method takes it for one whole answer.
    ///
    /// # Errors
    /// What is wrong with it: RFC 9112, 6.3, and for empty pieces in the middle, which some count as an attack, RFC 9113, 10.5.
    pub fn is_well_formed(&self, method: &str) -> Result<(), String> {
        let status = self.header(":status").ok_or("it has no status")?;
        let length = self.header("content-length").map(|length| length.parse::<usize>());
        let length = length.transpose().map_err(|error| format!("its content-length: {error}"))?;
        let body = self.body().len();
        if !self.ended {
            return Err("it does not end".to_owned());
        }
        if self.pieces.iter().rev().skip(1).any(Vec::is_empty) {
            return Err("it has an empty piece before its last".to_owned());
        }
        let has_none = method == "HEAD" || ["204", "205", "304"].contains(&status.as_str());
        match length {
            _ if has_none && body > 0 => Err(format!("{body} bytes after {method} and {status}")),
            Some(_) if status == "204" => Err("204 with a content-length".to_owned()),
            Some(length) if !has_none && length != body => {
                Err(format!("{body} bytes, and a content-length of {length}"))
            }
            _ => Ok(()),
        }
    }
}
