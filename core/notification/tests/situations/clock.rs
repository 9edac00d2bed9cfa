//! A clock that is wrong for a while: nothing is lost that the right one would have kept.

use crate::support::{DAY_MS, HOUR_MS, World, everyone, keyed, to, with};
use tidewire_notification::NotificationConfig;
use tidewire_proto::v1::NotifyRequest;
use tidewire_store::Table;

async fn world() -> World {
    World::guarded(NotificationConfig::default()).await
}

#[tokio::test(start_paused = true)]
async fn a_user_who_was_first_seen_by_a_wrong_clock_gets_broadcasts() {
    for guarded in [true, false] {
        let mut world = match guarded {
            true => world().await,
            // Also by a clock that was wrong from the start.
            false => World::new().await,
        };
        world.advance(400 * DAY_MS);
        assert_eq!(world.count("zed").await, 0);
        world.restart().await;
        assert_eq!(world.count("ann").await, 0);
        world.advance(-400 * DAY_MS);
        world.send(everyone("a")).await;
        assert_eq!(world.titles("zed").await, ["a"]);
        world.restart().await;
        for user in ["zed", "ann"] {
            assert_eq!(world.count(user).await, 1);
            assert_eq!(world.titles(user).await, ["a"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_for_a_moment_removes_nothing() {
    let mut world = world().await;
    world.notify("ada", "direct").await;
    world.send(everyone("broadcast")).await;
    let expiring = |request| NotifyRequest {
        ttl_ms: Some(50 * DAY_MS as u64),
        ..request
    };
    world.send(expiring(to("ada", "ttl"))).await;
    world.send(expiring(everyone("broadcast ttl"))).await;
    let read = world.titles("ada").await;
    world.advance(400 * DAY_MS);
    for _ in 0..3 {
        // The senders gave these an expiry.
        assert_eq!(world.titles("ada").await, ["broadcast", "direct"]);
        assert_eq!(world.titles("bob").await, ["broadcast"]);
        world.work().await.unwrap();
        world.restart().await;
        world.pass(HOUR_MS).await;
    }
    world.advance(-400 * DAY_MS);
    assert_eq!(world.titles("ada").await, read);
    assert_eq!(world.titles("bob").await, ["broadcast ttl", "broadcast"]);
    // The clock was right after all.
    world.advance(400 * DAY_MS);
    assert_eq!(world.count("ada").await, 2);
    world.pass(DAY_MS).await;
    assert_eq!(world.count("ada").await, 0);
    world.work().await.unwrap();
    world.work().await.unwrap();
    for table in ["notification.bodies", "notification.broadcasts"] {
        assert_eq!(world.store.len(Table(table)), 0, "{table}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_user_did_while_the_clock_was_ahead_counts_for_what_was_hidden() {
    let mut world = world().await;
    let expiring = |request| NotifyRequest {
        ttl_ms: Some(50 * DAY_MS as u64),
        ..request
    };
    let direct = world.send(expiring(to("ada", "a"))).await.id.to_string();
    world.send(expiring(everyone("b"))).await;
    let recalled = world.send(expiring(everyone("c"))).await.id.to_string();
    let dismissed = world.send(expiring(everyone("d"))).await.id.to_string();
    world.hub.dismiss("ada", &[dismissed]).await.unwrap();
    world.advance(400 * DAY_MS);
    assert_eq!(world.count("ada").await, 0);
    world.hub.mark_all_read("ada", None).await.unwrap();
    world.hub.recall_broadcast(&recalled).await.unwrap();
    world.hub.dismiss("ada", &[direct]).await.unwrap();
    world.notify("ada", "e").await;
    world.advance(-400 * DAY_MS);
    assert_eq!(world.titles("ada").await, ["e", "b"]);
    assert_eq!(world.count("ada").await, 1);
}

#[tokio::test(start_paused = true)]
async fn keys_stay_known_whatever_the_clock_shows_in_between() {
    let mut world = world().await;
    let mut known = Vec::new();
    let steps = [0, 3 * DAY_MS, -3 * DAY_MS, -9 * DAY_MS, 50 * DAY_MS];
    for (number, step_ms) in steps.into_iter().enumerate() {
        world.advance(step_ms);
        let request = keyed(to("ada", "a"), &format!("k{number}"));
        known.push((request.clone(), world.send(request).await.id));
        world.work().await.unwrap();
        for (request, id) in &known {
            assert_eq!(world.send(request.clone()).await.id, *id, "{request:?}");
        }
        world.restart().await;
        for (request, id) in &known {
            assert_eq!(world.send(request.clone()).await.id, *id, "{request:?}");
        }
        world.pass(HOUR_MS).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_scheduled_notification_that_a_wrong_clock_took_for_expired_is_delivered_later() {
    let mut world = world().await;
    let now_ms = world.now_ms();
    let request = with(to("ada", "a"), |notification| {
        notification.expires_at = Some(now_ms + 2 * HOUR_MS);
    });
    world
        .send(NotifyRequest {
            not_before: Some(now_ms + HOUR_MS),
            ..request
        })
        .await;
    world.advance(9 * DAY_MS);
    world.work().await.unwrap();
    world.advance(-9 * DAY_MS);
    world.work().await.unwrap();
    assert_eq!(world.count("ada").await, 0);
    world.pass(HOUR_MS).await;
    world.work().await.unwrap();
    assert_eq!(world.titles("ada").await, ["a"]);
}
