//! Numbers: what rules compare, computed from whole histories.

use std::collections::BTreeMap;

use tidewire_alert::{Decimal, Now, SignalKind};

use crate::naive::ms;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Source {
    Never,
    Live,
    Stale { since_ms: i64 },
    Restored { wall_ms: i64 },
    Corrected,
}

#[derive(Debug, Clone)]
pub(crate) struct NaiveSubject {
    pub(crate) source: Source,
    pub(crate) value: Option<Decimal>,
    pub(crate) peak: Option<Decimal>,
    pub(crate) currency: Option<Box<str>>,
    pub(crate) last_live_ms: Option<i64>,
    pub(crate) wall_ms: i64,
    pub(crate) has_vanished: bool,
    /// The number of its last value among all of the run.
    pub(crate) arrival: u64,
    /// Each history that a rule needs, as values with their times and volumes.
    pub(crate) histories: BTreeMap<SignalKind, Vec<(i64, Decimal, Option<Decimal>)>>,
    /// The numbers as they were when the subject was judged last.
    pub(crate) numbers: BTreeMap<SignalKind, Option<Decimal>>,
}

impl NaiveSubject {
    pub(crate) fn new() -> Self {
        Self {
            source: Source::Never,
            value: None,
            peak: None,
            currency: None,
            last_live_ms: None,
            wall_ms: 0,
            has_vanished: false,
            arrival: 0,
            histories: BTreeMap::new(),
            numbers: BTreeMap::new(),
        }
    }

    pub(crate) fn known(&self, kind: SignalKind) -> Option<Decimal> {
        self.numbers.get(&kind).copied().flatten()
    }

    /// Computes the numbers anew.
    pub(crate) fn refresh(&mut self, now: Now) {
        let kinds = self.histories.keys();
        self.numbers = kinds.map(|kind| (*kind, self.number(*kind, now))).collect();
    }

    pub(crate) fn number(&self, kind: SignalKind, now: Now) -> Option<Decimal> {
        if kind == SignalKind::Age {
            return Some(Decimal::from(ms(now) - self.last_live_ms?));
        }
        if self.source != Source::Live {
            return None;
        }
        let value = self.value?;
        let history = self.histories.get(&kind)?;
        let step_of = |window: u64, steps: u64| i64::try_from(window.div_ceil(steps)).unwrap();
        // The value at the end of a step.
        let close = |step: i64, step_ms: i64| {
            let count = history.partition_point(|(at, ..)| at / step_ms <= step);
            history[..count].last().map(|(_, value, _)| *value)
        };
        let quotient = |a: Decimal, b: Decimal| a.checked_div(b).map(|q| q.round_dp(20));
        match kind {
            SignalKind::Value | SignalKind::State => Some(value),
            SignalKind::Age => None,
            SignalKind::ChangePercent { window_ms } => {
                let step = step_of(window_ms, 120);
                let base = close(ms(now) / step - 120, step)?;
                quotient((value - base) * Decimal::ONE_HUNDRED, base)
            }
            SignalKind::ChangeAbsolute { window_ms } => {
                let step = step_of(window_ms, 120);
                Some(value - close(ms(now) / step - 120, step)?)
            }
            SignalKind::AverageGap { fast_ms, slow_ms } => {
                let mean = |window| {
                    let step = step_of(window, 120);
                    let current = ms(now) / step;
                    let values: Option<Vec<_>> = (current - 120..current)
                        .map(|one| close(one, step))
                        .collect();
                    quotient(values?.into_iter().sum(), Decimal::from(120))
                };
                Some(mean(fast_ms)? - mean(slow_ms)?)
            }
            SignalKind::VolumeRatio { window_ms } => {
                let step = step_of(window_ms, 12);
                let current = ms(now) / step;
                let first = history.iter().find(|(_, _, volume)| volume.is_some())?.0 / step;
                if first > current - 131 {
                    return None;
                }
                let sum = |from: i64, to: i64| -> Decimal {
                    let inside = history
                        .iter()
                        .filter(|(at, ..)| (from..=to).contains(&(at / step)));
                    inside.filter_map(|(_, _, volume)| *volume).sum()
                };
                let usual = sum(current - 131, current - 12);
                if usual.is_zero() {
                    return None;
                }
                quotient(sum(current - 11, current) * Decimal::TEN, usual)
            }
            SignalKind::DrawdownPercent { window_ms }
            | SignalKind::DrawdownAbsolute { window_ms } => {
                let peak = match window_ms {
                    None => self.peak?,
                    Some(window_ms) => {
                        let step = step_of(window_ms, 120);
                        let inside = history
                            .iter()
                            .filter(|(at, ..)| at / step >= ms(now) / step - 120);
                        inside
                            .map(|(_, value, _)| *value)
                            .chain([history.last()?.1])
                            .max()?
                    }
                };
                match kind {
                    SignalKind::DrawdownPercent { .. } => {
                        quotient((peak - value) * Decimal::ONE_HUNDRED, peak)
                    }
                    _ => Some(peak - value),
                }
            }
        }
    }
}
