//! What is asked of a stream: its header maps, its properties, its buffers, and a reply.

use super::{Answer, Import, Refusal, refuse};
use crate::faults::status;
use crate::headers::{Headers, Map, Mutation, MutationKind, decode_pairs, encode_pairs};
use crate::output::LocalResponse;

impl Import<'_, '_> {
    pub(super) fn get_buffer_bytes(&mut self) -> Answer {
        let (kind, start, max) = (self.word(0), self.word(1) as usize, self.word(2) as usize);
        let buffer = match kind {
            // Bodies, of which this host has none, the call's data and the VM's configuration: there, and empty.
            0 | 1 | 4 | 6 => Vec::new(),
            7 => match self.state().configuration.clone() {
                Some(document) => document,
                None => return refuse(status::NOT_FOUND),
            },
            2 | 3 | 5 => return refuse(status::NOT_FOUND),
            _ => return refuse(status::BAD_ARGUMENT),
        };
        let part = buffer.get(start.min(buffer.len())..start.saturating_add(max).min(buffer.len()));
        let part = part.unwrap_or_default().to_vec();
        self.give(&part, 3, 4)
    }

    /// Only a piece of an answer's body can be changed, and only while the module is shown it.
    pub(super) fn set_buffer_bytes(&mut self) -> Answer {
        const RESPONSE_BODY: u32 = 1;
        let (kind, start, length) = (self.word(0), self.word(1) as usize, self.word(2) as usize);
        let bytes = self.slice(3)?;
        if kind > 8 {
            return refuse(status::BAD_ARGUMENT);
        }
        let piece = match self.state().context() {
            Some(context) if kind == RESPONSE_BODY => context.piece.as_mut(),
            _ => None,
        };
        let Some(piece) = piece else { return refuse(status::BAD_ARGUMENT) };
        match (start, length) {
            (0, 0) => *piece = [bytes, std::mem::take(piece)].concat(),
            (0, length) if length >= piece.len() => *piece = bytes,
            (start, _) if start > 0 && start >= piece.len() => piece.extend(bytes),
            _ => return refuse(status::BAD_ARGUMENT),
        }
        Ok(())
    }

    pub(super) fn get_property(&mut self) -> Answer {
        let path = self.slice(0)?;
        let state = self.state();
        let own = state.context().and_then(|context| context.properties.get(&path).cloned());
        match own.or_else(|| state.properties.get(&path).cloned()) {
            Some(value) => self.give(&value, 2, 3),
            None => refuse(status::NOT_FOUND),
        }
    }

    pub(super) fn set_property(&mut self) -> Answer {
        let (path, value) = (self.slice(0)?, self.slice(2)?);
        match self.state().context() {
            Some(context) if context.parent != 0 => {
                context.properties_set.push((path.clone(), value.clone()));
                // Envoy looks a property up by the path's first segment but stores it by the whole path.
                if !path.contains(&0) {
                    context.properties.insert(path, value);
                }
                Ok(())
            }
            _ => refuse(status::NOT_FOUND),
        }
    }

    /// The map that may be read now; `None` inside where it is absent without that being an error.
    fn readable(&mut self, map: u32) -> Result<Option<Headers>, Refusal> {
        let Some(map) = Map::numbered(map) else {
            return refuse(if map > 8 { status::BAD_ARGUMENT } else { status::NOT_FOUND });
        };
        let Some(context) = self.state().context() else { return refuse(status::BAD_ARGUMENT) };
        let logging = context.logging;
        let headers = context.map(map);
        match headers.open || logging {
            true => Ok(Some(headers.headers.clone())),
            // Maps of another phase.
            false => refuse(status::BAD_ARGUMENT),
        }
    }

    pub(super) fn get_header(&mut self) -> Answer {
        let (map, name) = (self.word(0), self.slice(1)?);
        let headers = self.readable(map)?.unwrap_or_default();
        // The first of several, as Envoy answers.
        match headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(&name)) {
            Some((_, value)) => self.give(&value.clone(), 3, 4),
            None => refuse(status::NOT_FOUND),
        }
    }

    pub(super) fn get_headers(&mut self) -> Answer {
        let map = self.word(0);
        // An absent map is an empty one here, unlike everywhere else: so it is in Envoy.
        let pairs = self.readable(map).ok().flatten().map(|map| encode_pairs(&map)).unwrap_or_default();
        self.give(&pairs, 1, 2)
    }

    pub(super) fn mutate(&mut self, kind: MutationKind) -> Answer {
        let (map, name) = (self.word(0), self.slice(1)?.to_ascii_lowercase());
        let value = if kind == MutationKind::Remove { Vec::new() } else { self.slice(3)? };
        if value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
            let violation =
                format!("header {:?} set to a value that splits headers", String::from_utf8_lossy(&name));
            self.state().violations.push(violation);
        }
        let Some(map) = Map::numbered(map) else { return refuse(status::BAD_ARGUMENT) };
        let Some(context) = self.state().context() else { return refuse(status::BAD_ARGUMENT) };
        let headers = context.map(map);
        if !headers.open {
            return refuse(status::BAD_ARGUMENT);
        }
        if kind != MutationKind::Add {
            headers.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(&name));
        }
        if kind != MutationKind::Remove {
            headers.headers.push((name.clone(), value.clone()));
        }
        context.mutations.push(Mutation { map, kind, name, value });
        Ok(())
    }

    pub(super) fn send_local_response(&mut self) -> Answer {
        let status = self.word(0);
        let (details, body, pairs) = (self.slice(1)?, self.slice(3)?, self.slice(5)?);
        let grpc_status = self.word(7) as i32;
        let callback = self.state().callback.0.clone();
        let headers = match decode_pairs(&pairs) {
            Some(headers) => headers,
            None => {
                self.state().violations.push(format!("{callback}: a local response with malformed headers"));
                Headers::new()
            }
        };
        let Some(context) = self.state().context().filter(|context| context.parent != 0) else {
            return Ok(());
        };
        let begun = context.received.headers.is_some();
        context.local_responses.push(LocalResponse { status, details, headers, body, grpc_status, callback });
        let many = context.local_responses.len() > 1;
        let id = self.state().effective;
        if many {
            self.state().violations.push(format!("a second local response on stream {id}"));
        }
        if begun {
            self.state().violations.push(format!("a local response on stream {id}, whose answer has begun"));
        }
        Ok(())
    }
}
