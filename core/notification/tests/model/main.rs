//! Property test: the hub against a naive model, which keeps everything in plain lists and counts
//! by filtering.
//!
//! Every operation is compared: its result, then count and list of a user. The seed is printed;
//! `TIDEWIRE_MODEL_SEED` repeats a run, `TIDEWIRE_MODEL_OPERATIONS` sets its length.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]
#![allow(clippy::print_stdout, reason = "the seed of a failed run")]

mod naive;
mod operations;
#[path = "../support/mod.rs"]
mod support;

use operations::Run;
use tidewire_notification::NotificationConfig;

const USERS: usize = 24;
const MINUTE_MS: i64 = 60_000;

fn config() -> NotificationConfig {
    NotificationConfig {
        types: vec!["order_shipped".to_owned(), "invoice".to_owned()],
        inbox_items: 60,
        max_age_ms: 60 * MINUTE_MS,
        broadcast_max_age_ms: 40 * MINUTE_MS,
        max_broadcasts: 8,
        first_contact_window_ms: 15 * MINUTE_MS,
        // Small, so that states are evicted and read again.
        cache_bytes: 16 * 1_200,
        has_delivery: false,
    }
}

async fn run(seed: u64, operations: u64) {
    println!("TIDEWIRE_MODEL_SEED={seed} TIDEWIRE_MODEL_OPERATIONS={operations}");
    let mut run = Run::new(seed).await;
    for number in 0..operations {
        let touched = run.operation().await;
        if let Some(user) = touched {
            run.compare(user).await;
        }
        if number % 100 == 99 {
            for user in 0..USERS {
                // Some users are seen late.
                if run.model.users[user].first_contact_ms.is_some() || number % 5_000 == 4_999 {
                    run.compare(user).await;
                }
            }
            run.follow_events().await;
        }
    }
    // Nothing stays in the store once all is too old.
    run.world.store.accept_commits();
    run.is_failing = false;
    // Also ids of a clock that was ahead.
    let ahead_ms = (run.model.taken_ms() - run.model.now_ms).max(0);
    for ms in [ahead_ms + 10 * support::DAY_MS, 10 * support::DAY_MS] {
        run.pass(ms).await;
        run.background().await;
    }
    for user in 0..USERS {
        run.compare(user).await;
    }
    for table in [
        "blocks",
        "bodies",
        "garbage",
        "broadcasts",
        "schedules",
        "slots",
        "due",
    ] {
        let name =
            tidewire_store::Table(Box::leak(format!("notification.{table}").into_boxed_str()));
        assert_eq!(run.world.store.len(name), 0, "{table}");
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

#[test]
fn the_hub_behaves_like_a_naive_model() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let seed = setting("TIDEWIRE_MODEL_SEED", rand::random::<u32>().into());
    let operations = setting("TIDEWIRE_MODEL_OPERATIONS", 100_000);
    runtime.block_on(run(seed, operations));
}
