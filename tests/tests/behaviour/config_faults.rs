//! Configuration faults: none hides another one, and each is told once, with its line and its key.
//!
//! Every key of the example configuration, and of the tables of delivery, gets a fault, all in one
//! file: a value of another type, a value out of bounds, or for a key that its table must have, none.

use std::{fmt::Write as _, fs};

use tempfile::TempDir;
use tidewire_tests::{command, within};

const FILE: &str = "tidewire.toml";

/// The tables of delivery, which the example leaves to its page.
const DELIVERY: &str = r#"
[[delivery.webhook]]
name = "shop"
url = "https://example.com"
secrets = []
chat_id = "1"
types = []
priorities = []
rate = 0
concurrency = 1
[delivery.push]
vapid_private_key = "x"
subject = "mailto:ops@example.com"
ttl = "24h"
[delivery.email]
host = "smtp.example.com"
from = "a@example.com"
reply_to = "a@example.com"
unsubscribe_url = "https://example.com"
unsubscribe_secrets = []
rate = 0
concurrency = 1
delay = "5m"
"#;

/// A key of a table.
#[derive(Debug, Clone)]
struct Key {
    /// The header of the table: `[server]`, `[[chain]]`.
    header: String,
    name: String,
    value: String,
}

/// A fault of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Type,
    Value,
    Missing,
}

/// The keys of the example, also those in comments, and of [`DELIVERY`].
fn keys() -> Vec<Key> {
    let mut header = String::new();
    let mut keys = Vec::new();
    let example = include_str!("../../../tidewire.example.toml");
    for line in example.lines().chain(DELIVERY.lines()) {
        let line = line.trim_start_matches(['#', ' ']);
        if line.starts_with('[') {
            let end = line.split(" #").next().unwrap();
            end.trim().clone_into(&mut header);
        } else if let Some((name, value)) = line.split_once(" = ")
            && !name.contains(' ')
            && !header.is_empty()
        {
            keys.push(Key {
                header: header.clone(),
                name: name.to_owned(),
                value: value.split(" #").next().unwrap().trim().to_owned(),
            });
        }
    }
    keys
}

impl Key {
    /// The part of the file that is checked together: `prices` with its symbols and sources.
    fn part(&self) -> &str {
        let table = self.header.trim_start_matches('[');
        table.split(['.', ']']).next().unwrap()
    }

    fn path(&self) -> String {
        let table = self.header.trim_matches(['[', ']']);
        format!("{}.{}", table.replace(".\"BTC-USD\"", ""), self.name)
    }

    /// A value of another type.
    fn of_other_type(&self) -> &'static str {
        match &*self.value {
            "true" | "false" => "\"x\"",
            _ => "true",
        }
    }

    /// A value of its type that is refused. None where every value is good, or where the fault would
    /// be that of another key.
    fn refused(&self) -> Option<&'static str> {
        let is_bool = ["true", "false"].contains(&&*self.value);
        Some(match &*self.path() {
            "store.path" | "auth.audience" | "auth.issuer" | "chain.name" => return None,
            _ if is_bool => return None,
            "server.listen"
            | "server.proxy_header"
            | "broker.kind"
            | "broker.url"
            | "store.kind"
            | "store.url"
            | "log.format"
            | "namespace.class"
            | "namespace.access"
            | "namespace.publish"
            | "prices.method"
            | "prices.symbol.method"
            | "prices.supply_source.url"
            | "prices.source.url"
            | "prices.source.clock"
            | "chain.finality"
            | "delivery.push.vapid_private_key"
            | "delivery.push.subject"
            | "delivery.email.from"
            | "delivery.email.reply_to"
            | "delivery.email.unsubscribe_url"
            | "delivery.webhook.url"
            | "auth.hmac_secret"
            | "auth.hmac_secret_previous" => "\"x\"",
            "server.allowed_origins"
            | "server.trusted_proxies"
            | "chain.errors"
            | "chain.tokens"
            | "delivery.webhook.secrets"
            | "delivery.webhook.types"
            | "delivery.webhook.priorities"
            | "delivery.email.unsubscribe_secrets" => "[\"x\"]",
            "server.tls_cert"
            | "server.tls_key"
            | "server.tls_client_ca"
            | "auth.public_key_file"
            | "auth.jwks_ca"
            | "broker.ca_file"
            | "broker.tls_cert"
            | "broker.tls_key"
            | "prices.ca_file"
            | "delivery.ca_file" => "\"none.pem\"",
            "auth.jwks_url" => "\"ftp://example.com\"",
            "broker.prefix" => "\"{a}\"",
            "server.roles" => "[\"x\"]",
            "broker.sentinels" | "broker.cluster" => "[\"one:x\"]",
            "notifications.types" => "[\"X\"]",
            "namespace.name"
            | "prices.source.name"
            | "delivery.webhook.name"
            | "delivery.email.host" => "\"A B\"",
            // The other tables need this symbol.
            "prices.symbols" => "[\"x\", \"BTC-USD\"]",
            "prices.convert" => "[\"ZZZ\"]",
            "prices.supply.BTC" | "prices.outlier_percent" | "prices.symbol.outlier_percent" => {
                "-1"
            }
            // A source of an unknown kind is in the variants with other types.
            "prices.source.kind" => return None,
            "prices.source.ids" => "{ \"BTC-USD\" = \"!\" }",
            "prices.source.contracts" => "{ \"BTC-USD\" = \"x\" }",
            "chain.id" => "0",
            "chain.transaction_types" => "[1]",
            "chain.endpoints" => "[\"ftp://example.com\"]",
            "chain.coin" => "\"\"",
            // The webhook below is none of Telegram.
            "delivery.webhook.chat_id" => "\"1\"",
            path if self.value.starts_with('"') => {
                let unit = self
                    .value
                    .trim_matches(|c: char| c == '"' || c.is_ascii_digit());
                let is_duration = ["ms", "s", "m", "h", "d"].contains(&unit);
                assert!(
                    is_duration,
                    "{path} = {}: which value is refused?",
                    self.value
                );
                "\"9999days\""
            }
            path => {
                let number = self.value.parse::<f64>();
                assert!(
                    number.is_ok(),
                    "{path} = {}: which value is refused?",
                    self.value
                );
                "9223372036854775807"
            }
        })
    }

    /// Whether its table cannot be read without it.
    fn is_required(&self) -> bool {
        let path = self.path();
        let required = [
            "namespace.name",
            "prices.source.kind",
            "prices.supply_source.url",
            "chain.id",
            "delivery.webhook.name",
            "delivery.webhook.url",
            "delivery.push.vapid_private_key",
            "delivery.push.subject",
            "delivery.email.host",
            "delivery.email.from",
            "delivery.email.unsubscribe_url",
            "delivery.email.unsubscribe_secrets",
        ];
        required.contains(&&*path)
    }

    /// The value with this fault. None if the key has no such fault.
    fn with(&self, fault: Fault) -> Option<&'static str> {
        match fault {
            Fault::Type => Some(self.of_other_type()),
            Fault::Value => self.refused(),
            Fault::Missing => None,
        }
    }
}

/// The keys of a part with these faults, checked at once.
async fn check(keys: &[Key], fault_of: impl Fn(usize, &Key) -> Option<Fault>) {
    let mut file = String::new();
    let mut header = String::new();
    // The key, and the end of its text: its line, or that it is missing.
    let mut expected = Vec::new();
    let mut line = 0;
    for (index, key) in keys.iter().enumerate() {
        if key.header != header {
            key.header.clone_into(&mut header);
            writeln!(file, "{header}").unwrap();
            line += 1;
        }
        let fault = fault_of(index, key);
        if fault == Some(Fault::Missing) && key.is_required() {
            let table = key.header.trim_matches(['[', ']']);
            let words = match key.header.starts_with("[[") {
                true => format!("`{}` of the first `[[{table}]]` is missing", key.name),
                false => format!("`{table}.{}` is missing", key.name),
            };
            expected.push((key, words));
            continue;
        }
        let value = fault.and_then(|fault| key.with(fault));
        // Without a fault, only what the rest of its table needs.
        if let Some(value) = value.or(key.is_required().then_some(&key.value)) {
            writeln!(file, "{} = {value}", key.name).unwrap();
            line += 1;
        }
        if value.is_some() {
            expected.push((key, format!("({FILE} line {line})")));
        }
    }
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join(FILE), &file).unwrap();
    let mut command = command(folder.path(), &["check-config", "--config", FILE]);
    let output = within("the check", command.output()).await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{file}");
    for (key, part) in &expected {
        let is_about = |line: &&str| line.contains(&*key.name) && line.contains(&**part);
        let count = text.lines().filter(is_about).count();
        assert_eq!(count, 1, "{} {part} in\n{file}\n{text}", key.path());
    }
    assert_eq!(text.lines().count(), expected.len(), "{file}\n{text}");
}

/// Runs `check` for each part of the configuration.
async fn check_parts(fault_of: impl Fn(usize, &Key) -> Option<Fault>) {
    let mut keys = keys();
    assert!(keys.len() > 120, "only {} keys were found", keys.len());
    keys.sort_by_key(|key| key.part().to_owned());
    for part in keys.chunk_by(|a, b| a.part() == b.part()) {
        check(part, &fault_of).await;
    }
}

#[tokio::test]
async fn no_value_of_a_wrong_type_hides_another() {
    check_parts(|_, _| Some(Fault::Type)).await;
}

#[tokio::test]
async fn no_value_that_is_refused_hides_another() {
    check_parts(|_, _| Some(Fault::Value)).await;
}

#[tokio::test]
async fn a_missing_key_hides_no_other_fault() {
    // The names of a venue's symbols can only be judged where its kind is known.
    let fault = |_: usize, key: &Key| match &*key.path() {
        "prices.source.ids" => None,
        _ if key.is_required() => Some(Fault::Missing),
        _ => Some(Fault::Value),
    };
    check_parts(fault).await;
}

#[tokio::test]
async fn a_value_of_a_wrong_type_hides_none_that_is_refused() {
    for rest in [0, 1] {
        check_parts(|index, key| {
            let path = key.path();
            // Values that others are judged by keep their type.
            let is_measure = ["prices.symbols", "prices.source.kind"].contains(&&*path);
            match index % 2 == rest && !is_measure {
                true => Some(Fault::Type),
                false => Some(Fault::Value),
            }
        })
        .await;
    }
}

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

#[tokio::test]
async fn a_duration_is_refused_once_with_its_key() {
    for table in ["notifications", "alerts", "delivery"] {
        let key = match table {
            "alerts" => "log_max_age",
            _ => "max_age",
        };
        let found = lines(&format!("[{table}]\n{key} = \"0s\""), &[]).await;
        assert_eq!(found.len(), 1, "{found:?}");
        let expected = format!("tidewire: {table}.{key} is 0s, expected 1s to ");
        assert!(found[0].starts_with(&expected), "{found:?}");
        assert!(found[0].ends_with("(tidewire.toml line 2)"), "{found:?}");
    }
}

#[tokio::test]
async fn faults_of_entries_without_a_name_are_told_by_their_place() {
    let file = "[[chain]]\nid = \"one\"\nendpoints = [\"ftp://a\"]\n[[chain]]\nid = 5\n\
        endpoints = [\"ws://a\"]\n[[chain]]\nid = 5\nendpoints = []\n[[namespace]]\nmax_channels = 0\n\
        [[delivery.webhook]]\nurl = \"http://localhost\"\nsecrets = []\n";
    let found = lines(file, &[]).await;
    for expected in [
        "`id` of the first `[[chain]]` is the text \"one\" (tidewire.toml line 2), expected a whole number, 0 at least",
        "the first `[[chain]]`: `endpoints`: \"ftp://a\" has the scheme \"ftp\", expected ws, wss, http, https, or a path (tidewire.toml line 3)",
        "chain 5: `id` is there twice, expected different ids (tidewire.toml line 8)",
        "chain 5: `endpoints` is empty, expected one at least (tidewire.toml line 9)",
        "`name` of the first `[[namespace]]` is missing (tidewire.toml line 10)",
        "namespace.max_channels of the first `[[namespace]]` is 0, expected 1 to 1000000000 (tidewire.toml line 11)",
        "`name` of the first `[[delivery.webhook]]` is missing (tidewire.toml line 12)",
    ] {
        let expected = format!("tidewire: {expected}");
        assert!(found.contains(&expected), "{expected} is not in {found:#?}");
    }
    for (start, line) in [
        (
            "tidewire: the first `[[delivery.webhook]]` url is refused: ",
            13,
        ),
        (
            "tidewire: the first `[[delivery.webhook]]` secrets is empty, ",
            14,
        ),
    ] {
        let end = format!("(tidewire.toml line {line})");
        let is_it = |text: &String| text.starts_with(start) && text.ends_with(&end);
        assert!(found.iter().any(is_it), "{start} is not in {found:#?}");
    }
    assert_eq!(found.len(), 9, "{found:#?}");
}

#[tokio::test]
async fn a_key_under_both_of_its_names_hides_nothing() {
    let file = "[stream]\ngather = \"1ms\"\ngather_ms = 1\nbatch_interval_ms = -1\n[log]\nformat = \"x\"\n";
    let found = lines(file, &[]).await;
    assert_eq!(found.len(), 3, "{found:#?}");
    for (part, line) in [
        ("`stream.gather` is also given as `stream.gather_ms`", 2),
        ("`stream.batch_interval_ms` is", 4),
        ("`log.format` is the text \"x\"", 6),
    ] {
        let place = format!("(tidewire.toml line {line})");
        let is_it = |text: &String| text.contains(part) && text.contains(&place);
        assert!(
            found.iter().any(is_it),
            "{part} {place} is not in {found:#?}"
        );
    }
}

#[tokio::test]
async fn a_fault_of_the_environment_names_the_variable_and_the_key() {
    let file = "[server]\ndrain = \"10s\"\n[limits]\nframe_bytes = 65536\n";
    let variables = [
        ("TIDEWIRE_SERVER__DRAIN", "soon"),
        ("TIDEWIRE_SERVER__LISTEN", "0.0.0.0:0"),
        ("TIDEWIRE_LIMITS__FRAME_BYTES", "1"),
        ("TIDEWIRE_PRICES__WATCHDOG_MS", "0"),
        ("TIDEWIRE_ALERTS__COLOUR", "blue"),
    ];
    let found = lines(file, &variables).await;
    for (key, variable) in [
        (
            "`server.drain` is the text \"soon\"",
            "TIDEWIRE_SERVER__DRAIN",
        ),
        ("auth.hmac_secret is missing", "TIDEWIRE_SERVER__LISTEN"),
        ("limits.frame_bytes is 1", "TIDEWIRE_LIMITS__FRAME_BYTES"),
        ("prices.watchdog is 0s", "TIDEWIRE_PRICES__WATCHDOG_MS"),
        ("unknown key `alerts.colour`", "TIDEWIRE_ALERTS__COLOUR"),
    ] {
        let place = format!("(environment variable {variable})");
        let is_it = |text: &String| text.contains(key) && text.contains(&place);
        assert!(
            found.iter().any(is_it),
            "{key} {place} is not in {found:#?}"
        );
    }
    assert!(
        !found.iter().any(|text| text.contains(" line ")),
        "{found:#?}"
    );
}
