//! What can be read in a callback, as a line of the log.

use crate::vm;
use resilience_host::calls::{self, Level, Map, Result};

/// Logs `event`, in fields set off by tabs (code details may hold anything else), with what the host says there of how the exchange went, and which headers it lets us read.
pub(crate) fn log(id: u32, event: &str) {
    let (name, case, number, whole, bodiless) = vm::with(|vm| {
        let Some(stream) = vm.streams.get(&id) else { return Default::default() };
        let name = vm.roots.get(&stream.root).cloned().unwrap_or_default();
        (name, stream.case.clone(), vm.number, stream.whole, stream.bodiless)
    });
    if name.is_empty() {
        return;
    }
    let line = [
        ("plugin", name),
        ("case", case),
        ("event", event.to_owned()),
        ("vm", number.to_string()),
        ("stream", id.to_string()),
        ("details", text(calls::property(b"response\0code_details"))),
        ("flags", integer(calls::property(b"response\0flags"))),
        ("code", integer(calls::property(b"response\0code"))),
        ("grpc", integer(calls::property(b"response\0grpc_status"))),
        ("request", readable(calls::header(Map::RequestHeaders, ":path"))),
        ("response", readable(calls::header(Map::ResponseHeaders, ":status"))),
        ("route", text(calls::property(b"xds\0route_name"))),
        ("cluster", text(calls::property(b"xds\0cluster_name"))),
        ("asked-type", text(calls::header(Map::RequestHeaders, "content-type"))),
        ("answer-type", text(calls::header(Map::ResponseHeaders, "content-type"))),
        ("trailer", text(calls::header(Map::ResponseTrailers, "grpc-status"))),
        ("attempts", integer(calls::property(b"upstream\0request_attempt_count"))),
        ("id", text(calls::property(b"request\0id"))),
        ("id-header", text(calls::property(b"request\0headers\0x-request-id"))),
        ("whole", if whole { "yes" } else { "no" }.to_owned()),
        ("bodiless", if bodiless { "yes" } else { "no" }.to_owned()),
    ];
    let line: Vec<String> = line.iter().map(|(key, value)| format!("{key}={value}")).collect();
    calls::log(Level::Info, &format!("probe\t{}", line.join("\t")));
}

/// Logs what the host said to something that was done in the callback before.
pub(crate) fn said(id: u32, event: &str, said: &str) {
    let (name, case) = vm::with(|vm| {
        let stream = vm.stream(id).clone();
        (vm.roots.get(&stream.root).cloned().unwrap_or_default(), stream.case)
    });
    calls::log(Level::Info, &format!("probe\tplugin={name}\tcase={case}\tevent={event}\tsaid={said}"));
}

pub(crate) fn text(value: Result<Option<Vec<u8>>>) -> String {
    match value {
        Ok(Some(value)) => String::from_utf8_lossy(&value).into_owned(),
        Ok(None) => "-".to_owned(),
        Err(status) => format!("E{}", status.0),
    }
}

/// Integers come as eight little-endian bytes.
pub(crate) fn integer(value: Result<Option<Vec<u8>>>) -> String {
    match value {
        Ok(Some(value)) => {
            value.try_into().map_or("odd".to_owned(), |bytes| i64::from_le_bytes(bytes).to_string())
        }
        other => text(other),
    }
}

fn readable(value: Result<Option<Vec<u8>>>) -> String {
    match value {
        Ok(Some(value)) if !value.is_empty() => "yes".to_owned(),
        Ok(_) => "no".to_owned(),
        Err(status) => format!("E{}", status.0),
    }
}
