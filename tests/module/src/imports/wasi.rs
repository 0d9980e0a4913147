//! The functions of WASI: clocks, randomness, output, and an end.

use super::{Answer, Import, Refusal, refuse};
use crate::output::LogLine;
use wasmi::Error;

impl Import<'_, '_> {
    pub(super) fn wall_clock(&mut self) -> u64 {
        // Some fixed moment when the monotonic clock was 0.
        self.state().shared.now().saturating_add(1_700_000_000_000_000_000)
    }

    pub(super) fn wasi(&mut self, function: &str) -> Answer {
        const BADF: u32 = 8;
        const INVAL: u32 = 28;
        const NOTSUP: u32 = 58;
        match function {
            "clock_time_get" => {
                let now = match self.word(0) {
                    0 => self.wall_clock(),
                    1 => self.state().shared.now(),
                    _ => return refuse(NOTSUP),
                };
                self.write(self.word(2), &now.to_le_bytes())
            }
            "environ_sizes_get" | "args_sizes_get" => {
                self.write_word(self.word(0), 0)?;
                self.write_word(self.word(1), 0)
            }
            "environ_get" | "args_get" | "sched_yield" => Ok(()),
            "random_get" => {
                let (ptr, len) = (self.word(0), self.word(1));
                if len > 65_536 {
                    return refuse(INVAL);
                }
                let bytes = self.state().random.bytes(len as usize);
                self.write(ptr, &bytes)
            }
            "fd_write" => {
                let level = match self.word(0) {
                    1 => 2,
                    2 => 4,
                    _ => return refuse(BADF),
                };
                let mut text = Vec::new();
                for part in 0..self.word(2) {
                    let place = self.word(1).wrapping_add(part.wrapping_mul(8));
                    let pair = self.read(place, 8)?;
                    let word =
                        |at: usize| u32::from_le_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]]);
                    text.extend(self.read(word(0), word(4))?);
                }
                let message = String::from_utf8_lossy(&text).trim_end_matches('\n').to_owned();
                self.state().logs.push(LogLine { level, message });
                self.write_word(self.word(3), text.len() as u32)
            }
            "proc_exit" => Err(Refusal::Trap(Error::new(format!("the module exited with {}", self.word(0))))),
            "fd_close"
            | "fd_read"
            | "fd_seek"
            | "fd_fdstat_get"
            | "fd_prestat_get"
            | "fd_prestat_dir_name" => refuse(BADF),
            _ => Err(Refusal::Trap(Error::new(format!(
                "the module called {function} of WASI, which this fake host does not have"
            )))),
        }
    }
}
