//! Configuration bounds: every number and duration is checked at the bounds that `docs/limits.md`
//! names, and beyond them.
//!
//! A value is refused by name, or a server starts with it and answers.

use futures::{StreamExt as _, stream};
use tempfile::TempDir;
use tidewire_tests::{Server, ServerBuilder, command, eventually, within};

/// Servers and checks that run at the same time.
const AT_ONCE: usize = 4;

/// The largest whole number of TOML.
const MOST_OF_TOML: u64 = i64::MAX.unsigned_abs();

/// A key of the example configuration whose value is a number or a duration.
#[derive(Debug, Clone)]
struct Key {
    table: String,
    name: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Duration,
}

/// A value of a key, and whether it is accepted.
#[derive(Debug, Clone)]
struct Case {
    key: Key,
    value: String,
    is_accepted: bool,
}

/// The numbers and durations of the example configuration.
fn keys() -> Vec<Key> {
    let mut table = String::new();
    let mut keys = Vec::new();
    for line in include_str!("../../../tidewire.example.toml").lines() {
        let line = line.trim_start_matches(['#', ' ']);
        if let Some(header) = line.strip_prefix('[') {
            let name = header.trim_start_matches('[').split(']').next();
            name.unwrap().clone_into(&mut table);
        } else if let Some((name, value)) = line.split_once(" = ") {
            let value = value.split(" #").next().unwrap().trim();
            let text = value.trim_matches('"');
            let kind = if value.parse::<f64>().is_ok() || name == "finality" {
                Kind::Number
            } else if is_duration(text) {
                Kind::Duration
            } else {
                continue;
            };
            keys.push(Key {
                table: table.clone(),
                name: name.to_owned(),
                kind,
            });
        }
    }
    keys
}

/// Whether a value of the example is a duration, such as `15ms`.
fn is_duration(text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    unit != text && ["ms", "s", "m", "h"].contains(&unit)
}

/// A number such as `1,024`, `256 MiB` or `7 days`. Durations are in milliseconds.
fn quantity(text: &str) -> Option<u64> {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let unit = match unit {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60 * 1_000,
        "h" => 60 * 60 * 1_000,
        "days" => 24 * 60 * 60 * 1_000,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    Some(number.replace(',', "").parse::<u64>().ok()? * unit)
}

impl Key {
    /// The name in `docs/limits.md`.
    fn documented_name(&self) -> String {
        // A symbol has the keys of the whole table.
        let table = match self.table.starts_with("prices.symbol") {
            true => "prices",
            false => &self.table,
        };
        format!("{table}.{}", self.name)
    }

    /// The least and the largest accepted value, as `docs/limits.md` has them.
    fn documented_range(&self) -> (u64, u64) {
        let name = self.documented_name();
        let page = include_str!("../../../docs/limits.md");
        let table = page.split("\n### Accepted values").nth(1).unwrap();
        let row = table
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}`")))
            .unwrap_or_else(|| panic!("docs/limits.md has no accepted values of {name}"));
        let accepted = row.trim_end_matches(" |").split(" | ").nth(1).unwrap();
        let bounds = accepted.split_once(" to ");
        let bounds = bounds.and_then(|(least, most)| Some((quantity(least)?, quantity(most)?)));
        bounds.unwrap_or_else(|| panic!("{name} accepts {accepted:?}"))
    }

    fn cases(&self) -> Vec<Case> {
        let case = |value: &str, is_accepted| Case {
            key: self.clone(),
            value: value.to_owned(),
            is_accepted,
        };
        let listed = |accepted: &[&str], refused: &[&str]| -> Vec<Case> {
            let accepted = accepted.iter().map(|value| case(value, true));
            accepted
                .chain(refused.iter().map(|value| case(value, false)))
                .collect()
        };
        let (least, most) = match &*self.documented_name() {
            "prices.outlier_percent" => {
                return listed(&["0.001", "99.999"], &["0", "-1", "100", "1e20"]);
            }
            "prices.supply.BTC" => {
                let refused = ["0", "-1", "1.1e30", "1e308", "inf", "nan"];
                return listed(&["1e-300", "1e30"], &refused);
            }
            "chain.id" => (1, MOST_OF_TOML),
            // The chain below has one endpoint.
            "chain.agreement" => (1, 1),
            _ => self.documented_range(),
        };
        let text = |value: u64| match self.kind {
            Kind::Number => value.to_string(),
            Kind::Duration => format!("\"{value}ms\""),
        };
        let mut values = vec![0, least.saturating_sub(1), least, most];
        values.extend([most + 1, MOST_OF_TOML].map(|beyond| beyond.min(MOST_OF_TOML)));
        values.sort_unstable();
        values.dedup();
        let is_accepted = |value: u64| (least..=most).contains(&value);
        let mut cases: Vec<_> = values
            .into_iter()
            .map(|value| case(&text(value), is_accepted(value)))
            .collect();
        match self.kind {
            Kind::Number => cases.push(case("-1", false)),
            Kind::Duration => cases.push(case("\"18446744073709551615s\"", false)),
        }
        cases
    }
}

impl Case {
    /// A server with this value, and with all that the key needs beside it.
    fn server(&self) -> ServerBuilder {
        let Key { table, name, .. } = &self.key;
        let line = format!("{name} = {}", self.value);
        // Nothing listens on this port.
        let url = "ws://127.0.0.1:1";
        let builder = Server::builder()
            .without_readiness_check()
            .set("prices", "symbols = [\"BTC-USD\"]")
            .source("binance", "binance", url);
        match (&**table, &**name) {
            ("server", _) => builder.set("server", &line),
            ("auth", _) => builder.set("auth", &line),
            // Nothing listens there: the server starts all the same.
            ("store", "replicas") => builder
                .set("store", "kind = \"redis\"")
                .set("store", &line)
                .table("[broker]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:1\"\n"),
            ("store", _) => builder.set("store", &line),
            ("stream", _) => builder.set("stream", &line),
            ("prices", _) => builder.set("prices", &line),
            // Each needs a value of the other.
            ("limits", "frame_bytes") => builder
                .set("limits", "history_bytes = 1099511627776")
                .set("limits", &line),
            ("limits", "history_bytes") => builder
                .set("limits", "frame_bytes = 1024")
                .set("limits", &line),
            ("delivery", "first_pause") => {
                builder.table(&format!("[delivery]\nlongest_pause = \"24h\"\n{line}\n"))
            }
            ("delivery", "longest_pause") => {
                builder.table(&format!("[delivery]\nfirst_pause = \"100ms\"\n{line}\n"))
            }
            ("limits", _) => builder.set("limits", &line),
            ("namespace", _) => builder.namespace("orders", &line),
            ("prices.supply_source", _) => builder.table(&format!(
                "[prices.supply_source]\nurl = \"http://127.0.0.1:1\"\n{line}\n"
            )),
            ("chain", "id") => {
                builder.table(&format!("[[chain]]\nendpoints = [{url:?}]\n{line}\n"))
            }
            ("chain", _) => builder.table(&format!(
                "[[chain]]\nid = 1\nendpoints = [{url:?}]\n{line}\n"
            )),
            (table, _) => builder.table(&format!("[{table}]\n{line}\n")),
        }
    }

    /// Runs `check-config`, and a server if the value is accepted.
    async fn run(self) {
        let Self {
            key,
            value,
            is_accepted,
        } = &self;
        let what = format!("{}.{} = {value}", key.table, key.name);
        let folder = TempDir::new().unwrap();
        let toml = self.server().toml();
        std::fs::write(folder.path().join("tidewire.toml"), &toml).unwrap();
        let arguments = ["check-config", "--config", "tidewire.toml"];
        let mut check = command(folder.path(), &arguments);
        let output = within(&what, check.output()).await.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), *is_accepted, "{what}: {error}");
        if *is_accepted {
            let server = self.server().start().await;
            // A limit of one handshake a second may refuse a repeated request.
            eventually(&what, async || {
                let health = server.get("/healthz").await;
                (health.status == 200).then_some(())
            })
            .await;
            assert!(
                !server.log().contains("panicked"),
                "{what}: {}",
                server.log()
            );
        } else {
            let name = key.name.as_str();
            assert!(
                error.contains(name) && error.contains("expected"),
                "{what}: {error}"
            );
            assert!(!error.contains("panicked"), "{what}: {error}");
        }
    }
}

#[tokio::test]
async fn every_number_and_duration_is_refused_by_name_or_served() {
    let keys = keys();
    assert!(keys.len() > 45, "only {} keys were found", keys.len());
    let cases: Vec<_> = keys.iter().flat_map(Key::cases).collect();
    let runs = stream::iter(cases).map(Case::run);
    runs.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}
