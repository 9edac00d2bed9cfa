//! Signal: a value that is derived from a subject's values, and the index of its thresholds.
//!
//! It is computed once for each input, however many rules test it, and exists while a rule does.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use crate::{
    SignalKind,
    index::{Entry, Index},
    key::KeyRange,
    window::{Closes, Peaks, Volumes, quotient},
};

/// The history behind a signal.
#[derive(Debug)]
enum Window {
    None,
    Closes(Closes),
    Averages {
        fast: Closes,
        slow: Closes,
    },
    Volumes(Volumes),
    Peaks(Peaks),
    /// Ages that rules wait for, with the number of rules.
    Ages(BTreeMap<u64, u32>),
}

/// The values from which a signal is computed, besides its history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Basis {
    pub(crate) value: Option<Decimal>,
    pub(crate) peak: Option<Decimal>,
    /// Monotonic time of the last live value.
    pub(crate) last_live_ms: Option<u64>,
    pub(crate) now_ms: u64,
}

/// A derived value, its history, and the boundaries of the rules that test it.
#[derive(Debug)]
pub(crate) struct Signal {
    pub(crate) subject: u32,
    pub(crate) kind: SignalKind,
    /// The subject's and the kind's part of the fingerprints of rules.
    pub(crate) fingerprint: u32,
    window: Window,
    /// The current value. `None` if it is not known.
    pub(crate) value: Option<Decimal>,
    /// Rules of one test.
    pub(crate) simple: Index,
    /// Boundaries of rules of one test that are not in the index yet.
    pub(crate) loading: Vec<Entry>,
    /// Rules of several tests.
    pub(crate) complex: Index,
    /// Whether a threshold has more than 15 digits, or had.
    pub(crate) has_long: bool,
    /// Keys around the current value between which there is no entry, both excluded.
    pub(crate) gap: Option<KeyRange>,
    /// Rules to judge at the next value even if it passes none of their boundaries.
    pub(crate) unresolved: Vec<u32>,
    /// Tests of this signal.
    pub(crate) tests: u32,
}

impl Signal {
    pub(crate) fn new(subject: u32, kind: SignalKind) -> Self {
        let window = match kind {
            SignalKind::Value | SignalKind::State => Window::None,
            SignalKind::ChangePercent { window_ms } | SignalKind::ChangeAbsolute { window_ms } => {
                Window::Closes(Closes::new(window_ms))
            }
            SignalKind::AverageGap { fast_ms, slow_ms } => Window::Averages {
                fast: Closes::new(fast_ms),
                slow: Closes::new(slow_ms),
            },
            SignalKind::VolumeRatio { window_ms } => Window::Volumes(Volumes::new(window_ms)),
            SignalKind::Age => Window::Ages(BTreeMap::new()),
            SignalKind::DrawdownPercent { window_ms }
            | SignalKind::DrawdownAbsolute { window_ms } => window_ms
                .map_or(Window::None, |window_ms| {
                    Window::Peaks(Peaks::new(window_ms))
                }),
        };
        Self {
            subject,
            kind,
            fingerprint: 0,
            window,
            value: None,
            simple: Index::default(),
            loading: Vec::new(),
            complex: Index::default(),
            has_long: false,
            gap: None,
            unresolved: Vec::new(),
            tests: 0,
        }
    }

    /// Adds a value to the history.
    pub(crate) fn feed(&mut self, at_ms: u64, value: Decimal, volume: Option<Decimal>) {
        match &mut self.window {
            Window::Closes(closes) => closes.push(at_ms, value),
            Window::Averages { fast, slow } => {
                fast.push(at_ms, value);
                slow.push(at_ms, value);
            }
            Window::Volumes(volumes) => {
                if let Some(volume) = volume {
                    volumes.push(at_ms, volume);
                }
            }
            Window::Peaks(peaks) => peaks.push(at_ms, value),
            Window::None | Window::Ages(_) => {}
        }
    }

    /// Forgets the history, so that it warms up again.
    pub(crate) fn clear(&mut self) {
        match &mut self.window {
            Window::Closes(closes) => closes.clear(),
            Window::Averages { fast, slow } => {
                fast.clear();
                slow.clear();
            }
            Window::Volumes(volumes) => volumes.clear(),
            Window::Peaks(peaks) => peaks.clear(),
            Window::None | Window::Ages(_) => {}
        }
    }

    /// Whether the signal has only the current value of its subject.
    pub(crate) const fn is_plain(&self) -> bool {
        matches!(self.kind, SignalKind::Value | SignalKind::State)
    }

    /// The value now.
    pub(crate) fn compute(&mut self, basis: Basis) -> Option<Decimal> {
        let now_ms = basis.now_ms;
        match (&mut self.window, self.kind) {
            (_, SignalKind::Value | SignalKind::State) => basis.value,
            (_, SignalKind::Age) => {
                let age_ms = now_ms.saturating_sub(basis.last_live_ms?);
                Some(Decimal::from(age_ms))
            }
            (Window::Closes(closes), kind) => {
                let base = closes.base(now_ms)?;
                let change = basis.value?.checked_sub(base)?;
                match kind {
                    SignalKind::ChangePercent { .. } => {
                        quotient(change.checked_mul(Decimal::ONE_HUNDRED)?, base)
                    }
                    _ => Some(change),
                }
            }
            (Window::Averages { fast, slow }, _) => {
                let (fast, slow) = (fast.mean(now_ms), slow.mean(now_ms)?);
                fast?.checked_sub(slow)
            }
            (Window::Volumes(volumes), _) => volumes.ratio(now_ms),
            (window, kind) => {
                let peak = match window {
                    Window::Peaks(peaks) => peaks.peak(now_ms)?,
                    _ => basis.peak?,
                };
                let fall = peak.checked_sub(basis.value?)?;
                match kind {
                    SignalKind::DrawdownPercent { .. } => {
                        quotient(fall.checked_mul(Decimal::ONE_HUNDRED)?, peak)
                    }
                    _ => Some(fall),
                }
            }
        }
    }

    /// When the value changes without a new value of the subject, or passes an age.
    pub(crate) fn deadline(&self, now_ms: u64, last_live_ms: Option<u64>) -> Option<u64> {
        match &self.window {
            Window::None => None,
            Window::Closes(closes) => closes.base_deadline(now_ms),
            Window::Averages { fast, slow } => {
                let (fast, slow) = (fast.mean_deadline(now_ms), slow.mean_deadline(now_ms));
                [fast, slow].into_iter().flatten().min()
            }
            Window::Volumes(volumes) => volumes.deadline(now_ms),
            Window::Peaks(peaks) => peaks.deadline(),
            Window::Ages(ages) => {
                let last_ms = last_live_ms?;
                let age_ms = now_ms.saturating_sub(last_ms);
                let (next, _) = ages.range(age_ms.saturating_add(1)..).next()?;
                Some(last_ms.saturating_add(*next))
            }
        }
    }

    /// The length of the history and the length that is needed, in milliseconds.
    pub(crate) fn coverage(&self, now_ms: u64) -> Option<(u64, u64)> {
        match &self.window {
            Window::Closes(closes) => Some(closes.coverage(now_ms)),
            Window::Averages { slow, .. } => Some(slow.coverage(now_ms)),
            Window::Volumes(volumes) => Some(volumes.coverage(now_ms)),
            Window::None | Window::Peaks(_) | Window::Ages(_) => None,
        }
    }

    /// Counts a test that waits for an age.
    pub(crate) fn add_age(&mut self, after: Decimal) {
        if let (Window::Ages(ages), Ok(after_ms)) = (&mut self.window, u64::try_from(after)) {
            *ages.entry(after_ms).or_default() += 1;
        }
    }

    /// Uncounts it.
    pub(crate) fn remove_age(&mut self, after: Decimal) {
        if let (Window::Ages(ages), Ok(after_ms)) = (&mut self.window, u64::try_from(after))
            && let Some(count) = ages.get_mut(&after_ms)
        {
            *count -= 1;
            if *count == 0 {
                ages.remove(&after_ms);
            }
        }
    }
}
