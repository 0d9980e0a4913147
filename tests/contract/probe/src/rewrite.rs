//! What a request can have done to its answer on the way back: the headers where they are, the body piece by piece.

use crate::commands::Command;
use crate::{CONTINUE, events, vm};
use resilience_host::calls::{self, Map, Result};

/// The piece is dropped (`StopIterationNoBuffer` of the ABI's C++ header; the ABI has no name for it).
const DROP: u32 = 3;

/// What is left to do to the body and the trailers of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Rewrite {
    /// The body that takes the place of the first piece; without one the pieces are left alone.
    body: Option<Vec<u8>>,
    /// What the callback returns for a piece that is neither the first nor the last.
    middle: u32,
    /// Whether the trailers are removed.
    no_trailers: bool,
    /// How many pieces came.
    pieces: u32,
}

/// Rewrites response headers: `status=`, `remove=<name>,<name>`, `h:<name>=<value>`; with `early` it tries to set the body
/// there and then. What is left for later: `body=<text>` or `fill=<size>`, `middle=<returned>`, `no-trailers`.
///
/// What the host said is logged as the event `rewrite`, as it is for each piece that is written, and for the trailers.
pub(crate) fn headers(id: u32, command: &Command<'_>) {
    let mut said = Vec::new();
    if let Some(status) = command.optional("status") {
        said.push(calls::replace_header(Map::ResponseHeaders, ":status", status.as_bytes()));
    }
    for name in command.optional("remove").into_iter().flat_map(|names| names.split(',')) {
        said.push(calls::remove_header(Map::ResponseHeaders, name));
    }
    for (name, value) in command.headers() {
        said.push(calls::replace_header(Map::ResponseHeaders, &name, value.as_bytes()));
    }
    if command.optional("early").is_some() {
        said.push(calls::replace_response_body(b"early"));
    }
    let filled = command.optional("fill").map(|_| vec![b'#'; command.number("fill")]);
    let rewrite = Rewrite {
        body: filled.or_else(|| command.optional("body").map(|body| body.as_bytes().to_vec())),
        middle: command.optional("middle").map_or(DROP, |_| command.number("middle")),
        no_trailers: command.optional("no-trailers").is_some(),
        pieces: 0,
    };
    vm::with(|vm| vm.stream(id).rewrite = Some(rewrite));
    tell(id, &said);
}

/// A piece of the body: gives what the callback returns.
pub(crate) fn body(id: u32, end: bool) -> u32 {
    let next = vm::with(|vm| {
        let rewrite = vm.stream(id).rewrite.as_mut()?;
        rewrite.pieces += 1;
        Some(rewrite.clone())
    });
    let Some(Rewrite { body: Some(body), middle, pieces, .. }) = next else { return CONTINUE };
    let first = pieces == 1;
    let returned = if first || end { CONTINUE } else { middle };
    // What does not go on need not be written.
    if returned == CONTINUE {
        tell(id, &[calls::replace_response_body(if first { &body } else { b"" })]);
    }
    returned
}

/// The trailers: a body that found no piece is tried here.
pub(crate) fn trailers(id: u32) {
    let Some(rewrite) = vm::with(|vm| vm.stream(id).rewrite.clone()) else { return };
    let mut said = Vec::new();
    if let Some(body) = rewrite.body.filter(|_| rewrite.pieces == 0) {
        said.push(calls::replace_response_body(&body));
    }
    if rewrite.no_trailers {
        let pairs = calls::header_pairs(Map::ResponseTrailers).expect("trailers");
        for (name, _) in pairs.iter() {
            let name = std::str::from_utf8(name).expect("the suite writes text");
            said.push(calls::remove_header(Map::ResponseTrailers, name));
        }
    }
    tell(id, &said);
}

fn tell(id: u32, said: &[Result<()>]) {
    let said = said.iter().map(|said| match said {
        Ok(()) => "ok".to_owned(),
        Err(status) => format!("E{}", status.0),
    });
    events::said(id, "rewrite", &said.collect::<Vec<_>>().join("|"));
}
