//! Texts of configuration faults: the entry that is meant, the value without secrets, and what the
//! operator may have meant.

use std::fs;

use tempfile::TempDir;
use tidewire_tests::{command, within};

const FILE: &str = "tidewire.toml";

/// The lines of `check-config` about a file, with variables of the environment.
async fn lines(file: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join(FILE), file).unwrap();
    let mut command = command(folder.path(), &["check-config", "--config", FILE]);
    let output = command.envs(variables.iter().copied()).output();
    let output = within("the check", output).await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Asserts that there is one line for each of these texts, and no other. A text has a beginning and
/// the line of the file.
#[track_caller]
fn assert_lines(found: &[String], expected: &[(&str, usize)]) {
    for (start, line) in expected {
        let (start, end) = (
            format!("tidewire: {start}"),
            format!("(tidewire.toml line {line})"),
        );
        let is_it = |text: &&String| text.starts_with(&start) && text.contains(&end);
        assert_eq!(
            found.iter().filter(is_it).count(),
            1,
            "{start} {end} in {found:#?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[tokio::test]
async fn a_fault_of_an_entry_whose_name_is_there_twice_has_its_own_line() {
    let file = "[[chain]]
id = 5
endpoints = [\"node.example/KEY\"]
[[chain]]
id = 5
endpoints = [\"wss://a.example\"]
agreement = 2
[[namespace]]
name = \"orders\"
history_size = 99999999999
[[namespace]]
name = \"orders\"
history_size = 5
[[prices.source]]
kind = \"kraken\"
url = \"a.example\"
[[prices.source]]
kind = \"kraken\"
url = \"wss://b.example\"
[[delivery.webhook]]
name = \"shop\"
url = \"https://example.com\"
secrets = []
[[delivery.webhook]]
name = \"shop\"
url = \"https://example.com\"
secrets = [\"x\"]
";
    assert_lines(
        &lines(file, &[]).await,
        &[
            ("chain 5: `id` is there twice, expected different ids", 5),
            ("chain 5: `endpoints`: \"node.example\" is not a URL", 3),
            ("chain 5: `agreement` is 2, expected 1 to 1", 7),
            (
                "namespace \"orders\" is named twice, expected different names",
                12,
            ),
            ("namespace.history_size of \"orders\" is 99999999999", 10),
            ("prices.source: two sources are named \"kraken\"", 17),
            ("prices.source \"kraken\": the url \"a.example\" is not", 16),
            ("delivery.webhook.name is \"shop\" twice", 25),
            ("delivery.webhook \"shop\" secrets is empty", 23),
            ("delivery.webhook \"shop\" secrets is a secret without", 27),
        ],
    );
}

#[tokio::test]
async fn a_fault_quotes_the_value_without_secrets_and_not_at_length() {
    let file = format!(
        "[server]
drain = \"{}\"
[auth]
hmac_secret = 98765432109876
audience = 5
[store]
url = \"redis://user:SECRET@store.example/1\"
replicas = 2
[prices]
symbols = [\"BTC-USD\", 7]
[prices.supply_source]
url = \"coins.example/SECRET\"
[[chain]]
id = 5
endpoints = [\"ftp://user:SECRET@node.example/SECRET\"]
finality = \"later\"
[[chain]]
id = 6
endpoints = \"wss://node.example/SECRET\"
[[chain]]
id = 7
endpoints = [\"wss://node.example/SECRET\", \"wss://node.example/SECRET\"]
",
        "long ".repeat(100)
    );
    let found = lines(&file, &[]).await;
    assert_lines(
        &found,
        &[
            ("`server.drain` is the text \"long long", 2),
            ("`auth.hmac_secret` is a number ", 4),
            ("`auth.audience` is the number 5 ", 5),
            ("store.url is \"redis://store.example\", expected no URL", 7),
            ("store.replicas is 2, and store.kind is \"embedded\"", 8),
            ("the second value of `prices.symbols` is the number 7", 10),
            (
                "prices.supply_source.url is \"coins.example\", expected http",
                12,
            ),
            (
                "chain 5: `endpoints`: \"ftp://node.example\" has the scheme \"ftp\"",
                15,
            ),
            ("`finality` of chain 5 is the text \"later\"", 16),
            ("`endpoints` of chain 6 is a text ", 19),
            (
                "chain 7: `endpoints`: wss://node.example is there twice",
                22,
            ),
        ],
    );
    for text in &found {
        assert!(
            !text.contains("SECRET") && !text.contains("98765"),
            "{text}"
        );
        assert!(text.len() < 300, "{text}");
    }
}

#[tokio::test]
async fn a_key_of_other_servers_is_answered_with_the_one_of_this() {
    let file = "port = 1\n[server]\nport = 9000\nhost = \"a\"\n[log]\nlevel = \"debug\"\n";
    assert_lines(
        &lines(file, &[]).await,
        &[
            ("unknown key `port`", 1),
            ("unknown key `server.port`", 3),
            ("unknown key `server.host`", 4),
            ("unknown key `log.level`", 6),
        ],
    );
    let found = lines(file, &[]).await.join("\n");
    for hint in [
        "expected `listen`, which has the address and the port",
        "TIDEWIRE_LOG=debug",
    ] {
        assert!(found.contains(hint), "{hint} in {found}");
    }
}

#[tokio::test]
async fn a_symbol_that_is_not_configured_is_named_with_the_nearest() {
    let file = "[prices]
symbols = [\"BTC-USD\"]
[[prices.source]]
kind = \"binance\"
ids = { \"BTC-USDT\" = \"BTCUSDT\" }
contracts = { \"SOL-EUR\" = \"100 EUR\" }
";
    let found = lines(file, &[]).await.join("\n");
    for expected in [
        "ids.\"BTC-USDT\" has no effect: this symbol is not in `prices.symbols`, did you mean \"BTC-USD\"?",
        "contracts.\"SOL-EUR\" has no effect: this symbol is not in `prices.symbols`, expected one of them, such as [\"BTC-USD\"]",
    ] {
        assert!(found.contains(expected), "{expected} in {found}");
    }
}

#[tokio::test]
async fn variables_set_lists_and_tables_of_symbols() {
    let good = [
        (
            "TIDEWIRE_CHAIN",
            "[{id=5, endpoints=[\"ws://127.0.0.1:1\"]}]",
        ),
        ("TIDEWIRE_NAMESPACE", "[{name=\"orders\"}]"),
        ("TIDEWIRE_PRICES__SYMBOLS", "[\"BTC-USD\", \"ETH-USD\"]"),
        ("TIDEWIRE_PRICES__SYMBOL", "{BTC-USD={window=\"1m\"}}"),
        ("TIDEWIRE_PRICES__SYMBOL__ETH-USD__WINDOW", "1m"),
    ];
    assert_eq!(lines("", &good).await, [""; 0]);
    let wrong = [
        ("TIDEWIRE_CHAIN__0__ID", "5"),
        ("TIDEWIRE_NAMESPACE", "[{name=\"A B\"}]"),
        ("TIDEWIRE_PRICES__SYMBOLS", "[\"BTC-USD\"]"),
        ("TIDEWIRE_PRICES__SYMBOL__ETH-USD__WINDOW", "1m"),
        ("TIDEWIRE_SERVER_PORT", "5"),
    ];
    let found = lines("", &wrong).await;
    for expected in [
        "`chain` is a table (environment variable TIDEWIRE_CHAIN__0__ID), expected the whole list in one variable: TIDEWIRE_CHAIN='[{…}, {…}]'",
        "namespace \"A B\" is malformed",
        "prices.symbol.\"ETH-USD\": this symbol is not in `prices.symbols`, did you mean \"BTC-USD\"? (environment variable TIDEWIRE_PRICES__SYMBOL__ETH-USD__WINDOW)",
        "TIDEWIRE_SERVER_PORT sets nothing: did you mean TIDEWIRE_SERVER__LISTEN?",
    ] {
        let is_it = |text: &&String| text.contains(expected);
        assert_eq!(
            found.iter().filter(is_it).count(),
            1,
            "{expected} in {found:#?}"
        );
    }
    assert_eq!(found.len(), 4, "{found:#?}");
}
