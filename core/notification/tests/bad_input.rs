//! Bad input: each error names the field and what was expected, and nothing is stored.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod support;

use support::{DAY_MS, World, notification, sender, to, with};
use tidewire_notification::NotificationConfig;
use tidewire_proto::v1::{
    DeliveryFilter, DeliveryPreferences, ErrorCode, ListNotificationsRequest, Notification,
    NotificationAction, NotifyRequest, Preferences, QuietHours,
};
use tidewire_store::Table;

fn changed(change: impl FnOnce(&mut Notification)) -> NotifyRequest {
    with(to("ada", "a"), change)
}

fn action(url: &str) -> NotifyRequest {
    changed(|of| {
        of.actions.push(NotificationAction {
            label: "Open".to_owned(),
            url: url.to_owned(),
        });
    })
}

#[tokio::test]
async fn each_field_of_a_request_is_checked() {
    let world = World::new().await;
    let now_ms = world.now_ms();
    let nested = "[".repeat(200) + &"]".repeat(200);
    let cases: Vec<(NotifyRequest, &str)> = vec![
        (
            changed(|of| of.r#type = 0),
            "`notification.type`: none is given, expected one of price_alert, ",
        ),
        (
            changed(|of| of.r#type = 99),
            "`notification.type`: 99, expected one of price_alert, ",
        ),
        (
            changed(|of| (of.r#type, of.custom_type) = (0, "moon".to_owned())),
            "`notification.type`: \"moon\", expected one of price_alert, ",
        ),
        (
            changed(|of| of.priority = 9),
            "`notification.priority`: 9, expected one of low, ",
        ),
        (
            changed(|of| of.title.clear()),
            "`notification.title`: empty, expected 1 to 500 bytes",
        ),
        (
            changed(|of| of.title = "  ".to_owned()),
            "`notification.title`: blank",
        ),
        (
            changed(|of| of.title = "a\nb".to_owned()),
            "`notification.title`: blank or with control",
        ),
        (
            changed(|of| of.title = "é".repeat(251)),
            "`notification.title`: 502 bytes, expected at most 500",
        ),
        (
            changed(|of| of.body = "x".repeat(10_001)),
            "`notification.body`: 10001 bytes",
        ),
        (
            changed(|of| of.data = vec![b'1'; 20_000].into()),
            "`notification.data`: 20000 bytes",
        ),
        (changed(|of| of.data = "{".into()), "`notification.data`: "),
        (
            changed(|of| of.data = nested.into()),
            "`notification.data`: ",
        ),
        (
            changed(|of| of.collapse_key = Some(String::new())),
            "`notification.collapseKey`: empty",
        ),
        (
            changed(|of| of.expires_at = Some(now_ms)),
            "`notification.expiresAt`: not after the delivery",
        ),
        (
            changed(|of| of.expires_at = Some(now_ms / 1_000)),
            "`notification.expiresAt`: 1750000000 is before the year 2001, expected a time in milliseconds",
        ),
        (
            NotifyRequest {
                not_before: Some(now_ms / 1_000 + 60),
                ..to("ada", "a")
            },
            "`notBefore`: 1750000060 is before the year 2001, expected a time in milliseconds",
        ),
        (
            changed(|of| (of.r#type, of.custom_type) = (0, "price_alrt".to_owned())),
            "`notification.type`: \"price_alrt\", did you mean price_alert? expected one of ",
        ),
        (
            action("javascript:alert(1)"),
            "`notification.actions[0].url`: \"javascript:alert(1)\", expected a link",
        ),
        (
            action("JavaScript://https://x"),
            "`notification.actions[0].url`",
        ),
        (
            action("java\tscript:alert(1)"),
            "`notification.actions[0].url`: holds spaces",
        ),
        (action("data:text/html,x"), "`notification.actions[0].url`"),
        (action("/relative"), "`notification.actions[0].url`"),
        (action("https:"), "`notification.actions[0].url`"),
        (action("https:///x"), "`notification.actions[0].url`"),
        (action("mailto:"), "`notification.actions[0].url`"),
        (action(""), "`notification.actions[0].url`: empty"),
        (
            changed(|of| of.actions = vec![NotificationAction::default(); 6]),
            "`notification.actions`: 6 actions, expected at most 5",
        ),
        (
            changed(|of| of.actions = vec![NotificationAction::default()]),
            "`notification.actions[0].label`: empty",
        ),
        (
            NotifyRequest {
                notification: None,
                ..to("ada", "a")
            },
            "`notification`: missing",
        ),
        (
            NotifyRequest {
                user: None,
                ..to("ada", "a")
            },
            "`user`: missing, expected `user`, `users` with one user at least, ",
        ),
        (
            NotifyRequest {
                everyone: true,
                ..to("ada", "a")
            },
            "`everyone`: given beside `user`, expected one of `user`, ",
        ),
        (to("", "a"), "`user`: empty, expected the id of a user"),
        (
            to("a b", "a"),
            "`user`: \"a b\" is not the id of a user: it holds ' '",
        ),
        (to(&"x".repeat(300), "a"), "`user`: "),
        (
            NotifyRequest {
                user: None,
                users: vec!["ada".to_owned(), "é".to_owned()],
                ..to("ada", "a")
            },
            "`users[1]`: ",
        ),
        (
            NotifyRequest {
                user: None,
                users: vec!["a".to_owned(); 10_001],
                ..to("ada", "a")
            },
            "`users`: 10001 users, expected at most 10000",
        ),
        (
            NotifyRequest {
                user: None,
                channel: Some("room".to_owned()),
                ..to("ada", "a")
            },
            "`channel`: ",
        ),
        (
            NotifyRequest {
                not_before: Some(now_ms + 367 * DAY_MS),
                ..to("ada", "a")
            },
            "`notBefore`: more than a year ahead, expected at most a year",
        ),
        (
            NotifyRequest {
                ttl_ms: Some(0),
                ..to("ada", "a")
            },
            "`ttlMs`: 0, expected 1 millisecond at least",
        ),
        (
            NotifyRequest {
                ttl_ms: Some(1),
                ..changed(|of| of.expires_at = Some(now_ms + 1))
            },
            "`ttlMs`: given beside `notification.expiresAt`",
        ),
        (
            NotifyRequest {
                idempotency_key: Some(String::new()),
                ..to("ada", "a")
            },
            "`idempotencyKey`: empty",
        ),
        (
            NotifyRequest {
                idempotency_key: Some("k".repeat(256)),
                ..to("ada", "a")
            },
            "`idempotencyKey`: 256 bytes",
        ),
    ];
    for (request, expected) in cases {
        let error = world.hub.notify(&sender(), request).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert!(
            error.to_string().starts_with(expected),
            "{error}\nexpected {expected}"
        );
    }
    for url in [
        "https://example.com/a?b=c#d",
        "HTTP://localhost:8080",
        "mailto:a@b.example",
    ] {
        world.send(action(url)).await;
    }
    assert_eq!(world.store.len(Table("notification.states")), 1);
    let results = world
        .hub
        .notify_batch(&sender(), vec![to("ada", "a"); 10_001])
        .await;
    assert_eq!(results.len(), 10_001);
    assert!(
        results[0]
            .as_ref()
            .unwrap_err()
            .to_string()
            .contains("expected at most 10000")
    );
}

#[tokio::test]
async fn lists_and_marks_check_their_ids() {
    let world = World::new().await;
    let query = |request| world.hub.list_query(&request).unwrap_err().to_string();
    let request = ListNotificationsRequest::default;
    for before in ["", "garbage", "-1", "8zzzzzzzzzzzzzzzzzzzzzzzzz"] {
        let error = query(ListNotificationsRequest {
            before: Some(before.to_owned()),
            ..request()
        });
        assert!(
            error.starts_with(&format!(
                "`before`: {before:?} is not the id of a notification"
            )),
            "{error}"
        );
    }
    assert!(
        query(ListNotificationsRequest {
            limit: Some(0),
            ..request()
        })
        .starts_with("`limit`: 0")
    );
    assert!(
        query(ListNotificationsRequest {
            limit: Some(501),
            ..request()
        })
        .starts_with("`limit`: 501")
    );
    assert!(
        query(ListNotificationsRequest {
            types: vec![1, 0],
            ..request()
        })
        .starts_with("`types[1]`")
    );
    assert!(
        query(ListNotificationsRequest {
            priorities: vec![5],
            ..request()
        })
        .starts_with("`priorities[0]`")
    );
    let bad = ["n-1".to_owned()];
    let error = world
        .hub
        .mark_read("ada", &bad)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("`ids[0]`: \"n-1\" is not the id of a notification"),
        "{error}"
    );
    assert!(world.hub.dismiss("ada", &bad).await.is_err());
    assert!(world.hub.dismiss("ada", &[]).await.is_err());
    assert!(
        world
            .hub
            .mark_all_read("ada", Some("x"))
            .await
            .unwrap_err()
            .to_string()
            .starts_with("`upTo`")
    );
    assert!(
        world
            .hub
            .recall_broadcast("x")
            .await
            .unwrap_err()
            .to_string()
            .starts_with("`id`")
    );
    assert!(
        world
            .hub
            .unread_count("a b")
            .await
            .unwrap_err()
            .to_string()
            .starts_with("`user`")
    );
}

#[tokio::test]
async fn preferences_are_checked() {
    let world = World::new().await;
    let hours = |start: &str, zone: &str| Preferences {
        quiet_hours: Some(QuietHours {
            start: start.to_owned(),
            end: "07:00".to_owned(),
            time_zone: zone.to_owned(),
        }),
        ..Preferences::default()
    };
    let filter = DeliveryFilter {
        muted_types: vec![77],
        ..DeliveryFilter::default()
    };
    let cases = [
        (hours("25:00", "UTC"), "`quietHours.start`"),
        (
            hours("", "UTC"),
            "`quietHours.start`: missing, expected HH:MM",
        ),
        (
            hours("07:00", "UTC"),
            "`quietHours.end`: \"07:00\" is also `quietHours.start`",
        ),
        (
            hours("22:00", ""),
            "`quietHours.timeZone`: missing, expected an IANA",
        ),
        (
            hours("22:00", "Mars/Olympus"),
            "`quietHours.timeZone`: \"Mars/Olympus\", expected an IANA time zone",
        ),
        (
            Preferences {
                min_priority: Some(7),
                ..Preferences::default()
            },
            "`minPriority`: 7",
        ),
        (
            Preferences {
                muted_types: vec![1, 99],
                ..Preferences::default()
            },
            "`mutedTypes[1]`: 99",
        ),
        (
            Preferences {
                custom_muted_types: vec!["moon".to_owned()],
                ..Preferences::default()
            },
            "`mutedTypes[0]`: \"moon\"",
        ),
        (
            Preferences {
                channels: Some(DeliveryPreferences {
                    email: Some(filter),
                    ..DeliveryPreferences::default()
                }),
                ..Preferences::default()
            },
            "`channels.email.mutedTypes[0]`: 77",
        ),
    ];
    for (preferences, expected) in cases {
        let error = world
            .hub
            .set_preferences("ada", preferences)
            .await
            .unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    assert_eq!(
        world.hub.preferences("ada").await.unwrap(),
        Preferences::default()
    );
    let all = Preferences {
        digest: Some(true),
        ..hours("22:00", "America/New_York")
    };
    world.hub.set_preferences("ada", all.clone()).await.unwrap();
    assert_eq!(world.hub.preferences("ada").await.unwrap(), all);
}

#[tokio::test]
async fn the_configuration_is_checked() {
    let refusal = |config: NotificationConfig| config.check().unwrap_err().to_string();
    let config = NotificationConfig::default;
    assert!(
        refusal(NotificationConfig {
            inbox_items: 0,
            ..config()
        })
        .starts_with("`inbox_items`: 0")
    );
    assert!(
        refusal(NotificationConfig {
            max_age_ms: -1,
            ..config()
        })
        .starts_with("`max_age_ms`")
    );
    let types = (0..300).map(|number| format!("t{number}")).collect();
    assert!(refusal(NotificationConfig { types, ..config() }).starts_with("`types`: 300 types"));
    assert_eq!(notification("a").title, "a");
}
