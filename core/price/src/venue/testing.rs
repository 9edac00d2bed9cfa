//! Helpers of the parsers' tests.

use super::{FaultKind, ParseError, Ticker, Trade, VenueEvent, VenueKind};

/// The frames that subscribe to these markets.
pub(super) fn frames(kind: VenueKind, names: &[String]) -> Vec<String> {
    let requests = kind.subscribe(names).into_iter().zip(1..);
    requests
        .map(|(request, id)| kind.subscribe_frame(&request, id))
        .collect()
}

/// All events of a frame.
pub(super) fn all(kind: VenueKind, frame: &str) -> Vec<VenueEvent<'_>> {
    kind.parse(frame.as_bytes()).unwrap().into_vec()
}

/// The one event of a frame.
pub(super) fn one(kind: VenueKind, frame: &str) -> Result<VenueEvent<'_>, ParseError> {
    let mut events = kind.parse(frame.as_bytes())?;
    assert_eq!(events.len(), 1, "{events:?}");
    Ok(events.remove(0))
}

/// The one trade of a frame.
pub(super) fn trade(kind: VenueKind, frame: &str) -> Trade<'_> {
    match one(kind, frame) {
        Ok(VenueEvent::Trade(trade)) => trade,
        other => panic!("no trade: {other:?}"),
    }
}

/// The one ticker of a frame.
pub(super) fn ticker(kind: VenueKind, frame: &str) -> Ticker<'_> {
    match one(kind, frame) {
        Ok(VenueEvent::Ticker(ticker)) => ticker,
        other => panic!("no ticker: {other:?}"),
    }
}

/// The fault of a frame, or of its one entry.
pub(super) fn fault(kind: VenueKind, frame: &str) -> FaultKind {
    match one(kind, frame) {
        Ok(VenueEvent::Fault(fault)) | Err(fault) => fault.kind,
        other => panic!("no fault: {other:?}"),
    }
}
