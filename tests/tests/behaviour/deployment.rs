//! Deployment kit: the files of `deploy/` parse, and agree with the server and its documentation.
//!
//! `deploy/check` asks further programs, such as promtool and hadolint, where they are installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tempfile::TempDir;
use tidewire_tests::{Program, SECRET, command, within};

use crate::docs::{configuration_keys, metric_names};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The text of a file of the repository.
fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The paths of the files in a folder of the repository whose names have this extension.
fn files(folder: &str, extension: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut paths: Vec<_> = names
        .filter(|name| {
            Path::new(name)
                .extension()
                .is_some_and(|of| of == extension)
        })
        .map(|name| format!("{folder}/{name}"))
        .collect();
    paths.sort();
    paths
}

/// The YAML documents of a file of the repository.
async fn documents(path: &str) -> Vec<Value> {
    let file = root().join(path);
    let mut read = Program::tool("yaml-to-json.mjs", &[file.to_str().unwrap()])
        .json()
        .await;
    match read["documents"].take() {
        Value::Array(documents) => documents,
        other => panic!("{path}: {other}"),
    }
}

/// The only YAML document of a file of the repository.
async fn document(path: &str) -> Value {
    let documents = documents(path).await;
    assert_eq!(documents.len(), 1, "{path}");
    documents.into_iter().next().unwrap()
}

/// Seconds of a duration such as `15s`, or of a number of seconds.
fn seconds(text: &str) -> u64 {
    let number = text.trim_matches(['"', ' ']).trim_end_matches('s');
    number
        .parse()
        .unwrap_or_else(|_| panic!("{text:?} is not in seconds"))
}

/// The value of the first line `KEY = VALUE` or `KEY=VALUE`, without a comment.
fn setting(path: &str, key: &str) -> String {
    let text = text(path);
    let values = text.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| {
            value
                .split('#')
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned()
        })
    });
    let value = values.into_iter().next();
    value.unwrap_or_else(|| panic!("{path} has no {key}"))
}

#[tokio::test]
async fn every_yaml_and_json_file_parses() {
    let mut paths = files("deploy", "yaml");
    paths.extend(files("deploy/kubernetes", "yaml"));
    paths.extend(files("deploy/cluster", "yaml"));
    paths.extend(files("deploy/cluster/kubernetes", "yaml"));
    paths.extend(files("examples/proxies", "yaml"));
    paths.extend(files("examples/proxies/cluster", "yaml"));
    assert!(paths.len() > 8, "{paths:?}");
    for path in paths {
        for document in documents(&path).await {
            assert!(document.is_object(), "{path}: {document}");
        }
    }
    for path in files("deploy", "json") {
        let parsed: Result<Value, _> = serde_json::from_str(&text(&path));
        assert!(parsed.is_ok(), "{path}: {parsed:?}");
    }
}

#[tokio::test]
async fn the_server_accepts_every_configuration() {
    let mut paths = files("deploy", "toml");
    paths.extend(files("deploy/kubernetes", "toml"));
    paths.extend(files("deploy/cluster", "toml"));
    paths.extend(files("deploy/cluster/kubernetes", "toml"));
    assert!(paths.len() > 3, "{paths:?}");
    for path in paths {
        let folder = TempDir::new().unwrap();
        let file = root().join(&path);
        let mut check = command(
            folder.path(),
            &["check-config", "--config", file.to_str().unwrap()],
        );
        // The kit's files leave it to the environment.
        check.env("TIDEWIRE_AUTH__HMAC_SECRET", SECRET);
        let output = within("check-config", check.output()).await.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{path}: {errors}");
        assert_eq!(errors, "", "{path}");
    }
}

#[test]
fn variables_of_the_kit_set_keys() {
    let keys = configuration_keys();
    let mut paths = files("deploy", "yaml");
    paths.extend(files("deploy", "toml"));
    paths.extend(files("deploy/kubernetes", "yaml"));
    paths.extend(files("deploy/cluster", "yaml"));
    paths.extend(files("deploy/cluster", "toml"));
    paths.extend(files("deploy/cluster/kubernetes", "yaml"));
    paths.extend(files("deploy/cluster/kubernetes", "toml"));
    paths.extend(["deploy/README.md", "deploy/tidewire.service"].map(str::to_owned));
    let mut count = 0;
    for path in paths {
        for rest in text(&path).split("TIDEWIRE_").skip(1) {
            let is_name = |c: char| c.is_ascii_uppercase() || c == '_';
            let name = rest.split(|c| !is_name(c)).next().unwrap_or_default();
            if name == "LOG" {
                continue;
            }
            let key = name.to_ascii_lowercase().replace("__", ".");
            assert!(keys.contains(&key), "{path}: TIDEWIRE_{name} sets no key");
            count += 1;
        }
    }
    assert!(count > 3, "only {count} were found");
}

#[test]
fn the_dashboard_and_the_alerts_use_documented_metrics() {
    let documented = metric_names(&text("docs/metrics.md"));
    for path in [
        "deploy/grafana-dashboard.json",
        "deploy/prometheus-alerts.yaml",
        "deploy/prometheus-alerts.test.yaml",
    ] {
        let names = metric_names(&text(path));
        assert!(names.len() > 4, "{path}: {names:?}");
        for name in names {
            // The series of a histogram.
            let family = name.strip_suffix("_bucket").unwrap_or(&name);
            assert!(documented.contains(family), "{path}: {name}");
        }
    }
}

#[tokio::test]
async fn every_alert_has_a_runbook() {
    let page = text("docs/troubleshooting.md");
    let sections: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .collect();
    let rules = document("deploy/prometheus-alerts.yaml").await;
    let groups = rules["groups"].as_array().unwrap().iter();
    let rules: Vec<_> = groups
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    let mut names = Vec::new();
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["page", "ticket"].contains(&severity), "{name}: {severity}");
        assert!(rule["annotations"]["summary"].is_string(), "{name}");
        let runbook = rule["annotations"]["runbook"].as_str().unwrap();
        let link = format!("docs/troubleshooting.md#{}", name.to_ascii_lowercase());
        assert!(runbook.ends_with(&link), "{name}: {runbook}");
        assert!(
            sections.contains(&name),
            "docs/troubleshooting.md lacks {name}"
        );
        names.push(name);
    }
    let of_alerts: Vec<_> = sections
        .into_iter()
        .filter(|section| section.starts_with("Tidewire"))
        .collect();
    assert_eq!(of_alerts, names, "in the same order, each once");
}

#[tokio::test]
async fn every_drain_ends_before_the_process_is_killed() {
    let compose = document("deploy/compose.yaml").await;
    let cluster = document("deploy/cluster/compose.yaml").await;
    let stateful_set = document("deploy/kubernetes/statefulset.yaml").await;
    let grace = &stateful_set["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
    let compose = &compose["services"]["tidewire"]["stop_grace_period"];
    let cluster = &cluster["x-server"]["stop_grace_period"];
    let unit = setting("deploy/tidewire.service", "TimeoutStopSec");
    for (configuration, grace) in [
        ("deploy/compose.toml", seconds(compose.as_str().unwrap())),
        (
            "deploy/cluster/compose.toml",
            seconds(cluster.as_str().unwrap()),
        ),
        ("deploy/kubernetes/tidewire.toml", grace.as_u64().unwrap()),
        (
            "deploy/cluster/kubernetes/tidewire.toml",
            grace.as_u64().unwrap(),
        ),
        ("deploy/tidewire.toml", seconds(&unit)),
    ] {
        let drain = seconds(&setting(configuration, "drain"));
        assert!(
            drain + 5 <= grace,
            "{configuration}: {drain} s of {grace} s"
        );
    }
}

#[tokio::test]
async fn the_stateful_set_fits_its_configuration() {
    let set = document("deploy/kubernetes/statefulset.yaml").await;
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let configuration = "deploy/kubernetes/tidewire.toml";
    let port = container["ports"][0]["containerPort"].as_u64().unwrap();
    assert_eq!(
        setting(configuration, "listen"),
        format!("\"0.0.0.0:{port}\"")
    );
    let cpus = container["resources"]["requests"]["cpu"].as_str().unwrap();
    assert_eq!(setting(configuration, "threads"), cpus);
    for (probe, path) in [
        ("startupProbe", "/healthz"),
        ("livenessProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
    ] {
        assert_eq!(container[probe]["httpGet"]["path"], path, "{probe}");
    }
    let folder = setting(configuration, "path");
    let mounts = container["volumeMounts"].as_array().unwrap();
    let writable = mounts
        .iter()
        .find(|mount| mount["readOnly"] != true)
        .unwrap();
    assert_eq!(format!("{}", writable["mountPath"]), folder);
    let services = documents("deploy/kubernetes/services.yaml").await;
    let names: Vec<_> = services
        .iter()
        .map(|service| &service["metadata"]["name"])
        .collect();
    assert!(names.contains(&&set["spec"]["serviceName"]), "{names:?}");
    for service in &services {
        assert_eq!(
            service["spec"]["selector"],
            set["spec"]["selector"]["matchLabels"]
        );
    }
}

#[test]
fn the_service_of_systemd_may_open_files_for_its_connections() {
    let limit: u64 = setting("deploy/tidewire.service", "LimitNOFILE")
        .parse()
        .unwrap();
    assert!(limit > 100_000, "{limit}");
}

#[test]
fn the_image_is_built_with_the_toolchain_of_the_workspace() {
    let version = setting("Cargo.toml", "rust-version");
    let image = format!("FROM rust:{}-", version.trim_matches('"'));
    assert!(text("deploy/Dockerfile").contains(&image), "{image}");
}

#[test]
fn redis_has_the_rights_and_settings_of_the_page() {
    let page = text("docs/cluster.md");
    let mut lines = page.lines();
    let rights = lines
        .find_map(|line| line.trim().strip_prefix("user tidewire on >PASSWORD "))
        .expect("the page has the line of the user");
    for path in [
        "deploy/cluster/redis.sh",
        "deploy/cluster/kubernetes/redis.yaml",
    ] {
        assert!(text(path).contains(rights), "{path} lacks {rights}");
    }
    let configuration = text("deploy/cluster/redis.conf");
    for setting in [
        "maxmemory-policy noeviction",
        "min-replicas-to-write 1",
        "min-replicas-max-lag 10",
        "repl-diskless-sync-delay 0",
    ] {
        let is_set = configuration.lines().any(|line| line == setting);
        assert!(is_set, "deploy/cluster/redis.conf: {setting}");
        assert!(page.contains(setting), "docs/cluster.md: {setting}");
    }
}
