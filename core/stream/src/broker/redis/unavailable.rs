//! Errors of requests that Redis could not serve.
//!
//! Any client may get them, so they name no server: its address is in the log, and in the reason that
//! `/readyz?verbose` gives to operators.

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
        let reason = without_addresses(&self.to_string());
        StreamError::new(
            ErrorCode::Unavailable,
            format!("{outcome}: Redis: {reason}"),
        )
        .with_retry_after_ms(RETRY_AFTER_MS)
    }
}

/// The text of a fault without the addresses in it, and without what a certificate says.
pub(super) fn without_addresses(text: &str) -> String {
    const TLS: &str = "no encrypted connection";
    let text = match text.find(TLS) {
        Some(at) => &text[..at + TLS.len()],
        None => text,
    };
    let words = text.split(' ').map(|word| {
        let bare = word.trim_matches(['(', ')', ',', ';', '.', ':', '"', '\'', '`']);
        match is_address(bare) {
            true => word.replacen(bare, "a server", 1),
            false => word.to_owned(),
        }
    });
    let words: Vec<_> = words.collect();
    words.join(" ").replace("a server: ", "")
}

/// Whether a word is `HOST:PORT`, also as a URL.
fn is_address(word: &str) -> bool {
    let Some((host, port)) = word.rsplit_once(':') else {
        return false;
    };
    let host = host.rsplit_once("://").map_or(host, |(_, rest)| rest);
    let is_of_host = |one: char| one.is_alphanumeric() || "-_.[]:%@".contains(one);
    !host.is_empty()
        && !host.starts_with('@')
        && host.chars().all(is_of_host)
        && port.parse::<u16>().is_ok()
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

    #[test]
    fn an_error_names_no_server() {
        let refused = |text: &str| RedisError::Refused(text.to_owned());
        let hindered = |text: &str| RedisError::Hindered(300, text.to_owned());
        for (error, expected) in [
            (
                hindered("10.0.0.7:6379: no connection: Connection refused (os error 111)"),
                "no answer within 300 ms: no connection: Connection refused (os error 111)",
            ),
            (
                hindered("no sentinel answers: redis://[fd00::7]:26379: no connection: timed out"),
                "no answer within 300 ms: no sentinel answers: no connection: timed out",
            ),
            (
                hindered(
                    "redis-1.internal:6379: no encrypted connection: not valid for \"10.0.0.7\"",
                ),
                "no answer within 300 ms: no encrypted connection",
            ),
            (
                refused("ASK 3999 my_redis:6379"),
                "it is a server of a Redis Cluster, and was used as a single one: name some of its servers in `broker.cluster` (ASK 3999 a server)",
            ),
            (
                refused("NOAUTH Authentication required."),
                "it wants a password: set it in `broker.url`, as redis://:PASSWORD@HOST:PORT or redis://USER:PASSWORD@HOST:PORT (NOAUTH Authentication required.)",
            ),
            (
                refused("ERR Error running script: @user_script:12: no memory"),
                "ERR Error running script: @user_script:12: no memory",
            ),
        ] {
            let error = error.unavailable("nothing was published");
            let expected = format!("nothing was published: Redis: {expected}");
            assert_eq!(error.message(), expected);
        }
    }
}
