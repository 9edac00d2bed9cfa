//! Fuzz targets: parsers of input from outside never panic, and accepted values hold
//! the invariants of their types.
//!
//! Inputs are valid examples with random edits, and random bytes. Each target runs
//! `TIDEWIRE_FUZZ_ITERATIONS` times, 2,000 if unset. [`edits::fuzz`] fails a target that
//! accepts or refuses fewer than one edited example in twenty, because it tests nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod alerts;
mod chain;
mod edits;
mod frames;
mod messages;
mod venues;

/// Runs of a target: `TIDEWIRE_FUZZ_ITERATIONS`, or 2,000.
fn iterations() -> usize {
    let set = std::env::var("TIDEWIRE_FUZZ_ITERATIONS").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(2_000)
}
