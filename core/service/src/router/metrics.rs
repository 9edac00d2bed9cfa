//! Message metrics: `tidewire_messages_total{type, code}`.
//!
//! The labels are bounded: types with a handler, one label for all other types, and the
//! codes of the protocol. A counter is created on its first use.

use std::{collections::HashMap, sync::OnceLock};

use metrics::Counter;
use tidewire_proto::v1::ErrorCode;

/// The highest code plus one.
const CODES: usize = 17;

/// The label of types without a handler.
const OTHER: &str = "other";

/// Counters by code. Index 0 counts successes.
#[derive(Default)]
struct CodeCounters([OnceLock<Counter>; CODES]);

/// Counts messages.
pub(super) struct MessageCounters {
    by_type: HashMap<&'static str, CodeCounters>,
    other: CodeCounters,
}

impl MessageCounters {
    /// Counters for these types.
    pub(super) fn new(types: impl Iterator<Item = &'static str>) -> Self {
        let types = types.chain([super::UNREADABLE]);
        Self {
            by_type: types.map(|kind| (kind, CodeCounters::default())).collect(),
            other: CodeCounters::default(),
        }
    }

    /// Counts a message that ended with `code`, or succeeded.
    pub(super) fn count(&self, kind: &str, code: Option<ErrorCode>) {
        let (kind, by_code) = match self.by_type.get_key_value(kind) {
            Some((kind, by_code)) => (*kind, by_code),
            None => (OTHER, &self.other),
        };
        let index = code.map_or(0, |code| code as usize);
        let counter = by_code.0.get(index).map(|counter| {
            counter.get_or_init(|| {
                metrics::counter!("tidewire_messages_total", "type" => kind, "code" => code_name(code))
            })
        });
        if let Some(counter) = counter {
            counter.increment(1);
        }
    }
}

/// The name of a code in JSON.
pub(crate) fn code_name(code: Option<ErrorCode>) -> String {
    code.map_or_else(
        || "ok".to_owned(),
        |code| {
            let name = code.as_str_name();
            name.strip_prefix("ERROR_CODE_")
                .unwrap_or(name)
                .to_ascii_lowercase()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_counter() {
        for number in 0..100 {
            if let Ok(code) = ErrorCode::try_from(number) {
                assert!((code as usize) < CODES, "{code:?}");
            }
        }
        assert_eq!(code_name(None), "ok");
        assert_eq!(
            code_name(Some(ErrorCode::ResourceExhausted)),
            "resource_exhausted"
        );
    }
}
