//! Supervisor: starts a task again after a panic, and reports the panic.
//!
//! A panic ends its task alone, and nobody notices: a venue's prices would stand still for ever.
//! Nothing here should panic. If something does, the task starts again after a pause, and the log
//! and the caller are told why it ended.

use std::{any::Any, future::Future, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt as _;
use tidewire_stream::Backoff;
use tokio::time::sleep;

/// The first and the longest pause before a task starts again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Runs a task until it ends without a panic. `report` is called with the reason of each panic.
pub(crate) async fn restart_on_panic<F: Future<Output = ()>>(
    name: &str,
    mut start: impl FnMut() -> F,
    mut report: impl FnMut(&str),
) {
    let mut backoff = Backoff::with_jitter(FIRST_PAUSE, LONGEST_PAUSE);
    // State that a panic leaves half changed is that of prices, which the next data replaces.
    while let Err(panic) = AssertUnwindSafe(start()).catch_unwind().await {
        let (reason, pause) = (reason(&*panic), backoff.next_pause());
        tracing::error!(
            task = name,
            reason,
            ?pause,
            "a fault of this server ended a task, which starts again"
        );
        report(reason);
        sleep(pause).await;
    }
}

/// The text of a panic.
pub(crate) fn reason(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a text")
}
