//! Source status: the connections and counters of one source, as `ListSources` and metrics show
//! them.

use std::collections::BTreeMap;

use metrics::{Counter, Gauge};
use tidewire_proto::v1::{ConnectionState, RefusedSymbol, Source};
use tidewire_stream::redacted_url;

use super::{clock_offset::ClockOffset, snapshot::Provenance};
use crate::{
    Symbol,
    clock::ClockStep,
    config::SourceSpec,
    venue::{FaultKind, ParseError, excerpt},
};

/// The state of one connection to a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// It is being established.
    Connecting,
    /// It is open, and no data arrived yet.
    Connected,
    /// It is open, and data arrives.
    Live,
    /// It ended or failed, for this reason. The next attempt is scheduled.
    Lost(String),
}

/// The effect of a connection's new state on its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkChange {
    /// It was opened after none was open, so data is missing.
    Opened,
    /// It was lost, and data is missing from now on.
    Lost,
    /// None: it goes on, or replaces one that was read until now.
    Same,
}

/// A counter that is readable here and exported as a metric.
pub(crate) struct EventCounter {
    count: u64,
    metric: Counter,
}

impl EventCounter {
    fn new(metric: Counter) -> Self {
        Self { count: 0, metric }
    }

    pub(crate) fn increment(&mut self) {
        self.count += 1;
        self.metric.increment(1);
    }
}

/// One of a source's connections.
#[derive(Debug, Clone)]
pub(crate) struct LinkStatus {
    state: LinkState,
    /// When it was lost, in microseconds since the Unix epoch.
    pub(crate) lost_us: Option<i64>,
}

impl LinkStatus {
    const NEW: Self = Self {
        state: LinkState::Connecting,
        lost_us: None,
    };
}

/// The status of a source.
pub(crate) struct SourceStatus {
    pub(crate) spec: SourceSpec,
    /// The symbols that it serves.
    pub(crate) symbols: Vec<Symbol>,
    pub(crate) frames: EventCounter,
    pub(crate) trades: EventCounter,
    /// The offset of its clock from this server's.
    pub(crate) offset: ClockOffset,
    gaps: EventCounter,
    /// When data last arrived, in microseconds since the Unix epoch.
    pub(crate) last_arrival_us: Option<i64>,
    /// Distinguishes this source from earlier ones with the same index.
    pub(crate) generation: u32,
    /// Its connections. Empty once the source is removed.
    pub(crate) links: Vec<LinkStatus>,
    connects: u64,
    reconnects: Counter,
    refusals: EventCounter,
    /// By the venue's name of the field.
    unexpected: BTreeMap<&'static str, EventCounter>,
    faults: [EventCounter; FaultKind::ALL.len()],
    /// None until it is connected to for the first time. A node that does not run the engine never
    /// does.
    connected: Option<Gauge>,
    last_error: Option<String>,
}

impl std::fmt::Debug for SourceStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceStatus")
            .field("spec", &self.spec)
            .field("links", &self.links)
            .finish_non_exhaustive()
    }
}

impl SourceStatus {
    pub(crate) fn new(spec: SourceSpec) -> Self {
        let source = [("source", spec.name.clone())];
        let fault = |kind: FaultKind| {
            let labels = [
                ("source", spec.name.clone()),
                ("kind", kind.name().to_owned()),
            ];
            EventCounter::new(metrics::counter!(
                "tidewire_venue_bad_frames_total",
                &labels
            ))
        };
        Self {
            symbols: Vec::new(),
            frames: EventCounter::new(metrics::counter!("tidewire_venue_frames_total", &source)),
            trades: EventCounter::new(metrics::counter!("tidewire_venue_trades_total", &source)),
            offset: ClockOffset::default(),
            gaps: EventCounter::new(metrics::counter!("tidewire_venue_gaps_total", &source)),
            last_arrival_us: None,
            generation: 0,
            links: vec![LinkStatus::NEW],
            connects: 0,
            reconnects: metrics::counter!("tidewire_venue_reconnects_total", &source),
            refusals: EventCounter::new(metrics::counter!(
                "tidewire_venue_refusals_total",
                &source
            )),
            unexpected: BTreeMap::new(),
            faults: FaultKind::ALL.map(fault),
            connected: None,
            last_error: None,
            spec,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Moves its times by a step of this server's clock, from which that of the venue now differs as
    /// much more.
    pub(crate) fn step_back(&mut self, step: ClockStep) {
        self.offset.step_back(step);
        let lost = self
            .links
            .iter_mut()
            .filter_map(|link| link.lost_us.as_mut());
        for at_us in lost.chain(&mut self.last_arrival_us) {
            step.apply(at_us);
        }
    }

    /// Counts an unusable frame. The first of each kind is logged.
    pub(crate) fn record_fault(&mut self, error: &ParseError) {
        let counter = &mut self.faults[error.kind as usize];
        counter.increment();
        let detail = self.spec.redact(&error.detail);
        if counter.count == 1 {
            tracing::warn!(
                source = self.spec.name,
                kind = %error.kind,
                detail,
                "a frame cannot be used; further ones of this kind are counted only"
            );
        }
        self.last_error = Some(format!("{}: {detail}", error.kind));
    }

    /// Counts a field that is not as documented. The first of each name is logged.
    pub(crate) fn record_unexpected(&mut self, field: &'static str) {
        let source = &self.spec.name;
        let counter = self.unexpected.entry(field).or_insert_with(|| {
            tracing::warn!(
                source,
                field,
                "a field is not as the venue documents it; the price still counts"
            );
            let labels = [("source", source.clone()), ("field", field.to_owned())];
            EventCounter::new(metrics::counter!(
                "tidewire_venue_unexpected_fields_total",
                &labels
            ))
        });
        counter.increment();
    }

    /// Counts a time that is far from the venue's clock so far.
    pub(crate) fn record_time_jump(&mut self, us: i64, direction: &str) {
        self.record_fault(&ParseError {
            kind: FaultKind::TimeJump,
            detail: format!(
                "a time is {} ms {direction} the venue's clock so far",
                us / 1_000
            ),
        });
    }

    /// Counts a gap in a symbol's trades. The first one is logged as a warning.
    pub(crate) fn record_gap(&mut self, symbol: &Symbol, missing: u64) {
        self.gaps.increment();
        let source = &self.spec.name;
        if self.gaps.count == 1 {
            tracing::warn!(
                source, %symbol, missing,
                "trades are missing; further gaps are counted only"
            );
        } else {
            tracing::debug!(source, %symbol, missing, "trades are missing");
        }
    }

    /// Counts a refused request. A reason is logged again only after another one.
    pub(crate) fn record_refusal(&mut self, reason: &str) {
        self.refusals.increment();
        let reason = excerpt(&self.spec.redact(reason));
        let error = format!("the venue refuses: {reason}");
        if self.last_error.as_ref() != Some(&error) {
            tracing::warn!(
                source = self.spec.name,
                reason,
                "the venue refuses a request"
            );
        }
        self.last_error = Some(error);
    }

    /// Sets how many connections carry its symbols.
    pub(crate) fn set_links(&mut self, count: usize) {
        self.links = vec![LinkStatus::NEW; count.max(1)];
    }

    pub(crate) fn set_link_state(
        &mut self,
        link: usize,
        state: &LinkState,
        now_us: i64,
    ) -> LinkChange {
        let Some(link) = self.links.get_mut(link) else {
            return LinkChange::Same;
        };
        let was_open = matches!(link.state, LinkState::Connected | LinkState::Live);
        match state {
            LinkState::Connecting | LinkState::Live => {}
            LinkState::Connected => {
                link.lost_us = None;
                if self.connects > 0 {
                    self.reconnects.increment(1);
                }
                self.connects += 1;
            }
            LinkState::Lost(reason) => {
                link.lost_us.get_or_insert(now_us);
                self.last_error = Some(reason.clone());
            }
        }
        link.state = state.clone();
        self.show_connected();
        match state {
            LinkState::Connected if !was_open => LinkChange::Opened,
            LinkState::Lost(_) => LinkChange::Lost,
            _ => LinkChange::Same,
        }
    }

    fn show_connected(&mut self) {
        let open = f64::from(self.open_links());
        let source = &self.spec.name;
        self.connected
            .get_or_insert_with(
                || metrics::gauge!("tidewire_venue_connected", "source" => source.clone()),
            )
            .set(open);
    }

    /// Open connections.
    fn open_links(&self) -> u32 {
        let stands =
            |link: &&LinkStatus| matches!(link.state, LinkState::Connected | LinkState::Live);
        u32::try_from(self.links.iter().filter(stands).count()).unwrap_or(u32::MAX)
    }

    /// The best state among its connections.
    fn state(&self) -> ConnectionState {
        let states = self.links.iter().map(|link| match link.state {
            LinkState::Live => (0, ConnectionState::Live),
            LinkState::Connected => (1, ConnectionState::Mute),
            LinkState::Connecting => (2, ConnectionState::Connecting),
            LinkState::Lost(_) => (3, ConnectionState::Waiting),
        });
        let best = states.min_by_key(|(rank, _)| *rank);
        best.map_or(ConnectionState::Connecting, |(_, state)| state)
    }

    /// Marks the source as removed, so that its index can be reused.
    pub(crate) fn remove(&mut self) {
        if let Some(connected) = &self.connected {
            connected.set(0.0);
        }
        self.generation = self.generation.wrapping_add(1);
        self.symbols.clear();
        self.links.clear();
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.links.is_empty()
    }

    /// The status as `ListSources` returns it, with the symbols that the venue refuses.
    pub(crate) fn to_proto(
        &self,
        refused: Vec<RefusedSymbol>,
        now_us: i64,
        provenance: Provenance,
    ) -> Source {
        let age_ms = |last_arrival_us: i64| {
            now_us.saturating_sub(last_arrival_us).max(0).unsigned_abs() / 1_000
        };
        Source {
            name: self.spec.name.clone(),
            kind: self.spec.kind.name().to_owned(),
            url: redacted_url(&self.spec.url),
            state: self.state().into(),
            symbols: self.symbols.iter().map(Symbol::to_string).collect(),
            frames: self.frames.count,
            bad_frames: self.faults.iter().map(|counter| counter.count).sum(),
            trades: self.trades.count,
            connects: self.connects,
            age_ms: self.last_arrival_us.map(age_ms),
            last_error: self.last_error.clone(),
            sample: provenance.is_sample(),
            connections: (self.links.len() > 1).then(|| self.open_links()),
            gaps: (self.gaps.count > 0).then_some(self.gaps.count),
            offset_ms: self.offset.us().map(|us| us.div_euclid(1_000)),
            refused,
        }
    }
}
