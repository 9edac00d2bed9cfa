//! What the tests of parsers share.

use super::{FaultKind, ParseError, Ticker, Trade, VenueEvent, VenueKind};

/// All that a frame says.
pub(super) fn all(kind: VenueKind, frame: &str) -> Vec<VenueEvent<'_>> {
    kind.parse(frame.as_bytes()).unwrap().into_vec()
}

/// The one thing that a frame says.
pub(super) fn one(kind: VenueKind, frame: &str) -> Result<VenueEvent<'_>, ParseError> {
    let mut events = kind.parse(frame.as_bytes())?;
    assert_eq!(events.len(), 1, "{events:?}");
    Ok(events.remove(0))
}

/// The one trade that a frame tells of.
pub(super) fn trade(kind: VenueKind, frame: &str) -> Trade<'_> {
    match one(kind, frame) {
        Ok(VenueEvent::Trade(trade)) => trade,
        other => panic!("no trade: {other:?}"),
    }
}

/// The one summary that a frame tells.
pub(super) fn ticker(kind: VenueKind, frame: &str) -> Ticker<'_> {
    match one(kind, frame) {
        Ok(VenueEvent::Ticker(ticker)) => ticker,
        other => panic!("no ticker: {other:?}"),
    }
}

/// What is wrong with a frame, or with its one entry.
pub(super) fn fault(kind: VenueKind, frame: &str) -> FaultKind {
    match one(kind, frame) {
        Ok(VenueEvent::Fault(fault)) | Err(fault) => fault.kind,
        other => panic!("no fault: {other:?}"),
    }
}
