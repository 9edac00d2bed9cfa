//! Dependencies point one way: reads what cargo knows of the workspace, and fails
//! when an arrow turns.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::{
    collections::BTreeMap,
    env,
    process::{Command, Stdio},
};

use serde_json::Value;

/// What each crate may depend on, directly. A crate that is not here has no place in
/// the house yet: give it one.
const MAY_DEPEND_ON: [(&str, &[&str]); 14] = [
    ("tidewire-proto", &[]),
    ("tidewire-store", &["tidewire-proto"]),
    ("tidewire-stream", &["tidewire-proto"]),
    ("tidewire-price", FOUNDATION),
    ("tidewire-chain", FOUNDATION),
    ("tidewire-notification", FOUNDATION),
    ("tidewire-alert", FOUNDATION),
    (
        "tidewire-service",
        &[
            "tidewire-proto",
            "tidewire-store",
            "tidewire-stream",
            "tidewire-price",
            "tidewire-chain",
            "tidewire-notification",
            "tidewire-alert",
        ],
    ),
    // An adapter knows RPC messages and sessions, never an engine.
    (
        "tidewire-adapters",
        &["tidewire-proto", "tidewire-stream", "tidewire-service"],
    ),
    ("tidewire-client", &["tidewire-proto"]),
    ("tidewire-benches", EVERYTHING),
    ("tidewire-load", EVERYTHING),
    ("tidewire-tests", EVERYTHING),
    ("tidewire", EVERYTHING),
];

/// What engines stand on. They do not know each other.
const FOUNDATION: &[&str] = &["tidewire-proto", "tidewire-store", "tidewire-stream"];

/// The composition root, and what only tests and measures. Nothing depends on these.
const EVERYTHING: &[&str] = &[
    "tidewire-proto",
    "tidewire-store",
    "tidewire-stream",
    "tidewire-price",
    "tidewire-chain",
    "tidewire-notification",
    "tidewire-alert",
    "tidewire-service",
    "tidewire-adapters",
    "tidewire-client",
];

/// The crates of the workspace and what each depends on within it, tests aside.
fn workspace() -> BTreeMap<String, Vec<String>> {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--locked",
            "--format-version",
            "1",
        ])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stdin(Stdio::null())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let own = dependencies
                .filter(|dependency| dependency["path"].is_string() && dependency["kind"] != "dev")
                .map(name);
            (name(package), own.collect())
        });
    packages.collect()
}

#[test]
fn dependencies_point_one_way() {
    let rules: BTreeMap<_, _> = MAY_DEPEND_ON.into_iter().collect();
    let workspace = workspace();
    assert!(workspace.contains_key("tidewire"), "{workspace:?}");
    for (package, dependencies) in &workspace {
        let allowed = rules.get(package.as_str());
        let allowed = allowed.unwrap_or_else(|| panic!("{package} has no place in the house"));
        for dependency in dependencies {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{package} depends on {dependency}, expected only {allowed:?}"
            );
        }
    }
}

#[test]
fn names_tell_what_is_inside() {
    // `core` would hide the standard library's.
    for package in workspace().keys() {
        assert!(
            !package.ends_with("-core") && package != "core",
            "{package}"
        );
    }
}

#[test]
fn the_rules_turn_no_arrow_themselves() {
    let rules: BTreeMap<_, _> = MAY_DEPEND_ON.into_iter().collect();
    for (package, allowed) in &rules {
        for dependency in *allowed {
            assert!(
                !rules[dependency].contains(package),
                "{package} and {dependency}"
            );
        }
    }
}
