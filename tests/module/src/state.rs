//! What one VM has: its contexts, and all that its imports work on.

use crate::faults::Faults;
use crate::headers::{Headers, Map, Mutation};
use crate::output::{LocalResponse, LogLine};
use crate::random::Random;
use crate::received::Received;
use crate::record::Call;
use crate::shared::{MetricKind, SharedHost};
use std::collections::BTreeMap;

/// The state of one VM that its imports work on.
pub(crate) struct VmState {
    pub(crate) shared: SharedHost,
    pub(crate) number: usize,
    pub(crate) vm_id: String,
    pub(crate) faults: Faults,
    pub(crate) calls: Vec<Call>,
    pub(crate) logs: Vec<LogLine>,
    pub(crate) contexts: BTreeMap<u32, Context>,
    /// Properties that every context sees, such as the node's.
    pub(crate) properties: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The export that runs, and for which context.
    pub(crate) callback: (String, u32),
    pub(crate) effective: u32,
    pub(crate) configuration: Option<Vec<u8>>,
    pub(crate) metrics: BTreeMap<u32, (MetricKind, Vec<u8>)>,
    pub(crate) random: Random,
    /// What the module did that no proxy-wasm host would survive or accept.
    pub(crate) violations: Vec<String>,
}

impl VmState {
    pub(crate) fn new(shared: &SharedHost) -> Self {
        let number = shared.enter();
        Self {
            shared: shared.clone(),
            number,
            vm_id: "vm".to_owned(),
            faults: Faults::default(),
            calls: Vec::new(),
            logs: Vec::new(),
            contexts: BTreeMap::new(),
            properties: BTreeMap::new(),
            callback: ("load".to_owned(), 0),
            effective: 0,
            configuration: None,
            metrics: BTreeMap::new(),
            random: Random::new(number as u64),
            violations: Vec::new(),
        }
    }

    /// The context that calls act on: the effective one, or that of the callback where it is gone.
    pub(crate) fn acting(&self) -> u32 {
        let there = self.contexts.get(&self.effective).is_some_and(|context| !context.gone);
        if there { self.effective } else { self.callback.1 }
    }

    /// The same, if it is there at all.
    pub(crate) fn context(&mut self) -> Option<&mut Context> {
        let acting = self.acting();
        self.contexts.get_mut(&acting).filter(|context| !context.gone)
    }

    /// The root of what calls act on: timers and queues are its own.
    pub(crate) fn root(&self) -> u32 {
        let acting = self.acting();
        self.contexts.get(&acting).map_or(
            acting,
            |context| {
                if context.parent == 0 { acting } else { context.parent }
            },
        )
    }
}

#[derive(Default)]
pub(crate) struct HeaderMap {
    pub(crate) headers: Headers,
    /// Whether Envoy would let the module at it in this phase.
    pub(crate) open: bool,
}

/// A root (`parent` 0) or a stream.
#[derive(Default)]
pub(crate) struct Context {
    pub(crate) parent: u32,
    pub(crate) created: bool,
    /// Deleted: kept only for what a test wants to know about it.
    pub(crate) gone: bool,
    pub(crate) tick_period: Option<u32>,
    pub(crate) request: HeaderMap,
    pub(crate) request_trailers: HeaderMap,
    pub(crate) response: HeaderMap,
    pub(crate) response_trailers: HeaderMap,
    /// The piece of the answer's body that the module is shown.
    pub(crate) piece: Option<Vec<u8>>,
    /// What went on to the client.
    pub(crate) received: Received,
    /// In the log callback every map can be read.
    pub(crate) logging: bool,
    pub(crate) properties: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) properties_set: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) mutations: Vec<Mutation>,
    pub(crate) local_responses: Vec<LocalResponse>,
    pub(crate) continued: Vec<u32>,
}

impl Context {
    pub(crate) fn map(&mut self, map: Map) -> &mut HeaderMap {
        match map {
            Map::RequestHeaders => &mut self.request,
            Map::RequestTrailers => &mut self.request_trailers,
            Map::ResponseHeaders => &mut self.response,
            Map::ResponseTrailers => &mut self.response_trailers,
        }
    }
}
