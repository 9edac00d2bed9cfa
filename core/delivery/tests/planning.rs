//! Planning: which notification goes to which endpoint and when; and that a crash at any moment
//! loses nothing.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{collections::HashSet, time::Duration};

use support::{MINUTE_MS, World, note, push_filter, quiet};
use tidewire_delivery::{
    Channel, MessageId, Outcome,
    durable::{MAX_REGISTRATIONS, RetryOutcome},
    email::{AddressHash, UnsubscribeLink},
};
use tidewire_proto::v1::{DeliveryFilter, NotificationType, NotifyRequest, Preferences, Priority};
use tidewire_store::{Batch, Store as _, Table};
use tidewire_stream::UserId;

#[tokio::test(start_paused = true)]
async fn webhooks_get_all_and_push_those_who_are_not_connected() {
    let mut world = World::new().await;
    world.register("ada", "phone").await;
    world.register("ada", "laptop").await;
    world.register("bob", "bobs").await;
    world.connected.0.lock().insert(UserId::new("bob"));
    world.notify("ada", "a", Priority::High).await;
    world.notify("bob", "b", Priority::High).await;
    assert_eq!(
        world.sent().await,
        [
            "push laptop: a",
            "push phone: a",
            "webhook ops: a",
            "webhook ops: b"
        ]
    );
    let mut payment = note("paid", Priority::Low);
    payment.r#type = NotificationType::PaymentReceived.into();
    world
        .send(NotifyRequest {
            user: Some("bob".to_owned()),
            notification: Some(payment),
            ..NotifyRequest::default()
        })
        .await;
    assert_eq!(
        world.sent().await,
        ["webhook ops: paid", "webhook payments: paid"]
    );
    // The connection has stayed: they have reached bob.
    world.advance(2 * MINUTE_MS);
    assert!(world.sent().await.is_empty());
    // Always, if bob wants it.
    let always = DeliveryFilter {
        always: Some(true),
        ..DeliveryFilter::default()
    };
    world.prefer("bob", push_filter(always)).await;
    world.notify("bob", "c", Priority::High).await;
    assert_eq!(world.sent().await, ["push bobs: c", "webhook ops: c"]);
    assert_eq!(world.store.len(Table("delivery.jobs")), 0);
    assert_eq!(world.store.len(Table("notification.outgoing")), 0);
}

#[tokio::test(start_paused = true)]
async fn a_filter_of_a_channel_is_the_channels_own() {
    let world = World::new().await;
    world.register("ada", "phone").await;
    let filter = DeliveryFilter {
        min_priority: Some(Priority::High.into()),
        muted_types: vec![NotificationType::SubscriptionRenewal.into()],
        ..DeliveryFilter::default()
    };
    world.prefer("ada", push_filter(filter)).await;
    world.notify("ada", "medium", Priority::Medium).await;
    world.notify("ada", "high", Priority::High).await;
    assert_eq!(
        world.sent().await,
        [
            "push phone: high",
            "webhook ops: high",
            "webhook ops: medium"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_mail_waits_and_is_not_sent_if_the_notification_was_read() {
    let mut world = World::new().await;
    world.set_email("ada").await;
    let read = world.notify("ada", "read", Priority::High).await;
    world.notify("ada", "unread", Priority::High).await;
    assert_eq!(
        world.sent().await,
        ["webhook ops: read", "webhook ops: unread"]
    );
    world.hub.mark_read("ada", &[read]).await.unwrap();
    world.advance(5 * MINUTE_MS - 1);
    assert!(world.sent().await.is_empty());
    world.advance(1);
    assert_eq!(world.sent().await, ["email ada@example.com: unread"]);
    // Who unsubscribed gets none, also not when the same address is set again.
    let link = UnsubscribeLink {
        user: UserId::new("ada"),
        address: Some(AddressHash::of("ada@example.com")),
    };
    world.contacts.unsubscribe(&link).await.unwrap();
    world.set_email("ada").await;
    world.notify("ada", "later", Priority::High).await;
    world.advance(10 * MINUTE_MS);
    assert_eq!(world.sent().await, ["webhook ops: later"]);
}

#[tokio::test(start_paused = true)]
async fn quiet_hours_hold_back_what_is_not_urgent() {
    let mut world = World::new().await;
    world.register("ada", "phone").await;
    world.set_email("ada").await;
    world.prefer("ada", quiet(false)).await;
    let read = world.notify("ada", "read at night", Priority::High).await;
    world.notify("ada", "one", Priority::High).await;
    world.notify("ada", "two", Priority::Low).await;
    world.notify("ada", "urgent", Priority::Urgent).await;
    let mut warning = note("warning", Priority::Low);
    warning.r#type = NotificationType::SecurityWarning.into();
    world
        .send(NotifyRequest {
            user: Some("ada".to_owned()),
            notification: Some(warning),
            ..NotifyRequest::default()
        })
        .await;
    let at_once: Vec<_> = world
        .sent()
        .await
        .into_iter()
        .filter(|line| line.starts_with("push"))
        .collect();
    assert_eq!(at_once, ["push phone: urgent", "push phone: warning"]);
    world.hub.mark_read("ada", &[read]).await.unwrap();
    // Seven in the morning there.
    world.advance(8 * 60 * MINUTE_MS);
    let mails: Vec<_> = world.sent().await;
    assert_eq!(
        mails,
        [
            "email ada@example.com: urgent",
            "email ada@example.com: warning"
        ]
    );
    world.advance(30 * MINUTE_MS);
    assert_eq!(
        world.sent().await,
        [
            "email ada@example.com: one",
            "email ada@example.com: two",
            "push phone: one",
            "push phone: two"
        ]
    );
    assert_eq!(world.store.len(Table("notification.outgoing")), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_clock_that_was_ahead_put_off_follows_the_right_one() {
    const HOUR_MS: i64 = 60 * MINUTE_MS;
    let mut world = World::new().await;
    world.register("ada", "phone").await;
    world.register("bob", "bobs").await;
    world.set_email("cleo").await;
    world.prefer("ada", quiet(true)).await;
    world.connected.0.lock().insert(UserId::new("bob"));
    // Half past ten in the evening. In truth it is half past twelve: no quiet hours.
    for user in ["ada", "bob", "cleo"] {
        world.notify(user, "ahead", Priority::High).await;
    }
    assert_eq!(world.sent().await, ["webhook ops: ahead"; 3]);
    world.connected.0.lock().clear();
    world.advance(-10 * HOUR_MS);
    let at_once = ["push bobs: ahead", "push phone digest: ahead"];
    assert_eq!(world.sent().await, at_once);
    world.advance(5 * MINUTE_MS);
    assert_eq!(world.sent().await, ["email cleo@example.com: ahead"]);
    assert_eq!(world.store.len(Table("notification.outgoing")), 0);
    // The same, with a clock that is set right while the server is down. A row that was not planned
    // before waits for nothing either.
    world.advance(10 * HOUR_MS);
    world.notify("ada", "put off", Priority::High).await;
    assert_eq!(world.sent().await, ["webhook ops: put off"]);
    world.notify("ada", "stored", Priority::High).await;
    world.advance(-10 * HOUR_MS);
    let world = world.restart().await;
    let expected = [
        "push phone digest: put off",
        "push phone: stored",
        "webhook ops: stored",
    ];
    assert_eq!(world.sent().await, expected);
    assert_eq!(world.store.len(Table("notification.outgoing")), 0);
}

#[tokio::test(start_paused = true)]
async fn quiet_hours_that_a_right_clock_is_in_hold_after_a_clock_step_too() {
    let mut world = World::new().await;
    world.register("ada", "phone").await;
    world.prefer("ada", quiet(false)).await;
    // Half past five in the morning, and then four hours before.
    world.advance(7 * 60 * MINUTE_MS);
    world.notify("ada", "a", Priority::High).await;
    assert_eq!(world.sent().await, ["webhook ops: a"]);
    world.advance(-4 * 60 * MINUTE_MS);
    assert!(world.sent().await.is_empty());
    world.advance(5 * 60 * MINUTE_MS + 30 * MINUTE_MS - 1);
    assert!(world.sent().await.is_empty());
    world.advance(1);
    assert_eq!(world.sent().await, ["push phone: a"]);
}

#[tokio::test(start_paused = true)]
async fn a_mail_waits_for_its_delay_also_where_ids_are_ahead_of_the_clock() {
    let mut world = World::new().await;
    world.set_email("ada").await;
    world.set_email("bob").await;
    world.advance(12 * 60 * MINUTE_MS);
    world.notify("ada", "ahead", Priority::High).await;
    world.advance(-12 * 60 * MINUTE_MS);
    // The ids go on from those of the clock that was ahead.
    let read = world.notify("bob", "read", Priority::High).await;
    world.notify("bob", "unread", Priority::High).await;
    world
        .send(NotifyRequest {
            everyone: true,
            notification: Some(note("all", Priority::High)),
            ..NotifyRequest::default()
        })
        .await;
    let sent = world.sent().await;
    assert!(
        sent.iter().all(|line| line.starts_with("webhook")),
        "{sent:?}"
    );
    world.advance(3_000);
    world.hub.mark_read("bob", &[read]).await.unwrap();
    // A review judges them anew, and does not begin their delay again.
    world.prefer("bob", quiet(false)).await;
    world.prefer("bob", Preferences::default()).await;
    assert!(world.sent().await.is_empty());
    world.advance(5 * MINUTE_MS - 3_001);
    assert!(world.sent().await.is_empty());
    world.advance(1);
    let expected = [
        "email ada@example.com: ahead",
        "email ada@example.com: all",
        "email bob@example.com: all",
        "email bob@example.com: unread",
    ];
    assert_eq!(world.sent().await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_digest_is_one_message_and_is_retried_as_one() {
    let mut world = World::new().await;
    world.register("ada", "phone").await;
    world.set_email("ada").await;
    world.prefer("ada", quiet(true)).await;
    world.notify("ada", "one", Priority::High).await;
    world.advance(1_000);
    world.notify("ada", "two", Priority::High).await;
    let _ = world.sent().await;
    world.advance(9 * 60 * MINUTE_MS);
    *world.recorder.outcome.lock() = Some(Outcome::Retry {
        after: None,
        reason: "451".to_owned(),
    });
    assert_eq!(
        world.sent().await,
        [
            "email ada@example.com digest: one, two",
            "push phone digest: one, two"
        ]
    );
    // A restart in between sends it again with the same id.
    let before: HashSet<_> = world.recorder.ids.lock().iter().cloned().collect();
    let world = world.restart().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let again: HashSet<_> = world.recorder.ids.lock().iter().cloned().collect();
    assert_eq!(again.len(), 2);
    assert!(again.is_subset(&before));
    assert_eq!(world.store.len(Table("delivery.jobs")), 0);
    assert!(
        world
            .jobs
            .dead_letters()
            .list(None, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_any_two_steps_loses_nothing() {
    let world = World::new().await;
    world.register("ada", "phone").await;
    world.notify("ada", "a", Priority::High).await;
    // Stored, not planned.
    let world = world.restart().await;
    *world.recorder.outcome.lock() = Some(Outcome::Retry {
        after: None,
        reason: "down".to_owned(),
    });
    assert_eq!(world.sent().await, ["push phone: a", "webhook ops: a"]);
    // Planned, not sent.
    let world = world.restart().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.sent().await, ["push phone: a", "webhook ops: a"]);
    let world = world.restart().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(world.sent().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_for_good_is_a_dead_letter() {
    let world = World::new().await;
    *world.recorder.outcome.lock() = Some(Outcome::Permanent {
        reason: "HTTP 400".to_owned(),
    });
    world.notify("ada", "a", Priority::High).await;
    assert_eq!(world.sent().await, ["webhook ops: a"]);
    let dead = world.jobs.dead_letters().list(None, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    let letter = &dead[0];
    assert_eq!(
        (
            letter.endpoint.as_str(),
            letter.user.as_str(),
            letter.attempts
        ),
        ("ops", "ada", 1)
    );
    assert_eq!(
        (letter.titles[0].as_str(), letter.reason.as_str()),
        ("a", "HTTP 400")
    );
    assert_eq!(world.store.len(Table("delivery.jobs")), 0);
    // A page begins after the one before.
    let after = world
        .jobs
        .dead_letters()
        .list(Some((letter.time_ms, &letter.id)), 10);
    assert!(after.await.unwrap().is_empty());
    // It is sent again with the same id, and may become a dead letter again.
    let id = MessageId::new(&letter.id).unwrap();
    for _ in 0..2 {
        let retried = world.jobs.retry(&world.dispatcher, &id).await.unwrap();
        assert_eq!(retried, RetryOutcome::Queued);
        assert_eq!(world.sent().await, ["webhook ops: a"]);
        assert_eq!(world.store.len(Table("delivery.dead")), 1);
    }
    *world.recorder.outcome.lock() = None;
    let both = tokio::join!(
        world.jobs.retry(&world.dispatcher, &id),
        world.jobs.retry(&world.dispatcher, &id)
    );
    let outcomes = (both.0.unwrap(), both.1.unwrap());
    assert_eq!(outcomes, (RetryOutcome::Queued, RetryOutcome::Unknown));
    assert_eq!(world.sent().await, ["webhook ops: a"]);
    let left = ["delivery.dead", "delivery.jobs"].map(|name| world.store.len(Table(name)));
    assert_eq!(left, [0, 0]);
    let ids: HashSet<_> = world.recorder.ids.lock().iter().cloned().collect();
    assert_eq!(ids, HashSet::from([letter.id.clone()]));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_cannot_be_sent_any_more_stays() {
    let world = World::new().await;
    let registration = world.register("ada", "phone").await;
    *world.recorder.outcome.lock() = Some(Outcome::Permanent {
        reason: "HTTP 400".to_owned(),
    });
    let ttl_ms = 60 * MINUTE_MS.unsigned_abs();
    world
        .send(NotifyRequest {
            user: Some("ada".to_owned()),
            notification: Some(note("a", Priority::High)),
            ttl_ms: Some(ttl_ms),
            ..NotifyRequest::default()
        })
        .await;
    assert_eq!(world.sent().await.len(), 2);
    let dead = world.jobs.dead_letters().list(None, 10).await.unwrap();
    let retry = async |channel: Channel| {
        let letter = dead.iter().find(|letter| letter.channel == channel);
        let id = MessageId::new(&letter.unwrap().id).unwrap();
        world.jobs.retry(&world.dispatcher, &id).await.unwrap()
    };
    let ada = UserId::new("ada");
    assert!(
        world
            .contacts
            .unregister(&ada, &registration)
            .await
            .unwrap()
    );
    assert_eq!(retry(Channel::Push).await, RetryOutcome::NoEndpoint);
    world.clock.set(world.now_ms + 61 * MINUTE_MS);
    assert_eq!(retry(Channel::Webhook).await, RetryOutcome::Expired);
    assert_eq!(world.store.len(Table("delivery.dead")), 2);
}

#[tokio::test(start_paused = true)]
async fn a_push_endpoint_belongs_to_who_registered_it_last() {
    let world = World::new().await;
    let first = world.register("ada", "shared").await;
    world.register("bob", "shared").await;
    assert!(
        !world
            .contacts
            .unregister(&UserId::new("ada"), &first)
            .await
            .unwrap()
    );
    world.notify("ada", "a", Priority::High).await;
    world.notify("bob", "b", Priority::High).await;
    assert_eq!(
        world.sent().await,
        ["push shared: b", "webhook ops: a", "webhook ops: b"]
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_pushed_after_the_registration_ended() {
    let world = World::new().await;
    let id = world.register("ada", "phone").await;
    *world.recorder.outcome.lock() = Some(Outcome::Retry {
        after: None,
        reason: "down".to_owned(),
    });
    world.notify("ada", "a", Priority::High).await;
    assert_eq!(world.sent().await, ["push phone: a", "webhook ops: a"]);
    let bob = UserId::new("bob");
    assert!(!world.contacts.unregister(&bob, &id).await.unwrap());
    assert!(
        world
            .contacts
            .unregister(&UserId::new("ada"), &id)
            .await
            .unwrap()
    );
    *world.recorder.outcome.lock() = None;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.sent().await, ["webhook ops: a"]);
    assert_eq!(world.store.len(Table("delivery.jobs")), 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_waits_for_a_contact_that_is_set_again() {
    let world = World::new().await;
    let first = world.register("ada", "phone").await;
    world.set_email("ada").await;
    *world.recorder.outcome.lock() = Some(Outcome::Retry {
        after: Some(Duration::from_secs(1)),
        reason: "down".to_owned(),
    });
    let mut world = world;
    world.notify("ada", "a", Priority::High).await;
    world.advance(5 * MINUTE_MS);
    let sent = world.sent().await;
    let expected = [
        "email ada@example.com: a",
        "push phone: a",
        "webhook ops: a",
    ];
    assert_eq!(sent, expected);
    // The same device, and another address.
    assert_eq!(world.register("ada", "phone").await, first);
    let user = UserId::new("ada");
    let set = world.contacts.set_email(&user, Some("ada@example.org"));
    set.await.unwrap().unwrap();
    *world.recorder.outcome.lock() = None;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let expected = [
        "email ada@example.org: a",
        "push phone: a",
        "webhook ops: a",
    ];
    assert_eq!(world.sent().await, expected);
    assert_eq!(world.store.len(Table("delivery.jobs")), 0);
    // Another user's registration ends it, with its messages.
    let bobs = world.register("bob", "phone").await;
    assert_ne!(bobs, first);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_gone_is_removed_and_a_new_one_of_it_stays() {
    let world = World::new().await;
    world.register("ada", "phone").await;
    *world.recorder.outcome.lock() = Some(Outcome::Gone {
        reason: "410".to_owned(),
    });
    world.notify("ada", "a", Priority::High).await;
    let _ = world.sent().await;
    *world.recorder.outcome.lock() = None;
    assert_eq!(world.store.len(Table("delivery.registrations")), 0);
    world.register("ada", "phone").await;
    world.notify("ada", "b", Priority::High).await;
    assert_eq!(world.sent().await, ["push phone: b", "webhook ops: b"]);
}

#[tokio::test(start_paused = true)]
async fn a_user_has_a_bounded_number_of_registrations() {
    let mut world = World::new().await;
    for number in 0..MAX_REGISTRATIONS + 5 {
        world.register("ada", &format!("p{number:02}")).await;
        // The clock is set back once: the oldest make room all the same.
        world.advance(if number == 10 { -60 * MINUTE_MS } else { 1 });
    }
    world.notify("ada", "a", Priority::High).await;
    let sent = world.sent().await;
    assert_eq!(sent.len(), MAX_REGISTRATIONS + 1);
    assert_eq!(sent[0], "push p05: a");
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_goes_to_webhooks_once_and_to_each_user_with_a_contact() {
    let mut world = World::new().await;
    for user in ["ada", "bob", "cleo"] {
        world.register(user, user).await;
    }
    world.set_email("dan").await;
    world.set_email("ada").await;
    world.connected.0.lock().insert(UserId::new("cleo"));
    let broadcast = NotifyRequest {
        everyone: true,
        notification: Some(note("all", Priority::High)),
        ..NotifyRequest::default()
    };
    world.send(broadcast).await;
    assert_eq!(
        world.sent().await,
        ["push ada: all", "push bob: all", "webhook ops: all"]
    );
    world.hub.mark_all_read("ada", None).await.unwrap();
    world.advance(5 * MINUTE_MS);
    assert_eq!(world.sent().await, ["email dan@example.com: all"]);
    assert_eq!(world.store.len(Table("notification.outgoing")), 0);
}

#[tokio::test(start_paused = true)]
async fn more_than_fits_in_memory_waits_in_the_store() {
    let world = World::new().await;
    for number in 0..50 {
        world
            .notify("ada", &format!("{number:02}"), Priority::High)
            .await;
    }
    let mut sent = world.sent().await;
    while world.store.len(Table("delivery.jobs")) > 0 {
        sent.extend(world.sent().await);
    }
    assert_eq!(sent.len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_text_that_cannot_be_read_holds_up_no_other() {
    let world = World::new().await;
    world.notify("ada", "damaged", Priority::High).await;
    let bodies = Table("notification.bodies");
    let stored = world
        .store
        .scan(bodies, Vec::new(), None, 10)
        .await
        .unwrap();
    let mut batch = Batch::new();
    for (key, _) in stored {
        batch.put(bodies, key, b"?");
    }
    // Nor does a message that cannot be read, nor a row that says nothing.
    batch.put(Table("delivery.jobs"), b"\0ops\0a", b"?");
    batch.put(Table("notification.outgoing"), b"\0", b"?");
    world.store.commit(batch).await.unwrap();
    let world = world.restart().await;
    world.notify("bob", "b", Priority::High).await;
    assert_eq!(world.sent().await, ["webhook ops: b"]);
    assert_eq!(world.store.len(Table("notification.outgoing")), 0);
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_to_many_is_planned_in_steps() {
    let world = World::new().await;
    for number in 0..600 {
        world.set_email(&format!("u{number:03}")).await;
    }
    let broadcast = NotifyRequest {
        everyone: true,
        notification: Some(note("all", Priority::High)),
        ..NotifyRequest::default()
    };
    world.send(broadcast).await;
    assert_eq!(world.sent().await, ["webhook ops: all"]);
    let mut world = world;
    world.advance(5 * MINUTE_MS);
    let mut sent = world.sent().await;
    while world.store.len(Table("delivery.jobs")) > 0 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        sent.extend(world.sent().await);
    }
    sent.sort();
    sent.dedup();
    assert_eq!(sent.len(), 600);
}

#[tokio::test(start_paused = true)]
async fn a_bad_address_is_named() {
    let world = World::new().await;
    let user = UserId::new("ada");
    let set = world.contacts.set_email(&user, Some("ada@\r\nexample.com"));
    let error = set.await.unwrap().unwrap_err();
    assert_eq!(error.field, "address");
    assert_eq!(world.store.commit(Batch::new()).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_a_store_that_has_ended() {
    let reason = || "HTTP status 410".to_owned();
    for outcome in [
        Outcome::Delivered,
        Outcome::Retry {
            after: None,
            reason: reason(),
        },
        Outcome::Gone { reason: reason() },
        Outcome::Permanent { reason: reason() },
    ] {
        let world = World::new().await;
        *world.recorder.outcome.lock() = Some(outcome.clone());
        world.register("ada", "phone").await;
        world.notify("ada", "a", Priority::High).await;
        world.planner.step().await.unwrap();
        // The term ends while attempts are under way.
        world.store.end();
        let sent = async {
            while world.recorder.sent.lock().len() < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            world.dispatcher.stop().await;
        };
        let stopped = tokio::time::timeout(Duration::from_secs(60), sent).await;
        assert!(stopped.is_ok(), "{outcome:?}");
        // They are sent again in the next term.
        assert_eq!(world.store.len(Table("delivery.jobs")), 2, "{outcome:?}");
    }
}
