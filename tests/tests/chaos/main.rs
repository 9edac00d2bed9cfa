//! One fault after the other, under load: nothing that was acknowledged is lost, doubled, or missed without
//! a notice.
//!
//! Three servers share a Redis with a replica and a sentinel. A seed draws the faults, so that a run can be
//! repeated. These variables of the environment make it longer:
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `TIDEWIRE_CHAOS_ROUNDS` | 10 | faults |
//! | `TIDEWIRE_CHAOS_SEED` | 1 | decides which, where, and for how long |
//! | `TIDEWIRE_CHAOS_INTERVAL` | 0 | seconds from one fault to the next at least |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod cluster;
mod fault;
mod ledger;
mod load;

use std::{env, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::{
    cluster::Cluster,
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

#[tokio::test(flavor = "multi_thread")]
async fn faults_under_load_lose_double_and_hide_nothing() {
    let rounds = usize::try_from(variable("TIDEWIRE_CHAOS_ROUNDS", 10)).expect("a few");
    let mut random = Random(variable("TIDEWIRE_CHAOS_SEED", 1));
    let pause = Duration::from_secs(variable("TIDEWIRE_CHAOS_INTERVAL", 0));
    let faults = Fault::draw(&mut random, rounds);
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster).await;
    load.flows().await;
    for (number, fault) in (1..).zip(&faults) {
        let begun = Instant::now();
        println!("round {number}: {}", fault.title());
        load.begin_round(number);
        fault.strike(&mut cluster, &mut random).await;
        cluster.whole().await;
        load.flows().await;
        sleep_until(begun + pause).await;
    }
    let report = load.end(&faults).await;
    println!("{}", report.table());
    let counts = (report.lost, report.doubled, report.unseen, report.shared);
    assert_eq!(counts, (0, 0, 0, 0), "lost, doubled, unseen, given twice");
    let counts = (report.forgotten, report.repeated);
    assert_eq!(counts, (0, 0), "notifications lost, doubled");
}
