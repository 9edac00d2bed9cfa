//! Subscriptions: the requests of one connection, and what a refusal of one means.
//!
//! Venues limit how many markets a request may have, and some refuse a whole request for one
//! market that they do not have. Then the others are requested again: without the market that the
//! refusal names, or else in two halves, until the refused ones are alone. So one delisted market
//! takes no other along.
//!
//! Worked example: a request has the markets A, B, C and D, and is refused without a name. A, B and
//! C, D are requested. The second is refused with "no market C". D is requested; C is refused.

use std::collections::VecDeque;

use crate::venue::{Refusal, RefusalScope, SubscribeRequest, VenueKind};

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Subscriptions {
    kind: VenueKind,
    /// The number of the last request.
    last_id: u64,
    unsent: VecDeque<SubscribeRequest>,
    /// Sent requests without a response, with their numbers, the oldest first.
    unanswered: VecDeque<(u64, SubscribeRequest)>,
    /// Requests of one market each that were refused.
    refused: Vec<SubscribeRequest>,
}

impl Subscriptions {
    /// Requests for these markets, by the venue's names.
    pub(super) fn new(kind: VenueKind, names: &[String]) -> Self {
        Self {
            kind,
            last_id: 0,
            unsent: kind.subscribe(names).into(),
            unanswered: VecDeque::new(),
            refused: Vec::new(),
        }
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub(super) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// The next frame to send.
    pub(super) fn next_frame(&mut self) -> Option<String> {
        let request = self.unsent.pop_front()?;
        self.last_id += 1;
        let frame = self.kind.subscribe_frame(&request, self.last_id);
        self.unanswered.push_back((self.last_id, request));
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
    pub(super) fn refuse(&mut self, refusal: &Refusal) -> Vec<String> {
        if self.is_known(refusal) {
            return Vec::new();
        }
        let Some(position) = self.position(refusal) else {
            return Vec::new();
        };
        let (channel, parts) = match refusal.scope {
            // The other markets of the request have responses of their own.
            RefusalScope::Market => {
                let (_, request) = &mut self.unanswered[position];
                let refused = refusal.named(&request.names);
                request.names.retain(|name| !refused.contains(name));
                (
                    request.channel,
                    Parts {
                        refused,
                        rest: Vec::new(),
                    },
                )
            }
            RefusalScope::Request => match self.unanswered.remove(position) {
                Some((_, request)) => (request.channel, Parts::of(request.names, refusal)),
                None => return Vec::new(),
            },
        };
        let again = parts.rest.into_iter();
        let again = again.map(|names| SubscribeRequest { channel, names });
        self.unsent.extend(again);
        for name in &parts.refused {
            self.refused.push(SubscribeRequest {
                channel,
                names: vec![name.clone()],
            });
        }
        parts.refused
    }

    /// Whether the refusal is of a market that is refused already, or of one that is subscribed to.
    fn is_known(&self, refusal: &Refusal) -> bool {
        let is_named = |request: &SubscribeRequest| !refusal.named(&request.names).is_empty();
        let is_pending = |(_, request): &(u64, SubscribeRequest)| is_named(request);
        let is_repeated =
            self.refused.iter().any(is_named) && !self.unanswered.iter().any(is_pending);
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
        let names_one =
            |(_, request): &(u64, SubscribeRequest)| !refusal.named(&request.names).is_empty();
        let by_name = || self.unanswered.iter().position(names_one);
        let oldest = || (!self.unanswered.is_empty()).then_some(0);
        by_id.or_else(by_name).or_else(oldest)
    }

    /// Requests the refused markets again, each alone.
    pub(super) fn request_refused(&mut self) {
        self.unsent.extend(self.refused.drain(..));
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
        let mut refused = refusal.named(&names);
        if refused.is_empty() && names.len() > 1 {
            let second = names.split_off(names.len().div_ceil(2));
            return Self {
                refused,
                rest: vec![names, second],
            };
        }
        if refused.is_empty() {
            refused = std::mem::take(&mut names);
        }
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

    #[test]
    fn the_worked_example_holds() {
        let mut subscriptions = Subscriptions::new(
            VenueKind::Coinbase,
            &names(&["A-USD", "B-USD", "C-USD", "D-USD"]),
        );
        subscriptions.next_frame().unwrap();
        assert!(subscriptions.refuse(&refusal("no")).is_empty());
        let first = subscriptions.next_frame().unwrap();
        assert!(first.contains(r#"["A-USD","B-USD"]"#), "{first}");
        let second = subscriptions.next_frame().unwrap();
        assert!(second.contains(r#"["C-USD","D-USD"]"#), "{second}");
        assert_eq!(subscriptions.refuse(&refusal("no market C-USD")), ["C-USD"]);
        let third = subscriptions.next_frame().unwrap();
        assert!(third.contains(r#"["D-USD"]"#), "{third}");
        subscriptions.accepted(None);
        subscriptions.accepted(None);
        assert!(!subscriptions.has_unsent() && subscriptions.unanswered.is_empty());
        // Later the refused one is requested alone.
        assert!(subscriptions.has_refused());
        subscriptions.request_refused();
        let again = subscriptions.next_frame().unwrap();
        assert!(again.contains(r#"["C-USD"]"#), "{again}");
        assert!(!subscriptions.has_refused());
        assert_eq!(subscriptions.refuse(&refusal("no")), ["C-USD"]);
        // A second refusal of the same market, and one without a request, change nothing.
        assert!(subscriptions.refuse(&refusal("no market C-USD")).is_empty());
        assert!(subscriptions.refuse(&refusal("no")).is_empty());
    }

    #[test]
    fn a_refusal_is_matched_by_number_by_name_and_by_order() {
        let all: Vec<_> = (0..12).map(|n| format!("C{n}USDT")).collect();
        let mut subscriptions = Subscriptions::new(VenueKind::Bybit, &all);
        while subscriptions.next_frame().is_some() {}
        assert_eq!(subscriptions.unanswered.len(), 3);
        let by_number = Refusal::of_request("no", Some(3));
        assert!(subscriptions.refuse(&by_number).is_empty());
        let halves: Vec<_> = subscriptions
            .unsent
            .iter()
            .map(|request| request.names.clone())
            .collect();
        assert_eq!(halves, [names(&["C10USDT"]), names(&["C11USDT"])]);
        let by_name = refusal("error:handler not found,topic:publicTrade.C6USDT");
        assert_eq!(subscriptions.refuse(&by_name), ["C6USDT"]);
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
            assert_eq!(subscriptions.refuse(&refusal), ["FOO/USD"]);
            assert!(subscriptions.refuse(&refusal).is_empty());
        }
        assert!(!subscriptions.has_unsent());
        // Later it is requested in both channels.
        subscriptions.request_refused();
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
        assert_eq!(subscriptions.refuse(&first), ["FOO-USDT"]);
        let again = subscriptions.next_frame().unwrap();
        assert!(
            again.contains("ETH-USDT") && !again.contains("FOO-USDT"),
            "{again}"
        );
        // Of its other channel.
        assert!(subscriptions.refuse(&first).is_empty());
        assert!(!subscriptions.has_unsent());
    }

    proptest! {
        /// Whatever the venue lacks, and whether it names one market or none, the others are
        /// accepted in the end, and exactly the lacking ones are refused.
        #[test]
        fn the_others_are_accepted_in_the_end(
            count in 1..40_usize,
            lacking in prop::collection::btree_set(0..40_usize, 0..8),
            is_named in any::<bool>(),
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
                let (id, request) = subscriptions.unanswered.back().unwrap().clone();
                match request.names.iter().find(|name| lacks(name)) {
                    Some(name) => {
                        let reason = if is_named { format!("no market {name}") } else { "no".to_owned() };
                        refused.extend(subscriptions.refuse(&Refusal::of_request(&reason, Some(id))));
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
