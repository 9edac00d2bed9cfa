//! SSE parameters: the query of an SSE URL, read by name.
//!
//! An error names the parameter and the expected value. It quotes no token.

use std::time::Duration;

use tidewire_proto::v1::ErrorCode;
use tidewire_stream::StreamError;

/// The longest heartbeat interval that a client may request.
const MAX_HEARTBEAT: Duration = Duration::from_secs(60);

/// Characters of a wrong name or value that an error quotes.
const QUOTED_CHARS: usize = 40;

/// The decoded parameters of a URL, in order.
pub(super) type Pairs = Vec<(String, String)>;

/// The parameters of `GET /v1/sse`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct StreamQuery {
    pub(super) channels: Option<String>,
    pub(super) token: Option<String>,
    pub(super) last_event_id: Option<String>,
    pub(super) heartbeat: Option<Duration>,
}

impl StreamQuery {
    /// # Errors
    /// A parameter is unknown, or there twice, or has a wrong value.
    pub(super) fn read(pairs: Pairs) -> Result<Self, StreamError> {
        let names = ["channels", "token", "lastEventId", "heartbeatMs"];
        let [channels, token, last_event_id, heartbeat] = by_name(pairs, names)?;
        // A client that subscribes later, by POST, leaves the parameter out.
        if channels.as_deref().is_some_and(is_without_names) {
            return Err(invalid(
                "`channels` is empty, expected names with commas between, such as `channels=prices:BTC-USD`, or no such parameter"
                    .to_owned(),
            ));
        }
        Ok(Self {
            channels,
            token,
            last_event_id,
            heartbeat: heartbeat.as_deref().map(heartbeat_of).transpose()?,
        })
    }
}

/// The parameters of `POST /v1/sse/{connectionId}`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CommandQuery {
    pub(super) key: Option<String>,
    pub(super) token: Option<String>,
}

impl CommandQuery {
    /// # Errors
    /// A parameter is unknown, or there twice.
    pub(super) fn read(pairs: Pairs) -> Result<Self, StreamError> {
        let [key, token] = by_name(pairs, ["key", "token"])?;
        Ok(Self { key, token })
    }
}

/// The values of the parameters with these names.
fn by_name<const N: usize>(
    pairs: Pairs,
    names: [&str; N],
) -> Result<[Option<String>; N], StreamError> {
    let mut values = [const { None }; N];
    for (name, value) in pairs {
        let mut known = names.iter().zip(&mut values);
        let Some((_, slot)) = known.find(|(known, _)| **known == name) else {
            let expected = names.map(|name| format!("`{name}`")).join(", ");
            return Err(invalid(format!(
                "there is no parameter `{}`, expected one of {expected}",
                quoted(&name).escape_debug()
            )));
        };
        if slot.replace(value).is_some() {
            return Err(invalid(format!("`{name}` is there twice, expected once")));
        }
    }
    Ok(values)
}

/// Whether a list of channels has no name.
fn is_without_names(channels: &str) -> bool {
    channels.split(',').all(|name| name.trim().is_empty())
}

fn heartbeat_of(text: &str) -> Result<Duration, StreamError> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return Err(invalid(format!(
            "`heartbeatMs` is {:?}, expected a whole number of milliseconds",
            quoted(text)
        )));
    }
    // A number with more digits than `u64` has is above the longest interval.
    let ms = text.parse().unwrap_or(u64::MAX);
    Ok(Duration::from_millis(ms).min(MAX_HEARTBEAT))
}

/// The beginning of a text, because a client may send any length.
fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_CHARS).collect()
}

fn invalid(message: String) -> StreamError {
    StreamError::new(ErrorCode::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Pairs {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn heartbeat(text: &str) -> Result<Option<Duration>, String> {
        let query = StreamQuery::read(pairs(&[("heartbeatMs", text)]));
        query
            .map(|query| query.heartbeat)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn parameters_are_read_by_name() {
        let query = StreamQuery::read(pairs(&[("token", "t"), ("channels", "a,b")])).unwrap();
        assert_eq!(query.channels.as_deref(), Some("a,b"));
        assert_eq!(query.token.as_deref(), Some("t"));
        assert_eq!(query.last_event_id, None);
        assert_eq!(StreamQuery::read(Vec::new()), Ok(StreamQuery::default()));
        let query = CommandQuery::read(pairs(&[("key", "k")])).unwrap();
        assert_eq!(query.key.as_deref(), Some("k"));
    }

    #[test]
    fn a_heartbeat_is_a_number_of_milliseconds() {
        assert_eq!(heartbeat("0"), Ok(Some(Duration::ZERO)));
        assert_eq!(heartbeat("1500"), Ok(Some(Duration::from_millis(1_500))));
        for long in ["60001", "18446744073709551615", &"9".repeat(100)] {
            assert_eq!(heartbeat(long), Ok(Some(MAX_HEARTBEAT)), "{long}");
        }
        for wrong in ["", "x", "-1", "1.5", "+1", " 1", &"x".repeat(100)] {
            let error = heartbeat(wrong).unwrap_err();
            assert!(error.contains("`heartbeatMs` is \""), "{error}");
            assert!(error.contains("a whole number of milliseconds"), "{error}");
            assert!(error.len() < 200, "{error}");
        }
    }

    #[test]
    fn an_error_names_the_parameter() {
        let error = |given: &[(&str, &str)]| StreamQuery::read(pairs(given)).unwrap_err();
        assert!(
            error(&[("chanels", "a")]).to_string().contains(
                "there is no parameter `chanels`, expected one of `channels`, `token`, `lastEventId`, `heartbeatMs`"
            )
        );
        let twice = error(&[("token", "MARKED"), ("token", "MARKED")]).to_string();
        assert!(twice.contains("`token` is there twice"), "{twice}");
        assert!(!twice.contains("MARKED"), "{twice}");
    }
}
