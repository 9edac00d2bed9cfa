//! Registry tests: the messages of a server are made by hand.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use futures::{FutureExt as _, future::poll_fn};
use tidewire_proto::v1::{Error as WireError, ErrorCode, PriceUpdate, Unsubscribed};

use super::*;
use crate::{
    payload::{Json, Payload},
    queue::Queue,
    subscription::Event,
};

/// A registry, and what each of its subscriptions received.
#[derive(Default)]
struct Fixture {
    registry: Registry,
}

fn position(epoch: &str, seq: u64) -> Position {
    Position {
        epoch: epoch.to_owned(),
        seq,
    }
}

impl Fixture {
    fn join<T: Payload>(
        &mut self,
        channel: &str,
        options: SubscribeOptions,
    ) -> (Arc<Queue<T>>, u64) {
        let channel: Arc<str> = channel.into();
        let queue = Arc::new(Queue::new(channel.clone(), 16));
        let id = self.registry.join(&channel, queue.clone(), options);
        (queue, id)
    }

    fn connect(&mut self) {
        self.registry.on_connect(None, &[]);
    }

    /// The request that leaves next: its id, and its channels with their positions.
    fn request(&mut self) -> (String, Vec<(String, Option<Position>)>) {
        let message = self.registry.next_message(Instant::now()).unwrap();
        let Some(client_message::Data::Subscribe(request)) = message.data else {
            panic!("{message:?}")
        };
        let channels = request.channels.into_iter();
        let channels = channels.map(|channel| (channel.channel, channel.since));
        (message.id.unwrap(), channels.collect())
    }

    fn apply(&mut self, id: Option<String>, channel: Option<&str>, seq: Option<u64>, data: Data) {
        let message = ServerMessage {
            id,
            channel: channel.map(str::to_owned),
            seq,
            timestamp: None,
            data: Some(data),
        };
        self.registry.apply(message, Instant::now());
    }

    fn reply(&mut self, id: String, channel: &str, at: &Position, recovered: bool) {
        let result = SubscriptionResult {
            channel: channel.to_owned(),
            epoch: at.epoch.clone(),
            seq: at.seq,
            recovered,
            class: Some(ChannelClass::History.into()),
            batched: Some(false),
            ..SubscriptionResult::default()
        };
        let channels = vec![result];
        self.apply(
            Some(id),
            None,
            None,
            Data::Subscribed(Subscribed { channels }),
        );
    }

    fn publish(&mut self, channel: &str, seq: u64) {
        let data = Data::Message(seq.to_string().into());
        self.apply(None, Some(channel), Some(seq), data);
    }

    fn gap(&mut self, channel: &str, at: &Position) {
        let gap = WireGap {
            channel: channel.to_owned(),
            epoch: at.epoch.clone(),
            seq: at.seq,
        };
        self.apply(None, None, None, Data::Gap(gap));
    }
}

/// All that a subscription received, in short.
fn drain<T: Payload + std::fmt::Debug>(queue: &Queue<T>) -> Vec<String> {
    let next = || poll_fn(|context| queue.poll_next(context)).now_or_never();
    let texts = std::iter::from_fn(|| match next()?? {
        Ok(Event::Message(message)) => {
            let seq = message
                .position
                .map_or("-".to_owned(), |at| at.seq.to_string());
            Some(if message.is_replay {
                format!("{seq} again")
            } else {
                seq
            })
        }
        Ok(Event::Gap(gap)) => {
            let at = gap.position.unwrap();
            Some(format!("gap {} {}", at.epoch, at.seq))
        }
        Ok(Event::Retry(error)) => Some(format!("retry {error}")),
        Err(error) => Some(format!("end {error}")),
    });
    texts.collect()
}

#[test]
fn a_connection_resumes_after_the_last_message() {
    let mut fixture = Fixture::default();
    let (orders, _) = fixture.join::<Json>("orders:7", SubscribeOptions::default());
    fixture.connect();
    let (id, channels) = fixture.request();
    assert_eq!(channels, [("orders:7".to_owned(), None)]);
    fixture.reply(id, "orders:7", &position("a", 3), false);
    fixture.publish("orders:7", 4);
    fixture.publish("orders:7", 4);
    assert_eq!(drain(&orders), ["4"]);

    fixture.registry.on_disconnect();
    fixture.connect();
    let (id, channels) = fixture.request();
    assert_eq!(channels, [("orders:7".to_owned(), Some(position("a", 4)))]);
    // Before the reply: it comes again with the replay.
    fixture.publish("orders:7", 6);
    fixture.reply(id, "orders:7", &position("a", 6), true);
    for seq in 5..=7 {
        fixture.publish("orders:7", seq);
    }
    assert_eq!(drain(&orders), ["5 again", "6 again", "7"]);
}

#[test]
fn a_gap_and_a_cut_never_mix_epochs() {
    let mut fixture = Fixture::default();
    let (orders, _) = fixture.join::<Json>("orders:7", SubscribeOptions::default());
    fixture.connect();
    let (id, _) = fixture.request();
    fixture.reply(id, "orders:7", &position("a", 40), false);
    fixture.publish("orders:7", 41);
    fixture.gap("orders:7", &position("b", 2));
    fixture.registry.on_disconnect();
    fixture.connect();
    let (id, channels) = fixture.request();
    assert_eq!(channels, [("orders:7".to_owned(), Some(position("b", 2)))]);
    // Another epoch again, told by the reply, and then the link is cut.
    fixture.reply(id, "orders:7", &position("c", 0), false);
    fixture.registry.on_disconnect();
    fixture.connect();
    let (_, channels) = fixture.request();
    assert_eq!(channels, [("orders:7".to_owned(), Some(position("c", 0)))]);
    assert_eq!(drain(&orders), ["41", "gap b 2", "gap c 0"]);
}

#[test]
fn a_gap_before_the_reply_replaces_the_whole_position() {
    let mut fixture = Fixture::default();
    let options = SubscribeOptions::default().since(position("a", 9));
    let (orders, _) = fixture.join::<Json>("orders:7", options);
    fixture.connect();
    let _ = fixture.request();
    fixture.gap("orders:7", &position("b", 1));
    fixture.registry.on_disconnect();
    fixture.connect();
    let (_, channels) = fixture.request();
    assert_eq!(channels[0].1, Some(position("b", 1)));
    assert_eq!(drain(&orders), ["gap b 1"]);
}

#[test]
fn subscriptions_are_counted() {
    let mut fixture = Fixture::default();
    let (first, first_id) = fixture.join::<Json>("orders:7", SubscribeOptions::default());
    let (second, second_id) = fixture.join::<Json>("orders:7", SubscribeOptions::default());
    fixture.connect();
    let (id, channels) = fixture.request();
    assert_eq!(channels.len(), 1);
    fixture.reply(id, "orders:7", &position("a", 0), false);
    fixture.publish("orders:7", 1);
    let name: Arc<str> = "orders:7".into();
    fixture.registry.leave(&name, first_id);
    assert!(!fixture.registry.has_message(Instant::now()));
    fixture.publish("orders:7", 2);
    assert_eq!(
        (drain(&first), drain(&second)),
        (vec!["1".to_owned()], vec!["1".to_owned(), "2".to_owned()])
    );
    fixture.registry.leave(&name, second_id);
    let message = fixture.registry.next_message(Instant::now()).unwrap();
    let Some(client_message::Data::Unsubscribe(request)) = message.data else {
        panic!("{message:?}")
    };
    assert_eq!(request.channels, ["orders:7"]);
    assert!(fixture.registry.is_empty());
}

#[test]
fn a_new_subscription_does_not_get_the_messages_of_the_old_one() {
    let mut fixture = Fixture::default();
    let (_, id) = fixture.join::<Json>("orders:7", SubscribeOptions::default());
    fixture.connect();
    let (request, _) = fixture.request();
    fixture.reply(request, "orders:7", &position("a", 6), false);
    fixture.publish("orders:7", 7);
    fixture.registry.leave(&"orders:7".into(), id);
    let (orders, _) = fixture.join::<Json>("orders:7", SubscribeOptions::default());
    // Still of the old one, on its way.
    fixture.publish("orders:7", 7);
    let first = fixture.registry.next_message(Instant::now()).unwrap();
    assert!(matches!(
        first.data,
        Some(client_message::Data::Unsubscribe(_))
    ));
    let (request, channels) = fixture.request();
    assert_eq!(channels, [("orders:7".to_owned(), None)]);
    fixture.reply(request, "orders:7", &position("a", 7), false);
    fixture.publish("orders:7", 8);
    assert_eq!(drain(&orders), ["8"]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_may_heal_is_tried_again() {
    let mut fixture = Fixture::default();
    let (orders, _) = fixture.join::<Json>("orders:7", SubscribeOptions::default());
    let (typo, _) = fixture.join::<Json>("oders:7", SubscribeOptions::default());
    fixture.connect();
    let (id, channels) = fixture.request();
    assert_eq!(channels.len(), 2);
    let refusal = |code, text: &str| SubscriptionResult {
        error: Some(WireError::new(code, text)),
        ..SubscriptionResult::default()
    };
    // In the order of the request.
    let channels = vec![
        refusal(ErrorCode::NotFound, "no namespace"),
        refusal(ErrorCode::Unavailable, "not yet"),
    ];
    fixture.apply(
        Some(id),
        None,
        None,
        Data::Subscribed(Subscribed { channels }),
    );
    assert_eq!(drain(&typo), ["end no namespace"]);
    assert_eq!(drain(&orders), ["retry not yet"]);
    let retry_at = fixture.registry.next_retry().unwrap();
    tokio::time::sleep_until(retry_at).await;
    assert_eq!(fixture.request().1, [("orders:7".to_owned(), None)]);
}

#[test]
fn prices_of_a_batch_go_to_their_channels() {
    let mut fixture = Fixture::default();
    let (btc, _) = fixture.join::<PriceUpdate>("prices:BTC-USD", SubscribeOptions::default());
    let (venue, _) =
        fixture.join::<PriceUpdate>("prices:BTC-USD@kraken", SubscribeOptions::default());
    fixture.connect();
    let (id, channels) = fixture.request();
    let results = channels.into_iter().map(|(channel, _)| SubscriptionResult {
        channel,
        class: Some(ChannelClass::Latest.into()),
        batched: Some(true),
        ..SubscriptionResult::default()
    });
    let channels = results.collect();
    fixture.apply(
        Some(id),
        None,
        None,
        Data::Subscribed(Subscribed { channels }),
    );
    let update = |source: &str| PriceUpdate {
        symbol: "BTC-USD".to_owned(),
        source: source.to_owned(),
        ..PriceUpdate::default()
    };
    let updates = vec![update("aggregate"), update("other")];
    let batch = PriceBatch {
        updates,
        timestamp: 7,
    };
    fixture.apply(None, None, None, Data::PriceBatch(batch));
    assert_eq!((drain(&btc).len(), drain(&venue).len()), (1, 0));
    // The newest value, for a later subscription.
    let (later, _) = fixture.join::<PriceUpdate>("prices:BTC-USD", SubscribeOptions::default());
    assert_eq!(drain(&later), ["-"]);
}

#[test]
fn a_server_can_end_a_subscription() {
    let mut fixture = Fixture::default();
    let (orders, _) = fixture.join::<Json>("orders:7", SubscribeOptions::default());
    fixture.connect();
    let (id, _) = fixture.request();
    fixture.reply(id, "orders:7", &position("a", 0), false);
    let ended = Unsubscribed {
        channels: vec!["orders:7".to_owned()],
        reason: Some("an operator did it".to_owned()),
    };
    fixture.apply(None, None, None, Data::Unsubscribed(ended));
    assert_eq!(drain(&orders), ["end an operator did it"]);
    assert!(fixture.registry.is_empty());
    assert!(!fixture.registry.has_message(Instant::now()));
}

#[test]
fn the_own_channel_needs_a_user_and_forgets_that_of_another() {
    let mut fixture = Fixture::default();
    let (events, _) = fixture.join::<Data>(OWN_USER, SubscribeOptions::default());
    let active = |user: &str, seq| ActiveSubscription {
        channel: format!("user:{user}"),
        epoch: "a".to_owned(),
        seq,
    };
    fixture
        .registry
        .on_connect(Some("ada".to_owned()), &[active("ada", 5)]);
    // The server subscribed it already.
    assert!(!fixture.registry.has_message(Instant::now()));
    fixture.publish("user:ada", 6);
    fixture.registry.on_disconnect();
    fixture
        .registry
        .on_connect(Some("ada".to_owned()), &[active("ada", 8)]);
    assert_eq!(
        fixture.request().1,
        [("user:ada".to_owned(), Some(position("a", 6)))]
    );
    fixture.registry.on_disconnect();
    fixture
        .registry
        .on_connect(Some("bob".to_owned()), &[active("bob", 1)]);
    fixture.publish("user:bob", 2);
    assert_eq!(drain(&events), ["6", "2"]);
    fixture.registry.on_disconnect();
    fixture.registry.on_connect(None, &[]);
    assert!(fixture.registry.next_message(Instant::now()).is_none());
    let texts = drain(&events);
    assert!(
        texts[0].starts_with("end the connection has no user"),
        "{texts:?}"
    );
}

#[test]
fn a_position_for_a_channel_that_is_subscribed_is_an_error() {
    let mut fixture = Fixture::default();
    let _first = fixture.join::<Json>("orders:7", SubscribeOptions::default());
    let options = SubscribeOptions::default().since(position("a", 1));
    let (second, _) = fixture.join::<Json>("orders:7", options);
    let texts = drain(&second);
    assert!(texts[0].contains("expected none with `since`"), "{texts:?}");
}

#[test]
fn a_reply_to_an_earlier_request_is_not_that_of_the_new_one() {
    let mut fixture = Fixture::default();
    let (_, first) = fixture.join::<Json>("orders:7", SubscribeOptions::default());
    fixture.connect();
    let (early, _) = fixture.request();
    // Dropped and joined again before the reply.
    fixture.registry.leave(&"orders:7".into(), first);
    let options = SubscribeOptions::default().since(position("a", 0));
    let (orders, _) = fixture.join::<Json>("orders:7", options);
    assert!(fixture.registry.next_message(Instant::now()).is_some());
    let (request, channels) = fixture.request();
    assert_eq!(channels, [("orders:7".to_owned(), Some(position("a", 0)))]);
    fixture.reply(early, "orders:7", &position("a", 2), false);
    fixture.publish("orders:7", 3);
    fixture.reply(request, "orders:7", &position("a", 3), true);
    for seq in 1..=4 {
        fixture.publish("orders:7", seq);
    }
    assert_eq!(drain(&orders), ["1 again", "2 again", "3 again", "4"]);
}

#[test]
fn a_refusal_of_an_earlier_request_is_not_that_of_the_new_one() {
    for is_whole in [true, false] {
        let mut fixture = Fixture::default();
        let (_, first) = fixture.join::<Json>("orders:7", SubscribeOptions::default());
        fixture.connect();
        let (early, _) = fixture.request();
        fixture.registry.leave(&"orders:7".into(), first);
        let (orders, _) = fixture.join::<Json>("orders:7", SubscribeOptions::default());
        assert!(fixture.registry.next_message(Instant::now()).is_some());
        let (request, _) = fixture.request();
        let error = WireError::new(ErrorCode::NotFound, "not yet");
        let refusal = if is_whole {
            Data::Error(error)
        } else {
            let result = SubscriptionResult {
                error: Some(error),
                ..SubscriptionResult::default()
            };
            let channels = vec![result];
            Data::Subscribed(Subscribed { channels })
        };
        fixture.apply(Some(early), None, None, refusal);
        fixture.reply(request, "orders:7", &position("a", 0), false);
        fixture.publish("orders:7", 1);
        assert_eq!(drain(&orders), ["1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn each_request_has_its_own_time_for_the_reply() {
    let mut fixture = Fixture::default();
    fixture.connect();
    assert_eq!(fixture.registry.oldest_request(), None);
    // There is always a request on its way.
    let mut on_its_way = None;
    let mut streams = Vec::new();
    for number in 1..=200 {
        let channel = format!("orders:{number}");
        streams.push(fixture.join::<Json>(&channel, SubscribeOptions::default()));
        let sent = Instant::now();
        let (id, _) = fixture.request();
        if let Some((id, channel)) = on_its_way.replace((id, channel)) {
            fixture.reply(id, &channel, &position("a", 0), false);
        }
        assert_eq!(fixture.registry.oldest_request(), Some(sent));
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    // The last one has no reply: later ones do not hide it.
    let oldest = fixture.registry.oldest_request();
    let _stream = fixture.join::<Json>("orders:0", SubscribeOptions::default());
    let (id, _) = fixture.request();
    fixture.reply(id, "orders:0", &position("a", 0), false);
    assert_eq!(fixture.registry.oldest_request(), oldest);
    fixture.registry.on_disconnect();
    assert_eq!(fixture.registry.oldest_request(), None);
}

#[test]
fn a_name_that_is_dropped_before_its_reply_takes_no_other_name_with_it() {
    let mut fixture = Fixture::default();
    let (upper, _) = fixture.join::<Json>("tx:1:AB", SubscribeOptions::default());
    fixture.connect();
    let (id, _) = fixture.request();
    fixture.reply(id, "tx:1:ab", &position("a", 3), false);
    let (_, lower) = fixture.join::<Json>("tx:1:aB", SubscribeOptions::default());
    let (id, _) = fixture.request();
    fixture.registry.leave(&"tx:1:aB".into(), lower);
    let message = fixture.registry.next_message(Instant::now()).unwrap();
    let Some(client_message::Data::Unsubscribe(request)) = message.data else {
        panic!("{message:?}")
    };
    assert_eq!(request.channels, ["tx:1:aB"]);
    // The server unsubscribes both names after this reply.
    fixture.reply(id, "tx:1:ab", &position("a", 3), false);
    let (id, channels) = fixture.request();
    assert_eq!(channels, [("tx:1:ab".to_owned(), Some(position("a", 3)))]);
    fixture.reply(id, "tx:1:ab", &position("a", 4), true);
    fixture.publish("tx:1:ab", 4);
    assert_eq!(drain(&upper), ["4 again"]);
}

#[test]
fn the_end_of_an_earlier_subscription_is_not_that_of_the_new_one() {
    let mut fixture = Fixture::default();
    let (_, first) = fixture.join::<Json>("orders:7", SubscribeOptions::default());
    fixture.connect();
    let (id, _) = fixture.request();
    fixture.reply(id, "orders:7", &position("a", 0), false);
    fixture.registry.leave(&"orders:7".into(), first);
    let (orders, _) = fixture.join::<Json>("orders:7", SubscribeOptions::default());
    assert!(fixture.registry.next_message(Instant::now()).is_some());
    let (request, _) = fixture.request();
    let ended = Unsubscribed {
        channels: vec!["orders:7".to_owned()],
        reason: Some("an operator did it".to_owned()),
    };
    fixture.apply(None, None, None, Data::Unsubscribed(ended));
    fixture.reply(request, "orders:7", &position("a", 0), false);
    fixture.publish("orders:7", 1);
    assert_eq!(drain(&orders), ["1"]);
}

#[test]
fn a_name_that_no_server_takes_ends_its_own_subscription_only() {
    let mut fixture = Fixture::default();
    let name = format!("orders:{}", "7".repeat(MAX_CHANNEL_BYTES));
    let (long, _) = fixture.join::<Json>(&name, SubscribeOptions::default());
    let texts = drain(&long);
    assert!(texts[0].contains("expected 255 at most"), "{texts:?}");
    assert!(fixture.registry.is_empty());
}
