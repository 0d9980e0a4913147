//! The functions that a module imports, as Envoy would answer them.
//!
//! All imports come through [`answer`], so that counting and faults have one place to be in.

mod memory;
mod stream;
mod wasi;

use crate::faults::status;
use crate::headers::MutationKind;
use crate::output::LogLine;
use crate::record::Call;
use crate::shared::MetricKind;
use crate::state::VmState;
use wasmi::{Caller, Error, Val};

/// Why a host function did not do its work.
enum Refusal {
    /// The module gets this status.
    Status(u32),
    /// The module ends here.
    Trap(Error),
}

type Answer = Result<(), Refusal>;

fn refuse<T>(status: u32) -> Result<T, Refusal> {
    Err(Refusal::Status(status))
}

fn check(status: u32) -> Answer {
    if status == status::OK { Ok(()) } else { refuse(status) }
}

/// One call in progress.
struct Import<'a, 'b> {
    caller: &'a mut Caller<'b, VmState>,
    args: &'a [Val],
    /// Bytes handed over so far.
    handed: Option<usize>,
    injected: bool,
}

/// Answers any import. The result is the status or errno; an error ends the module.
pub(crate) fn answer(
    caller: &mut Caller<'_, VmState>,
    module: &str,
    function: &str,
    args: &[Val],
) -> Result<u32, Error> {
    let (callback, context) = caller.data().callback.clone();
    let mut import = Import { caller, args, handed: None, injected: false };
    let argument = import.argument(function)?;
    let outcome = match import.state().faults.strike(function) {
        Some(status) => {
            import.injected = true;
            Err(Refusal::Status(status))
        }
        None => import.dispatch(module, function),
    };
    let (bytes, injected) = (import.handed, import.injected);
    let status = match outcome {
        Ok(()) => status::OK,
        Err(Refusal::Status(status)) => status,
        Err(Refusal::Trap(error)) => return Err(error),
    };
    caller.data_mut().calls.push(Call {
        function: function.to_owned(),
        argument,
        bytes: bytes.filter(|_| status == status::OK),
        status,
        callback,
        context,
        injected,
    });
    Ok(status)
}

impl Import<'_, '_> {
    fn state(&mut self) -> &mut VmState {
        self.caller.data_mut()
    }

    fn dispatch(&mut self, module: &str, function: &str) -> Answer {
        match (module, function) {
            ("env", "proxy_log") => self.log(),
            ("env", "proxy_get_log_level") => self.write_word(self.word(0), 2),
            ("env", "proxy_set_tick_period_milliseconds") => {
                let period = self.word(0);
                let state = self.state();
                // Every callback sets the timer of its root.
                let root = state.root();
                match state.contexts.get_mut(&root) {
                    Some(context) => context.tick_period = Some(period),
                    None => return refuse(status::BAD_ARGUMENT),
                }
                Ok(())
            }
            ("env", "proxy_get_buffer_bytes") => self.get_buffer_bytes(),
            ("env", "proxy_set_buffer_bytes") => self.set_buffer_bytes(),
            ("env", "proxy_get_property") => self.get_property(),
            ("env", "proxy_set_property") => self.set_property(),
            ("env", "proxy_get_header_map_value") => self.get_header(),
            ("env", "proxy_get_header_map_pairs") => self.get_headers(),
            ("env", "proxy_add_header_map_value") => self.mutate(MutationKind::Add),
            ("env", "proxy_replace_header_map_value") => self.mutate(MutationKind::Replace),
            ("env", "proxy_remove_header_map_value") => self.mutate(MutationKind::Remove),
            ("env", "proxy_get_shared_data") => {
                let key = self.slice(0)?;
                let Some((value, cas)) = self.state().shared.data(key) else {
                    return refuse(status::NOT_FOUND);
                };
                self.give(&value, 2, 3)?;
                self.write_word(self.word(4), cas)
            }
            ("env", "proxy_set_shared_data") => {
                let (key, value, cas) = (self.slice(0)?, self.slice(2)?, self.word(4));
                self.state().shared.set_data(key, value, cas).map_err(Refusal::Status)
            }
            ("env", "proxy_register_shared_queue") => {
                let name = self.slice(0)?;
                let state = self.state();
                // Only roots hear of queues.
                let root = state.root();
                let token = state.shared.register_queue(state.number, root, &state.vm_id, &name);
                self.write_word(self.word(2), token)
            }
            ("env", "proxy_resolve_shared_queue") => {
                let (vm_id, name) = (self.slice(0)?, self.slice(2)?);
                let state = self.state();
                let vm_id = if vm_id.is_empty() {
                    state.vm_id.clone()
                } else {
                    String::from_utf8_lossy(&vm_id).into_owned()
                };
                match state.shared.resolve_queue(&vm_id, &name) {
                    Some(token) => self.write_word(self.word(4), token),
                    None => refuse(status::NOT_FOUND),
                }
            }
            ("env", "proxy_enqueue_shared_queue") => {
                let (token, data) = (self.word(0), self.slice(1)?);
                check(self.state().shared.enqueue(token, data))
            }
            ("env", "proxy_dequeue_shared_queue") => {
                let token = self.word(0);
                let data = self.state().shared.dequeue(token).map_err(Refusal::Status)?;
                self.give(&data, 1, 2)
            }
            ("env", "proxy_define_metric") => self.define_metric(),
            ("env", "proxy_increment_metric") => {
                let (id, offset) = (self.word(0), self.long(1));
                let (kind, name) = self.metric(id)?;
                check(self.state().shared.increment_metric(kind, &name, offset))
            }
            ("env", "proxy_record_metric") => {
                let (id, value) = (self.word(0), self.long(1) as u64);
                let (kind, name) = self.metric(id)?;
                check(self.state().shared.record_metric(kind, &name, value))
            }
            ("env", "proxy_get_metric") => {
                let (kind, name) = self.metric(self.word(0))?;
                if kind == MetricKind::Histogram {
                    return refuse(status::BAD_ARGUMENT);
                }
                let value = self.state().shared.metric(name).unwrap_or_default();
                self.write(self.word(1), &value.to_le_bytes())
            }
            ("env", "proxy_send_local_response") => self.send_local_response(),
            ("env", "proxy_set_effective_context") => {
                let id = self.word(0);
                if self.state().contexts.get(&id).is_none_or(|context| context.gone) {
                    return refuse(status::BAD_ARGUMENT);
                }
                self.state().effective = id;
                Ok(())
            }
            ("env", "proxy_continue_stream") => {
                let direction = self.word(0);
                if direction > 1 {
                    return refuse(status::BAD_ARGUMENT);
                }
                // Without a stream it does nothing; nor does a stream go on that was answered.
                let stream = self.state().context().filter(|context| context.parent != 0);
                if let Some(context) = stream {
                    match direction {
                        0 => context.request.open = false,
                        _ => context.response.open = false,
                    }
                    if context.local_responses.is_empty() {
                        context.continued.push(direction);
                    }
                }
                Ok(())
            }
            ("env", "proxy_get_current_time_nanoseconds") => {
                let now = self.wall_clock();
                self.write(self.word(0), &now.to_le_bytes())
            }
            ("env", "proxy_done" | "proxy_clear_route_cache") => Ok(()),
            ("wasi_snapshot_preview1" | "wasi_unstable", _) => self.wasi(function),
            _ => Err(Refusal::Trap(Error::new(format!(
                "the module called {module}.{function}, which this fake host does not have"
            )))),
        }
    }

    fn log(&mut self) -> Answer {
        let (level, message) = (self.word(0), self.slice(1)?);
        if level > 5 {
            return refuse(status::BAD_ARGUMENT);
        }
        let message = String::from_utf8_lossy(&message).into_owned();
        self.state().logs.push(LogLine { level, message });
        Ok(())
    }

    fn define_metric(&mut self) -> Answer {
        let (kind, name) = (self.word(0), self.slice(1)?);
        let kind_of = match kind {
            0 => MetricKind::Counter,
            1 => MetricKind::Gauge,
            2 => MetricKind::Histogram,
            _ => return refuse(status::BAD_ARGUMENT),
        };
        let state = self.state();
        state.shared.define_metric(kind_of, &name);
        // Ids belong to the VM, carry the kind in their lowest bits and are new for every definition.
        let id = ((state.metrics.len() as u32 + 1) << 2) | kind;
        state.metrics.insert(id, (kind_of, name));
        self.write_word(self.word(3), id)
    }

    fn metric(&mut self, id: u32) -> Result<(MetricKind, Vec<u8>), Refusal> {
        match self.state().metrics.get(&id).cloned() {
            Some(metric) => Ok(metric),
            None => refuse(if id & 3 == 3 { status::BAD_ARGUMENT } else { status::NOT_FOUND }),
        }
    }
}
