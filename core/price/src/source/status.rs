//! What is known of a source: how its connection does, and what it said.

use metrics::{Counter, Gauge};
use tidewire_proto::v1::{ConnectionState, Source};

use crate::{
    Symbol,
    aggregate::{Offset, Provenance},
    config::SourceSpec,
    venue::{FaultKind, ParseError},
};

/// How the connection to a source does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// It is being set up.
    Connecting,
    /// It stands, and no data came yet.
    Connected,
    /// It stands, and data comes.
    Live,
    /// It ended or did not come about, for this reason. The next try is due.
    Lost(String),
}

/// A counter that can be read, and is a metric too.
pub(crate) struct Tally {
    count: u64,
    metric: Counter,
}

impl Tally {
    fn new(metric: Counter) -> Self {
        Self { count: 0, metric }
    }

    pub(crate) fn count(&mut self) {
        self.count += 1;
        self.metric.increment(1);
    }
}

/// One of a source's connections.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    state: LinkState,
    /// Since when it is lost, in microseconds since the Unix epoch.
    pub(crate) lost_us: Option<i64>,
}

impl Link {
    const NEW: Self = Self {
        state: LinkState::Connecting,
        lost_us: None,
    };
}

/// What is known of a source.
pub(crate) struct SourceStatus {
    pub(crate) spec: SourceSpec,
    /// What it is asked for.
    pub(crate) symbols: Vec<Symbol>,
    pub(crate) frames: Tally,
    pub(crate) trades: Tally,
    /// How far its clock is from this server's.
    pub(crate) offset: Offset,
    gaps: Tally,
    /// When data last came, in microseconds since the Unix epoch.
    pub(crate) heard_us: Option<i64>,
    /// Tells it from a source that had its place before.
    pub(crate) generation: u32,
    /// Its connections.
    pub(crate) links: Vec<Link>,
    connects: u64,
    reconnects: Counter,
    refusals: Tally,
    faults: [Tally; FaultKind::ALL.len()],
    connected: Gauge,
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
            Tally::new(metrics::counter!(
                "tidewire_venue_bad_frames_total",
                &labels
            ))
        };
        Self {
            symbols: Vec::new(),
            frames: Tally::new(metrics::counter!("tidewire_venue_frames_total", &source)),
            trades: Tally::new(metrics::counter!("tidewire_venue_trades_total", &source)),
            offset: Offset::default(),
            gaps: Tally::new(metrics::counter!("tidewire_venue_gaps_total", &source)),
            heard_us: None,
            generation: 0,
            links: vec![Link::NEW],
            connects: 0,
            reconnects: metrics::counter!("tidewire_venue_reconnects_total", &source),
            refusals: Tally::new(metrics::counter!("tidewire_venue_refusals_total", &source)),
            faults: FaultKind::ALL.map(fault),
            connected: metrics::gauge!("tidewire_venue_connected", &source),
            last_error: None,
            spec,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Counts a frame that cannot be used; each kind is logged once.
    pub(crate) fn fault(&mut self, error: &ParseError) {
        let tally = &mut self.faults[error.kind as usize];
        tally.count();
        if tally.count == 1 {
            tracing::warn!(
                source = self.spec.name,
                kind = %error.kind,
                detail = error.detail,
                "a frame cannot be used; further ones of this kind are counted only"
            );
        }
        self.last_error = Some(error.to_string());
    }

    /// Counts a time that is far from what its clock said before.
    pub(crate) fn jumped(&mut self, us: i64, direction: &str) {
        self.fault(&ParseError {
            kind: FaultKind::TimeJump,
            detail: format!(
                "a time is {} ms {direction} the venue's clock so far",
                us / 1_000
            ),
        });
    }

    /// Counts a gap in a symbol's trades; the first one is logged.
    pub(crate) fn gap(&mut self, symbol: &Symbol, missing: u64) {
        self.gaps.count();
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

    /// Counts a request that the venue refuses; a reason is logged until another comes.
    pub(crate) fn refused(&mut self, reason: &str) {
        self.refusals.count();
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

    /// So many connections carry its symbols.
    pub(crate) fn set_links(&mut self, count: usize) {
        self.links = vec![Link::NEW; count.max(1)];
    }

    pub(crate) fn link(&mut self, link: usize, state: &LinkState, now_us: i64) {
        let Some(link) = self.links.get_mut(link) else {
            return;
        };
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
        self.connected.set(f64::from(self.standing()));
    }

    /// How many connections stand.
    fn standing(&self) -> u32 {
        let stands = |link: &&Link| matches!(link.state, LinkState::Connected | LinkState::Live);
        u32::try_from(self.links.iter().filter(stands).count()).unwrap_or(u32::MAX)
    }

    /// How its connections do: as the best of them.
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

    /// It is removed: nothing of it is left but its place.
    pub(crate) fn removed(&mut self) {
        self.connected.set(0.0);
        self.generation = self.generation.wrapping_add(1);
        self.symbols.clear();
        self.links.clear();
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.links.is_empty()
    }

    /// As ListSources shows it.
    pub(crate) fn show(&self, now_us: i64, provenance: Provenance) -> Source {
        let age_ms = |heard_us: i64| now_us.saturating_sub(heard_us).max(0).unsigned_abs() / 1_000;
        Source {
            name: self.spec.name.clone(),
            kind: self.spec.kind.name().to_owned(),
            url: self.spec.url.clone(),
            state: self.state().into(),
            symbols: self.symbols.iter().map(Symbol::to_string).collect(),
            frames: self.frames.count,
            bad_frames: self.faults.iter().map(|tally| tally.count).sum(),
            trades: self.trades.count,
            connects: self.connects,
            age_ms: self.heard_us.map(age_ms),
            last_error: self.last_error.clone(),
            sample: provenance.is_sample(),
            connections: (self.links.len() > 1).then(|| self.standing()),
            gaps: (self.gaps.count > 0).then_some(self.gaps.count),
            offset_ms: self.offset.us().map(|us| us.div_euclid(1_000)),
        }
    }
}
