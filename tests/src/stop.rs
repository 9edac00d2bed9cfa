//! Stop: pauses a process.

use rustix::{
    io::retry_on_intr,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid},
};

/// Stops a child process without ending it, and returns once all of its threads have stopped: they
/// take the signal one after the other, and may answer until then.
///
/// # Panics
/// The process has ended.
pub(crate) fn stop(child: Pid) {
    kill_process(child, Signal::STOP).expect("a signal can be sent");
    let stopped = retry_on_intr(|| waitid(WaitId::Pid(child), WaitIdOptions::STOPPED));
    stopped.expect("the process stops");
}
