//! Requests that wait, and workers that can be told to do something to them.

use crate::with_probe;
use resilience_host_contract::{a_connection_to_each_worker, ask_one, events};
use resilience_test_harness::{Connection, Envoy, PATIENCE, Pending, Request, Upstream, eventually};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// What a paused request is known by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The VM that has it.
    pub(crate) vm: u32,
    /// Its number there.
    pub(crate) stream: u32,
}

/// Waits until a request was paused, and says where.
pub(crate) async fn place(envoy: &Envoy, plugin: &str, case: &str) -> Place {
    eventually(&format!("request headers of {case}"), PATIENCE, async || {
        let event =
            events(envoy, plugin, case).into_iter().find(|event| event.name() == "request_headers")?;
        Some(Place { vm: event.get("vm").parse().ok()?, stream: event.get("stream").parse().ok()? })
    })
    .await
}

/// What commands that were left for a callback said there.
pub(crate) async fn said(envoy: &Envoy, case: &str, callback: &str) -> Vec<String> {
    let said = eventually(&format!("what {case} said in {callback}"), PATIENCE, async || {
        let events = events(envoy, "probe", case);
        Some(events.into_iter().find(|event| event.name() == callback)?.get("said").to_owned())
    })
    .await;
    said.split('|').map(str::to_owned).collect()
}

/// Makes another worker than that of a paused request resume it, by the queue of its VM.
pub(crate) async fn resume(workers: &mut BTreeMap<u32, Connection>, at: Place, case: &str) {
    let (_, other) = workers.iter_mut().find(|(vm, _)| **vm != at.vm).unwrap();
    let tell = format!("tell to={} as={case} resume stream={}", at.vm, at.stream);
    assert_eq!(ask_one(other, &tell).await, "ok");
}

/// An Envoy with one probe whose VMs have a queue each, and an HTTP/2 connection to each worker.
pub(crate) struct Scene {
    pub(crate) upstream: Upstream,
    pub(crate) envoy: Envoy,
    pub(crate) edge: SocketAddr,
    pub(crate) workers: BTreeMap<u32, Connection>,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let upstream = Upstream::start().await;
        let address = upstream.addr();
        let (envoy, edge) = with_probe("queue", address).await;
        Self::of(upstream, envoy, edge).await
    }

    /// With an upstream of the test's own.
    pub(crate) async fn to(address: SocketAddr) -> Self {
        let (envoy, edge) = with_probe("queue", address).await;
        Self::of(Upstream::start().await, envoy, edge).await
    }

    /// With an Envoy of the test's own, that has the same probe.
    pub(crate) async fn of(upstream: Upstream, envoy: Envoy, edge: SocketAddr) -> Self {
        let workers = a_connection_to_each_worker(edge, 4).await;
        Self { upstream, envoy, edge, workers }
    }

    /// A VM and another one.
    pub(crate) fn two(&self) -> (u32, u32) {
        let one = *self.workers.keys().next().unwrap();
        (one, self.another(one))
    }

    pub(crate) fn another(&self, than: u32) -> u32 {
        *self.workers.keys().find(|vm| **vm != than).unwrap()
    }

    pub(crate) fn worker(&mut self, vm: u32) -> &mut Connection {
        self.workers.get_mut(&vm).unwrap()
    }

    /// Pauses a GET on a worker.
    pub(crate) async fn pause(&mut self, vm: u32, case: &str) -> (Pending, Place) {
        self.pause_this(vm, case, Request::get("/")).await
    }

    pub(crate) async fn pause_this(&mut self, vm: u32, case: &str, request: Request) -> (Pending, Place) {
        let request = request.header("x-case", case).header("x-probe", "pause");
        let pending = self.worker(vm).start(request).await.unwrap();
        let place = place(&self.envoy, "probe", case).await;
        assert_eq!(place.vm, vm);
        (pending, place)
    }

    /// Makes `from` put commands into the queue of `to`, and waits until they were run there.
    pub(crate) async fn tell(&mut self, from: u32, to: u32, case: &str, commands: &str) -> Vec<String> {
        let told = ask_one(self.worker(from), &format!("tell to={to} as={case} {commands}")).await;
        assert_eq!(told, "ok");
        said(&self.envoy, case, "queue_ready").await
    }

    /// Leaves commands for the next tick of a VM that had no timer, and starts that; gives what they said.
    pub(crate) async fn at_tick(&mut self, vm: u32, case: &str, commands: &str) -> Vec<String> {
        let leave = format!("on-tick of=probe as={case} {commands}; period milliseconds=10");
        let left = resilience_host_contract::ask(self.worker(vm), &leave).await;
        assert_eq!(left, ["ok", "ok"]);
        said(&self.envoy, case, "tick").await
    }
}
