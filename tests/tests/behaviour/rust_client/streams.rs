//! Subscriptions: resumed over lost connections, counted, typed and bounded.

use std::time::Duration;

use serde_json::json;
use tidewire_client::{
    Client, ConnectionState, ErrorKind, GapReason, Json, NotificationType, Notify, Position,
    SubscribeOptions, UserEvent,
};
use tidewire_tests::{
    Link, Server, Token, VenueKind, VenueStandIn, eventually, venue::Trade, within,
};

use super::{end, event, gap, linked, message, state, url};
use crate::prices::server_of;

async fn publish(
    server: &Server,
    channel: &str,
    numbers: std::ops::RangeInclusive<u64>,
) -> Position {
    let mut last = Position::default();
    for number in numbers {
        let position = server.publish(channel, json!(number)).await;
        last.epoch = position["epoch"].as_str().unwrap().to_owned();
        last.seq = position["seq"].as_u64().unwrap();
    }
    last
}

fn from_the_start(position: &Position) -> SubscribeOptions {
    let epoch = position.epoch.clone();
    SubscribeOptions::default().since(Position { epoch, seq: 0 })
}

#[tokio::test]
async fn a_link_cut_at_any_frame_loses_and_repeats_nothing() {
    let (server, link) = linked().await;
    let top = publish(&server, "demo:a", 1..=20).await;
    // The server's first frames are settings, then come headers, and the messages.
    for frame in 1..=28 {
        link.close_after_frame(frame);
        let before = link.opened();
        let client = Client::new(url(&link)).unwrap();
        let mut numbers = client.subscribe_with::<Json>("demo:a", from_the_start(&top));
        for number in 1..=20 {
            let message = message(&mut numbers).await;
            let at = message.position.unwrap();
            assert_eq!(
                (at.seq, message.data.parse::<u64>().unwrap()),
                (number, number),
                "{frame}"
            );
            assert!(message.is_replay);
        }
        assert!(link.opened() > before);
    }
}

#[tokio::test]
async fn a_silent_link_is_found_and_resumed() {
    let (server, link) = linked().await;
    let client = Client::new(url(&link)).unwrap();
    let mut numbers = client.messages("demo:a");
    let top = publish(&server, "demo:a", 1..=1).await;
    // Also if the first publication came before the subscription.
    state(&client, ConnectionState::is_connected).await;
    subscribed(&server, 1).await;
    let _ = publish(&server, "demo:a", 2..=2).await;
    let mut last = message(&mut numbers).await;
    while last.position.as_ref().unwrap().seq < 2 {
        last = message(&mut numbers).await;
    }
    link.silence();
    link.pass();
    let _ = publish(&server, "demo:a", 3..=4).await;
    let lost = state(&client, |state| {
        matches!(state, ConnectionState::Reconnecting { .. })
    })
    .await;
    let ConnectionState::Reconnecting { error, .. } = lost else {
        panic!("{lost:?}")
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    for seq in 3..=4 {
        let message = message(&mut numbers).await;
        let epoch = top.epoch.clone();
        assert_eq!(message.position, Some(Position { epoch, seq }));
        assert!(message.is_replay);
    }
}

#[tokio::test]
async fn a_back_end_looks_for_a_silent_link_as_often_as_it_wants() {
    let (_server, link) = linked().await;
    let client = |silence| {
        let builder = Client::builder(url(&link));
        let builder = builder.keep_alive(Duration::from_millis(silence), Duration::from_millis(50));
        builder.build().unwrap()
    };
    let (impatient, patient) = (client(50), client(3_600_000));
    let _streams = [&impatient, &patient].map(|client| client.messages("demo:a"));
    for client in [&impatient, &patient] {
        state(client, ConnectionState::is_connected).await;
    }
    link.silence();
    let is_lost = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { .. });
    state(&impatient, is_lost).await;
    assert!(patient.state().is_connected());
}

/// Waits until all connections together have this number of subscriptions.
async fn subscribed(server: &Server, count: u64) {
    eventually(format!("{count} subscriptions"), async || {
        let answer = server
            .call("AdminService/ListConnections", None, &json!({}))
            .await;
        let list = answer.json();
        let connections = list["connections"].as_array().into_iter().flatten();
        let sum: u64 = connections
            .filter_map(|one| one["subscriptions"].as_u64())
            .sum();
        (sum == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_gap_and_a_cut_do_not_mix_epochs() {
    let (server, link) = linked().await;
    let client = Client::new(url(&link)).unwrap();
    let top = publish(&server, "demo:a", 1..=9).await;
    let mut numbers = client.subscribe_with::<Json>("demo:a", from_the_start(&top));
    for _ in 1..=9 {
        message(&mut numbers).await;
    }
    // Another server has other epochs.
    let other = Server::start().await;
    let fresh = publish(&other, "demo:a", 1..=3).await;
    link.redirect(other.address());
    link.cut();
    let missed = gap(&mut numbers).await;
    assert_eq!(
        (missed.reason, missed.position),
        (GapReason::Server, Some(fresh.clone()))
    );
    link.cut();
    let _ = publish(&other, "demo:a", 4..=5).await;
    for seq in 4..=5 {
        let epoch = fresh.epoch.clone();
        assert_eq!(
            message(&mut numbers).await.position,
            Some(Position { epoch, seq })
        );
    }
}

#[tokio::test]
async fn the_last_dropped_stream_unsubscribes() {
    let server = Server::start().await;
    let client = Client::new(server.url("")).unwrap();
    let (first, second) = (client.messages("demo:a"), client.messages("demo:a"));
    let mut other = client.messages("demo:b");
    subscribed(&server, 2).await;
    drop(first);
    let _ = publish(&server, "demo:b", 1..=1).await;
    message(&mut other).await;
    subscribed(&server, 2).await;
    drop(second);
    subscribed(&server, 1).await;
    // The rest of the client goes with its last subscription.
    drop(client);
    let _ = publish(&server, "demo:b", 2..=2).await;
    message(&mut other).await;
    drop(other);
    subscribed(&server, 0).await;
}

#[tokio::test]
async fn a_slow_consumer_is_bounded_and_delays_nobody() {
    let server = Server::start().await;
    let client = Client::builder(server.url(""))
        .queue_capacity(8)
        .build()
        .unwrap();
    let mut slow = client.messages("demo:a");
    let mut quick = client.messages("demo:a");
    subscribed(&server, 1).await;
    for number in 1..=100 {
        let _ = publish(&server, "demo:a", number..=number).await;
        assert_eq!(message(&mut quick).await.position.unwrap().seq, number);
    }
    let missed = gap(&mut slow).await;
    assert_eq!(missed.reason, GapReason::SlowConsumer { missed: 92 });
    assert_eq!(missed.position.unwrap().seq, 92);
    for number in 93..=100 {
        assert_eq!(message(&mut slow).await.position.unwrap().seq, number);
    }
}

#[tokio::test]
async fn a_refused_channel_is_a_typed_error() {
    let server = Server::start().await;
    let client = Client::new(server.url("")).unwrap();
    let mut unknown = client.messages("nowhere:a");
    let mut own = client.user_events();
    let error = end(&mut unknown).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let error = end(&mut own).await;
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    // The others are not affected.
    let mut numbers = client.messages("demo:a");
    subscribed(&server, 1).await;
    let _ = publish(&server, "demo:a", 1..=1).await;
    message(&mut numbers).await;
}

#[tokio::test]
async fn prices_are_typed_and_arrive_in_batches_too() {
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let symbols = ["BTC-USD", "ETH-USD"];
    let server = server_of(std::slice::from_ref(&venue), &symbols)
        .start()
        .await;
    venue.wait_subscribed(1).await;
    let client = Client::new(server.url("")).unwrap();
    let mut streams = symbols.map(|symbol| client.prices(&symbol.to_lowercase()));
    for (id, prices) in [(1, ["61838.01", "2680.5"]), (2, ["61839.5", "2681.25"])] {
        for (symbol, price) in symbols.into_iter().zip(prices) {
            venue.trade(&Trade { symbol, id, price });
        }
        for (stream, expected) in streams.iter_mut().zip(prices) {
            let mut price = None;
            while price.as_deref() != Some(expected) {
                price = message(stream).await.data.price.map(|price| price.value);
            }
        }
    }
    // A later subscription begins with the newest value.
    let mut later = client.prices("BTC-USD");
    assert_eq!(
        message(&mut later).await.data.price.unwrap().value,
        "61839.5"
    );
}

#[tokio::test]
async fn missed_notifications_come_as_one_batch() {
    let server = Server::start().await;
    let link = Link::start(server.address()).await;
    let backend = Client::builder(server.url(""))
        .token(Token::service())
        .build()
        .unwrap();
    let client = Client::builder(url(&link))
        .token(Token::of("ada").sign())
        .build()
        .unwrap();
    let mut events = client.user_events();
    state(&client, ConnectionState::is_connected).await;
    let urgent = |title: &str| {
        let notify = Notify::user("ada", NotificationType::PaymentReceived, title);
        notify.priority(tidewire_client::Priority::High)
    };
    backend.notify(urgent("one")).await.unwrap();
    let UserEvent::Notification(first) = message(&mut events).await.data else {
        panic!("no notification")
    };
    assert_eq!(first.title, "one");
    link.silence();
    link.cut();
    let results = backend
        .notify_batch([urgent("two"), urgent("")])
        .await
        .unwrap();
    assert_eq!(results[0].as_ref().unwrap().recipients, 1);
    let error = results[1].as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("notification.title"), "{error}");
    link.pass();
    link.cut();
    loop {
        match message(&mut events).await.data {
            UserEvent::Batch(batch) => {
                let titles: Vec<_> = batch.items.iter().map(|item| item.title.as_str()).collect();
                assert_eq!(titles, ["two"]);
                assert_eq!(batch.unread_count, 2);
                return;
            }
            // Counts may come beside it.
            UserEvent::UnreadCount(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_client_works_over_tls() {
    let server = Server::builder().with_tls().start().await;
    let folder = tempfile::tempdir().unwrap();
    let pem = std::fs::read_to_string(server.authority().unwrap().write(folder.path())).unwrap();
    let url = format!("https://localhost:{}", server.address().port());
    let client = Client::builder(&url).ca_certificate(pem).build().unwrap();
    let mut numbers = client.messages("demo:a");
    subscribed(&server, 1).await;
    client.publish("demo:a", &7).await.unwrap();
    assert_eq!(message(&mut numbers).await.data.parse::<u64>().unwrap(), 7);
    // Without the authority's certificate.
    let stranger = Client::new(&url).unwrap();
    let _numbers = stranger.messages("demo:a");
    let lost = state(&stranger, |state| {
        matches!(state, ConnectionState::Reconnecting { .. })
    })
    .await;
    let ConnectionState::Reconnecting { error, .. } = lost else {
        panic!("{lost:?}")
    };
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_draining_server_is_left_and_found_again() {
    let (server, link) = linked().await;
    let top = publish(&server, "demo:a", 1..=1).await;
    let client = Client::new(url(&link)).unwrap();
    let mut numbers = client.subscribe_with::<Json>("demo:a", from_the_start(&top));
    message(&mut numbers).await;
    let other = Server::start().await;
    link.redirect(other.address());
    server.terminate();
    // Another server: its position is another.
    let missed = gap(&mut numbers).await;
    assert_eq!(missed.position.unwrap().seq, 0);
    client.close();
    assert!(within("the end", numbers.next()).await.is_none());
    assert!(matches!(
        client.state(),
        ConnectionState::Closed { error: None }
    ));
    let mut late = client.messages("demo:a");
    assert!(within("the end", late.next()).await.is_none());
}

#[tokio::test]
async fn an_unreachable_server_is_tried_again_and_named() {
    let server = Server::start().await;
    let link = Link::start("127.0.0.1:1".parse().unwrap()).await;
    let client = Client::new(url(&link)).unwrap();
    let mut numbers = client.messages("demo:a");
    let lost = state(&client, |state| {
        matches!(state, ConnectionState::Reconnecting { .. })
    })
    .await;
    let ConnectionState::Reconnecting { error, attempt, .. } = lost else {
        panic!("{lost:?}")
    };
    assert!(
        error.kind() == ErrorKind::Unavailable && attempt >= 1,
        "{error} {attempt}"
    );
    link.redirect(server.address());
    subscribed(&server, 1).await;
    let _ = publish(&server, "demo:a", 1..=1).await;
    assert!(event(&mut numbers).await.is_ok());
}

#[tokio::test]
async fn a_stream_that_is_replaced_before_its_reply_loses_nothing() {
    let server = Server::start().await;
    let top = publish(&server, "demo:a", 1..=5).await;
    let client = Client::new(server.url("")).unwrap();
    let _other = client.messages("demo:b");
    subscribed(&server, 1).await;
    // The reply is somewhere on its way.
    for _ in 0..50 {
        drop(client.messages("demo:a"));
        tokio::task::yield_now().await;
        let mut numbers = client.subscribe_with::<Json>("demo:a", from_the_start(&top));
        for seq in 1..=5 {
            assert_eq!(message(&mut numbers).await.position.unwrap().seq, seq);
        }
    }
}

#[tokio::test]
async fn streams_end_with_the_runtime_of_their_client() {
    let server = Server::start().await;
    let url = server.url("");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = {
        let _entered = runtime.enter();
        Client::new(url).unwrap()
    };
    let mut numbers = client.messages("demo:a");
    subscribed(&server, 1).await;
    runtime.shutdown_background();
    let error = end(&mut numbers).await;
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert!(matches!(
        client.state(),
        ConnectionState::Closed { error: Some(_) }
    ));
}
