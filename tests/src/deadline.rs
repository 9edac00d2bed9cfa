//! Test deadline: fails a test that waits for an event that never comes.

use std::{fmt::Display, future::Future, time::Duration};

/// Long enough that no passing test ever reaches it.
const DEADLINE: Duration = Duration::from_secs(30);

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
