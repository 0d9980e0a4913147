//! Tools of the host-contract suite: the probe as a filter, commands to it, and what it logged.
//!
//! The facts themselves are in `tests/contract/`, one file for each part of the host.

mod origin;
mod peer;
mod wire;

pub use origin::Origin;
pub use peer::{Peer, listen};
pub use wire::{flag_names, hide_exports};

use resilience_test_harness::config::{self, connection_manager, listener, wasm_filter};
use resilience_test_harness::{Builder, Connection, Envoy, PATIENCE, Protocol, Request, eventually};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A module built for this suite.
///
/// # Panics
/// If `RESILIENCE_MODULES` is unset, or holds no probe.
#[must_use]
pub fn probe_module() -> PathBuf {
    let directory = std::env::var_os("RESILIENCE_MODULES")
        .expect("RESILIENCE_MODULES is not set: it names the directory of host_contract_probe.wasm");
    let path = PathBuf::from(directory).join("host_contract_probe.wasm");
    assert!(path.is_file(), "{} is not there: build the probe first", path.display());
    path
}

/// The probe as a filter; its document is `name=<name> <more>`.
#[must_use]
pub fn probe(name: &str, vm_id: &str, more: &str) -> Value {
    wasm_filter(name, &probe_module(), vm_id, name, &format!("name={name} {more}"))
}

/// An edge listener with these filters and routes.
#[must_use]
pub fn edge(filters: &[Value], routes: &[Value]) -> Value {
    let host = config::virtual_host("all", routes);
    listener("edge", connection_manager(&[host], filters))
}

/// An Envoy with one edge listener; four workers.
#[must_use]
pub fn envoy(filters: &[Value], routes: &[Value], clusters: &[Value]) -> Builder {
    Envoy::builder(config::bootstrap(&[edge(filters, routes)], clusters))
}

/// A request with commands for the probe.
#[must_use]
pub fn command(commands: &str) -> Request {
    Request::get("/").header("x-probe", commands)
}

/// Runs commands on the worker of a connection; one answer each.
///
/// # Panics
/// If the probe does not answer.
pub async fn ask(connection: &mut Connection, commands: &str) -> Vec<String> {
    let answer = connection.send(command(commands)).await.expect("an answer");
    assert_eq!(answer.status, 200, "{commands}: {}", answer.text());
    answer.text().split('\n').map(str::to_owned).collect()
}

/// As [`ask`], for one command.
///
/// # Panics
/// If the probe does not answer.
pub async fn ask_one(connection: &mut Connection, command: &str) -> String {
    ask(connection, command).await.remove(0)
}

/// A connection to each of `count` workers, by the number of the VM that serves it.
///
/// They are HTTP/2, so that several streams can be sent to the same worker at once.
///
/// # Panics
/// If the kernel does not spread them.
pub async fn a_connection_to_each_worker(edge: SocketAddr, count: usize) -> BTreeMap<u32, Connection> {
    let mut found = BTreeMap::new();
    // With four workers a miss is as good as impossible after this many tries.
    for _ in 0..400 {
        let mut connection = Connection::open(edge, Protocol::Http2).await.expect("a connection");
        let vm = ask_one(&mut connection, "vm").await.parse().expect("a number");
        found.entry(vm).or_insert(connection);
        if found.len() == count {
            return found;
        }
    }
    panic!("only {} of {count} workers were reached", found.len());
}

/// A callback of the probe, as it was logged.
#[derive(Debug, Clone)]
pub struct Event(BTreeMap<String, String>);

impl Event {
    fn parse(line: &str) -> Option<Self> {
        let (_, fields) = line.split_once("probe\t")?;
        Some(Self(
            fields
                .split('\t')
                .filter_map(|field| field.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        ))
    }

    /// What it read under a key, empty if it did not.
    #[must_use]
    pub fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// Which callback.
    #[must_use]
    pub fn name(&self) -> &str {
        self.get("event")
    }

    /// `response.flags` by their names in an access log.
    ///
    /// # Panics
    /// If they are no number.
    #[must_use]
    pub fn flags(&self) -> String {
        match self.get("flags") {
            "-" => "none".to_owned(),
            bits => flag_names(bits.parse().expect("a number")),
        }
    }
}

/// The callbacks of a case in the order in which they ran in a plugin.
#[must_use]
pub fn events(envoy: &Envoy, plugin: &str, case: &str) -> Vec<Event> {
    let lines = envoy.log_lines();
    let events = lines.iter().filter_map(|line| Event::parse(line));
    events.filter(|event| event.get("plugin") == plugin && event.get("case") == case).collect()
}

/// As [`events`], once the context is gone.
///
/// # Panics
/// If it stays.
pub async fn all_events(envoy: &Envoy, plugin: &str, case: &str) -> Vec<Event> {
    eventually(&format!("the end of {case} in {plugin}"), PATIENCE, async || {
        let events = events(envoy, plugin, case);
        events.iter().any(|event| event.name() == "delete").then_some(events)
    })
    .await
}

/// The names of events, in order.
#[must_use]
pub fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(Event::name).collect()
}
