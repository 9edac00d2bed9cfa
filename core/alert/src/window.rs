//! Windows: the bounded history behind changes, averages, volumes and highest values.
//!
//! A window is divided in steps. Of the values in one step only the last counts (or the sum, or
//! the highest), so that the memory of a window does not depend on the number of its values. Steps
//! are counted on the monotonic clock. A value stays valid in later steps until the next.

use std::collections::VecDeque;

use rust_decimal::Decimal;

/// Steps of a window.
const STEPS: u64 = 120;

/// Steps of a volume's window.
const VOLUME_STEPS: u64 = 12;

/// Windows before the current one, over which the usual volume is the mean.
const USUAL_WINDOWS: u64 = 10;

/// Digits after the point of a quotient, so that equal histories have equal quotients.
pub(crate) const QUOTIENT_SCALE: u32 = 20;

pub(crate) fn quotient(dividend: Decimal, divisor: Decimal) -> Option<Decimal> {
    Some(
        dividend
            .checked_div(divisor)?
            .round_dp(QUOTIENT_SCALE)
            .normalize(),
    )
}

/// Last values of the steps of a window.
#[derive(Debug, Clone)]
pub(crate) struct Closes {
    step_ms: u64,
    /// Steps that had a value, with the last one.
    steps: VecDeque<(u64, Decimal)>,
    first_ms: Option<u64>,
}

impl Closes {
    pub(crate) fn new(window_ms: u64) -> Self {
        Self {
            step_ms: window_ms.div_ceil(STEPS).max(1),
            steps: VecDeque::new(),
            first_ms: None,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.steps.clear();
        self.first_ms = None;
    }

    pub(crate) fn push(&mut self, at_ms: u64, value: Decimal) {
        self.first_ms.get_or_insert(at_ms);
        let step = at_ms / self.step_ms;
        match self.steps.back_mut() {
            Some(last) if last.0 >= step => last.1 = value,
            _ => self.steps.push_back((step, value)),
        }
        self.trim(at_ms);
    }

    /// Drops the steps that no window needs any more. The newest step before the window stays,
    /// because its value was valid when the window began.
    fn trim(&mut self, at_ms: u64) {
        let Some(begin) = (at_ms / self.step_ms).checked_sub(STEPS) else {
            return;
        };
        while self.steps.get(1).is_some_and(|(step, _)| *step <= begin) {
            self.steps.pop_front();
        }
    }

    /// The value a window ago. `None` if the history is too short.
    pub(crate) fn base(&mut self, at_ms: u64) -> Option<Decimal> {
        self.trim(at_ms);
        let begin = (at_ms / self.step_ms).checked_sub(STEPS)?;
        let (step, value) = self.steps.front()?;
        (*step <= begin).then_some(*value)
    }

    /// The mean of the last values of the complete steps of a window.
    pub(crate) fn mean(&mut self, at_ms: u64) -> Option<Decimal> {
        self.base(at_ms)?;
        let now = at_ms / self.step_ms;
        let begin = now.checked_sub(STEPS)?;
        let mut sum = Decimal::ZERO;
        for (number, (step, value)) in self.steps.iter().enumerate() {
            let next = self.steps.get(number + 1).map_or(now, |(step, _)| *step);
            let weight = next.min(now).saturating_sub((*step).max(begin));
            sum = sum.checked_add(value.checked_mul(Decimal::from(weight))?)?;
        }
        quotient(sum, Decimal::from(STEPS))
    }

    /// When the value a window ago changes without a new value.
    pub(crate) fn base_deadline(&self, at_ms: u64) -> Option<u64> {
        let leaves = |step: u64| step.saturating_add(STEPS).saturating_mul(self.step_ms);
        let mut deadlines = self.steps.iter().take(2).map(|(step, _)| leaves(*step));
        deadlines.find(|deadline_ms| *deadline_ms > at_ms)
    }

    /// When the mean changes without a new value.
    pub(crate) fn mean_deadline(&self, at_ms: u64) -> Option<u64> {
        let now = at_ms / self.step_ms;
        let is_constant = self.steps.len() == 1
            && self
                .steps
                .front()
                .is_some_and(|(step, _)| step.saturating_add(STEPS) <= now);
        (!self.steps.is_empty() && !is_constant).then(|| (now + 1).saturating_mul(self.step_ms))
    }

    /// The length of the history, and the length that is needed, in milliseconds.
    pub(crate) fn coverage(&self, at_ms: u64) -> (u64, u64) {
        let length = self.first_ms.map_or(0, |first| at_ms.saturating_sub(first));
        (length, self.step_ms * STEPS)
    }
}

/// Highest values of the steps of a window: only those that no later one exceeds.
#[derive(Debug, Clone)]
pub(crate) struct Peaks {
    step_ms: u64,
    steps: VecDeque<(u64, Decimal)>,
    /// The last value, which is valid until the next.
    last: Option<Decimal>,
}

impl Peaks {
    pub(crate) fn new(window_ms: u64) -> Self {
        Self {
            step_ms: window_ms.div_ceil(STEPS).max(1),
            steps: VecDeque::new(),
            last: None,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.steps.clear();
        self.last = None;
    }

    pub(crate) fn push(&mut self, at_ms: u64, value: Decimal) {
        self.last = Some(value);
        let step = at_ms / self.step_ms;
        while self.steps.back().is_some_and(|(_, peak)| *peak <= value) {
            self.steps.pop_back();
        }
        if self.steps.back().is_none_or(|(last, _)| *last < step) {
            self.steps.push_back((step, value));
        }
        self.trim(at_ms);
    }

    fn trim(&mut self, at_ms: u64) {
        let now = at_ms / self.step_ms;
        while self
            .steps
            .front()
            .is_some_and(|(step, _)| step + STEPS < now)
        {
            self.steps.pop_front();
        }
    }

    pub(crate) fn peak(&mut self, at_ms: u64) -> Option<Decimal> {
        self.trim(at_ms);
        self.steps.front().map(|(_, peak)| *peak).or(self.last)
    }

    /// When the highest value changes without a new value.
    pub(crate) fn deadline(&self) -> Option<u64> {
        let (step, peak) = self.steps.front()?;
        (Some(*peak) != self.last).then(|| (step + STEPS + 1).saturating_mul(self.step_ms))
    }
}

/// Volumes of the steps of a window, and of the ten windows before it.
#[derive(Debug, Clone)]
pub(crate) struct Volumes {
    step_ms: u64,
    steps: VecDeque<(u64, Decimal)>,
    first_ms: Option<u64>,
}

impl Volumes {
    pub(crate) fn new(window_ms: u64) -> Self {
        Self {
            step_ms: window_ms.div_ceil(VOLUME_STEPS).max(1),
            steps: VecDeque::new(),
            first_ms: None,
        }
    }

    /// Steps before the current one that count.
    const BEFORE: u64 = VOLUME_STEPS * (USUAL_WINDOWS + 1) - 1;

    pub(crate) fn clear(&mut self) {
        self.steps.clear();
        self.first_ms = None;
    }

    pub(crate) fn push(&mut self, at_ms: u64, volume: Decimal) {
        self.first_ms.get_or_insert(at_ms);
        let step = at_ms / self.step_ms;
        match self.steps.back_mut() {
            Some(last) if last.0 >= step => last.1 = last.1.saturating_add(volume),
            _ => self.steps.push_back((step, volume)),
        }
        self.trim(at_ms);
    }

    fn trim(&mut self, at_ms: u64) {
        let begin = (at_ms / self.step_ms).saturating_sub(Self::BEFORE);
        while self.steps.front().is_some_and(|(step, _)| *step < begin) {
            self.steps.pop_front();
        }
    }

    /// Volume of the window, divided by the mean volume of a window before it. `None` if the
    /// history is too short, or nothing was traded before.
    pub(crate) fn ratio(&mut self, at_ms: u64) -> Option<Decimal> {
        self.trim(at_ms);
        let now = at_ms / self.step_ms;
        let begin = now.checked_sub(Self::BEFORE)?;
        if self.first_ms? / self.step_ms > begin {
            return None;
        }
        let (mut recent, mut usual) = (Decimal::ZERO, Decimal::ZERO);
        for (step, volume) in &self.steps {
            let sum = if step + VOLUME_STEPS > now {
                &mut recent
            } else {
                &mut usual
            };
            *sum = sum.checked_add(*volume)?;
        }
        let windows = Decimal::from(USUAL_WINDOWS);
        (!usual.is_zero())
            .then(|| quotient(recent.checked_mul(windows)?, usual))
            .flatten()
    }

    pub(crate) fn deadline(&self, at_ms: u64) -> Option<u64> {
        let next = (at_ms / self.step_ms + 1).saturating_mul(self.step_ms);
        (!self.steps.is_empty()).then_some(next)
    }

    pub(crate) fn coverage(&self, at_ms: u64) -> (u64, u64) {
        let length = self.first_ms.map_or(0, |first| at_ms.saturating_sub(first));
        (length, self.step_ms * (Self::BEFORE + 1))
    }
}
