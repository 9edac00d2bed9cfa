//! Bounds: shares of windows, the log, notifications of a minute, and names of sources.

use tidewire_proto::v1::{
    AlertCondition, AlertRule, AlertState, ErrorCode, EvaluateRequest, ListAlertsRequest,
    PercentChange, TransactionReaches, TransactionState, alert_condition::Kind, evaluate_request,
};

use crate::support::{START_MS, World, above, price_of, recurring};

fn change(seconds: u64) -> AlertRule {
    AlertRule {
        condition: Some(AlertCondition {
            kind: Some(Kind::PercentChange(PercentChange {
                symbol: "BTC-USD".into(),
                percent: 5.0,
                // None of the common lengths.
                window_ms: 1_000 * seconds + 7,
            })),
        }),
        ..AlertRule::default()
    }
}

#[tokio::test]
async fn one_user_cannot_take_the_windows_of_others() {
    let world = World::new();
    let run = world.start().await;
    for window in 1..=8 {
        run.register("ada", change(window)).await;
    }
    let refused = run.engine.register("ada", change(9), None).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidArgument);
    assert!(
        refused.to_string().contains("share of one user is 8"),
        "{refused}"
    );
    run.register("bob", change(9)).await;
    run.register("ada", above("BTC-USD", "1")).await;
    run.stop().await;
    // The shares are the same after a restart.
    let run = world.start().await;
    assert!(run.engine.register("ada", change(10), None).await.is_err());
    run.register("bob", change(10)).await;
    run.stop().await;
}

#[tokio::test]
async fn a_refused_registration_leaves_its_key_free() {
    let world = World::new();
    let run = world.start().await;
    let mut last = Vec::new();
    for window in 1..=7 {
        last.push(run.register("ada", change(window)).await.id);
    }
    // They are checked before either is inserted.
    let register = |window: u64| {
        let key = Some(format!("key-{window}"));
        run.engine.register("ada", change(window), key)
    };
    let (one, other) = tokio::join!(register(8), register(9));
    assert!(one.is_ok() != other.is_ok());
    let refused = if one.is_ok() { 9 } else { 8 };
    run.engine.delete("ada", &last[0]).await.unwrap();
    assert!(register(refused).await.is_ok());
    run.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_stored_rule_is_left_out_when_all_windows_are_taken() {
    let world = World::new();
    let run = world.start().await;
    let expiring = AlertRule {
        expires_at: Some(START_MS + 60_000),
        ..change(1)
    };
    let id = run.register("eve", expiring).await.id;
    run.evaluate("BTC-USD", "100").await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    world.clock.advance(120_000);
    // It becomes true after its expiry, and needs its window no longer.
    assert_eq!(run.evaluate("BTC-USD", "200").await.total, Some(0));
    for window in 2..=65 {
        run.register(&format!("user-{}", window / 8), change(window))
            .await;
    }
    run.stop().await;
    let run = world.start().await;
    let request = ListAlertsRequest::default();
    let listed = run.engine.list("eve", &request, false).await.unwrap();
    assert_eq!(listed.items[0].state(), AlertState::Expired);
    // It can be named while there is no room, and lives on once there is.
    let named = AlertRule {
        id: id.clone(),
        name: Some("old".to_owned()),
        ..AlertRule::default()
    };
    run.engine.update("eve", named).await.unwrap();
    let later = || AlertRule {
        id: id.clone(),
        expires_at: Some(START_MS + 600_000),
        ..AlertRule::default()
    };
    assert!(run.engine.update("eve", later()).await.is_err());
    let request = ListAlertsRequest::default();
    let others = run.engine.list("user-1", &request, false).await.unwrap();
    run.engine
        .delete("user-1", &others.items[0].id)
        .await
        .unwrap();
    let revived = run.engine.update("eve", later()).await.unwrap();
    assert_eq!(revived.state(), AlertState::Pending);
    run.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_log_is_bounded_however_fast_fires_come() {
    let mut world = World::new();
    world.config.log_items = 100;
    let run = world.start().await;
    let id = run.register("ada", above("BTC-USD", "1")).await.id;
    for _ in 0..12_000 {
        run.engine.trigger("ada", &id).await.unwrap();
    }
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let left = world.fired().await.len();
    assert!(left <= 105, "{left}");
    run.stop().await;
}

#[tokio::test]
async fn a_user_without_rules_has_no_further_share_of_the_minute() {
    let world = World::new();
    let run = world.start().await;
    run.evaluate("BTC-USD", "100").await;
    for _ in 0..150 {
        let id = run.register("eve", above("BTC-USD", "1")).await.id;
        run.until("the fire", |run| run.engine.stats().fired > 0)
            .await;
        run.engine.delete("eve", &id).await.unwrap();
    }
    run.until("all fires", |run| run.engine.stats().fired == 150)
        .await;
    assert_eq!(run.engine.stats().summarised, 90);
    run.stop().await;
}

#[tokio::test]
async fn the_name_of_a_source_is_bounded() {
    let world = World::new();
    let run = world.start().await;
    run.register("ada", recurring(above("BTC-USD", "1"))).await;
    let with_source = |source: String| {
        let Some(evaluate_request::Value::Price(mut price)) = price_of("BTC-USD", "5").value else {
            panic!("a price");
        };
        price.source = Some(source);
        run.engine.evaluate(EvaluateRequest {
            value: Some(evaluate_request::Value::Price(price)),
        })
    };
    for length in [0, 129] {
        let refused = with_source("x".repeat(length)).await.unwrap_err();
        assert!(
            refused.to_string().starts_with("`price.source`"),
            "{refused}"
        );
    }
    assert_eq!(with_source("x".repeat(128)).await.unwrap().total, 1);
    run.stop().await;
}

fn reaches(number: u8, state: TransactionState) -> AlertRule {
    let condition = TransactionReaches {
        chain: 1,
        tx_hash: format!("0x{number:064x}"),
        state: state.into(),
    };
    AlertRule {
        condition: Some(AlertCondition {
            kind: Some(Kind::TransactionState(condition)),
        }),
        ..AlertRule::default()
    }
}

#[tokio::test]
async fn only_transactions_of_rules_that_can_fire_are_followed_after_a_restart() {
    let world = World::new();
    let run = world.start().await;
    run.register("ada", reaches(1, TransactionState::Confirmed))
        .await;
    let disabled = AlertRule {
        enabled: Some(false),
        ..reaches(2, TransactionState::Confirmed)
    };
    run.register("ada", disabled).await;
    let expiring = AlertRule {
        expires_at: Some(START_MS + 60_000),
        ..reaches(3, TransactionState::Confirmed)
    };
    run.register("ada", expiring).await;
    run.register("ada", reaches(4, TransactionState::Confirmed))
        .await;
    let hash = |number: u8| format!("0x{number:064x}");
    let followed = run.sink.followed.lock().clone();
    assert_eq!(followed, [(1, hash(1)), (1, hash(3)), (1, hash(4))]);
    run.engine
        .transaction(1, &hash(4), TransactionState::Confirmed, false);
    run.until("the fire", |run| run.engine.stats().fired == 1)
        .await;
    world.clock.advance(120_000);
    run.stop().await;
    let run = world.start().await;
    assert_eq!(*run.sink.followed.lock(), [(1, hash(1))]);
    run.stop().await;
}
