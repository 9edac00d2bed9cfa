//! The safety net: a test that waits for what never comes ends with a word.

use std::{fmt::Display, future::Future, time::Duration};

/// No test depends on how long this is, as long as it is long.
const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for `future`, and fails the test when it takes forever.
///
/// # Panics
/// It took forever.
pub async fn within<T>(what: impl Display, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {} s for {what}", DEADLINE.as_secs()),
    }
}
