//! Frame kinds: the slot of a publication in which each framing of it is cached.

use tidewire_stream::FrameKind;

/// A WebSocket text frame that holds the JSON form.
pub(crate) const WEBSOCKET_TEXT: FrameKind = FrameKind::new(0);

/// A WebSocket binary frame that holds the protobuf form.
pub(crate) const WEBSOCKET_BINARY: FrameKind = FrameKind::new(1);

/// The compressed text frame, or the plain one where compression saves nothing.
pub(crate) const WEBSOCKET_TEXT_DEFLATED: FrameKind = FrameKind::new(2);

/// The compressed binary frame, or the plain one where compression saves nothing.
pub(crate) const WEBSOCKET_BINARY_DEFLATED: FrameKind = FrameKind::new(3);

/// The compressed `data` of the JSON form, a part of messages that hold several.
pub(crate) const JSON_DATA_DEFLATED: FrameKind = FrameKind::new(4);

/// A Server-Sent Event without its id.
pub(crate) const SSE: FrameKind = FrameKind::new(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_slot_of_its_own() {
        let all = [
            WEBSOCKET_TEXT,
            WEBSOCKET_BINARY,
            WEBSOCKET_TEXT_DEFLATED,
            WEBSOCKET_BINARY_DEFLATED,
            JSON_DATA_DEFLATED,
            SSE,
        ];
        assert_eq!(all.len(), FrameKind::SLOTS);
        for (index, kind) in all.iter().enumerate() {
            assert!(!all[..index].contains(kind), "{kind:?}");
        }
    }
}
