//! Stored records that are not messages of the protocol, encoded as protobuf.

use prost::Message;
use rust_decimal::Decimal;
use tidewire_proto::v1::AlertEvent;

use crate::{Now, RuleState, SubjectValue};

/// State of a rule.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StateRecord {
    /// Encoded [`RuleState`]. Empty in a rule that nothing judged.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) state: Vec<u8>,
    /// Fires so far.
    #[prost(uint64, tag = "2")]
    pub(crate) fires: u64,
    /// The newest fire, 0 for none.
    #[prost(uint64, tag = "3")]
    pub(crate) last_fire: u64,
    /// Its time, in milliseconds since the Unix epoch.
    #[prost(int64, tag = "4")]
    pub(crate) last_fired_ms: i64,
    /// Whether the owner has the notice that the symbol vanished.
    #[prost(bool, tag = "5")]
    pub(crate) has_vanish_notice: bool,
}

impl StateRecord {
    /// Whether the record has more than the state.
    pub(crate) fn has_history(&self) -> bool {
        self.fires > 0 || self.has_vanish_notice
    }

    /// The state. That of a new rule if there is none yet.
    pub(crate) fn rule_state(&self) -> Option<RuleState> {
        match self.state.is_empty() {
            true => Some(RuleState::new()),
            false => RuleState::decode(&self.state),
        }
    }
}

/// Last value of a subject.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ValueRecord {
    #[prost(string, tag = "1")]
    value: String,
    #[prost(int64, tag = "2")]
    wall_ms: i64,
    #[prost(int64, tag = "3")]
    formed_us: i64,
    #[prost(string, repeated, tag = "4")]
    sources: Vec<String>,
    #[prost(string, optional, tag = "5")]
    peak: Option<String>,
    #[prost(string, optional, tag = "6")]
    currency: Option<String>,
}

impl ValueRecord {
    pub(crate) fn of(value: &SubjectValue) -> Self {
        let sources = value.sources.iter().flat_map(|names| names.iter());
        Self {
            value: value.value.to_string(),
            wall_ms: value.at.wall_ms,
            formed_us: value.formed_us,
            sources: sources.map(|name| name.to_string()).collect(),
            peak: value.peak.map(|peak| peak.to_string()),
            currency: value.currency.as_deref().map(str::to_owned),
        }
    }

    /// The value, whose monotonic time is that of `now`.
    pub(crate) fn value(self, now: Now) -> Option<SubjectValue> {
        let decimal = |text: &str| Decimal::from_str_exact(text).ok();
        let peak = match &self.peak {
            Some(peak) => Some(decimal(peak)?),
            None => None,
        };
        Some(SubjectValue {
            value: decimal(&self.value)?,
            at: Now {
                wall_ms: self.wall_ms,
                ..now
            },
            formed_us: self.formed_us,
            sources: match self.sources.is_empty() {
                true => None,
                false => Some(self.sources.into_iter().map(String::into).collect()),
            },
            peak,
            currency: self.currency.map(String::into),
        })
    }
}

/// Something that still has to be notified.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OutgoingRecord {
    /// The user.
    #[prost(string, tag = "1")]
    pub(crate) user: String,
    /// The event.
    #[prost(enumeration = "OutgoingKind", tag = "2")]
    pub(crate) kind: i32,
    /// The encoded event: the fire, or for notices the rule alone. The log has the same bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) event: Vec<u8>,
    /// Fires that a summary stands for, or that a stop dropped.
    #[prost(uint64, tag = "4")]
    pub(crate) count: u64,
    /// The price that the value was made of.
    #[prost(string, optional, tag = "5")]
    pub(crate) price: Option<String>,
    /// Records that share one row. Then the other fields are empty.
    #[prost(message, repeated, tag = "6")]
    pub(crate) group: Vec<OutgoingRecord>,
}

impl OutgoingRecord {
    /// The event. None if it is damaged or missing.
    pub(crate) fn event(&self) -> Option<AlertEvent> {
        let bytes = Some(self.event.as_slice()).filter(|bytes| !bytes.is_empty())?;
        AlertEvent::decode(bytes).ok()
    }
}

/// Kind of an outgoing notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum OutgoingKind {
    /// A rule fired.
    Fire = 0,
    /// A fire is taken back.
    Retraction = 1,
    /// A rule was stopped.
    Stop = 2,
    /// The symbol of a rule vanished.
    Vanish = 3,
    /// Several fires beyond the limit of a minute.
    Summary = 4,
}

/// Result of a registration under an idempotency key.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyRecord {
    /// The rule.
    #[prost(uint64, tag = "1")]
    pub(crate) rule: u64,
    /// Hash of the request.
    #[prost(uint64, tag = "2")]
    pub(crate) request: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_decode_to_what_was_encoded() {
        let now = Now {
            wall_ms: 9,
            monotonic_ms: 4,
        };
        let value = SubjectValue {
            value: Decimal::new(172, 11),
            at: Now {
                wall_ms: 5,
                monotonic_ms: 4,
            },
            formed_us: 5_001,
            sources: Some(["binance".into(), "kraken".into()].into()),
            peak: Some(Decimal::new(3, 0)),
            currency: Some("USD".into()),
        };
        assert_eq!(ValueRecord::of(&value).value(now), Some(value));
        let state = RuleState::new();
        let record = StateRecord {
            state: state.encode(),
            ..StateRecord::default()
        };
        let bytes = record.encode_to_vec();
        let read = StateRecord::decode(bytes.as_slice()).unwrap();
        assert_eq!(read.rule_state(), Some(state));
    }
}
