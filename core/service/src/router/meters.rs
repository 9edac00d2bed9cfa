//! `tidewire_messages_total{type, code}`.
//!
//! The labels are bounded: the types that have a handler, one for all others, and
//! the codes of the protocol. A counter appears when it first counts.

use std::{collections::HashMap, sync::OnceLock};

use metrics::Counter;
use tidewire_proto::v1::ErrorCode;

/// One more than the highest code.
const CODES: usize = 17;

/// The type of whatever has no handler.
const OTHER: &str = "other";

/// Counters by code; the one at 0 counts what went well.
#[derive(Default)]
struct ByCode([OnceLock<Counter>; CODES]);

/// Counts messages.
pub(super) struct MessageCounters {
    by_type: HashMap<&'static str, ByCode>,
    other: ByCode,
}

impl MessageCounters {
    /// Nothing was counted yet.
    pub(super) fn new(types: impl Iterator<Item = &'static str>) -> Self {
        let types = types.chain([super::UNREADABLE]);
        Self {
            by_type: types.map(|kind| (kind, ByCode::default())).collect(),
            other: ByCode::default(),
        }
    }

    /// Counts a message that came to this code, or went well.
    pub(super) fn count(&self, kind: &str, code: Option<ErrorCode>) {
        let (kind, by_code) = match self.by_type.get_key_value(kind) {
            Some((kind, by_code)) => (*kind, by_code),
            None => (OTHER, &self.other),
        };
        let index = code.map_or(0, |code| code as usize);
        let counter = by_code.0.get(index).map(|counter| {
            counter.get_or_init(|| {
                metrics::counter!("tidewire_messages_total", "type" => kind, "code" => name(code))
            })
        });
        if let Some(counter) = counter {
            counter.increment(1);
        }
    }
}

/// The name of a code, as it is sent in JSON.
fn name(code: Option<ErrorCode>) -> String {
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
        assert_eq!(name(None), "ok");
        assert_eq!(
            name(Some(ErrorCode::ResourceExhausted)),
            "resource_exhausted"
        );
    }
}
