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

/// Asserts that each of these texts is in one line, that there is no other line, and that none shows
/// a secret.
#[track_caller]
fn assert_texts(found: &[String], expected: &[&str]) {
    for expected in expected {
        let is_it = |text: &&String| text.contains(expected);
        assert_eq!(
            found.iter().filter(is_it).count(),
            1,
            "{expected} in {found:#?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    let secret = found.iter().find(|text| text.contains("S3CRET"));
    assert_eq!(secret, None);
}

#[tokio::test]
async fn a_slip_in_a_variable_of_a_table_or_a_list_shows_no_secret() {
    let wrong = [
        ("TIDEWIRE_CHAIN", "wss://h/S3CRET"),
        (
            "TIDEWIRE_PRICES__SOURCE",
            "[{kind=\"kraken\", url=\"wss://h/S3CRET\"",
        ),
        (
            "TIDEWIRE_DELIVERY__WEBHOOK",
            "[{name=\"a\",url=\"https://h/S3CRET\",secrets=[\"S3CRET\"",
        ),
        (
            "TIDEWIRE_DELIVERY__EMAIL",
            "{host=\"h\",password=\"S3CRET\"",
        ),
        ("TIDEWIRE_DELIVERY__PUSH", "S3CRET"),
        ("TIDEWIRE_BROKER__SENTINELS", "S3CRET@h"),
        ("TIDEWIRE_NAMESPACE", "[\"S3CRET\"]"),
        ("TIDEWIRE_PRICES__SYMBOLS", "BTC-USD,ETH-USD"),
    ];
    assert_texts(
        &lines("", &wrong).await,
        &[
            "`chain` is a text that is no TOML value, wrong at column 1 (environment variable TIDEWIRE_CHAIN), expected the whole list in one variable: TIDEWIRE_CHAIN='[{…}, {…}]'",
            "`prices.source` is a text that is no TOML value, wrong at column 38 (environment variable TIDEWIRE_PRICES__SOURCE), expected the whole list",
            "`delivery.webhook` is a text that is no TOML value, wrong at column 52 (environment variable TIDEWIRE_DELIVERY__WEBHOOK), expected the whole list",
            "`delivery.email` is a text that is no TOML value, wrong at column 28 (environment variable TIDEWIRE_DELIVERY__EMAIL), expected one table: TIDEWIRE_DELIVERY__EMAIL='{…}'",
            "`delivery.push` is a text that is no TOML value, wrong at column 1 (environment variable TIDEWIRE_DELIVERY__PUSH), expected one table",
            "`broker.sentinels` is a text that is no TOML value, wrong at column 1 (environment variable TIDEWIRE_BROKER__SENTINELS), expected a list",
            "the first `[[namespace]]` is a text (environment variable TIDEWIRE_NAMESPACE), expected a table",
            "`prices.symbols` is the text \"BTC-USD,ETH-USD\" (environment variable TIDEWIRE_PRICES__SYMBOLS), expected a list",
        ],
    );
}

#[tokio::test]
async fn a_file_that_is_no_toml_is_not_quoted() {
    for (file, place) in [
        ("[auth]\nhmac_secret = S3CRETaaa\n", "line 2, column 15: "),
        (
            "[auth]\nhmac_secret = \"S3CRET\"\nhmac_secret = \"S3CRET\"\n",
            "line 3, column 1: duplicate key `hmac_secret`",
        ),
        ("[auth]\nhmac_secret = \"S3CRET\n", "line 2, column "),
    ] {
        let expected = format!("tidewire.toml: TOML parse error at {place}");
        assert_texts(&lines(file, &[]).await, &[&expected]);
    }
}

#[tokio::test]
async fn an_endpoint_with_a_slash_in_its_password_is_not_quoted() {
    for endpoint in [
        "https://user:S3CRET/pw@node.example/v3",
        "https://user:S3CRET?pw@node.example/v3",
    ] {
        let file = format!("[[chain]]\nid = 5\nendpoints = [\"{endpoint}\"]\n");
        assert_texts(
            &lines(&file, &[]).await,
            &["chain 5: `endpoints`: \"https://…\" is not a URL: "],
        );
    }
}

#[tokio::test]
async fn a_table_that_is_written_as_a_list_or_a_text_is_named() {
    for (file, expected) in [
        (
            "[[auth]]\nhmac_secret = \"S3CRET\"\n",
            "`auth` is a list (tidewire.toml line 1), expected one table: [auth]",
        ),
        (
            "auth = \"S3CRET\"\n",
            "`auth` is a text (tidewire.toml line 1), expected one table: [auth]",
        ),
        (
            "[[server]]\nlisten = \"127.0.0.1:1\"\n",
            "`server` is a list (tidewire.toml line 1), expected one table: [server]",
        ),
        (
            "\n[[prices]]\nsymbols = [\"BTC-USD\"]\n",
            "`prices` is a list (tidewire.toml line 2), expected one table: [prices]",
        ),
        (
            "[[limits]]\nframe_bytes = 5\n[[limits]]\n",
            "`limits` is a list (tidewire.toml line 1), expected one table: [limits]",
        ),
        (
            "[delivery]\n[[delivery.push]]\nvapid_private_key = \"S3CRET\"\n",
            "`delivery.push` is a list (tidewire.toml line 2), expected one table: [delivery.push]",
        ),
        (
            "chain = \"S3CRET\"\n",
            "`chain` is a text (tidewire.toml line 1), expected a list of tables: `[[chain]]`",
        ),
    ] {
        assert_texts(&lines(file, &[]).await, &[expected]);
    }
}

#[tokio::test]
async fn a_path_that_no_folder_can_have_is_refused() {
    let long = "x".repeat(256);
    for (path, expected) in [
        ("", "store.path is empty, expected a folder"),
        (
            "a\\u0000b",
            "store.path has a NUL character, expected a folder",
        ),
        (
            &*format!("data/{long}"),
            "store.path has a name of 256 bytes, expected names of 255 bytes at most",
        ),
    ] {
        let file = format!("[store]\npath = \"{path}\"\n");
        let expected = format!("{expected} (tidewire.toml line 2)");
        assert_texts(&lines(&file, &[]).await, &[&expected]);
    }
}
