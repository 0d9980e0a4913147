//! An import's arguments, and the memory that they point into.

use super::{Answer, Import, Refusal, refuse};
use crate::faults::status;
use wasmi::{Error, Memory, Val};

/// Where a function's arguments hold the name of what it is about: the place of the pointer; its length follows.
fn argument_place(function: &str) -> Option<usize> {
    Some(match function {
        "proxy_get_property"
        | "proxy_set_property"
        | "proxy_get_shared_data"
        | "proxy_set_shared_data"
        | "proxy_register_shared_queue" => 0,
        "proxy_log"
        | "proxy_get_header_map_value"
        | "proxy_add_header_map_value"
        | "proxy_replace_header_map_value"
        | "proxy_remove_header_map_value"
        | "proxy_define_metric"
        | "proxy_send_local_response" => 1,
        "proxy_resolve_shared_queue" => 2,
        _ => return None,
    })
}

impl Import<'_, '_> {
    pub(super) fn word(&self, place: usize) -> u32 {
        match self.args.get(place) {
            Some(Val::I32(value)) => *value as u32,
            _ => 0,
        }
    }

    pub(super) fn long(&self, place: usize) -> i64 {
        match self.args.get(place) {
            Some(Val::I64(value)) => *value,
            _ => 0,
        }
    }

    fn memory(&mut self) -> Result<Memory, Refusal> {
        self.caller
            .get_export("memory")
            .and_then(wasmi::Extern::into_memory)
            .ok_or_else(|| Refusal::Trap(Error::new("the module exports no memory")))
    }

    /// Envoy answers a bad pointer with a status; here it is a bug of the module as well, and the test shall hear of it.
    fn outside<T>(&mut self, ptr: u32, len: usize) -> Result<T, Refusal> {
        let callback = self.state().callback.0.clone();
        let violation =
            format!("{callback}: a host call with {len} bytes at {ptr:#x}, outside of the memory");
        self.state().violations.push(violation);
        refuse(status::INVALID_MEMORY_ACCESS)
    }

    pub(super) fn read(&mut self, ptr: u32, len: u32) -> Result<Vec<u8>, Refusal> {
        let memory = self.memory()?;
        let (start, len) = (ptr as usize, len as usize);
        let found = memory.data(&*self.caller).get(start..start.saturating_add(len)).map(<[u8]>::to_vec);
        match found {
            Some(bytes) => Ok(bytes),
            None => self.outside(ptr, len),
        }
    }

    pub(super) fn write(&mut self, ptr: u32, bytes: &[u8]) -> Answer {
        let memory = self.memory()?;
        if memory.write(&mut *self.caller, ptr as usize, bytes).is_err() {
            return self.outside(ptr, bytes.len());
        }
        Ok(())
    }

    pub(super) fn write_word(&mut self, ptr: u32, value: u32) -> Answer {
        self.write(ptr, &value.to_le_bytes())
    }

    /// The bytes whose pointer and length are these two arguments.
    pub(super) fn slice(&mut self, place: usize) -> Result<Vec<u8>, Refusal> {
        self.read(self.word(place), self.word(place + 1))
    }

    pub(super) fn argument(&mut self, function: &str) -> Result<Vec<u8>, Error> {
        let metric =
            matches!(function, "proxy_increment_metric" | "proxy_record_metric" | "proxy_get_metric");
        if metric {
            let id = self.word(0);
            return Ok(self.state().metrics.get(&id).map(|(_, name)| name.clone()).unwrap_or_default());
        }
        let Some(place) = argument_place(function) else { return Ok(Vec::new()) };
        match self.slice(place) {
            Ok(bytes) => Ok(bytes),
            // The call itself will find the same and answer it.
            Err(Refusal::Status(_)) => Ok(Vec::new()),
            Err(Refusal::Trap(error)) => Err(error),
        }
    }

    /// Hands bytes over as Envoy does: into memory that the module allocates, null and 0 where there are none.
    pub(super) fn give(&mut self, value: &[u8], data_out: usize, len_out: usize) -> Answer {
        let scrambled = self.state().faults.scramble(value);
        self.injected |= scrambled.is_some();
        let value = scrambled.as_deref().unwrap_or(value);
        let mut ptr = 0;
        if !value.is_empty() {
            let allocate = ["proxy_on_memory_allocate", "malloc"]
                .iter()
                .find_map(|name| self.caller.get_export(name)?.into_func())
                .ok_or_else(|| Refusal::Trap(Error::new("the module has no way to allocate")))?;
            let allocate = allocate.typed::<u32, u32>(&*self.caller).map_err(Refusal::Trap)?;
            ptr = allocate.call(&mut *self.caller, value.len() as u32).map_err(Refusal::Trap)?;
            if ptr == 0 {
                return refuse(status::INVALID_MEMORY_ACCESS);
            }
            self.write(ptr, value)?;
            self.handed = Some(value.len());
        }
        self.write_word(self.word(data_out), ptr)?;
        self.write_word(self.word(len_out), value.len() as u32)
    }
}
