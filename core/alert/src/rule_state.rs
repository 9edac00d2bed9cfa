//! State of a rule: the part that must survive a restart.

/// Fires within the last three minutes that the automatic stop counts.
pub(crate) type RecentFires = Vec<i64>;

/// State of a rule, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleState {
    /// Four bits for each condition, the first lowest. Zero means that it was never judged.
    pub(crate) leaves: u64,
    /// Fires that are left. `None` in a new rule: as many as the rule's `repeat` says.
    pub(crate) fires_left: Option<u32>,
    /// End of the cooldown, in milliseconds since the Unix epoch. `None` if the rule does not
    /// cool down.
    pub(crate) cooldown_ends_ms: Option<i64>,
    /// Flags of the lifecycle.
    pub(crate) flags: u8,
    /// Times of recent fires, in milliseconds since the Unix epoch.
    pub(crate) recent_ms: RecentFires,
}

/// Phase of a rule's lifecycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It has no value to test yet.
    Pending,
    /// It fires when its condition becomes true.
    Armed,
    /// Its condition is true. It can fire again once the condition ended.
    Firing,
    /// Its condition ended, but the value has not moved back past the hysteresis.
    Recovering,
    /// It fired, and its cooldown is not over.
    Cooldown,
    /// It is silent until a given time.
    Snoozed,
    /// It has expired.
    Expired,
    /// It has fired as often as allowed.
    Exhausted,
    /// Its owner disabled it.
    Disabled,
    /// It fired too often and was stopped.
    Stopped,
}

impl RuleState {
    /// The state of a new rule.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The state of a rule that was armed again: its first value is the baseline, and fires nothing.
    /// `fires_left` is as in the state before, None for as many as the rule's `repeat` says.
    pub(crate) fn rearmed(fires_left: Option<u32>) -> Self {
        Self {
            flags: crate::evaluator::FIRST_VALUE_IS_QUIET,
            fires_left,
            ..Self::default()
        }
    }

    /// Encodes the state.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(24);
        bytes.push(1);
        bytes.push(self.flags);
        bytes.extend(self.leaves.to_le_bytes());
        bytes.extend(self.fires_left.unwrap_or(u32::MAX).to_le_bytes());
        bytes.push(u8::from(self.fires_left.is_some()));
        bytes.extend(self.cooldown_ends_ms.unwrap_or(i64::MIN).to_le_bytes());
        for time_ms in &self.recent_ms {
            bytes.extend(time_ms.to_le_bytes());
        }
        bytes
    }

    /// Decodes a state. `None` if the bytes are none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[1, flags], rest) = bytes.split_first_chunk::<2>()? else {
            return None;
        };
        let (leaves, rest) = rest.split_first_chunk::<8>()?;
        let (left, rest) = rest.split_first_chunk::<4>()?;
        let (&[has_left], rest) = rest.split_first_chunk::<1>()?;
        let (cooldown, rest) = rest.split_first_chunk::<8>()?;
        let (recent, tail) = rest.as_chunks::<8>();
        if !tail.is_empty() || recent.len() > crate::evaluator::AUTO_STOP_FIRES {
            return None;
        }
        let cooldown = i64::from_le_bytes(*cooldown);
        Some(Self {
            leaves: u64::from_le_bytes(*leaves),
            fires_left: (has_left != 0).then_some(u32::from_le_bytes(*left)),
            cooldown_ends_ms: (cooldown != i64::MIN).then_some(cooldown),
            flags,
            recent_ms: recent
                .iter()
                .map(|bytes| i64::from_le_bytes(*bytes))
                .collect(),
        })
    }
}
