//! Smoke tests of the load tool: short, small runs. They assert counts, order and transports,
//! but no times.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::{env, path::PathBuf, process::Command};

use serde_json::Value;

/// Returns the binary under test: `TIDEWIRE_BIN`, or the one built beside the tool.
fn server() -> PathBuf {
    let tool = PathBuf::from(env!("CARGO_BIN_EXE_tidewire-load"));
    let path =
        env::var_os("TIDEWIRE_BIN").map_or_else(|| tool.with_file_name("tidewire"), PathBuf::from);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build` first, or set TIDEWIRE_BIN",
        path.display()
    );
    path
}

/// Runs the tool, and returns its output rows.
fn load(arguments: &[&str]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("rows.jsonl");
    let output = Command::new(env!("CARGO_BIN_EXE_tidewire-load"))
        .args(arguments)
        .args(["--no-pin", "--reps", "1", "--grace", "60", "--out"])
        .arg(&out)
        .arg("--server")
        .arg(server())
        .env_remove("BUN_BIN")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let rows = std::fs::read_to_string(&out).unwrap();
    rows.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Asserts that every subscriber received every message once and in order.
fn assert_complete(row: &Value) {
    let count = |name: &str| row[name].as_u64().unwrap();
    assert!(count("expected") > 0, "{row}");
    assert_eq!(count("delivered"), count("expected"), "{row}");
    assert_eq!((count("disorder"), count("ended")), (0, 0), "{row}");
}

const SHORT: [&str; 4] = ["--connections", "20", "--seconds", "0.5"];

#[test]
fn every_transport_and_the_bare_loops_deliver_everything() {
    let rows = load(
        &[
            &["fanout", "--transport", "ws-json,ws-proto,sse,grpc"],
            &SHORT[..],
        ]
        .concat(),
    );
    rows.iter().for_each(assert_complete);
    let subjects: Vec<_> = rows
        .iter()
        .map(|row| row["subject"].as_str().unwrap())
        .collect();
    let tidewire = [
        "tidewire ws-json",
        "tidewire ws-proto",
        "tidewire sse",
        "tidewire grpc",
    ];
    assert_eq!(
        subjects,
        [&tidewire[..], &["bare loop", "bare gather"]].concat()
    );
}

#[test]
fn a_price_board_delivers_to_its_subscribers() {
    let board = [
        "--channels",
        "8",
        "--per-conn",
        "2",
        "--rate",
        "40",
        "--random",
    ];
    let rows = load(&[&["fanout"], &SHORT[..], &board].concat());
    rows.iter().for_each(assert_complete);
    assert_eq!(rows.len(), 3);
}

#[test]
fn prices_of_the_venue_arrive() {
    let board = [
        "--prices",
        "--channels",
        "8",
        "--per-conn",
        "2",
        "--rate",
        "8",
        "--alone",
    ];
    let transport = ["--transport", "ws-json,ws-proto,sse,grpc"];
    let rows = load(&[&["fanout"], &SHORT[..], &board, &transport].concat());
    rows.iter().for_each(assert_complete);
    assert_eq!(rows.len(), 4);
}

#[test]
fn idle_connections_are_counted() {
    let rows = load(&["idle", "--connections", "20"]);
    assert_eq!(rows.len(), 3);
    assert!(
        rows.iter()
            .all(|row| row["connections"] == 20 && row["ended"] == 0),
        "{rows:?}"
    );
}

#[test]
fn every_transport_delivers_everything_over_tls() {
    let tls = [
        "fanout",
        "--tls",
        "--transport",
        "ws-json,ws-proto,sse,grpc",
    ];
    let rows = load(&[&tls[..], &SHORT[..]].concat());
    rows.iter().for_each(assert_complete);
    assert_eq!(rows.len(), 4);
}

#[test]
fn slow_subscribers_take_nothing_from_the_others() {
    let slow = ["--every", "10", "--rate", "20", "--size", "500"];
    let rows = load(&[&["slow"], &SHORT[..], &slow].concat());
    rows.iter().for_each(assert_complete);
    assert_eq!(rows.len(), 2);
}

#[test]
fn a_drain_notifies_everyone() {
    let rows = load(&["drain", "--connections", "20", "--window", "1"]);
    let note = rows[0]["note"].as_str().unwrap();
    assert!(
        note.contains("notified 20/20") && note.contains("gaps 0"),
        "{note}"
    );
}
