//! Requests: register, change, list, delete, evaluate; and whose rules they concern.

use std::{sync::Arc, time::Duration};

use tidewire_alert::AlertError;
use tidewire_proto::v1::{
    AlertRule, AlertState, ErrorCode, EvaluateRequest, ListAlertsRequest, ListFiresRequest,
    PortfolioCondition, PortfolioValue, alert_condition::Kind, evaluate_request,
};

use tidewire_stream::GuardedClock;

use crate::support::{World, above, decimal, recurring};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// Midnight of a day, in milliseconds since the Unix epoch.
const MIDNIGHT_MS: i64 = 20_000 * DAY_MS;

async fn listed(run: &crate::support::Run, user: &str) -> Vec<AlertRule> {
    let request = ListAlertsRequest::default();
    run.engine.list(user, &request, false).await.unwrap().items
}

#[tokio::test]
async fn a_rule_is_registered_changed_and_deleted() {
    let world = World::new();
    let run = world.start().await;
    let rule = run.register("ada", above("btc-usd", "100")).await;
    assert_eq!((rule.version, rule.state()), (Some(1), AlertState::Pending));
    // The symbol is stored in its canonical form.
    let Some(Kind::PriceAbove(one)) = rule.condition.clone().unwrap().kind else {
        panic!("{rule:?}");
    };
    assert_eq!(one.symbol, "BTC-USD");
    assert_eq!(listed(&run, "ada").await, std::slice::from_ref(&rule));
    let change = AlertRule {
        id: rule.id.clone(),
        name: Some("mine".to_owned()),
        cooldown_ms: Some(1_000),
        ..AlertRule::default()
    };
    let changed = run.engine.update("ada", change.clone()).await.unwrap();
    assert_eq!((changed.version, changed.name()), (Some(2), "mine"));
    assert_eq!(changed.condition, rule.condition);
    // Saving it unchanged keeps the version.
    let same = run.engine.update("ada", change).await.unwrap();
    assert_eq!(same, changed);
    // A zero and an empty text remove what they name.
    let removal = AlertRule {
        id: rule.id.clone(),
        name: Some(String::new()),
        cooldown_ms: Some(0),
        ..AlertRule::default()
    };
    let removed = run.engine.update("ada", removal).await.unwrap();
    assert_eq!((removed.name, removed.cooldown_ms), (None, None));
    run.engine.delete("ada", &rule.id).await.unwrap();
    assert_eq!(listed(&run, "ada").await, []);
    let again = run.engine.delete("ada", &rule.id).await.unwrap_err();
    assert_eq!(again, AlertError::NotFound(rule.id));
    run.stop().await;
}

#[tokio::test]
async fn a_rule_of_another_user_is_not_found() {
    let world = World::new();
    let run = world.start().await;
    let rule = run.register("ada", above("BTC-USD", "100")).await;
    let id = rule.id.clone();
    let missing = AlertError::NotFound(id.clone());
    let change = AlertRule {
        id: id.clone(),
        enabled: Some(false),
        ..AlertRule::default()
    };
    assert_eq!(run.engine.update("bob", change).await, Err(missing.clone()));
    assert_eq!(run.engine.delete("bob", &id).await, Err(missing.clone()));
    assert_eq!(run.engine.explain("bob", &id).await, Err(missing.clone()));
    assert_eq!(run.engine.trigger("bob", &id).await, Err(missing));
    assert_eq!(listed(&run, "bob").await, []);
    run.evaluate("BTC-USD", "101").await;
    assert_eq!(run.log("bob").await, []);
    assert_eq!(run.log("ada").await.len(), 1);
    // Names that begin alike are two users.
    assert_eq!(run.log("ad").await, []);
    run.stop().await;
}

#[tokio::test]
async fn a_repeated_registration_under_a_key_is_one_rule() {
    let world = World::new();
    let run = world.start().await;
    let register = |rule, key: &str| run.engine.register("ada", rule, Some(key.to_owned()));
    let first = register(above("BTC-USD", "1"), "k").await.unwrap();
    let again = register(above("BTC-USD", "1"), "k").await.unwrap();
    assert_eq!(first, again);
    let (a, b) = tokio::join!(
        register(above("BTC-USD", "2"), "l"),
        register(above("BTC-USD", "2"), "l")
    );
    assert_eq!(a.unwrap().id, b.unwrap().id);
    let other = register(above("BTC-USD", "3"), "k").await.unwrap_err();
    assert_eq!(other, AlertError::KeyReuse("k".to_owned()));
    assert_eq!(listed(&run, "ada").await.len(), 2);
    run.stop().await;
    // The key is known after a restart too.
    let run = world.start().await;
    let key = Some("k".to_owned());
    let known = run.engine.register("ada", above("BTC-USD", "1"), key).await;
    assert_eq!(known.unwrap().id, first.id);
    run.stop().await;
}

/// The clock is set back over midnight, goes far ahead, and is set right: each key stays known, and
/// the log keeps its fires.
#[tokio::test(start_paused = true)]
async fn a_wrong_clock_forgets_no_key_and_no_fire() {
    let mut world = World::new();
    world.clock.set(MIDNIGHT_MS + 3_000);
    world.shown = Arc::new(GuardedClock::new(world.clock.clone()));
    let run = world.start().await;
    let register = |key: String| run.engine.register("ada", above("BTC-USD", "1"), Some(key));
    let mut known = Vec::new();
    for (number, step_ms) in [0, -11_000, 100 * DAY_MS, -100 * DAY_MS, 8_000]
        .into_iter()
        .enumerate()
    {
        world.clock.advance(step_ms);
        let key = format!("k{number}");
        known.push((key.clone(), register(key).await.unwrap().id));
        if number == 0 {
            let fired = run.engine.trigger("ada", &known[0].1).await;
            fired.unwrap();
        }
        // The log is bounded each second.
        tokio::time::sleep(Duration::from_secs(3)).await;
        world.clock.advance(3_000);
        for (key, id) in &known {
            assert_eq!(
                register(key.clone()).await.unwrap().id,
                *id,
                "{key} at step {number}"
            );
        }
        assert_eq!(world.fired().await.len(), 1, "step {number}");
    }
    run.stop().await;
    let run = world.start().await;
    for (key, id) in known {
        let again = run.engine.register("ada", above("BTC-USD", "1"), Some(key));
        assert_eq!(again.await.unwrap().id, id);
    }
    run.stop().await;
    // The clock is right after all.
    world.clock.advance(100 * DAY_MS);
    let run = world.start().await;
    tokio::time::sleep(Duration::from_secs(24 * 60 * 60 + 10)).await;
    assert_eq!(world.fired().await.len(), 0);
    run.stop().await;
}

/// The slots of deleted rules are used again, by rules of other users.
#[tokio::test]
async fn fires_of_deleted_rules_are_not_those_of_new_ones() {
    let world = World::new();
    let run = world.start().await;
    for round in 0..20 {
        let (old, new) = (format!("old{round}"), format!("new{round}"));
        let rule = run.register(&old, recurring(above("BTC-USD", "100"))).await;
        run.evaluate("BTC-USD", "101").await;
        run.evaluate("BTC-USD", "99").await;
        run.engine.delete(&old, &rule.id).await.unwrap();
        let rule = run.register(&new, above("BTC-USD", "100")).await;
        run.evaluate("BTC-USD", "101").await;
        run.evaluate("BTC-USD", "99").await;
        let fires = run.log(&new).await;
        assert_eq!((fires.len(), &fires[0].alert_id), (1, &rule.id));
        assert_eq!(run.log(&old).await.len(), 1);
        run.engine.delete(&new, &rule.id).await.unwrap();
    }
    run.stop().await;
}

#[tokio::test]
async fn lists_have_pages() {
    let world = World::new();
    let run = world.start().await;
    for threshold in 1..=5 {
        let rule = recurring(above("BTC-USD", &threshold.to_string()));
        run.register("ada", rule).await;
    }
    run.evaluate("BTC-USD", "5").await;
    let mut request = ListAlertsRequest {
        limit: Some(2),
        ..ListAlertsRequest::default()
    };
    let mut pages = Vec::new();
    loop {
        let page = run.engine.list("ada", &request, true).await.unwrap();
        pages.push(page.items.len());
        assert!(page.items.iter().all(|rule| rule.user() == "ada"));
        request.after = page.next;
        if request.after.is_none() {
            break;
        }
    }
    assert_eq!(pages, [2, 2, 1]);
    let mut request = ListFiresRequest {
        limit: Some(2),
        ..ListFiresRequest::default()
    };
    let mut seen = Vec::new();
    loop {
        let page = run.engine.fires("ada", &request).await.unwrap();
        seen.extend(page.items.into_iter().filter_map(|event| event.id));
        request.before = page.next;
        if request.before.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted_by(|a, b| a > b), "newest first: {seen:?}");
    let one = ListFiresRequest {
        alert_id: Some(run.log("ada").await[2].alert_id.clone()),
        ..ListFiresRequest::default()
    };
    assert_eq!(run.engine.fires("ada", &one).await.unwrap().items.len(), 1);
    run.stop().await;
}

#[tokio::test]
async fn a_user_has_a_bounded_number_of_rules() {
    let mut world = World::new();
    world.config.rules_per_user = 2;
    let run = world.start().await;
    let rule = || above("BTC-USD", "100");
    let (a, b, c) = tokio::join!(
        run.engine.register("ada", rule(), None),
        run.engine.register("ada", rule(), None),
        run.engine.register("ada", rule(), None),
    );
    let refused = [&a, &b, &c].map(|one| one.is_err());
    assert_eq!(refused.iter().filter(|refused| **refused).count(), 1);
    let another = run.engine.register("ada", rule(), None).await.unwrap_err();
    assert_eq!(another.code(), ErrorCode::ResourceExhausted);
    run.register("bob", rule()).await;
    run.engine
        .delete("ada", &a.or(b).unwrap().id)
        .await
        .unwrap();
    run.register("ada", rule()).await;
    run.stop().await;
}

#[tokio::test]
async fn a_wrong_field_is_named() {
    let world = World::new();
    let run = world.start().await;
    let refusal = |rule| async {
        let refused = run.engine.register("ada", rule, None).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidArgument);
        refused.to_string()
    };
    let unknown = refusal(above("BTC-US", "1")).await;
    assert!(unknown.contains("did you mean BTC-USD?"), "{unknown}");
    assert!(unknown.starts_with("`condition.symbol`"), "{unknown}");
    let negative = refusal(above("BTC-USD", "-1")).await;
    assert!(negative.starts_with("`condition.threshold`"), "{negative}");
    let nothing = refusal(AlertRule::default()).await;
    assert!(nothing.starts_with("`condition`"), "{nothing}");
    let given = refusal(AlertRule {
        id: "x".into(),
        ..above("BTC-USD", "1")
    });
    assert!(given.await.starts_with("`id`: given"));
    let template = refusal(AlertRule {
        template: Some("{nonsense}".into()),
        ..above("BTC-USD", "1")
    });
    assert!(template.await.starts_with("`template`: unknown field"));
    let priority = refusal(AlertRule {
        priority: Some(9),
        ..above("BTC-USD", "1")
    });
    assert!(priority.await.starts_with("`priority`: "));
    let user = run.engine.register("a b\0", above("BTC-USD", "1"), None);
    assert!(user.await.unwrap_err().to_string().starts_with("`user`"));
    let zero = run
        .engine
        .evaluate(crate::support::price_of("BTC-USD", "0"));
    let zero = zero.await.unwrap_err().to_string();
    assert_eq!(zero, "`price.price`: 0, expected a number above 0");
    let nothing = run.engine.evaluate(EvaluateRequest::default()).await;
    assert!(nothing.unwrap_err().to_string().starts_with("`price`"));
    run.stop().await;
}

#[tokio::test]
async fn fifty_values_at_once_fire_a_rule_once() {
    let world = World::new();
    let run = world.start().await;
    run.register("ada", above("BTC-USD", "100")).await;
    let engine = &run.engine;
    let calls: Vec<_> = (0..50)
        .map(|n| {
            let engine = engine.clone();
            let price = format!("{}", 101 + n % 3);
            tokio::spawn(async move {
                let request = crate::support::price_of("BTC-USD", &price);
                engine.evaluate(request).await.unwrap().total
            })
        })
        .collect();
    let mut fired = 0;
    for call in calls {
        fired += call.await.unwrap();
    }
    assert_eq!(fired, 1);
    assert_eq!(run.log("ada").await.len(), 1);
    run.stop().await;
}

#[tokio::test]
async fn the_value_of_a_portfolio_concerns_its_user() {
    let world = World::new();
    let run = world.start().await;
    let rule = || {
        let mut rule = recurring(above("BTC-USD", "1"));
        rule.condition.as_mut().unwrap().kind = Some(Kind::PortfolioAbove(PortfolioCondition {
            portfolio: "main".into(),
            threshold: decimal("1000"),
            ..PortfolioCondition::default()
        }));
        rule
    };
    run.register("ada", rule()).await;
    run.register("bob", rule()).await;
    let value = |user: &str, value: &str, currency: &str| EvaluateRequest {
        value: Some(evaluate_request::Value::Portfolio(PortfolioValue {
            user: user.into(),
            id: "main".into(),
            value: decimal(value),
            currency: currency.into(),
            timestamp: crate::support::START_MS,
        })),
    };
    let fired = run
        .engine
        .evaluate(value("ada", "1000.01", "USD"))
        .await
        .unwrap();
    assert_eq!((fired.total, fired.events.len()), (1, 1));
    assert_eq!(run.log("bob").await, []);
    let unknown = run
        .engine
        .evaluate(value("ada", "1", "ZZZ"))
        .await
        .unwrap_err();
    assert!(
        unknown
            .to_string()
            .starts_with("`portfolio.currency`: unknown currency")
    );
    run.stop().await;
}
