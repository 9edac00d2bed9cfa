//! Alerts bench: what a price costs beside ten million rules, what a rule costs in memory, and how
//! a price that fires half a million rules delays others.
//!
//! ```text
//! cargo bench --workspace --bench alerts               # all
//! cargo bench --workspace --bench alerts -- gap        # only benches with this in their name
//! ```

mod support;

use std::{
    error::Error,
    hint::black_box,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tidewire_alert::{
    Condition, Decimal, Evaluator, EvaluatorConfig, Input, Leaf, Now, Output, Repeat, Rule,
    RuleState, SignalKind, Subject, SubjectId, Test, Tick,
};

use support::{Bench, resident};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Prices have this many digits after the point.
const SCALE: u32 = 2;

/// The price around which everything happens, in hundredths.
const MIDDLE: i64 = 10_000_000;

fn main() -> Outcome<()> {
    let bench = Bench::from_arguments();
    many_rules(&bench)?;
    linear_scan(&bench)?;
    gap(&bench)
}

fn print(name: &str, text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{name:<56} {text}")
}

fn now(ms: u64) -> Now {
    Now {
        wall_ms: 1_700_000_000_000 + i64::try_from(ms).unwrap_or(0),
        monotonic_ms: 1 + ms,
    }
}

fn symbol(number: usize) -> Subject {
    Subject::Symbol(format!("S{number}-USD").into())
}

fn price(hundredths: i64) -> Input {
    Input::Price {
        tick: Tick::new(Decimal::new(hundredths, SCALE), 0),
        volume: None,
    }
}

/// A rule that a price within 4 % of the middle does not fire.
fn far_rule(subject: Subject, random: &mut StdRng) -> Rule {
    let (above, below) = (
        random.random_range(MIDDLE * 105 / 100..MIDDLE * 2),
        random.random_range(MIDDLE / 10..MIDDLE * 95 / 100),
    );
    let test = match random.random_range(0..4) {
        0 => Test::Above(Decimal::new(above, SCALE)),
        1 => Test::Below(Decimal::new(below, SCALE)),
        2 => Test::CrossesUp {
            threshold: Decimal::new(above, SCALE),
            hysteresis: Decimal::ZERO,
        },
        _ => Test::CrossesDown {
            threshold: Decimal::new(below, SCALE),
            hysteresis: Decimal::ZERO,
        },
    };
    rule(subject, test, Repeat::Times(1), 0)
}

fn rule(subject: Subject, test: Test, repeat: Repeat, cooldown_ms: u32) -> Rule {
    Rule {
        condition: Condition::Leaf(Leaf {
            subject,
            signal: SignalKind::Value,
            test,
        }),
        repeat,
        cooldown_ms,
        expires_at_ms: None,
        snoozed_until_ms: None,
        is_enabled: true,
        version: 1,
    }
}

/// An evaluator whose symbols have a first price.
fn evaluator(symbols: usize) -> Outcome<(Evaluator, Vec<SubjectId>)> {
    let mut evaluator = Evaluator::new(EvaluatorConfig::default());
    let ids: Vec<_> = (0..symbols)
        .map(|number| evaluator.intern(&symbol(number)))
        .collect();
    for id in &ids {
        evaluator.apply(*id, price(MIDDLE), now(0))?;
    }
    Ok((evaluator, ids))
}

fn drain(evaluator: &mut Evaluator, outputs: &mut Vec<Output>) -> usize {
    let mut count = 0;
    loop {
        let has_more = evaluator.poll(1_024, outputs);
        count += outputs.len();
        outputs.clear();
        if !has_more {
            return count;
        }
    }
}

fn percentile(times: &mut [Duration], per_mille: usize) -> Duration {
    times.sort_unstable();
    times
        .get(times.len() * per_mille / 1_000)
        .copied()
        .unwrap_or_default()
}

/// Ten million rules over a thousand symbols: loading, memory, and prices that pass no threshold.
fn many_rules(bench: &Bench) -> Outcome<()> {
    let (rules, symbols) = if bench.is_fixed {
        (100_000, 100)
    } else {
        (10_000_000_u32, 1_000)
    };
    let name = format!("{rules} rules over {symbols} symbols");
    if !bench.wants(&name) {
        return Ok(());
    }
    let mut random = StdRng::seed_from_u64(7);
    let (mut evaluator, ids) = evaluator(symbols)?;
    let before = resident().unwrap_or_default();
    let mut outputs = Vec::new();
    let start = Instant::now();
    for slot in 0..rules {
        let rule = far_rule(symbol(random.random_range(0..symbols)), &mut random);
        evaluator.load(None, slot, &rule, RuleState::new(), now(0));
        if slot % 1_024 == 0 {
            drain(&mut evaluator, &mut outputs);
        }
    }
    evaluator.finish_load();
    drain(&mut evaluator, &mut outputs);
    let took = start.elapsed();
    let bytes = resident().unwrap_or_default().saturating_sub(before) as f64 / f64::from(rules);
    print(
        &format!("{name}: load and arm"),
        &format!("{took:>9.1?}, {bytes:.1} bytes a rule"),
    )?;

    let ticks = if bench.is_fixed { 10_000 } else { 2_000_000 };
    let draw = |random: &mut StdRng| {
        let hundredths = random.random_range(MIDDLE * 96 / 100..MIDDLE * 104 / 100);
        (ids[random.random_range(0..ids.len())], price(hundredths))
    };
    let inputs: Vec<_> = (0..ticks).map(|_| draw(&mut random)).collect();
    let touched = evaluator.counters().touched;
    let start = Instant::now();
    for (id, input) in inputs {
        evaluator.apply(id, input, now(1))?;
    }
    let took = start.elapsed();
    let mut times = Vec::with_capacity(ticks);
    for _ in 0..ticks {
        let (id, input) = draw(&mut random);
        let start = Instant::now();
        evaluator.apply(id, input, now(2))?;
        times.push(start.elapsed());
    }
    let touched = evaluator.counters().touched - touched;
    let rate = ticks as f64 / took.as_secs_f64();
    let (p50, p99) = (percentile(&mut times, 500), percentile(&mut times, 990));
    let p999 = percentile(&mut times, 999);
    let text = format!(
        "{rate:>9.0} /s, p50 {p50:?}, p99 {p99:?}, p99.9 {p999:?}, {touched} rules touched"
    );
    print(&format!("{name}: prices without a hit"), &text)?;

    // Prices that pass about one threshold each, up and down.
    let step = MIDDLE * 2 * i64::try_from(symbols)? / i64::from(rules).max(1);
    let base = MIDDLE * 110 / 100;
    for id in &ids {
        evaluator.apply(*id, price(base), now(3))?;
        drain(&mut evaluator, &mut outputs);
    }
    let (touched, fired) = (evaluator.counters().touched, evaluator.counters().fired);
    let hits = ticks / 10;
    let start = Instant::now();
    for number in 0..hits {
        let id = ids[random.random_range(0..ids.len())];
        let swing = step * i64::try_from(number % 8)?;
        evaluator.apply(id, price(base + swing), now(4))?;
        drain(&mut evaluator, &mut outputs);
    }
    let took = start.elapsed() / u32::try_from(hits)?;
    let counters = evaluator.counters();
    let text = format!(
        "{took:>9.0?} each, {:.2} rules touched and {:.2} fired",
        (counters.touched - touched) as f64 / hits as f64,
        (counters.fired - fired) as f64 / hits as f64
    );
    print(&format!("{name}: prices with hits"), &text)?;
    Ok(())
}

/// A million rules on one symbol, beside a scan of all thresholds at each price.
fn linear_scan(bench: &Bench) -> Outcome<()> {
    let rules = if bench.is_fixed {
        10_000
    } else {
        1_000_000_u32
    };
    let name = format!("{rules} rules on one symbol");
    if !bench.wants(&name) {
        return Ok(());
    }
    let mut random = StdRng::seed_from_u64(8);
    let (mut evaluator, ids) = evaluator(1)?;
    // The scan compares plain integers, as a fast one would.
    let (mut thresholds, mut is_above) = (Vec::new(), Vec::new());
    for slot in 0..rules {
        let rule = far_rule(symbol(0), &mut random);
        if let Condition::Leaf(leaf) = &rule.condition {
            let threshold = leaf.test.threshold().unwrap_or_default() * Decimal::ONE_HUNDRED;
            thresholds.push(i64::try_from(threshold)?);
            is_above.push(matches!(leaf.test, Test::Above(_) | Test::CrossesUp { .. }));
        }
        evaluator.insert(slot, &rule, RuleState::new(), now(0))?;
    }
    drain(&mut evaluator, &mut Vec::new());
    let mut draw = || random.random_range(MIDDLE * 96 / 100..MIDDLE * 104 / 100);
    let scans = if bench.is_fixed { 2 } else { 200 };
    let start = Instant::now();
    for _ in 0..scans {
        let value = black_box(draw());
        let fires = thresholds
            .iter()
            .zip(&is_above)
            .filter(|(threshold, is_above)| {
                if **is_above {
                    value >= **threshold
                } else {
                    value <= **threshold
                }
            });
        black_box(fires.count());
    }
    let scan = start.elapsed() / scans;
    let ticks = scans * 10_000;
    let inputs: Vec<_> = (0..ticks).map(|_| price(draw())).collect();
    let start = Instant::now();
    for input in inputs {
        evaluator.apply(ids[0], input, now(1))?;
    }
    let tick = start.elapsed() / ticks;
    let factor = scan.as_nanos() as f64 / tick.as_nanos().max(1) as f64;
    print(
        &format!("{name}: linear scan, index"),
        &format!("{scan:>9.1?} and {tick:.1?} a price: {factor:.0} times"),
    )?;
    Ok(())
}

/// One price that fires half a million rules of one symbol, while prices of others arrive.
fn gap(bench: &Bench) -> Outcome<()> {
    let rules = if bench.is_fixed { 10_000 } else { 500_000_u32 };
    for (kind, repeat, cooldown_ms) in [
        ("once", Repeat::Times(1), 0),
        ("recurring, with a cooldown", Repeat::Recurring, 60_000),
    ] {
        let name = format!("gap over {rules} rules that fire {kind}");
        if !bench.wants(&name) {
            continue;
        }
        let mut random = StdRng::seed_from_u64(9);
        let (mut evaluator, ids) = evaluator(1_001)?;
        let mut slot = 0;
        for _ in 0..rules {
            let threshold = Decimal::new(random.random_range(MIDDLE + 1..MIDDLE * 2), SCALE);
            let one = rule(symbol(0), Test::Above(threshold), repeat, cooldown_ms);
            evaluator.insert(slot, &one, RuleState::new(), now(0))?;
            slot += 1;
        }
        for number in 0..rules {
            let one = far_rule(symbol(1 + number as usize % 1_000), &mut random);
            evaluator.insert(slot, &one, RuleState::new(), now(0))?;
            slot += 1;
        }
        drain(&mut evaluator, &mut Vec::new());
        let (mut outputs, mut fires, mut delays) = (Vec::new(), 0, Vec::new());
        let mut selection = Duration::ZERO;
        // Another price waits from the end of its predecessor until it is judged.
        let start = Instant::now();
        let mut turn = Instant::now();
        evaluator.apply(ids[0], price(MIDDLE * 3), now(1))?;
        selection += turn.elapsed();
        let mut has_more = true;
        while has_more {
            let other = ids[random.random_range(1..ids.len())];
            let middle = random.random_range(MIDDLE * 96 / 100..MIDDLE * 104 / 100);
            evaluator.apply(other, price(middle), now(1))?;
            delays.push(turn.elapsed());
            turn = Instant::now();
            has_more = evaluator.poll(1_024, &mut outputs);
            selection += turn.elapsed();
            fires += outputs
                .iter()
                .filter(|output| matches!(output, Output::Fire(_)))
                .count();
            outputs.clear();
        }
        let whole = start.elapsed();
        let longest = delays.iter().max().copied().unwrap_or_default();
        let text = format!(
            "{fires} fires selected in {selection:.1?} ({whole:.1?} with {} other prices), others delayed by p99 {:?}, at most {longest:?}",
            delays.len(),
            percentile(&mut delays, 990)
        );
        print(&name, &text)?;
    }
    Ok(())
}
