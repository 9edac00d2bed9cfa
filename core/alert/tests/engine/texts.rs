//! Texts: what the owner of a rule reads, and what the data of a notification say.

use tidewire_proto::v1::{
    AlertCondition, AlertRule, ConditionList, ErrorCode, EvaluateRequest, NotificationType,
    PortfolioCondition, PortfolioValue, TransactionReaches, TransactionState,
    alert_condition::Kind, evaluate_request,
};

use crate::support::{Run, World, above, decimal};

const HASH: &str = "0xabababababababababababababababababababababababababababababababab";

fn rule(kind: Kind) -> AlertRule {
    AlertRule {
        condition: Some(AlertCondition { kind: Some(kind) }),
        ..AlertRule::default()
    }
}

fn any(rules: Vec<AlertRule>) -> AlertRule {
    let conditions = rules.into_iter().filter_map(|rule| rule.condition);
    rule(Kind::Any(ConditionList {
        conditions: conditions.collect(),
    }))
}

fn on_transaction(state: TransactionState) -> AlertRule {
    rule(Kind::TransactionState(TransactionReaches {
        chain: 1,
        tx_hash: HASH.into(),
        state: state.into(),
    }))
}

async fn value(run: &Run, value: &str) {
    let portfolio = PortfolioValue {
        user: "ada".into(),
        id: "main".into(),
        value: decimal(value),
        currency: "usd".into(),
        timestamp: 1,
    };
    let request = EvaluateRequest {
        value: Some(evaluate_request::Value::Portfolio(portfolio)),
    };
    run.engine.evaluate(request).await.unwrap();
}

/// The type, title, body and data of the only notification.
async fn notified(run: &Run, world: &World) -> (NotificationType, String, String, String) {
    run.until("the notification", |run| run.notified() == 1)
        .await;
    let notified = world.hub.notified.lock();
    let one = notified.values().next().unwrap();
    let one = one.notification.clone().unwrap();
    let data = String::from_utf8(one.data.to_vec()).unwrap();
    (one.r#type(), one.title, one.body, data)
}

#[tokio::test]
async fn a_fire_by_hand_shows_the_template_with_the_last_values() {
    let world = World::new();
    let run = world.start().await;
    run.evaluate("BTC-USD", "90").await;
    let rule = AlertRule {
        template: Some("{symbol} is at {price} of {threshold}".into()),
        ..above("BTC-USD", "100")
    };
    let rule = run.register("ada", rule).await;
    let event = run.engine.trigger("ada", &rule.id).await.unwrap();
    assert_eq!(event.symbol.as_deref(), Some("BTC-USD"));
    assert_eq!(
        (event.value, event.threshold),
        (decimal("90"), decimal("100"))
    );
    let (_, _, body, data) = notified(&run, &world).await;
    assert_eq!(body, "BTC-USD is at 90 of 100");
    assert!(data.contains(r#""price":90"#), "{data}");
    run.stop().await;
}

#[tokio::test]
async fn a_fire_of_several_conditions_names_what_fired_it() {
    let world = World::new();
    let run = world.start().await;
    for symbol in ["BTC-USD", "ETH-USD"] {
        run.evaluate(symbol, "90").await;
    }
    let rule = AlertRule {
        template: Some("{symbol} is at {price}".into()),
        ..any(vec![above("BTC-USD", "100"), above("ETH-USD", "100")])
    };
    run.register("ada", rule).await;
    let fired = run.evaluate("ETH-USD", "101").await.fired;
    assert_eq!(fired[0].symbol.as_deref(), Some("ETH-USD"));
    let (_, title, body, data) = notified(&run, &world).await;
    assert_eq!(
        (&*title, &*body),
        ("ETH-USD above 100", "ETH-USD is at 101")
    );
    assert!(data.contains(r#""symbol":"ETH-USD","price":101"#), "{data}");
    run.stop().await;
}

#[tokio::test]
async fn the_fall_of_a_portfolio_is_told_with_its_unit() {
    let world = World::new();
    let run = world.start().await;
    let fall = PortfolioCondition {
        portfolio: "main".into(),
        percent: Some(20.0),
        ..PortfolioCondition::default()
    };
    run.register("ada", rule(Kind::PortfolioDrawdown(fall)))
        .await;
    value(&run, "98").await;
    value(&run, "76").await;
    let (kind, title, body, data) = notified(&run, &world).await;
    assert_eq!(kind, NotificationType::PriceAlert);
    assert_eq!(title, "main fell by 20 % from its highest value");
    assert_eq!(body, "main is 22.45 % below its highest value.");
    assert!(
        data.contains(r#""portfolio":"main","value":22.44897959183673469388"#),
        "{data}"
    );
    run.stop().await;
}

#[tokio::test]
async fn the_notification_of_a_transaction_has_its_state() {
    for (wanted, kind, name) in [
        (
            TransactionState::Pending,
            NotificationType::TransactionConfirmed,
            "pending",
        ),
        (
            TransactionState::Dropped,
            NotificationType::TransactionFailed,
            "dropped",
        ),
    ] {
        let world = World::new();
        let run = world.start().await;
        let rule = AlertRule {
            template: Some("{transaction} is {state}".into()),
            ..any(vec![above("BTC-USD", "100"), on_transaction(wanted)])
        };
        run.register("ada", rule).await;
        run.engine.transaction(1, HASH, wanted, false);
        let told = notified(&run, &world).await;
        assert_eq!((told.0, &*told.1), (kind, &*format!("Transaction {name}")));
        assert_eq!(told.2, format!("{HASH} is {name}"));
        let about = format!(r#""chain":1,"txHash":"{HASH}","state":"{name}""#);
        assert!(told.3.contains(&about), "{}", told.3);
        run.stop().await;
    }
}

#[tokio::test]
async fn an_error_names_the_field_and_what_is_known() {
    let world = World::new();
    let run = world.start().await;
    let refused = |error: tidewire_alert::AlertError, text: &str| {
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert!(error.to_string().contains(text), "{text}: {error}");
    };
    let register = |rule: AlertRule| {
        let engine = run.engine.clone();
        async move { engine.register("ada", rule, None).await.unwrap_err() }
    };
    let missing = rule(Kind::PriceAbove(Default::default()));
    refused(register(missing).await, "`condition.threshold`: missing");
    let no_kind = AlertRule {
        condition: Some(AlertCondition::default()),
        ..AlertRule::default()
    };
    refused(
        register(no_kind).await,
        "`condition.kind`: missing, expected one of price_above,",
    );
    refused(register(above("DOGE-USD", "1")).await, "expected a symbol");
    let seconds = AlertRule {
        snoozed_until: Some(1_795_975_672),
        ..above("BTC-USD", "1")
    };
    refused(
        register(seconds).await,
        "`snoozedUntil`: 1795975672 is before",
    );
    let gas = rule(Kind::GasAbove(Default::default()));
    refused(register(gas).await, "`condition.gwei`: 0 or missing");
    refused(
        run.engine.trigger("ada", "").await.unwrap_err(),
        "`id`: missing, expected the id of the alert",
    );
    refused(
        run.engine.explain("ada", "").await.unwrap_err(),
        "`id`: missing",
    );
    refused(
        run.engine.delete("bad user!", "1").await.unwrap_err(),
        "`user`: \"bad user!\" is not the id of a user: it ",
    );
    run.stop().await;
}
