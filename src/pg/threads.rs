//! Blocking work (HTTP) on helper threads, while the main thread stays on its latch and serves interrupts.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::Arc;
use std::time::Duration;

use crate::pg::process;

/// HTTP and TLS need less than the default of two megabytes.
const STACK: usize = 1 << 20;

/// Runs `work` on a thread that never receives a signal and must not call Postgres; None if it panicked.
/// When the caller is cancelled the thread is left to itself: it holds nothing but its own socket.
pub fn run_beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let mut pool = Pool::new().ok()?;
    pool.start(work).ok()?;
    loop {
        if let Some((_, answer)) = pool.wait(Duration::from_secs(1)).pop() {
            return answer;
        }
    }
}

/// Several such works at one time; each that ends rings, so that the main thread need not look.
pub struct Pool<T> {
    done: Receiver<(u64, Option<T>)>,
    send: Sender<(u64, Option<T>)>,
    bell: UnixStream,
    rope: Arc<UnixStream>,
    running: usize,
    last: u64,
}

impl<T: Send + 'static> Pool<T> {
    /// # Errors
    /// When this process may open no more files.
    pub fn new() -> std::io::Result<Self> {
        let (bell, rope) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        rope.set_nonblocking(true)?;
        let (send, done) = mpsc::channel();
        Ok(Self { done, send, bell, rope: Arc::new(rope), running: 0, last: 0 })
    }

    /// How many have not been handed out by `wait` yet.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Starts `work`; its number comes back from `wait` with what it returned, or with None if it panicked.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(&mut self, work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<u64> {
        let (number, send, rope) = (self.last + 1, self.send.clone(), self.rope.clone());
        with_signals_blocked(|| {
            std::thread::Builder::new().stack_size(STACK).spawn(move || {
                let outcome = catch_unwind(AssertUnwindSafe(work)).ok();
                let _ = send.send((number, outcome)); // nobody listens any more after a cancel
                let _ = (&*rope).write(&[1]); // a full bell rings already
            })
        })?;
        self.last = number;
        self.running += 1;
        Ok(number)
    }

    /// What has ended; waits for it up to `timeout`, serving interrupts.
    pub fn wait(&mut self, timeout: Duration) -> Vec<(u64, Option<T>)> {
        let mut ended: Vec<_> = self.done.try_iter().collect();
        if ended.is_empty() {
            process::wait_also_for(self.bell.as_raw_fd(), timeout);
            ended = self.done.try_iter().collect();
        }
        let mut rung = [0; 64];
        while matches!((&self.bell).read(&mut rung), Ok(64)) {}
        // Between the look and the silencing of the bell another one may have ended.
        ended.extend(self.done.try_iter());
        self.running -= ended.len();
        ended
    }
}

/// Does `work` on every item at the same time, the first one here and each of the others on a thread that never
/// receives a signal. `work` must not call Postgres. False if a thread panicked.
pub fn each_beside<T: Send>(items: &mut [T], work: impl Fn(&mut T) + Sync) -> bool {
    let Some((first, others)) = items.split_first_mut() else { return true };
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> =
            with_signals_blocked(|| others.iter_mut().map(|item| scope.spawn(move || work(item))).collect());
        work(first);
        threads.into_iter().all(|thread| thread.join().is_ok())
    })
}

/// `work` on every number below `count`, as `each_beside` does.
pub fn each_number_beside(count: usize, work: &(dyn Fn(usize) + Sync)) -> bool {
    let mut numbers: Vec<usize> = (0..count).collect();
    each_beside(&mut numbers, |number| work(*number))
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
