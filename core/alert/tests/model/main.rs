//! Model test: random histories, judged by the evaluator and by a naive one.
//!
//! The naive one is written after `docs/alerts.md` and looks at every rule at every input. Both
//! have to give the same events, in the same order for each rule, and the same phases.
//! `TIDEWIRE_MODEL_SEED` repeats a run, `TIDEWIRE_MODEL_HISTORIES` sets its length.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]
#![allow(clippy::print_stdout, reason = "the seed of a failed run")]

mod conditions;
mod histories;
mod naive;
mod numbers;
mod truths;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

#[test]
fn the_evaluator_behaves_like_a_naive_one() {
    let seed = setting("TIDEWIRE_MODEL_SEED", rand::random::<u32>().into());
    let count = setting("TIDEWIRE_MODEL_HISTORIES", 200);
    let mut fires = 0;
    for number in 0..count {
        println!(
            "TIDEWIRE_MODEL_SEED={} TIDEWIRE_MODEL_HISTORIES=1",
            seed + number
        );
        fires += histories::run(seed + number);
    }
    println!("{fires} events in {count} histories");
    assert!(fires > count, "the histories test something");
}
