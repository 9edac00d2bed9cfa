//! Subscriptions: the requests of one connection, and what a refusal of one means.
//!
//! Venues limit how many markets a request may have, and some refuse a whole request for one
//! market that they do not have. Then the others are requested again: without the market that the
//! refusal names, or else in two halves, until the refused ones are alone. So one delisted market
//! takes no other along. A refusal that names several markets may only repeat the request: these are
//! requested again apart from the others.
//!
//! An error may pass, and venues list new markets daily. So a refused market is requested again
//! after [`RETRY_PAUSES`]. A refusal for too many requests in a time is of no market: the whole
//! request is sent again after these pauses.
//!
//! Worked example: a request has the markets A, B, C and D, and is refused without a name. A, B and
//! C, D are requested. The second is refused with "no market C". D is requested; C is refused, and
//! requested again after 5 s.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::venue::{Refusal, RefusalScope, SubscribeRequest, VenueKind};

/// The pauses before a refused request is sent again: the first, the second and so on. The last
/// one repeats.
const RETRY_PAUSES: [Duration; 4] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(300),
    Duration::from_secs(3_600),
];

/// The pause before a request is sent again that was refused so often before.
pub(super) fn retry_pause(refusals: usize) -> Duration {
    RETRY_PAUSES[refusals.min(RETRY_PAUSES.len() - 1)]
}

/// A request, and how often it was refused before.
#[derive(Debug, Clone)]
struct Attempt {
    request: SubscribeRequest,
    refusals: usize,
}

impl Attempt {
    fn names(&self) -> &[String] {
        &self.request.names
    }

    /// The same for other markets.
    fn with_names(&self, names: Vec<String>) -> Self {
        Self {
            request: SubscribeRequest {
                channel: self.request.channel,
                names,
            },
            refusals: self.refusals,
        }
    }
}

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Subscriptions {
    kind: VenueKind,
    /// The number of the last request.
    last_id: u64,
    unsent: VecDeque<Attempt>,
    /// Sent requests without a response, with their numbers, the oldest first.
    unanswered: VecDeque<(u64, Attempt)>,
    /// Refused requests, and when they are sent again.
    refused: Vec<(Instant, Attempt)>,
}

impl Subscriptions {
    /// Requests for these markets, by the venue's names.
    pub(super) fn new(kind: VenueKind, names: &[String]) -> Self {
        Self {
            kind,
            last_id: 0,
            unsent: kind
                .subscribe(names)
                .into_iter()
                .map(|request| Attempt {
                    request,
                    refusals: 0,
                })
                .collect(),
            unanswered: VecDeque::new(),
            refused: Vec::new(),
        }
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// When the next refused request is sent again, if there is one.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.refused.iter().map(|(due, _)| *due).min()
    }

    /// The next frame to send.
    pub(super) fn next_frame(&mut self) -> Option<String> {
        let attempt = self.unsent.pop_front()?;
        self.last_id += 1;
        let frame = self.kind.subscribe_frame(&attempt.request, self.last_id);
        self.unanswered.push_back((self.last_id, attempt));
        Some(frame)
    }

    /// Records that the venue accepted a request: the one of this number, or the oldest. Where each
    /// market has a response of its own, others of the request may still be refused.
    pub(super) fn accepted(&mut self, id: Option<u64>) {
        if self.kind.answers_each_market() {
            return;
        }
        match id {
            None => drop(self.unanswered.pop_front()),
            Some(id) => self.unanswered.retain(|(own, _)| *own != id),
        }
    }

    /// Requests the others of a refused request again. Returns the refused markets.
    pub(super) fn refuse(&mut self, refusal: &Refusal, now: Instant) -> Vec<String> {
        if self.is_known(refusal) {
            return Vec::new();
        }
        let Some(position) = self.position(refusal) else {
            return Vec::new();
        };
        let (attempt, parts) = match refusal.scope {
            // The other markets of the request have responses of their own.
            RefusalScope::Market => {
                let (_, attempt) = &mut self.unanswered[position];
                let refused = refusal.named(attempt.names());
                attempt.request.names.retain(|name| !refused.contains(name));
                (
                    attempt.with_names(Vec::new()),
                    Parts {
                        refused,
                        rest: Vec::new(),
                    },
                )
            }
            RefusalScope::Request => match self.unanswered.remove(position) {
                Some((_, attempt)) if refusal.is_rate_limit() => {
                    self.defer(attempt, now);
                    return Vec::new();
                }
                Some((_, attempt)) => {
                    let parts = Parts::of(attempt.names().to_vec(), refusal);
                    (attempt, parts)
                }
                None => return Vec::new(),
            },
        };
        let again = parts.rest.into_iter();
        self.unsent
            .extend(again.map(|names| attempt.with_names(names)));
        for name in &parts.refused {
            self.defer(attempt.with_names(vec![name.clone()]), now);
        }
        if refusal.is_rate_limit() {
            return Vec::new();
        }
        parts.refused
    }

    /// Keeps a refused request until it is sent again.
    fn defer(&mut self, mut attempt: Attempt, now: Instant) {
        let pause = retry_pause(attempt.refusals);
        attempt.refusals = attempt.refusals.saturating_add(1);
        self.refused.push((now + pause, attempt));
    }

    /// Whether the refusal is of a market that is refused already, or of one that is subscribed to.
    fn is_known(&self, refusal: &Refusal) -> bool {
        let is_named = |attempt: &Attempt| !refusal.named(attempt.names()).is_empty();
        let is_repeated = self.refused.iter().any(|(_, attempt)| is_named(attempt))
            && !self.unanswered.iter().any(|(_, attempt)| is_named(attempt));
        is_repeated
            || refusal
                .reason
                .to_ascii_lowercase()
                .contains("already subscribed")
    }

    /// The place of the refused request among the unanswered ones: by its number, by a market that
    /// the refusal names, or else the oldest.
    fn position(&self, refusal: &Refusal) -> Option<usize> {
        let mut requests = self.unanswered.iter();
        let by_id = requests.position(|(id, _)| Some(*id) == refusal.request);
        let names_one = |(_, attempt): &(u64, Attempt)| !refusal.named(attempt.names()).is_empty();
        let by_name = || self.unanswered.iter().position(names_one);
        let oldest = || (!self.unanswered.is_empty()).then_some(0);
        by_id.or_else(by_name).or_else(oldest)
    }

    /// Sends the refused requests again whose pause is over.
    pub(super) fn retry_due(&mut self, now: Instant) {
        let due = self.refused.extract_if(.., |(due, _)| *due <= now);
        self.unsent.extend(due.map(|(_, attempt)| attempt));
    }
}

/// The markets of a refused request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) refused: Vec<String>,
    /// Lists of markets to request again.
    pub(super) rest: Vec<Vec<String>>,
}

impl Parts {
    /// The parts of a request for these markets, which was refused as a whole.
    pub(super) fn of(mut names: Vec<String>, refusal: &Refusal) -> Self {
        let named = refusal.named(&names);
        let refused = match named.len() {
            _ if names.len() < 2 => std::mem::take(&mut names),
            1 => named,
            // The reason may repeat the request. Apart from the others, these are halved next.
            count @ 2.. if count < names.len() => {
                names.retain(|name| !named.contains(name));
                return Self {
                    refused: Vec::new(),
                    rest: vec![named, names],
                };
            }
            _ => {
                let second = names.split_off(names.len().div_ceil(2));
                return Self {
                    refused: Vec::new(),
                    rest: vec![names, second],
                };
            }
        };
        names.retain(|name| !refused.contains(name));
        Self {
            refused,
            rest: if names.is_empty() {
                Vec::new()
            } else {
                vec![names]
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn refusal(reason: &str) -> Refusal {
        Refusal::of_request(reason, None)
    }

    /// Refused now.
    fn refuse(subscriptions: &mut Subscriptions, refusal: &Refusal) -> Vec<String> {
        subscriptions.refuse(refusal, Instant::now())
    }

    /// As if a day had passed.
    fn retry_all(subscriptions: &mut Subscriptions) {
        subscriptions.retry_due(Instant::now() + Duration::from_secs(86_400));
    }

    #[test]
    fn the_worked_example_holds() {
        let mut subscriptions = Subscriptions::new(
            VenueKind::Coinbase,
            &names(&["A-USD", "B-USD", "C-USD", "D-USD"]),
        );
        subscriptions.next_frame().unwrap();
        assert!(refuse(&mut subscriptions, &refusal("no")).is_empty());
        let first = subscriptions.next_frame().unwrap();
        assert!(first.contains(r#"["A-USD","B-USD"]"#), "{first}");
        let second = subscriptions.next_frame().unwrap();
        assert!(second.contains(r#"["C-USD","D-USD"]"#), "{second}");
        assert_eq!(
            refuse(&mut subscriptions, &refusal("no market C-USD")),
            ["C-USD"]
        );
        let third = subscriptions.next_frame().unwrap();
        assert!(third.contains(r#"["D-USD"]"#), "{third}");
        subscriptions.accepted(None);
        subscriptions.accepted(None);
        assert!(!subscriptions.has_unsent() && subscriptions.unanswered.is_empty());
        // Later the refused one is requested alone.
        assert!(subscriptions.retry_at().is_some());
        retry_all(&mut subscriptions);
        let again = subscriptions.next_frame().unwrap();
        assert!(again.contains(r#"["C-USD"]"#), "{again}");
        assert!(subscriptions.retry_at().is_none());
        assert_eq!(refuse(&mut subscriptions, &refusal("no")), ["C-USD"]);
        // A second refusal of the same market, and one without a request, change nothing.
        assert!(refuse(&mut subscriptions, &refusal("no market C-USD")).is_empty());
        assert!(refuse(&mut subscriptions, &refusal("no")).is_empty());
    }

    #[test]
    fn a_refusal_is_matched_by_number_by_name_and_by_order() {
        let all: Vec<_> = (0..12).map(|n| format!("C{n}USDT")).collect();
        let mut subscriptions = Subscriptions::new(VenueKind::Bybit, &all);
        while subscriptions.next_frame().is_some() {}
        assert_eq!(subscriptions.unanswered.len(), 3);
        let by_number = Refusal::of_request("no", Some(3));
        assert!(refuse(&mut subscriptions, &by_number).is_empty());
        let halves: Vec<_> = subscriptions
            .unsent
            .iter()
            .map(|attempt| attempt.names().to_vec())
            .collect();
        assert_eq!(halves, [names(&["C10USDT"]), names(&["C11USDT"])]);
        let by_name = refusal("error:handler not found,topic:publicTrade.C6USDT");
        assert_eq!(refuse(&mut subscriptions, &by_name), ["C6USDT"]);
        subscriptions.accepted(Some(7));
        assert_eq!(subscriptions.unanswered.len(), 1);
        subscriptions.accepted(Some(1));
        assert!(subscriptions.unanswered.is_empty());
    }

    #[test]
    fn a_refusal_of_one_market_leaves_the_others_of_its_request() {
        let markets = names(&["BTC/USD", "FOO/USD"]);
        let mut subscriptions = Subscriptions::new(VenueKind::Kraken, &markets);
        while subscriptions.next_frame().is_some() {}
        // The other market is accepted first, in both requests.
        subscriptions.accepted(Some(1));
        subscriptions.accepted(Some(2));
        for id in [1, 2] {
            let refusal = Refusal {
                scope: RefusalScope::Market,
                ..Refusal::of_request("Currency pair not supported: FOO/USD", Some(id))
            };
            assert_eq!(refuse(&mut subscriptions, &refusal), ["FOO/USD"]);
            assert!(refuse(&mut subscriptions, &refusal).is_empty());
        }
        assert!(!subscriptions.has_unsent());
        // Later it is requested in both channels.
        retry_all(&mut subscriptions);
        let again = [(); 2].map(|()| subscriptions.next_frame().unwrap());
        assert!(
            again
                .iter()
                .all(|frame| frame.contains(r#""symbol":["FOO/USD"]"#))
        );
        assert!(again[0].contains("ticker") && again[1].contains("trade"));
    }

    #[test]
    fn an_accepted_market_does_not_answer_for_the_others_of_its_request() {
        let markets = names(&["BTC-USDT", "FOO-USDT", "ETH-USDT"]);
        let mut subscriptions = Subscriptions::new(VenueKind::Okx, &markets);
        subscriptions.next_frame().unwrap();
        subscriptions.accepted(None);
        subscriptions.accepted(Some(1));
        let first = refusal("Wrong URL or instId:FOO-USDT doesn't exist: 60018");
        assert_eq!(refuse(&mut subscriptions, &first), ["FOO-USDT"]);
        let again = subscriptions.next_frame().unwrap();
        assert!(
            again.contains("ETH-USDT") && !again.contains("FOO-USDT"),
            "{again}"
        );
        // Of its other channel.
        assert!(refuse(&mut subscriptions, &first).is_empty());
        assert!(!subscriptions.has_unsent());
    }

    #[test]
    fn a_rate_limit_refuses_no_market_and_the_request_is_sent_again_as_it_was() {
        let all = names(&["A-USD", "B-USD", "C-USD"]);
        let mut subscriptions = Subscriptions::new(VenueKind::Coinbase, &all);
        let mut now = Instant::now();
        for pause in [5, 30, 300, 3_600, 3_600] {
            let frame = subscriptions.next_frame().unwrap();
            assert!(frame.contains(r#"["A-USD","B-USD","C-USD"]"#), "{frame}");
            let limit = refusal("B-USD: Too many visits!");
            assert!(subscriptions.refuse(&limit, now).is_empty());
            assert!(!subscriptions.has_unsent());
            let due = now + Duration::from_secs(pause);
            assert_eq!(subscriptions.retry_at(), Some(due));
            subscriptions.retry_due(due - Duration::from_millis(1));
            assert!(!subscriptions.has_unsent());
            subscriptions.retry_due(due);
            now = due;
        }
    }

    #[test]
    fn a_refusal_that_names_several_markets_is_no_refusal_of_all() {
        let all = names(&["A-USD", "B-USD", "C-USD", "D-USD"]);
        let parts = Parts::of(
            all.clone(),
            &refusal("bad request: A-USD,B-USD,C-USD,D-USD"),
        );
        let halves = vec![names(&["A-USD", "B-USD"]), names(&["C-USD", "D-USD"])];
        assert_eq!((parts.refused, parts.rest), (Vec::new(), halves));
        let parts = Parts::of(all, &refusal("no B-USD, no D-USD"));
        let apart = vec![names(&["B-USD", "D-USD"]), names(&["A-USD", "C-USD"])];
        assert_eq!((parts.refused, parts.rest), (Vec::new(), apart));
    }

    proptest! {
        /// Whatever the venue lacks, and whether it names one market, all or none, the others are
        /// accepted in the end, and exactly the lacking ones are refused.
        #[test]
        fn the_others_are_accepted_in_the_end(
            count in 1..40_usize,
            lacking in prop::collection::btree_set(0..40_usize, 0..8),
            named in 0..4_usize,
            kind in prop::sample::select(vec![VenueKind::Coinbase, VenueKind::Bybit, VenueKind::Binance, VenueKind::Okx]),
        ) {
            let all: Vec<_> = (0..count).map(|n| format!("C{n}-USDT")).collect();
            let lacks = |name: &String| lacking.iter().any(|n| *name == format!("C{n}-USDT"));
            let mut subscriptions = Subscriptions::new(kind, &all);
            let (mut accepted, mut refused) = (BTreeSet::new(), BTreeSet::new());
            let mut requests = 0;
            while subscriptions.next_frame().is_some() {
                requests += 1;
                prop_assert!(requests <= 4 * count + 4);
                let (id, attempt) = subscriptions.unanswered.back().unwrap().clone();
                let request = attempt.request;
                match request.names.iter().find(|name| lacks(name)) {
                    Some(name) => {
                        let lacked = || request.names.iter().filter(|name| lacks(name)).cloned().collect::<Vec<_>>();
                        let reason = match named {
                            0 => "no".to_owned(),
                            1 => format!("no market {name}"),
                            2 => format!("no markets {}", lacked().join(", ")),
                            _ => format!("bad request: {}", request.names.join(",")),
                        };
                        refused.extend(refuse(&mut subscriptions, &Refusal::of_request(&reason, Some(id))));
                    }
                    None => {
                        accepted.extend(request.names.clone());
                        subscriptions.accepted(Some(id));
                    }
                }
            }
            let (expected_refused, expected): (BTreeSet<_>, BTreeSet<_>) = all.into_iter().partition(lacks);
            prop_assert_eq!(accepted, expected);
            prop_assert_eq!(refused, expected_refused);
        }
    }
}
