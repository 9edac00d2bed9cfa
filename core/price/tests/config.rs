//! Errors of `[prices]`: each names its key and what was expected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{config, read_config};

fn error(text: &str) -> String {
    config(text).check().unwrap_err().to_string()
}

#[test]
fn without_any_keys_everything_has_its_default() {
    let config = config("");
    config.check().unwrap();
    assert_eq!(config.sources().unwrap().len(), 7);
    assert_eq!(config.symbols().unwrap().len(), 18);
}

#[test]
fn all_keys_are_accepted() {
    let config = config(
        r#"
        symbols = ["BTC-USD", "ETH-USDT"]
        method = "twap"
        stale_after = "1s"
        window = "1m"
        outlier_percent = 1.5
        watchdog = "2s"
        supply = { BTC = 19_700_000, ETH = 120_000_000.5 }
        [[source]]
        kind = "binance"
        name = "spare"
        url = "ws://127.0.0.1:9/stream"
        clock = "arrival"
        [symbol."BTC-USD"]
        method = "volume_weighted_median"
        stale_after = "3s"
        window = "10s"
        outlier_percent = "0.25"
        "#,
    );
    config.check().unwrap();
    let symbols: [_; 2] = config.symbols().unwrap().try_into().unwrap();
    assert_eq!(
        (symbols[0].stale_after_ms, symbols[1].stale_after_ms),
        (3000, 1000)
    );
    assert_eq!(
        symbols.map(|spec| (spec.method.name(), spec.window_us, spec.outlier.to_string())),
        [
            ("volume_weighted_median", 10_000_000, "0.0025".to_owned()),
            ("twap", 60_000_000, "0.015".to_owned())
        ]
    );
    assert_eq!(config.sources().unwrap()[0].name, "spare");
}

#[test]
fn unknown_keys_are_refused() {
    for text in [
        "symbls = []",
        "[[source]]\nkind = \"binance\"\nulr = \"x\"",
        "method = \"mode\"",
    ] {
        assert!(read_config(text).is_err(), "{text}");
    }
}

#[test]
fn faults_name_their_key_and_what_was_expected() {
    let cases = [
        (
            "symbols = [\"btcusd\"]",
            "prices.symbols: \"btcusd\" is not a symbol, expected",
        ),
        (
            "stale_after = \"0s\"",
            "prices.stale_after is 0s, expected 1ms at least",
        ),
        (
            "window = \"3600001ms\"",
            "prices.window is 1h 1ms, expected at most 1h",
        ),
        (
            "outlier_percent = 0",
            "prices.outlier_percent is 0, expected",
        ),
        (
            "[symbol.\"BTC-USD\"]\noutlier_percent = 100",
            "prices.symbol.\"BTC-USD\".outlier_percent is 100",
        ),
        (
            "watchdog = \"0s\"",
            "prices.watchdog is 0s, expected 1ms at least",
        ),
        (
            "watchdog = \"18446744073709551615s\"",
            ", expected at most 7days",
        ),
        (
            "stale_after = \"8days\"",
            "prices.stale_after is 8days, expected at most 7days",
        ),
        (
            "[symbol.\"BTC-USD\"]\nstale_after = \"8days\"",
            "prices.symbol.\"BTC-USD\".stale_after is 8days, expected at most 7days",
        ),
        (
            "[symbol.\"BTC-USD\"]\nwindow = \"2h\"",
            "prices.symbol.\"BTC-USD\".window is 2h, expected at most 1h",
        ),
        (
            "[supply]\nBTC = 1e31",
            "expected a number of coins above zero, at most 1e30",
        ),
        (
            "[symbol.\"BTC-USD\"]\nstale_after = \"0s\"",
            "prices.symbol.\"BTC-USD\".stale_after is 0s",
        ),
        ("[symbol.\"BTC-UDS\"]", "did you mean \"BTC-USD\"?"),
        ("[supply]\nBTC = -1", "prices.supply.BTC is -1, expected"),
        (
            "[supply]\nDOGGE = 1",
            "prices.supply.\"DOGGE\": expected the base of a symbol in `prices.symbols`, did you mean DOGE?",
        ),
        ("[supply]\n\"BTC-USD\" = 1", "did you mean BTC?"),
        ("[supply]\nbtc = 1", "did you mean BTC?"),
        (
            "[[source]]\nkind = \"kraken\"\nids = { \"btc-usd\" = \"XBT/USD\" }",
            "prices.source \"kraken\": ids: \"btc-usd\" is not a symbol, expected",
        ),
        (
            "[[source]]\nkind = \"kraken\"\ncontracts = { \"btc-usd\" = \"1 BTC\" }",
            "prices.source \"kraken\": contracts: \"btc-usd\" is not a symbol, expected",
        ),
        (
            "[[source]]\nkind = \"kraken\"\nurl = \"http://x\"",
            "expected ws://",
        ),
        (
            "[[source]]\nkind = \"kraken\"\nurl = \"ws://\"",
            "expected ws://",
        ),
        (
            "[[source]]\nkind = \"pyth\"\nurl = \"ws://x\"",
            "expected http://",
        ),
        (
            "[[source]]\nkind = \"pyth\"\nids = { \"BTC-USD\" = \"12\" }",
            "ids.\"BTC-USD\" is \"12\", expected the 64 hexadecimal digits",
        ),
        ("convert = [\"DAI\"]", "nothing says what DAI is worth"),
        (
            "[[source]]\nkind = \"kraken\"\nname = \"A b\"",
            "expected lower-case letters",
        ),
        (
            "[[source]]\nkind = \"kraken\"\n[[source]]\nkind = \"kraken\"",
            "set `name`",
        ),
    ];
    for (text, expected) in cases {
        let error = error(text);
        assert!(error.contains(expected), "{text}: {error}");
        // Once: no cause repeats the message.
        let error = config(text).check().unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        assert_ne!(cause, Some(error.to_string()), "{text}");
        let cause = cause.unwrap_or_else(|| "no cause".to_owned());
        assert!(
            !error.to_string().contains(&cause),
            "{text}: {error}: {cause}"
        );
    }
}

#[test]
fn more_symbols_than_a_venue_carries_are_refused() {
    let symbols = |count| {
        let symbols: Vec<_> = (0..count).map(|n| format!("\"C{n}-USD\"")).collect();
        format!("symbols = [{}]", symbols.join(","))
    };
    config(&symbols(4_000)).check().unwrap();
    let error = error(&symbols(4_001));
    assert!(
        error.contains("4001") && error.contains("\"bitstamp\"") && error.contains("at most 4000"),
        "{error}"
    );
}
