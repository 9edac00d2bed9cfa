//! Bad input: each refused rule names the field and what was expected.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod support;

use support::{START_MS, check};
use tidewire_alert::{Condition, Repeat, Subject, Test};
use tidewire_proto::{
    json,
    v1::{AlertRepeat, AlertRule},
};

fn parse(condition: &str) -> AlertRule {
    let text = format!(r#"{{"condition":{condition},"repeat":"once","enabled":true}}"#);
    json::from_slice(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn conditions_that_could_never_fire_are_refused() {
    let cases = [
        (
            r#"{"kind":"price_above","symbol":"BTC-UDS","threshold":1}"#,
            "condition.symbol",
            "did you mean BTC-USD?",
        ),
        (
            r#"{"kind":"price_above","symbol":"","threshold":1}"#,
            "condition.symbol",
            "missing",
        ),
        (
            r#"{"kind":"price_above","symbol":"BTC-USD","threshold":0}"#,
            "condition.threshold",
            "above 0",
        ),
        (
            r#"{"kind":"price_below","symbol":"BTC-USD","threshold":-1}"#,
            "condition.threshold",
            "above 0",
        ),
        (
            r#"{"kind":"price_below","symbol":"BTC-USD"}"#,
            "condition.threshold",
            "missing",
        ),
        (
            r#"{"kind":"price_above","symbol":"BTC-USD","threshold":1.00000000000000000000000000001}"#,
            "condition.threshold",
            "at most 28 digits",
        ),
        (
            r#"{"kind":"price_crosses","symbol":"BTC-USD","threshold":5,"direction":"up","hysteresis":5}"#,
            "condition.hysteresis",
            "less than the threshold",
        ),
        (
            r#"{"kind":"price_crosses","symbol":"BTC-USD","threshold":5,"direction":"up","hysteresis":-1}"#,
            "condition.hysteresis",
            "0 or more",
        ),
        (
            r#"{"kind":"price_channel","symbol":"BTC-USD","low":5,"high":5,"on":"enter"}"#,
            "condition.low",
            "less than `high`",
        ),
        (
            r#"{"kind":"price_channel","symbol":"BTC-USD","low":5,"high":6}"#,
            "condition.on",
            "enter or exit",
        ),
        (
            r#"{"kind":"percent_change","symbol":"BTC-USD","percent":0,"windowMs":60000}"#,
            "condition.percent",
            "above 0 or a fall",
        ),
        (
            r#"{"kind":"percent_change","symbol":"BTC-USD","percent":-100.5,"windowMs":60000}"#,
            "condition.percent",
            "at most 100",
        ),
        (
            r#"{"kind":"percent_change","symbol":"BTC-USD","percent":5,"windowMs":0}"#,
            "condition.windowMs",
            "from 1000 to 604800000",
        ),
        (
            r#"{"kind":"percent_change","symbol":"BTC-USD","percent":5,"windowMs":604800001}"#,
            "condition.windowMs",
            "from 1000 to 604800000",
        ),
        (
            r#"{"kind":"moving_average_cross","symbol":"BTC-USD","fastMs":5000,"slowMs":5000,"direction":"up"}"#,
            "condition.fastMs",
            "less than `slowMs`",
        ),
        (
            r#"{"kind":"volume_spike","symbol":"BTC-USD","multiple":1,"windowMs":60000}"#,
            "condition.multiple",
            "above 1",
        ),
        (
            r#"{"kind":"price_stale","symbol":"BTC-USD","afterMs":1}"#,
            "condition.afterMs",
            "from 1000",
        ),
        (
            r#"{"kind":"portfolio_above","portfolio":"","threshold":1}"#,
            "condition.portfolio",
            "1 to 128 bytes",
        ),
        (
            r#"{"kind":"portfolio_above","portfolio":"p","threshold":1,"percent":5}"#,
            "condition.percent",
            "`threshold` alone",
        ),
        (
            r#"{"kind":"portfolio_change","portfolio":"p","percent":5}"#,
            "condition.windowMs",
            "missing",
        ),
        (
            r#"{"kind":"portfolio_change","portfolio":"p","percent":5,"threshold":5,"windowMs":60000}"#,
            "condition.percent",
            "one of the two",
        ),
        (
            r#"{"kind":"portfolio_drawdown","portfolio":"p","percent":101}"#,
            "condition.percent",
            "at most 100",
        ),
        (
            r#"{"kind":"gas_above","chain":7,"gwei":5}"#,
            "condition.chain",
            "unknown chain 7",
        ),
        (
            r#"{"kind":"gas_above","chain":1,"gwei":-5}"#,
            "condition.gwei",
            "above 0",
        ),
        (
            r#"{"kind":"transaction_state","chain":1,"txHash":"0x12","state":"confirmed"}"#,
            "condition.txHash",
            "64 hexadecimal digits",
        ),
        (
            r#"{"kind":"all","conditions":[]}"#,
            "condition.conditions",
            "at least one",
        ),
        (
            r#"{"kind":"any","conditions":[{"kind":"price_above","symbol":"BTC-USD","threshold":0}]}"#,
            "condition.conditions[0].threshold",
            "above 0",
        ),
    ];
    for (condition, field, problem) in cases {
        let error = check(&parse(condition), None).unwrap_err();
        assert_eq!(error.field, field, "{condition}: {error}");
        assert!(error.problem.contains(problem), "{condition}: {error}");
    }
}

#[test]
fn values_that_json_cannot_have_are_refused_too() {
    for (percent, problem) in [
        (f64::NAN, "NaN"),
        (f64::INFINITY, "inf"),
        (1e300, "28 digits"),
    ] {
        let mut rule =
            parse(r#"{"kind":"percent_change","symbol":"BTC-USD","percent":5,"windowMs":60000}"#);
        if let Some(condition) = &mut rule.condition
            && let Some(tidewire_proto::v1::alert_condition::Kind::PercentChange(change)) =
                &mut condition.kind
        {
            change.percent = percent;
        }
        let error = check(&rule, None).unwrap_err();
        assert_eq!(error.field, "condition.percent");
        assert!(error.problem.contains(problem), "{error}");
    }
    assert_eq!(
        check(&AlertRule::default(), None).unwrap_err().field,
        "condition"
    );
}

const PRICE: &str = r#"{"kind":"price_above","symbol":"BTC-USD","threshold":1}"#;
const CROSSING: &str =
    r#"{"kind":"price_crosses","symbol":"BTC-USD","threshold":1,"direction":"up"}"#;

#[test]
fn deep_and_long_conditions_are_refused() {
    let nest = |depth: usize| {
        let mut text = PRICE.to_owned();
        for _ in 0..depth {
            text = format!(r#"{{"kind":"all","conditions":[{text}]}}"#);
        }
        parse(&text)
    };
    check(&nest(3), None).unwrap();
    let error = check(&nest(4), None).unwrap_err();
    assert!(error.problem.contains("at most 3"), "{error}");

    let list = |count: usize| {
        parse(&format!(
            r#"{{"kind":"any","conditions":[{}]}}"#,
            vec![PRICE; count].join(",")
        ))
    };
    check(&list(16), None).unwrap();
    let error = check(&list(17), None).unwrap_err();
    assert_eq!(error.field, "condition");
    assert!(error.problem.contains("at most 16"), "{error}");
}

#[test]
fn two_crossings_in_one_all_are_refused_with_the_way_out() {
    let all = |conditions: &str| parse(&format!(r#"{{"kind":"all","conditions":[{conditions}]}}"#));
    check(&all(&format!("{CROSSING},{PRICE}")), None).unwrap();
    let error = check(&all(&format!("{CROSSING},{PRICE},{CROSSING}")), None).unwrap_err();
    assert!(
        error.problem.contains("price_above or price_below"),
        "{error}"
    );
    let any = format!(r#"{{"kind":"any","conditions":[{CROSSING},{CROSSING}]}}"#);
    check(&parse(&any), None).unwrap();
    check(&all(&format!("{any},{CROSSING}")), None).unwrap_err();
}

#[test]
fn times_names_and_templates_are_checked() {
    let with = |change: fn(&mut AlertRule)| {
        let mut rule = parse(PRICE);
        change(&mut rule);
        rule
    };
    let error = |rule: &AlertRule| check(rule, None).unwrap_err();
    assert_eq!(
        error(&with(|rule| rule.expires_at = Some(START_MS))).field,
        "expiresAt"
    );
    assert_eq!(
        error(&with(|rule| rule.cooldown_ms = Some(u64::MAX))).field,
        "cooldownMs"
    );
    assert_eq!(
        error(&with(|rule| rule.name = Some("é".repeat(65)))).field,
        "name"
    );
    let zero: AlertRule = json::from_slice(
        format!(r#"{{"condition":{PRICE},"repeat":{{"times":0}},"enabled":true}}"#).as_bytes(),
    )
    .unwrap();
    assert_eq!(error(&zero).field, "repeat.times");
    let empty = error(&with(|rule| rule.repeat = Some(AlertRepeat::default())));
    assert_eq!(
        (empty.field.as_str(), empty.problem.as_str()),
        (
            "repeat",
            "empty, expected one of `once`, `recurring` and `times`"
        )
    );
    let refused = check(&parse(PRICE), Some("{prize}")).unwrap_err();
    assert_eq!(refused.field, "template");
    assert!(
        refused
            .problem
            .contains("expected one of name, symbol, price"),
        "{refused}"
    );
    assert_eq!(
        check(&parse(PRICE), Some(&"a".repeat(1_025)))
            .unwrap_err()
            .field,
        "template"
    );
    check(&parse(PRICE), Some("{symbol} {price} {threshold} {{}}")).unwrap();
}

#[test]
fn names_are_made_canonical_and_decimals_stay_exact() {
    let rule = check(
        &parse(r#"{"kind":"price_below","symbol":"btc-usd","threshold":0.00000000172}"#),
        None,
    )
    .unwrap();
    let Condition::Leaf(leaf) = &rule.condition else {
        panic!("{rule:?}");
    };
    assert_eq!(leaf.subject, Subject::Symbol("BTC-USD".into()));
    assert_eq!(leaf.test, Test::Below("0.00000000172".parse().unwrap()));
    assert_eq!(rule.repeat, Repeat::Times(1));
    // A portfolio is the owner's.
    let rule = check(
        &parse(r#"{"kind":"portfolio_above","portfolio":"main","threshold":5}"#),
        None,
    )
    .unwrap();
    assert!(matches!(rule.subjects()[0], Subject::Portfolio { user, .. } if &**user == "ada"));
}
