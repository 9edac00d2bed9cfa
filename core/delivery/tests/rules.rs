//! Rules of planning: what each channel receives, and that rules which change while something
//! waits count from then on.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::time::Duration;

use support::{MINUTE_MS, NIGHT_MS, World, note, push_filter, quiet};
use tidewire_delivery::{
    Outcome,
    durable::{MAX_UNSUBSCRIBED, PlanOutcome},
    email::{AddressHash, UnsubscribeLink},
};
use tidewire_notification::StepOutcome;
use tidewire_proto::v1::{
    DeliveryFilter, NotificationType, NotifyRequest, Preferences, Priority, QuietHours,
};
use tidewire_store::{Batch, Store as _, Table};
use tidewire_stream::UserId;

const HOUR_MS: i64 = 60 * MINUTE_MS;

fn retry() -> Option<Outcome> {
    Some(Outcome::Retry {
        after: None,
        reason: "503".to_owned(),
    })
}

fn to(user: &str, title: &str, collapse: Option<&str>) -> NotifyRequest {
    let mut notification = note(title, Priority::High);
    notification.collapse_key = collapse.map(str::to_owned);
    NotifyRequest {
        user: Some(user.to_owned()),
        notification: Some(notification),
        ..NotifyRequest::default()
    }
}

/// Does all background work of the hub: it removes texts that no inbox lists.
async fn clean_up(world: &World) {
    while world.hub.step().await.unwrap() == StepOutcome::More {}
}

fn is_empty(world: &World) -> bool {
    let tables = ["delivery.jobs", "delivery.held", "notification.outgoing"];
    let tables = tables.iter().chain(&["notification.outgoing_of"]);
    tables
        .into_iter()
        .all(|table| world.store.len(Table(table)) == 0)
}

#[tokio::test(start_paused = true)]
async fn a_webhook_gets_what_the_user_reads_replaces_or_removes_at_once() {
    let world = World::new().await;
    world.register("ada", "phone").await;
    let backend = UserId::new("backend");
    let batch = (0..5).map(|number| to("ada", &format!("payment {number}"), Some("pay")));
    world.hub.notify_batch(&backend, batch.collect()).await;
    let read = world.notify("ada", "read", Priority::High).await;
    let gone = world.notify("ada", "gone", Priority::High).await;
    world.hub.mark_read("ada", &[read]).await.unwrap();
    world.hub.dismiss("ada", &[gone]).await.unwrap();
    let broadcast = |title| NotifyRequest {
        user: None,
        everyone: true,
        ..to("", title, Some("news"))
    };
    world.send(broadcast("first")).await;
    let recalled = world.send(broadcast("second")).await;
    world.hub.recall_broadcast(&recalled).await.unwrap();
    clean_up(&world).await;
    let world = world.restart().await;
    let expected = [
        "push phone: payment 4",
        "webhook ops: first",
        "webhook ops: gone",
        "webhook ops: payment 0",
        "webhook ops: payment 1",
        "webhook ops: payment 2",
        "webhook ops: payment 3",
        "webhook ops: payment 4",
        "webhook ops: read",
        "webhook ops: second",
    ];
    assert_eq!(world.sent().await, expected);
    assert!(is_empty(&world));
    // What nothing waits for is removed then.
    clean_up(&world).await;
    assert_eq!(world.store.len(Table("notification.garbage")), 0);
}

#[tokio::test(start_paused = true)]
async fn a_webhook_gets_all_of_a_user_who_reads_all() {
    let world = World::new().await;
    let batch = (0..400).map(|number| to("ada", &format!("{number:03}"), None));
    let backend = UserId::new("backend");
    world.hub.notify_batch(&backend, batch.collect()).await;
    world.hub.mark_all_read("ada", None).await.unwrap();
    let mut sent = world.sent().await;
    while world.store.len(Table("delivery.jobs")) > 0 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        sent.extend(world.sent().await);
    }
    assert_eq!(sent.len(), 400);
}

#[tokio::test(start_paused = true)]
async fn a_user_whose_preferences_hide_it_has_no_webhook_of_it() {
    let world = World::new().await;
    let hides = Preferences {
        min_priority: Some(Priority::High.into()),
        ..Preferences::default()
    };
    world.prefer("ada", hides).await;
    world.notify("ada", "low", Priority::Low).await;
    world.notify("ada", "high", Priority::High).await;
    assert_eq!(world.sent().await, ["webhook ops: high"]);
}

#[tokio::test(start_paused = true)]
async fn the_age_of_a_message_counts_from_its_planning() {
    let mut world = World::new().await;
    *world.recorder.max_age.lock() = Some(Duration::from_secs(10));
    world.register("ada", "phone").await;
    world.set_email("bob").await;
    world.prefer("ada", quiet(false)).await;
    world.notify("ada", "held", Priority::High).await;
    world.notify("bob", "late", Priority::High).await;
    let _ = world.sent().await;
    world.advance(5 * MINUTE_MS);
    assert_eq!(world.sent().await, ["email bob@example.com: late"]);
    world.advance(9 * HOUR_MS);
    assert_eq!(world.sent().await, ["push phone: held"]);
    assert!(is_empty(&world));
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_row_that_was_put_off_is_known_at_once() {
    let mut world = World::new().await;
    world.set_email("ada").await;
    world.notify("ada", "a", Priority::High).await;
    let due_ms = NIGHT_MS + 5 * MINUTE_MS;
    let idle = PlanOutcome::Idle(Some(due_ms));
    assert_eq!(world.planner.step().await.unwrap(), idle);
    world.advance(1);
    world.notify("bob", "b", Priority::High).await;
    assert_eq!(world.planner.step().await.unwrap(), idle);
}

#[tokio::test(start_paused = true)]
async fn a_digest_of_hundreds_is_one_message() {
    let mut world = World::new().await;
    world.set_email("ada").await;
    world.set_email("bob").await;
    world.prefer("ada", quiet(true)).await;
    world.prefer("bob", quiet(true)).await;
    let backend = UserId::new("backend");
    let batch = (0..3).map(|number| to("ada", &format!("a{number}"), None));
    world.hub.notify_batch(&backend, batch.collect()).await;
    let batch = (0..700).map(|number| to("bob", &format!("{number:03}"), None));
    world.hub.notify_batch(&backend, batch.collect()).await;
    let _ = world.sent().await;
    while world.store.len(Table("delivery.jobs")) > 0 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let _ = world.sent().await;
    }
    world.advance(9 * HOUR_MS);
    let newest: Vec<_> = (650..700).map(|number| format!("{number:03}")).collect();
    let expected = [
        "email ada@example.com digest: a0, a1, a2".to_owned(),
        format!("email bob@example.com digest: {}", newest.join(", ")),
    ];
    assert_eq!(world.sent().await, expected);
    assert_eq!(
        *world.recorder.titles.lock(),
        ["3 notifications", "700 notifications"]
    );
    assert!(is_empty(&world));
}

#[tokio::test(start_paused = true)]
async fn quiet_hours_that_are_removed_hold_nothing_back() {
    let mut world = World::new().await;
    world.register("ada", "phone").await;
    world.register("bob", "bobs").await;
    world.prefer("ada", quiet(false)).await;
    world.prefer("bob", quiet(false)).await;
    world.notify("ada", "one", Priority::High).await;
    world.notify("ada", "two", Priority::High).await;
    world.notify("bob", "b", Priority::High).await;
    let _ = world.sent().await;
    world.advance(MINUTE_MS);
    // A crash in between changes nothing.
    world.prefer("ada", Preferences::default()).await;
    let mut world = world.restart().await;
    assert_eq!(world.sent().await, ["push phone: one", "push phone: two"]);
    // They wait for the new end.
    let until = |end: &str| Preferences {
        quiet_hours: Some(QuietHours {
            start: "22:00".to_owned(),
            end: end.to_owned(),
            time_zone: "America/New_York".to_owned(),
        }),
        ..Preferences::default()
    };
    world.prefer("bob", until("23:00")).await;
    assert!(world.sent().await.is_empty());
    world.advance(29 * MINUTE_MS);
    assert_eq!(world.sent().await, ["push bobs: b"]);
    assert!(is_empty(&world));
}

#[tokio::test(start_paused = true)]
async fn new_preferences_reach_a_message_that_is_tried_again() {
    let world = World::new().await;
    let users = ["ada", "bob", "cleo", "dan"];
    for user in users {
        world.register(user, user).await;
        *world.recorder.outcome.lock() = retry();
        world.notify(user, user, Priority::High).await;
    }
    world.notify("dan", "urgent", Priority::Urgent).await;
    let pushed = async |world: &World| {
        let mut sent = world.sent().await;
        sent.retain(|line| line.starts_with("push"));
        sent
    };
    let tried = users.map(|user| format!("push {user}: {user}"));
    assert_eq!(pushed(&world).await, tried);
    let mutes = DeliveryFilter {
        muted_types: vec![NotificationType::PriceAlert.into()],
        ..DeliveryFilter::default()
    };
    world.prefer("ada", push_filter(mutes)).await;
    world.prefer("bob", quiet(false)).await;
    world.prefer("cleo", quiet(false)).await;
    world.prefer("dan", quiet(false)).await;
    *world.recorder.outcome.lock() = None;
    // One that left memory to wait out its pause comes back within five seconds of it.
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(pushed(&world).await, ["push dan: urgent"]);
    assert_eq!(world.store.len(Table("delivery.jobs")), 0);
    assert_eq!(world.store.len(Table("delivery.held")), 3);
    // A crash in between loses nothing. One reads it, one has no more quiet hours.
    let mut world = world.restart().await;
    world.hub.mark_all_read("cleo", None).await.unwrap();
    world.prefer("bob", Preferences::default()).await;
    assert_eq!(pushed(&world).await, ["push bob: bob"]);
    world.advance(9 * HOUR_MS);
    assert_eq!(pushed(&world).await, ["push dan: dan"]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(pushed(&world).await.is_empty());
    assert!(is_empty(&world));
}

#[tokio::test(start_paused = true)]
async fn a_phone_that_lost_its_network_gets_the_push_when_its_connection_ends() {
    let mut world = World::new().await;
    for user in ["ada", "bob", "cleo"] {
        world.register(user, user).await;
        world.connected.0.lock().insert(UserId::new(user));
        world.notify(user, user, Priority::High).await;
    }
    let mut sent = world.sent().await;
    sent.retain(|line| line.starts_with("push"));
    assert!(sent.is_empty());
    // The connection of ada was dead, bob's is alive, cleo read it before she left.
    world.hub.mark_all_read("cleo", None).await.unwrap();
    world.connected.0.lock().remove(&UserId::new("ada"));
    world.connected.0.lock().remove(&UserId::new("cleo"));
    world.advance(69_999);
    assert!(world.sent().await.is_empty());
    world.advance(1);
    assert_eq!(world.sent().await, ["push ada: ada"]);
    world.connected.0.lock().clear();
    world.advance(HOUR_MS);
    assert!(world.sent().await.is_empty());
    assert!(is_empty(&world));
}

#[tokio::test(start_paused = true)]
async fn a_user_who_cannot_be_read_holds_up_no_other() {
    for table in ["notification.preferences", "notification.states"] {
        let world = World::new().await;
        world.register("ada", "phone").await;
        world.prefer("ada", quiet(false)).await;
        world.notify("ada", "a", Priority::High).await;
        let mut batch = Batch::new();
        batch.put(Table(table), "ada", b"\xff");
        world.store.commit(batch).await.unwrap();
        let world = world.restart().await;
        world.notify("bob", "b", Priority::High).await;
        let mut sent = world.sent().await;
        sent.retain(|line| line != "webhook ops: a");
        assert_eq!(sent, ["webhook ops: b"], "{table}");
        assert!(is_empty(&world));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unsubscribed_address_stays_so_whatever_is_set_meanwhile() {
    let mut world = World::new().await;
    let ada = UserId::new("ada");
    let first = "ada@example.com";
    for number in 0..6 {
        world.advance(1);
        set_email(&world, Some(first)).await;
        unsubscribe(&world, Some(first)).await;
        let again = match number {
            0 => first,
            1 => "Ada@example.com",
            2 => "ada@EXAMPLE.com",
            3 => {
                set_email(&world, None).await;
                first
            }
            4 => {
                set_email(&world, Some("other@example.com")).await;
                assert!(!is_unsubscribed(&world).await);
                "ADA@example.com"
            }
            _ => {
                // Once more, for another address, and back.
                set_email(&world, Some("third@example.com")).await;
                unsubscribe(&world, Some("third@example.com")).await;
                first
            }
        };
        set_email(&world, Some(again)).await;
        world = world.restart().await;
        assert!(is_unsubscribed(&world).await, "{again}");
        world.notify("ada", "a", Priority::High).await;
        world.advance(HOUR_MS);
        assert_eq!(world.sent().await, ["webhook ops: a"], "{again}");
        // Another user may have the address.
        let bob = UserId::new("bob");
        let set = world.contacts.set_email(&bob, Some(first)).await;
        set.unwrap().unwrap();
        let of_bob = world.contacts.email_contact(&bob).await;
        assert!(!of_bob.unwrap().unwrap().is_unsubscribed);
        if number < 5 {
            world.contacts.subscribe(&ada).await.unwrap();
            assert!(!is_unsubscribed(&world).await);
        }
    }
    set_email(&world, Some("THIRD@example.com")).await;
    assert!(is_unsubscribed(&world).await);
    // The user subscribes again.
    world.contacts.subscribe(&ada).await.unwrap();
    world.notify("ada", "b", Priority::High).await;
    let _ = world.sent().await;
    world.advance(HOUR_MS);
    assert_eq!(world.sent().await, ["email THIRD@example.com: b"]);
}

#[tokio::test(start_paused = true)]
async fn a_user_has_a_bounded_number_of_unsubscribed_addresses() {
    let mut world = World::new().await;
    for number in 0..MAX_UNSUBSCRIBED + 2 {
        world.advance(1);
        let address = format!("a{number}@example.com");
        set_email(&world, Some(&address)).await;
        unsubscribe(&world, Some(&address)).await;
    }
    let rows = world.store.len(Table("delivery.unsubscribed"));
    assert_eq!(rows, MAX_UNSUBSCRIBED);
    for (number, is_known) in [(1, false), (2, true)] {
        set_email(&world, Some(&format!("a{number}@example.com"))).await;
        assert_eq!(is_unsubscribed(&world).await, is_known, "{number}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_link_of_a_mail_unsubscribes_the_address_of_the_mail() {
    let world = World::new().await;
    set_email(&world, Some("old@example.com")).await;
    set_email(&world, Some("new@example.com")).await;
    unsubscribe(&world, Some("old@example.com")).await;
    assert!(!is_unsubscribed(&world).await);
    set_email(&world, Some("Old@example.com")).await;
    assert!(is_unsubscribed(&world).await);
    // A link of an earlier version was mailed to no address that this one set.
    set_email(&world, Some("new@example.com")).await;
    unsubscribe(&world, None).await;
    assert!(!is_unsubscribed(&world).await);
}

#[tokio::test(start_paused = true)]
async fn a_link_of_an_earlier_version_unsubscribes_the_address_of_that_version() {
    // The record of an address as an earlier version stored it: its version and its field.
    let address = "ada@example.com";
    let mut record = vec![1, 0x0a, u8::try_from(address.len()).unwrap()];
    record.extend(address.as_bytes());
    for (set, is_meant) in [
        (None, true),
        (Some("Ada@example.com"), true),
        (Some("new@example.com"), false),
    ] {
        let world = World::new().await;
        let mut batch = Batch::new();
        batch.put(Table("delivery.emails"), "ada", record.clone());
        world.store.commit(batch).await.unwrap();
        if set.is_some() {
            set_email(&world, set).await;
        }
        unsubscribe(&world, None).await;
        assert_eq!(is_unsubscribed(&world).await, is_meant, "{set:?}");
    }
}

/// Follows the link of a mail to an address, or that of an earlier version.
async fn unsubscribe(world: &World, address: Option<&str>) {
    let link = UnsubscribeLink {
        user: UserId::new("ada"),
        address: address.map(AddressHash::of),
    };
    world.contacts.unsubscribe(&link).await.unwrap();
}

async fn set_email(world: &World, address: Option<&str>) {
    let ada = UserId::new("ada");
    let set = world.contacts.set_email(&ada, address).await;
    set.unwrap().unwrap();
}

async fn is_unsubscribed(world: &World) -> bool {
    let ada = UserId::new("ada");
    let contact = world.contacts.email_contact(&ada).await;
    contact.unwrap().unwrap().is_unsubscribed
}
