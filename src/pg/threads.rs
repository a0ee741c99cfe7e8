//! Blocking work (HTTP) on a helper thread, while the main thread stays on its latch and serves interrupts.

use std::sync::mpsc::{self, TryRecvError};
use std::time::Duration;

use crate::pg::process;

const POLL: Duration = Duration::from_millis(100);

/// Runs `work` on a thread that never receives a signal and must not call Postgres; None if it panicked.
/// When the caller is cancelled the thread is left to itself: it holds nothing but its own socket.
pub fn run_beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (send, receive) = mpsc::channel();
    with_signals_blocked(|| {
        std::thread::spawn(move || {
            let _ = send.send(work()); // nobody listens any more after a cancel
        })
    });
    loop {
        match receive.try_recv() {
            Ok(answer) => return Some(answer),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => process::wait(POLL),
        }
    }
}

/// Threads inherit the signal mask of their creator: with all blocked, handlers of Postgres only run on the main thread.
fn with_signals_blocked<T>(create: impl FnOnce() -> T) -> T {
    // SAFETY: the mask is the calling thread's own and is put back before returning; nothing in between can raise.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let created = create();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        created
    }
}
