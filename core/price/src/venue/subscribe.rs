//! Requests: what a connection subscribes to, and how a venue refuses it.

/// The most characters of a refusal that are kept. It may list all markets of a request.
const REASON_CHARS: usize = 4_096;

/// Words, in lower case, of refusals for too many requests in a time. Such a refusal passes, and is
/// not of any market.
const RATE_LIMIT_WORDS: [&str; 11] = [
    "too many visits",
    "too many requests",
    "too many messages",
    "rate limit",
    "ratelimit",
    "rate-limit",
    "rate_limit",
    "too frequent",
    "throttl",
    "too fast",
    "slow down",
];

/// A request for some markets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeRequest {
    /// The venue's channel, or `""` for all that are used.
    pub channel: &'static str,
    /// The markets, by the venue's names.
    pub names: Vec<String>,
}

/// A channel of a venue, and how many markets one request for it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Channel {
    pub(super) name: &'static str,
    pub(super) markets: Markets,
}

/// How many markets one request may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Markets {
    /// The channel has no markets.
    None,
    AtMost(usize),
    All,
}

impl Channel {
    /// The requests for these markets.
    pub(super) fn requests(self, names: &[String]) -> Vec<SubscribeRequest> {
        let request = |names: &[String]| SubscribeRequest {
            channel: self.name,
            names: names.to_vec(),
        };
        match self.markets {
            Markets::None => vec![request(&[])],
            Markets::All => vec![request(names)],
            Markets::AtMost(most) => names.chunks(most).map(request).collect(),
        }
    }
}

/// A venue's refusal of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The venue's reason.
    pub reason: String,
    /// The number of the request, if the venue repeats it.
    pub request: Option<u64>,
    /// The refused part of a request.
    pub scope: RefusalScope,
}

/// The scope of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalScope {
    /// The whole request.
    Request,
    /// The market that it names. The others of the request are answered on their own.
    Market,
}

impl Refusal {
    /// The refusal of a whole request.
    #[must_use]
    pub fn of_request(reason: &str, request: Option<u64>) -> Self {
        Self {
            reason: reason.chars().take(REASON_CHARS).collect(),
            request,
            scope: RefusalScope::Request,
        }
    }

    /// Whether the venue refuses for too many requests in a time.
    pub(crate) fn is_rate_limit(&self) -> bool {
        let reason = self.reason.to_ascii_lowercase();
        RATE_LIMIT_WORDS.iter().any(|word| reason.contains(word))
    }

    /// Those of some markets that the reason names, as words of their own.
    pub(crate) fn named(&self, names: &[String]) -> Vec<String> {
        let reason = self.reason.to_ascii_lowercase();
        let is_named = |name: &&String| has_word(&reason, &name.to_ascii_lowercase());
        names.iter().filter(is_named).cloned().collect()
    }
}

/// Whether a text has a name that is no part of a longer one.
pub(super) fn has_word(text: &str, name: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || "-_/".contains(c));
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        // Feeds of Pyth are written with and without `0x`.
        let before = before.strip_suffix("0x").unwrap_or(before);
        !is_part(before.chars().next_back()) && !is_part(after.chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_whole_markets() {
        let named = |reason: &str, names: &[&str]| {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            Refusal::of_request(reason, None).named(&names)
        };
        assert_eq!(
            named("FOO-USD is not a valid product", &["BTC-USD", "FOO-USD"]),
            ["FOO-USD"]
        );
        assert_eq!(
            named(
                "topic:publicTrade.FOOUSDT",
                &["FOOUSDT", "OOUSDT", "FOOUSD"]
            ),
            ["FOOUSDT"]
        );
        assert_eq!(
            named("unknown stream foousdt@trade", &["FOOUSDT"]),
            ["FOOUSDT"]
        );
        assert_eq!(
            named("FOO-USDT-SWAP", &["FOO-USDT", "USDT-SWAP"]),
            Vec::<String>::new()
        );
        assert_eq!(
            named("ids not found: 0xab12, cd", &["ab12", "cd", "b12"]),
            ["ab12", "cd"]
        );
        assert_eq!(named("市场币安人生USDT, 币安", &["币安", "人生"]), ["币安"]);
        let long = format!("{}FOO", "x ".repeat(REASON_CHARS));
        assert_eq!(named(&long, &["FOO"]), Vec::<String>::new());
    }

    #[test]
    fn a_refusal_for_too_many_requests_is_a_rate_limit() {
        let is_rate_limit = |reason: &str| Refusal::of_request(reason, None).is_rate_limit();
        for reason in [
            "Too many visits!",
            "EAPI:Rate limit exceeded",
            "Requests too frequent.",
            "Rate limit reached. Please refer to API documentation and throttle requests accordingly: 50011",
        ] {
            assert!(is_rate_limit(reason), "{reason}");
        }
        for reason in [
            "Invalid request",
            "FOO-USD is not a valid product",
            "args size > 10",
        ] {
            assert!(!is_rate_limit(reason), "{reason}");
        }
    }

    #[test]
    fn requests_have_as_many_markets_as_the_channel_allows() {
        let names: Vec<_> = (0..5).map(|n| n.to_string()).collect();
        let counts = |markets| {
            let requests = Channel { name: "x", markets }.requests(&names);
            requests
                .iter()
                .map(|request| request.names.len())
                .collect::<Vec<_>>()
        };
        assert_eq!(counts(Markets::AtMost(2)), [2, 2, 1]);
        assert_eq!(counts(Markets::All), [5]);
        assert_eq!(counts(Markets::None), [0]);
    }
}
