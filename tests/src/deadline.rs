//! Test deadline: fails a test that waits for an event or a state that never comes.

use std::{fmt::Display, future::Future, time::Duration};

use tokio::time::MissedTickBehavior;

/// Long enough that no passing test ever reaches it.
const DEADLINE: Duration = Duration::from_secs(30);

/// Time between two probes of a state, so that a test leaves the machine to what it waits for.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// Waits for `future`, and fails the test after 30 seconds.
///
/// # Panics
/// The deadline passed.
pub async fn within<T>(what: impl Display, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {} s for {what}", DEADLINE.as_secs()),
    }
}

/// Probes a state until there is a value, and fails the test after 30 seconds. For states that
/// no event announces, such as metrics.
///
/// # Panics
/// The deadline passed.
pub async fn eventually<T>(what: impl Display, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let mut probes = tokio::time::interval(PROBE_INTERVAL);
    probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    within(what, async {
        loop {
            probes.tick().await;
            if let Some(value) = probe().await {
                return value;
            }
        }
    })
    .await
}
