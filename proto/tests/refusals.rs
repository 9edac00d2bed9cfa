//! Refused JSON, with the fault and the path that each error names.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use tidewire_proto::{
    json::{self, JsonValue},
    v1,
};

fn refusal<T: JsonValue + std::fmt::Debug>(text: &str) -> String {
    json::from_slice::<T>(text.as_bytes())
        .unwrap_err()
        .to_string()
}

#[test]
fn the_wrong_type_names_the_path() {
    assert_eq!(
        refusal::<v1::SubscribeRequest>(r#"{"channels":["a:b",{"channel":7}]}"#),
        "`channels[1].channel`: expected a string, found 7"
    );
    assert_eq!(
        refusal::<v1::SubscribeRequest>(r#"{"channels":[7]}"#),
        "`channels[0]`: expected a string or an object, found 7"
    );
    assert_eq!(
        refusal::<v1::MarkReadRequest>(r#"{"ids":"n-1"}"#),
        "`ids`: expected a list, found \"n-1\""
    );
    assert_eq!(
        refusal::<v1::SubscribeRequest>("[]"),
        "expected an object, found []"
    );
    assert!(json::from_slice::<v1::Gap>(b"{").unwrap_err().is_syntax());
    for (text, expected) in [
        (
            "nope",
            "not JSON: expected `true`, `false` or `null` at line 1 column 2",
        ),
        (
            r#"{"a":1"#,
            "not JSON: the text ends within an object at line 1 column 6",
        ),
        (
            "{1:2}",
            "not JSON: expected a name in quotes at line 1 column 2",
        ),
    ] {
        assert_eq!(refusal::<v1::Gap>(text), expected);
    }
}

#[test]
fn integers_hold_their_range() {
    for text in ["-1", "1.5", "\"1\"", "1e3", "true"] {
        let error = refusal::<v1::Gap>(&format!(r#"{{"seq":{text}}}"#));
        assert!(
            error.starts_with("`seq`: expected a whole number, not negative, found"),
            "{error}"
        );
    }
    assert_eq!(
        refusal::<v1::Gap>(r#"{"seq":18446744073709551616}"#),
        "`seq`: expected a smaller number, found 18446744073709551616"
    );
    assert_eq!(
        refusal::<v1::ListNotificationsRequest>(r#"{"limit":4294967296}"#),
        "`limit`: expected a smaller number, found 4294967296"
    );
    assert!(
        refusal::<v1::TokenExpiring>(r#"{"expiresAt":9223372036854775808}"#)
            .starts_with("`expiresAt`: expected")
    );
}

#[test]
fn an_unknown_enum_value_lists_the_known() {
    assert_eq!(
        refusal::<v1::VisibilityRequest>(r#"{"state":"hidden"}"#),
        "`state`: expected one of active, background, found \"hidden\""
    );
    for text in ["1", "\"VISIBILITY_ACTIVE\"", "\"unspecified\"", "\"\""] {
        assert!(
            refusal::<v1::VisibilityRequest>(&format!(r#"{{"state":{text}}}"#))
                .starts_with("`state`"),
            "{text}"
        );
    }
    assert!(
        refusal::<v1::ListNotificationsRequest>(r#"{"types":["price_alert",1]}"#)
            .starts_with("`types[1]`")
    );
    assert!(
        refusal::<v1::ListNotificationsRequest>(r#"{"priorities":["low","x"]}"#)
            .starts_with("`priorities[1]`")
    );
}

#[test]
fn unions_take_one_known_case() {
    assert_eq!(
        refusal::<v1::DisconnectRequest>(r#"{"user":"u1","connectionId":"c-01"}"#),
        "`user`: given beside another field that excludes it, expected one of connectionId, user"
    );
    assert_eq!(
        refusal::<v1::AlertRule>(r#"{"repeat":5}"#),
        r#"`repeat`: expected one of "once", "recurring", {"times": …}, found 5"#
    );
    assert_eq!(
        refusal::<v1::AlertRule>(r#"{"expiresAt":"2026-12-01T00:00:00Z"}"#),
        r#"`expiresAt`: expected milliseconds since the Unix epoch, a whole number, found "2026-12-01T00:00:00Z""#
    );
    let error =
        refusal::<v1::AlertRule>(r#"{"condition":{"kind":"all","conditions":[{"kind":"moon"}]}}"#);
    assert!(
        error.starts_with(
            r#"`condition.conditions[0]`: there is no `kind` "moon", expected one of price_above, "#
        ),
        "{error}"
    );
    for text in [r#""never""#, "{}", r#"{"once":{}}"#, "3"] {
        let error = refusal::<v1::AlertRule>(&format!(r#"{{"repeat":{text}}}"#));
        assert!(error.starts_with("`repeat`: expected"), "{error}");
    }
    let error =
        json::from_slice::<v1::ServerMessage>(br#"{"type":"later","data":{}}"#).unwrap_err();
    assert!(error.is_unknown_type(), "{error}");
}

#[test]
fn decimals_are_bounded() {
    for text in [
        "\"\"",
        "\"x\"",
        "\"NaN\"",
        "\"1 \"",
        "1e1000",
        "1e999999999999",
        "true",
        "[]",
    ] {
        let error = refusal::<v1::PriceThreshold>(&format!(r#"{{"threshold":{text}}}"#));
        assert!(
            error.starts_with("`threshold`: expected a number"),
            "{error}"
        );
    }
    let long = "9".repeat(257);
    assert!(refusal::<v1::PriceThreshold>(&format!(r#"{{"threshold":{long}}}"#)).len() < 200);
}

#[test]
fn documents_are_bounded_in_depth() {
    let text = format!(
        r#"{{"channel":"a:b","data":{}{}}}"#,
        "[".repeat(101),
        "]".repeat(101)
    );
    assert_eq!(
        refusal::<v1::PublishRequest>(&text),
        "`data`: nested deeper than 100 levels"
    );
}

#[test]
fn numbers_that_are_not_finite_are_null() {
    let pong = v1::Pong {
        rtt_ms: Some(f64::NAN),
        jitter_ms: Some(f64::INFINITY),
        ..Default::default()
    };
    let text = String::from_utf8(json::to_vec(&pong)).unwrap();
    assert_eq!(
        text,
        r#"{"serverTime":0,"heartbeatMs":0,"rttMs":null,"jitterMs":null}"#
    );
    assert_eq!(
        json::from_slice::<v1::Pong>(text.as_bytes()),
        Ok(v1::Pong::default())
    );
}

#[test]
fn invalid_decimals_from_grpc_become_valid_json() {
    let update = v1::PriceUpdate {
        price: Some(v1::Decimal {
            value: "1,\"x\":2".into(),
        }),
        source_details: vec![v1::SourceDetail {
            state: 77,
            ..Default::default()
        }],
        ..Default::default()
    };
    let text = json::to_vec(&update);
    assert!(serde_json::from_slice::<serde_json::Value>(&text).is_ok());
}
