//! Errors of requests that Redis could not serve.

use tidewire_proto::v1::ErrorCode;

use super::error::RedisError;
use crate::StreamError;

/// After so many milliseconds a client may repeat a request that Redis could not serve.
const RETRY_AFTER_MS: u32 = 1_000;

/// Makes errors of requests.
pub(super) trait Unavailable {
    /// The error of a request that could not be served. `outcome` says what became of it.
    fn unavailable(&self, outcome: &str) -> StreamError;
}

impl Unavailable for RedisError {
    fn unavailable(&self, outcome: &str) -> StreamError {
        StreamError::new(ErrorCode::Unavailable, format!("{outcome}: Redis: {self}"))
            .with_retry_after_ms(RETRY_AFTER_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_became_of_the_request() {
        let error = RedisError::TimedOut(5).unavailable("nothing was published");
        assert_eq!(error.code(), ErrorCode::Unavailable);
        let begin = "nothing was published: Redis: ";
        assert!(error.message().starts_with(begin), "{error}");
    }
}
