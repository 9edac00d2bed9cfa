//! One fault after the other, under load: nothing that was acknowledged is lost, doubled, or missed without
//! a notice.
//!
//! Three servers share their Redis, its store, and the prices of a venue. The Redis is one with a replica
//! and a sentinel, and in another run a Redis Cluster of three masters with a replica each. A seed draws
//! the faults, so that a run can be repeated. These variables of the environment change it:
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `TIDEWIRE_CHAOS_REDIS` | both | `sentinel` or `cluster`: only the run with this Redis |
//! | `TIDEWIRE_CHAOS_ROUNDS` | 10, and 6 with a Redis Cluster | faults |
//! | `TIDEWIRE_CHAOS_SEED` | 1 | decides which, where, and for how long |
//! | `TIDEWIRE_CHAOS_INTERVAL` | 0 | seconds from one fault to the next at least |
//! | `TIDEWIRE_CHAOS_HOSTS` | 0 | 1: each process on a host of its own, a network namespace, with a sentinel alone. Needs root |
//! | `TIDEWIRE_CHAOS_OTHER_BIN` | | binary of another release: nodes begin with either, and change at each restart |
//! | `TIDEWIRE_CHAOS_FAULTS` | all | names of the kinds, such as `NodeKilled,MasterHangs` |
//! | `TIDEWIRE_CHAOS_DOWN_AFTER` | 1200 | `down-after-milliseconds` of the sentinel: more than the second between two of its connections |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod cluster;
mod fault;
mod ledger;
mod load;
mod market;
mod pair;
mod shards;

use std::{env, time::Duration};

use tidewire_tests::host::has_netem;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};

use crate::{
    cluster::{Cluster, Layout, Redis},
    fault::{Fault, Random},
    load::Load,
};

fn variable(name: &str, default: u64) -> u64 {
    let Some(text) = env::var_os(name) else {
        return default;
    };
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("{name} is {}, expected a number", text.display()))
}

/// The runs take turns: each is a load for the whole machine.
static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn faults_under_load_lose_double_and_hide_nothing() {
    let layout = match variable("TIDEWIRE_CHAOS_HOSTS", 0) {
        0 => Layout::OneMachine,
        _ => Layout::Hosts,
    };
    if is_chosen("sentinel") {
        run(layout, 10).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_a_redis_cluster_under_load_lose_double_and_hide_nothing() {
    if is_chosen("cluster") && variable("TIDEWIRE_CHAOS_HOSTS", 0) == 0 {
        run(Layout::RedisCluster, 6).await;
    }
}

/// Whether this Redis is among those of the run: all, unless one is named.
fn is_chosen(redis: &str) -> bool {
    env::var("TIDEWIRE_CHAOS_REDIS").map_or(true, |name| name == redis)
}

#[expect(clippy::print_stdout, reason = "the table is what a run is for")]
async fn run(layout: Layout, rounds: u64) {
    let _turn = TURN.lock().await;
    let rounds = usize::try_from(variable("TIDEWIRE_CHAOS_ROUNDS", rounds)).expect("a few");
    let mut random = Random(variable("TIDEWIRE_CHAOS_SEED", 1));
    let pause = Duration::from_secs(variable("TIDEWIRE_CHAOS_INTERVAL", 0));
    let down_after = Duration::from_millis(variable("TIDEWIRE_CHAOS_DOWN_AFTER", 1_200));
    let names = env::var("TIDEWIRE_CHAOS_FAULTS").ok();
    if layout == Layout::Hosts && !has_netem() {
        println!("this kernel has no netem: packets are not delayed");
    }
    let (mut cluster, venue) = Cluster::start(down_after, layout).await;
    let faults = Fault::draw(&mut random, rounds, layout, names.as_deref());
    let load = Load::start(&cluster, venue).await;
    load.flows().await;
    if let Redis::Shards(shards) = &cluster.redis {
        assert!(shards.is_loaded().await, "each master has a channel");
    }
    for (number, fault) in (1..).zip(&faults) {
        let begun = Instant::now();
        println!("round {number}: {} ({fault:?})", fault.title());
        load.begin_round(number);
        fault.strike(&mut cluster, &mut random).await;
        cluster.whole().await;
        load.flows().await;
        println!("round {number}: {:.1} s", begun.elapsed().as_secs_f64());
        sleep_until(begun + pause).await;
    }
    let report = load.end(&faults).await;
    println!("{}", report.table());
    println!("{} failovers that no fault asked for", cluster.unasked);
    let counts = (report.lost, report.doubled, report.unseen, report.shared);
    assert_eq!(counts, (0, 0, 0, 0), "lost, doubled, unseen, given twice");
    let counts = (report.forgotten, report.repeated);
    assert_eq!(counts, (0, 0), "notifications lost, doubled");
    let tape = &report.tape;
    let counts = (tape.doubled, tape.backwards);
    assert_eq!(counts, (0, 0), "prices doubled, and going back");
    let fires = &report.fires;
    let counts = (fires.missed, fires.doubled, fires.silent);
    assert_eq!(
        counts,
        (0, 0, 0),
        "alerts missed, doubled, without a notification"
    );
}
