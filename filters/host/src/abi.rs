//! The raw imports of the proxy-wasm ABI 0.2.1 and of WASI that this project uses, exactly as the host defines them.
//!
//! Only [`crate::calls`] calls these. The project binds the ABI itself because the Rust SDK turns every status it
//! does not expect, and every header that is not UTF-8, into a panic, and a panic kills a worker.

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    pub(crate) fn proxy_log(level: u32, message: *const u8, len: usize) -> u32;
    pub(crate) fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    pub(crate) fn proxy_get_buffer_bytes(
        kind: u32,
        start: usize,
        max: usize,
        data: *mut *mut u8,
        len: *mut usize,
    ) -> u32;
    pub(crate) fn proxy_set_buffer_bytes(
        kind: u32,
        start: usize,
        max: usize,
        data: *const u8,
        len: usize,
    ) -> u32;
    pub(crate) fn proxy_get_property(
        path: *const u8,
        path_len: usize,
        data: *mut *mut u8,
        len: *mut usize,
    ) -> u32;
    pub(crate) fn proxy_set_property(path: *const u8, path_len: usize, data: *const u8, len: usize) -> u32;
    pub(crate) fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_len: usize,
        data: *mut *mut u8,
        len: *mut usize,
    ) -> u32;
    pub(crate) fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, len: *mut usize) -> u32;
    pub(crate) fn proxy_add_header_map_value(
        map: u32,
        name: *const u8,
        name_len: usize,
        value: *const u8,
        len: usize,
    ) -> u32;
    pub(crate) fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_len: usize,
        value: *const u8,
        len: usize,
    ) -> u32;
    pub(crate) fn proxy_remove_header_map_value(map: u32, name: *const u8, name_len: usize) -> u32;
    pub(crate) fn proxy_get_shared_data(
        key: *const u8,
        key_len: usize,
        data: *mut *mut u8,
        len: *mut usize,
        cas: *mut u32,
    ) -> u32;
    pub(crate) fn proxy_set_shared_data(
        key: *const u8,
        key_len: usize,
        data: *const u8,
        len: usize,
        cas: u32,
    ) -> u32;
    pub(crate) fn proxy_register_shared_queue(name: *const u8, name_len: usize, id: *mut u32) -> u32;
    pub(crate) fn proxy_resolve_shared_queue(
        vm_id: *const u8,
        vm_id_len: usize,
        name: *const u8,
        name_len: usize,
        id: *mut u32,
    ) -> u32;
    pub(crate) fn proxy_enqueue_shared_queue(id: u32, data: *const u8, len: usize) -> u32;
    pub(crate) fn proxy_dequeue_shared_queue(id: u32, data: *mut *mut u8, len: *mut usize) -> u32;
    pub(crate) fn proxy_define_metric(kind: u32, name: *const u8, len: usize, id: *mut u32) -> u32;
    pub(crate) fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    pub(crate) fn proxy_record_metric(id: u32, value: u64) -> u32;
    pub(crate) fn proxy_get_metric(id: u32, value: *mut u64) -> u32;
    pub(crate) fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_len: usize,
        body: *const u8,
        body_len: usize,
        headers: *const u8,
        headers_len: usize,
        grpc_status: i32,
    ) -> u32;
    pub(crate) fn proxy_set_effective_context(id: u32) -> u32;
    pub(crate) fn proxy_continue_stream(kind: u32) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    /// `clock` 0 is the wall clock and 1 the monotonic one; `out` receives nanoseconds. Returns a WASI errno, 0 for success.
    pub(crate) fn clock_time_get(clock: u32, precision: u64, out: *mut u64) -> u16;
}

#[cfg(target_os = "wasi")]
unsafe extern "C" {
    /// Made by the linker: runs the constructors of libc. A module that does not call it has it run before every export.
    pub(crate) fn __wasm_call_ctors();
}
