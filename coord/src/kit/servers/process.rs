//! A child process that never outlives us: killed when dropped, and by the kernel when we are killed.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};

/// A running child.
#[derive(Debug)]
pub(super) struct Process(Child);

type Answer = Sender<io::Result<Child>>;

/// The thread that starts all children. The kernel's "kill it when the parent dies" means the *thread* that started
/// it, and tests and runtimes end threads all the time; this one never ends.
static PARENT: LazyLock<Sender<(Command, Answer)>> = LazyLock::new(|| {
    // Unbounded, but every sender waits for its answer: never longer than there are threads.
    let (sender, receiver) = channel::<(Command, Answer)>();
    std::thread::spawn(move || {
        for (mut command, answer) in receiver {
            let _ = answer.send(command.spawn());
        }
    });
    sender
});

impl Process {
    /// Starts it.
    pub(super) fn start(mut command: Command) -> io::Result<Self> {
        let us = std::process::id();
        let die_with_us = move || {
            // SAFETY: both are plain system calls, allowed between fork and exec.
            let (asked, parent) =
                unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), libc::getppid()) };
            // We may have died before the kernel was asked.
            if asked == 0 && parent as u32 == us { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        // SAFETY: the closure only makes system calls; it takes no lock and no memory.
        unsafe { command.pre_exec(die_with_us) };
        let (answer, child) = channel();
        PARENT.send((command, answer)).map_err(io::Error::other)?;
        child.recv().map_err(io::Error::other)?.map(Self)
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it ended by itself.
    pub(super) fn ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// Freezes it. Returns when it is frozen: a signal alone may take a while to arrive.
    pub(super) fn stop(&self) {
        let mut status = 0;
        // SAFETY: the child is ours and not yet waited for, so the id is its own.
        unsafe {
            libc::kill(self.0.id() as i32, libc::SIGSTOP);
            libc::waitpid(self.0.id() as i32, &raw mut status, libc::WUNTRACED);
        }
    }

    /// Lets it go on.
    pub(super) fn go_on(&self) {
        // SAFETY: as in `stop`.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGCONT) };
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
