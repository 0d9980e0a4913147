//! A program in a terminal of its own.

use crate::process::{signal, spawn};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A program whose output is a pseudo-terminal.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    ours: OwnedFd,
    said: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Starts a program in a terminal of this size. It inherits no size by its environment.
    ///
    /// # Panics
    /// If there is no terminal to be had, or the program does not start.
    #[must_use]
    pub fn start(mut command: Command, rows: u16, columns: u16) -> Self {
        let (mut ours, mut theirs) = (-1, -1);
        let size = winsize(rows, columns);
        // SAFETY: the out pointers are valid for writes, `size` for reads; the other two may be null.
        let status = unsafe {
            let (name, settings) = (std::ptr::null_mut(), std::ptr::null_mut());
            libc::openpty(&raw mut ours, &raw mut theirs, name, settings, (&raw const size).cast_mut())
        };
        assert_eq!(status, 0, "openpty: {}", io::Error::last_os_error());
        // SAFETY: both were just opened, and nobody else has them.
        let [ours, theirs] = unsafe { [OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)] };
        command.env_remove("COLUMNS").env_remove("LINES");
        command.stdin(Stdio::null()).stdout(theirs.try_clone().expect("a descriptor")).stderr(theirs);
        let child = spawn(command).expect("the program starts");
        let said = Arc::new(Mutex::new(Vec::new()));
        let mut file = File::from(ours.try_clone().expect("a descriptor"));
        let sink = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // The end is an error (EIO), when the last of the other side's descriptors is closed.
            while let Ok(count @ 1..) = file.read(&mut piece) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..count]);
            }
        });
        Self { child, ours, said, reader: Some(reader) }
    }

    /// All that was written so far.
    #[must_use]
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Changes the terminal's size.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = winsize(rows, columns);
        // SAFETY: `size` is valid for reads during the call.
        let status = unsafe { libc::ioctl(self.ours.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(status, 0, "{}", io::Error::last_os_error());
    }

    /// What Ctrl-C does to the program. Returns how it ended, and all it said.
    ///
    /// # Panics
    /// If it cannot be waited for.
    #[must_use]
    pub fn interrupt(mut self) -> (ExitStatus, String) {
        signal(&self.child, libc::SIGINT);
        let status = self.child.wait().expect("a child");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        (status, self.said())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // After `interrupt` there is nobody left to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn winsize(rows: u16, columns: u16) -> libc::winsize {
    libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
