//! Bounds: the accepted range of each configured number and duration.
//!
//! Every number and every duration has an upper bound, so that no sum or product of them
//! overflows. The keys of `[prices]` and `[[chain]]` are checked by their crates, which also
//! work without this file. A test sets each key of the example to the bounds that `docs/limits.md`
//! names, and beyond them.

use std::time::Duration;

use humantime::format_duration;

use tidewire_stream::hub::Hub;

use super::{
    AlertsConfig, Config, LimitsConfig, NamespaceConfig, NotificationsConfig, ServerConfig,
    StreamConfig,
};

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Connections, channels, messages and the like: more than one machine has.
const MOST_ITEMS: u64 = 1_000_000_000;

/// Publications of one history at most.
const MOST_PUBLICATIONS: u64 = 10_000_000;

/// History bytes for each byte of the largest publication: it and its encodings fit.
const HISTORY_OF_FRAME: u64 = 4;

/// The faults, in the order of the keys.
type Problems = Vec<String>;

/// Checks every number and duration outside of `[prices]` and `[[chain]]`. Each problem names the
/// key, its value and the accepted range.
pub(super) fn check(config: &Config, problems: &mut Problems) {
    let Config {
        server,
        auth,
        broker,
        store,
        stream,
        limits,
        namespace,
        notifications,
        alerts,
        ..
    } = config;
    check_durations(server, auth.leeway, stream, limits, problems);
    // Shorter, a busy Redis seems to hang; longer, requests of clients end first.
    let timeout = (100, MINUTE);
    check_duration("broker.timeout", broker.timeout, timeout, problems);
    let buffer = broker.buffer_bytes as u64;
    check_number("broker.buffer_bytes", buffer, (4_096, 16 * GIB), problems);
    let items = store.inbox_items.into();
    check_number("store.inbox_items", items, (1, 1_000_000), problems);
    check_number("store.replicas", store.replicas.into(), (0, 5), problems);
    check_numbers(server, stream, limits, problems);
    check_notifications(notifications, problems);
    check_alerts(alerts, problems);
    namespace
        .iter()
        .for_each(|one| check_namespace(one, problems));
}

fn check_durations(
    server: &ServerConfig,
    leeway: Duration,
    stream: &StreamConfig,
    limits: &LimitsConfig,
    problems: &mut Problems,
) {
    // In milliseconds. A keep-alive that is shorter costs every client wake-ups, and a longer
    // one finds no dead link.
    let durations = [
        ("server.drain", server.drain, 0, HOUR),
        ("server.keepalive", server.keepalive, SECOND, 10 * MINUTE),
        ("auth.leeway", leeway, 0, HOUR),
        ("stream.batch_interval", stream.batch_interval, 0, MINUTE),
        (
            "stream.busy_batch_interval",
            stream.busy_batch_interval,
            0,
            MINUTE,
        ),
        ("stream.gather", stream.gather, 0, SECOND),
        (
            "stream.idempotency_window",
            stream.idempotency_window,
            0,
            7 * DAY,
        ),
        (
            "limits.handshake_timeout",
            limits.handshake_timeout,
            100,
            HOUR,
        ),
        ("limits.idle_timeout", limits.idle_timeout, 100, DAY),
        ("limits.body_timeout", limits.body_timeout, 100, HOUR),
        (
            "limits.response_timeout",
            limits.response_timeout,
            100,
            HOUR,
        ),
    ];
    for (key, found, min_ms, max_ms) in durations {
        check_duration(key, found, (min_ms, max_ms), problems);
    }
}

fn check_numbers(
    server: &ServerConfig,
    stream: &StreamConfig,
    limits: &LimitsConfig,
    problems: &mut Problems,
) {
    // The rates and the counts of connections are bounded by their type, `u32`.
    let numbers = [
        ("server.threads", server.threads, 0, Hub::MAX_SHARDS as u64),
        (
            "stream.idempotency_bytes",
            stream.idempotency_bytes,
            4_096,
            TIB,
        ),
        (
            "limits.channels_per_connection",
            limits.channels_per_connection,
            0,
            MOST_ITEMS,
        ),
        (
            "limits.channels_per_client",
            limits.channels_per_client,
            0,
            MOST_ITEMS,
        ),
        (
            "limits.concurrent_handshakes",
            limits.concurrent_handshakes,
            0,
            1_000_000,
        ),
        ("limits.frame_bytes", limits.frame_bytes, 1_024, 256 * MIB),
        ("limits.outbox_bytes", limits.outbox_bytes, 4_096, 16 * GIB),
        (
            "limits.response_bytes",
            limits.response_bytes,
            4_096,
            16 * GIB,
        ),
        ("limits.history_bytes", limits.history_bytes, 4_096, TIB),
    ];
    for (key, found, min, max) in numbers {
        check_number(key, found as u64, (min, max), problems);
    }
    let (found, least) = (
        limits.history_bytes,
        HISTORY_OF_FRAME.saturating_mul(limits.frame_bytes as u64),
    );
    // A number that is out of bounds is the fault by itself.
    let key = "limits.history_bytes is ";
    let is_faulty = |problem: &String| {
        problem.starts_with(key) || problem.starts_with("limits.frame_bytes is ")
    };
    if (found as u64) < least && !problems.iter().any(is_faulty) {
        problems.push(format!(
            "{key}{found}, expected {least} at least, four times limits.frame_bytes: a history holds a publication and its encodings"
        ));
    }
}

fn check_notifications(notifications: &NotificationsConfig, problems: &mut Problems) {
    for (key, found) in [
        ("notifications.max_age", notifications.max_age),
        (
            "notifications.broadcast_max_age",
            notifications.broadcast_max_age,
        ),
    ] {
        // Four years.
        check_duration(key, found, (SECOND, 1_461 * DAY), problems);
    }
    for (key, found, min, max) in [
        (
            "notifications.max_broadcasts",
            notifications.max_broadcasts,
            1,
            100_000,
        ),
        (
            "notifications.cache_bytes",
            notifications.cache_bytes,
            4_096,
            16 * GIB,
        ),
    ] {
        check_number(key, found as u64, (min, max), problems);
    }
}

fn check_alerts(alerts: &AlertsConfig, problems: &mut Problems) {
    for (key, found, min, max) in [
        (
            "alerts.rules_per_user",
            alerts.rules_per_user,
            1,
            10_000_000,
        ),
        (
            "alerts.fires_per_minute",
            alerts.fires_per_minute,
            1,
            1_000_000,
        ),
        ("alerts.log_items", alerts.log_items, 1, 1_000_000),
    ] {
        check_number(key, u64::from(found), (min, max), problems);
    }
    check_duration("alerts.catch_up", alerts.catch_up, (0, 7 * DAY), problems);
    // Four years.
    let most = (SECOND, 1_461 * DAY);
    check_duration("alerts.log_max_age", alerts.log_max_age, most, problems);
}

fn check_namespace(namespace: &NamespaceConfig, problems: &mut Problems) {
    let key = |key: &str| format!("namespace.{key} of {:?}", namespace.name);
    if let Some(size) = namespace.history_size {
        let bounds = (0, MOST_PUBLICATIONS);
        check_number(&key("history_size"), size as u64, bounds, problems);
    }
    if let Some(ttl) = namespace.history_ttl {
        check_duration(&key("history_ttl"), ttl, (0, 365 * DAY), problems);
    }
    if let Some(channels) = namespace.max_channels {
        let bounds = (1, MOST_ITEMS);
        check_number(&key("max_channels"), channels as u64, bounds, problems);
    }
}

fn check_duration(
    key: &str,
    found: Duration,
    (min_ms, max_ms): (u64, u64),
    problems: &mut Problems,
) {
    let (min, max) = (Duration::from_millis(min_ms), Duration::from_millis(max_ms));
    if !(min..=max).contains(&found) {
        problems.push(format!(
            "{key} is {}, expected {} to {}",
            format_duration(found),
            format_duration(min),
            format_duration(max)
        ));
    }
}

fn check_number(key: &str, found: u64, (min, max): (u64, u64), problems: &mut Problems) {
    if !(min..=max).contains(&found) {
        problems.push(format!("{key} is {found}, expected {min} to {max}"));
    }
}
