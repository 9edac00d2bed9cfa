//! Retry times: the wait that a response demands, in each form that receivers use.
//!
//! | form | example |
//! |---|---|
//! | header, seconds | `Retry-After: 120` |
//! | header, HTTP date | `Retry-After: Sun, 06 Nov 1994 08:49:37 GMT` |
//! | Discord, JSON, seconds with a fraction | `{"retry_after": 0.4}` |
//! | Telegram, JSON, seconds | `{"parameters": {"retry_after": 35}}` |

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, header};
use serde_json::Value;

/// Longest wait that is honoured. No message is kept for longer by default, and a receiver must
/// not be able to stop its queue for ever.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The wait that a response demands, 24 hours at most. The JSON forms are more exact than the
/// header, so they count first.
pub(crate) fn retry_after(headers: &HeaderMap, body: &[u8], now_ms: i64) -> Option<Duration> {
    let wait = from_json(body).or_else(|| from_header(headers, now_ms));
    wait.map(|wait| wait.min(LONGEST))
}

fn from_json(body: &[u8]) -> Option<Duration> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let discord = body.get("retry_after");
    let seconds = discord.or_else(|| body.pointer("/parameters/retry_after"))?;
    Duration::try_from_secs_f64(seconds.as_f64()?).ok()
}

fn from_header(headers: &HeaderMap, now_ms: i64) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    // The receiver's own clock counts, where the response has its time.
    let date = headers
        .get(header::DATE)
        .and_then(|date| date.to_str().ok());
    let now = match date.and_then(|date| httpdate::parse_http_date(date).ok()) {
        Some(now) => now,
        None => UNIX_EPOCH + Duration::from_millis(now_ms.try_into().ok()?),
    };
    // A date that has passed demands no wait.
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time of the dates below, in milliseconds.
    const NOW_MS: i64 = 784_111_777_000;

    fn wait(headers: &[(&'static str, &str)], body: &str) -> Option<f64> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        retry_after(&map, body.as_bytes(), NOW_MS).map(|wait| wait.as_secs_f64())
    }

    #[test]
    fn each_form_is_read() {
        assert_eq!(wait(&[("retry-after", " 120 ")], ""), Some(120.0));
        let date = ("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT");
        assert_eq!(wait(&[date], ""), Some(30.0));
        let fast_clock = ("date", "Sun, 06 Nov 1994 08:50:00 GMT");
        assert_eq!(wait(&[date, fast_clock], ""), Some(7.0));
        let discord =
            r#"{"message": "You are being rate limited.", "retry_after": 0.4, "global": false}"#;
        assert_eq!(wait(&[("retry-after", "1")], discord), Some(0.4));
        let telegram = r#"{"ok": false, "error_code": 429, "parameters": {"retry_after": 35}}"#;
        assert_eq!(wait(&[], telegram), Some(35.0));
    }

    #[test]
    fn nonsense_demands_no_wait_and_a_long_wait_is_cut() {
        assert_eq!(wait(&[], ""), None);
        assert_eq!(wait(&[("retry-after", "soon")], "no JSON"), None);
        assert_eq!(
            wait(&[("retry-after", "-1")], r#"{"retry_after": -1}"#),
            None
        );
        assert_eq!(
            wait(&[("retry-after", "7")], r#"{"retry_after": "x"}"#),
            Some(7.0)
        );
        let past = ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT");
        assert_eq!(wait(&[past], ""), Some(0.0));
        for long in ["99999999999", "18446744073709551615"] {
            assert_eq!(wait(&[("retry-after", long)], ""), Some(86_400.0));
        }
        assert_eq!(wait(&[], r#"{"retry_after": 1e300}"#), None);
    }
}
