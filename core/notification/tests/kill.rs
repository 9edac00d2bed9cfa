//! Kills: no acknowledged notification is lost, and none is there twice.
//!
//! The test runs itself as a child process, which notifies from several tasks, each request under its own idempotency key, and
//! prints each key that was acknowledged. The test kills it at a random moment, opens the store,
//! repeats every request that the child may have sent, and looks for each notification.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod support;

use std::{
    collections::HashMap,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use support::{Recorder, sender, to};
use tidewire_notification::{NotificationConfig, NotificationHub};
use tidewire_proto::v1::{ListNotificationsRequest, NotifyRequest};
use tidewire_store::{EmbeddedStore, StoreError, StoreOptions};
use tidewire_stream::SystemClock;

/// The test, which is also the child.
const TEST: &str = "a_killed_process_loses_nothing_that_was_acknowledged_and_repeats_nothing";

const KILLS: usize = 100;

/// Folder of the store, set for the child.
const FOLDER: &str = "TIDEWIRE_KILL_FOLDER";

/// First request of the child.
const FIRST: &str = "TIDEWIRE_KILL_FIRST";

/// Tasks of the child, each with one request on its way.
const TASKS: u64 = 16;

const USERS: u64 = 5;

/// The store moves its log to its file all the time, so that kills meet this too.
fn options() -> StoreOptions {
    StoreOptions {
        checkpoint_bytes: 32 << 10,
        ..StoreOptions::default()
    }
}

async fn open(folder: &Path) -> NotificationHub {
    let store = loop {
        match EmbeddedStore::open_with(folder, options()) {
            // The writer of a hub that was dropped may have the file open for a moment more.
            Err(StoreError::InUse(_)) => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    let recorder = Arc::new(Recorder::default());
    let config = NotificationConfig::default();
    let hub = NotificationHub::open(Arc::new(store), recorder, Arc::new(SystemClock), config);
    hub.await.unwrap()
}

fn request(number: u64) -> NotifyRequest {
    NotifyRequest {
        idempotency_key: Some(format!("k{number}")),
        ..to(&format!("u{}", number % USERS), &format!("t{number}"))
    }
}

/// Notifies until the process is killed.
fn notify_for_ever(folder: &Path) {
    let first: u64 = env::var(FIRST).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    runtime.block_on(async {
        let hub = open(folder).await;
        let tasks = (0..TASKS).map(|task| {
            let hub = hub.clone();
            tokio::spawn(async move {
                for number in (first + task..).step_by(TASKS as usize) {
                    hub.notify(&sender(), request(number)).await.unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "\nacknowledged {number}").unwrap();
                    out.flush().unwrap();
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
    });
}

/// Lets a child run for some acknowledgements, and kills it. Returns the numbers that were
/// acknowledged.
fn run_child(folder: &Path, first: u64, acknowledgements: usize) -> Vec<u64> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(FOLDER, folder)
        .env(FIRST, first.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let numbers = lines
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok());
    let acknowledged: Vec<_> = numbers.take(acknowledgements).collect();
    // SIGKILL on Unix.
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(acknowledged.len(), acknowledgements);
    acknowledged
}

/// How often each title is in the lists. Checks the counts.
async fn titles(hub: &NotificationHub) -> HashMap<String, u64> {
    let mut found: HashMap<String, u64> = HashMap::new();
    for user in 0..USERS {
        let user = format!("u{user}");
        let mut listed = 0;
        let mut request = ListNotificationsRequest {
            limit: Some(500),
            ..ListNotificationsRequest::default()
        };
        loop {
            let query = hub.list_query(&request).unwrap();
            let page = hub.list(&user, &query).await.unwrap();
            listed += page.items.len() as u64;
            for item in page.items {
                *found.entry(item.title).or_default() += 1;
            }
            match page.next {
                Some(next) => request.before = Some(next.to_string()),
                None => break,
            }
        }
        assert_eq!(hub.unread_count(&user).await.unwrap(), listed);
    }
    found
}

/// Checks the store after a kill, repeats the requests, and checks it again. Returns the number
/// of the next request.
async fn check(folder: &Path, first: u64, acknowledged: &[u64]) -> u64 {
    let hub = open(folder).await;
    let found = titles(&hub).await;
    for number in (0..first).chain(acknowledged.iter().copied()) {
        let times = found.get(&format!("t{number}"));
        assert_eq!(times, Some(&1), "the acknowledged notification {number}");
    }
    // The child may have stored more than it could acknowledge.
    let stored = found
        .keys()
        .filter_map(|title| title[1..].parse::<u64>().ok());
    let end = stored.max().unwrap_or(first) + 1;
    for number in first..end {
        hub.notify(&sender(), request(number)).await.unwrap();
    }
    let found = titles(&hub).await;
    assert!(found.values().all(|times| *times == 1), "{found:?}");
    assert_eq!(found.len() as u64, end);
    end
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged_and_repeats_nothing() {
    if let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) {
        return notify_for_ever(&folder);
    }
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let mut first = 0;
    for _ in 0..KILLS {
        let acknowledgements = rand::random_range(1..400);
        let acknowledged = run_child(folder.path(), first, acknowledgements);
        first = runtime.block_on(check(folder.path(), first, &acknowledged));
    }
}
