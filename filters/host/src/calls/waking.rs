//! Waking another worker and letting a paused stream go on.

use super::{Result, Status, absent_is_none, bytes, check};
use crate::abi;

/// A shared queue's handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queue(pub u32);

/// The direction of a paused stream that is to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Direction {
    /// Towards the upstream.
    Request = 0,
    /// Towards the client.
    Response = 1,
}

/// Registers a shared queue whose `on_queue_ready` runs in this VM.
///
/// # Errors
/// The host's status.
pub fn register_queue(name: &str) -> Result<Queue> {
    let mut id = 0;
    // SAFETY: `name` outlives the call and `id` is valid for a write.
    check(unsafe { abi::proxy_register_shared_queue(name.as_ptr(), name.len(), &raw mut id) })?;
    Ok(Queue(id))
}

/// Finds the queue that some VM of `vm_id` registered.
///
/// # Errors
/// The host's status, other than that there is no such queue.
pub fn resolve_queue(vm_id: &str, name: &str) -> Result<Option<Queue>> {
    let mut id = 0;
    // SAFETY: both strings outlive the call and `id` is valid for a write.
    let status = unsafe {
        abi::proxy_resolve_shared_queue(vm_id.as_ptr(), vm_id.len(), name.as_ptr(), name.len(), &raw mut id)
    };
    Ok(absent_is_none(check(status))?.map(|()| Queue(id)))
}

/// Appends to a queue and wakes its owner.
///
/// # Errors
/// The host's status.
pub fn enqueue(queue: Queue, data: &[u8]) -> Result<()> {
    // SAFETY: `data` outlives the call.
    check(unsafe { abi::proxy_enqueue_shared_queue(queue.0, data.as_ptr(), data.len()) })
}

/// Takes the oldest entry of a queue; `None` where it is empty.
///
/// # Errors
/// The host's status.
pub fn dequeue(queue: Queue) -> Result<Option<Vec<u8>>> {
    // SAFETY: the out pointers are valid for writes.
    match bytes(|data, len| unsafe { abi::proxy_dequeue_shared_queue(queue.0, data, len) }) {
        Ok(data) => Ok(Some(data)),
        Err(Status::EMPTY) => Ok(None),
        Err(status) => Err(status),
    }
}

/// Makes the following calls act on another stream of this VM.
///
/// # Errors
/// The host's status.
pub fn set_effective_context(id: u32) -> Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { abi::proxy_set_effective_context(id) })
}

/// Lets a paused stream go on.
///
/// # Errors
/// The host's status.
pub fn continue_stream(direction: Direction) -> Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { abi::proxy_continue_stream(direction as u32) })
}
