//! Lanes: the rows of each channel, which are published in their order, and beside those of others.
//!
//! A channel whose publications the broker does not take, for example because its server is lost or its
//! slot is half moved, is *late*. It holds up no other one:
//!
//! - Rows are in memory as far as there is room, and are read from the store otherwise. A late channel
//!   keeps none.
//! - A flight is some rows of one channel that are being published, one after the other. The bytes of all
//!   flights are bounded, and late channels have half of them. If that is not enough, flights that have
//!   taken longer than [`LATE`] are given up, so that each channel has its turn. The broker knows the keys
//!   of rows that it published nevertheless.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tidewire_proto::v1::ErrorCode;
use tidewire_store::SharedStore;
use tidewire_stream::{Backoff, ChannelName, DurablePublisher, Event, StreamError};
use tokio::{
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use super::{StoredRow, key_of};
use crate::journal::JOURNAL;

/// Time after which a flight makes room for others.
pub(super) const LATE: Duration = Duration::from_secs(2);

/// Bytes of all flights, and of all rows that wait in memory.
const MOST_BYTES: usize = 8 << 20;

/// Rows of a flight.
const FLIGHT_ROWS: usize = 64;

/// Bytes of a flight, and one row more.
const FLIGHT_BYTES: usize = 256 << 10;

/// Memory of a row, beside its event.
const ROW_BYTES: usize = 512;

/// Pauses between attempts to publish what was refused.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Time between two lines of the log.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// The publication of a row.
#[derive(Debug)]
pub(crate) struct Body {
    pub(super) event: Event,
    pub(super) key: String,
}

/// The part of one row in its channel: a publication or a new epoch.
#[derive(Debug)]
pub(crate) struct Step {
    number: u64,
    bytes: usize,
    /// Whether the channel begins a new epoch.
    is_renewal: bool,
    /// None if it is only in the store.
    body: Option<Box<Body>>,
}

impl Step {
    pub(super) fn publication(number: u64, bytes: usize, body: Body) -> Self {
        Self {
            number,
            bytes: bytes + ROW_BYTES,
            is_renewal: false,
            body: Some(Box::new(body)),
        }
    }

    pub(super) fn renewal(number: u64) -> Self {
        Self {
            number,
            bytes: ROW_BYTES,
            is_renewal: true,
            body: None,
        }
    }

    /// Bytes of the body in memory.
    fn held(&self) -> usize {
        self.body.as_ref().map_or(0, |_| self.bytes)
    }
}

/// The rows of a channel that are not done, in their order.
#[derive(Debug, Default)]
struct Lane {
    steps: VecDeque<Step>,
    /// The first rows, while they are being published.
    flight: Option<Flight>,
    is_late: bool,
    backoff: Option<Backoff>,
}

#[derive(Debug)]
struct Flight {
    rows: usize,
    bytes: usize,
    number: u64,
}

impl Lane {
    /// The rows of the next flight, and their bytes.
    fn next(&self) -> (usize, usize) {
        let (mut rows, mut bytes) = (0, 0);
        for step in self.steps.iter().take(FLIGHT_ROWS) {
            if rows > 0 && bytes >= FLIGHT_BYTES {
                break;
            }
            (rows, bytes) = (rows + 1, bytes + step.bytes);
        }
        (rows, bytes)
    }
}

/// The outcome of a row that is not done.
#[derive(Debug)]
struct Refusal(String);

/// How far a flight came: the rows that are done, and why the next one is not.
type Arrival = (usize, Option<Refusal>);

/// The lanes of all channels with rows that are not done.
pub(super) struct Lanes {
    publisher: Arc<dyn DurablePublisher>,
    store: SharedStore,
    lanes: HashMap<ChannelName, Lane>,
    /// Channels that wait for a flight, and the late ones among them.
    fresh: VecDeque<ChannelName>,
    late: VecDeque<ChannelName>,
    flights: JoinSet<Arrival>,
    flying: HashMap<Id, ChannelName>,
    /// The beginnings of flights by their numbers, without those that are given up.
    begun: BTreeMap<u64, (Instant, AbortHandle)>,
    /// The number of the next flight.
    number: u64,
    /// Flights of channels that are not late.
    fresh_flights: usize,
    flight_bytes: usize,
    held_bytes: usize,
    /// Publications that are not done.
    waiting: usize,
    /// Ends of flights that are to be noted.
    arrived: Vec<Result<(Id, Arrival), JoinError>>,
    has_refused: bool,
    logged_at: Option<Instant>,
}

impl Lanes {
    pub(super) fn new(publisher: Arc<dyn DurablePublisher>, store: SharedStore) -> Self {
        Self {
            publisher,
            store,
            lanes: HashMap::new(),
            fresh: VecDeque::new(),
            late: VecDeque::new(),
            flights: JoinSet::new(),
            flying: HashMap::new(),
            begun: BTreeMap::new(),
            number: 0,
            fresh_flights: 0,
            flight_bytes: 0,
            held_bytes: 0,
            waiting: 0,
            arrived: Vec::new(),
            has_refused: false,
            logged_at: None,
        }
    }

    /// Publications that are not done.
    pub(super) fn pending(&self) -> usize {
        self.waiting
    }

    /// Whether all rows are done.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Whether only late channels publish.
    pub(super) fn is_quiet(&self) -> bool {
        self.fresh_flights == 0
    }

    /// The number of the first row of a channel that is not done.
    pub(super) fn oldest(&self, channel: &ChannelName) -> Option<u64> {
        let lane = self.lanes.get(channel)?;
        lane.steps.front().map(|step| step.number)
    }

    /// Whether the last row of a channel begins a new epoch, and has not been tried.
    pub(super) fn is_to_be_renewed(&self, channel: &ChannelName) -> bool {
        self.lanes.get(channel).is_some_and(|lane| {
            let flying = lane.flight.as_ref().map_or(0, |flight| flight.rows);
            lane.steps
                .iter()
                .skip(flying)
                .next_back()
                .is_some_and(|step| step.is_renewal)
        })
    }

    /// Whether something was refused since the last call.
    pub(super) fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.has_refused)
    }

    /// Adds a row that is stored. It is published after the next [`start`](Self::start).
    pub(super) fn push(&mut self, channel: &ChannelName, mut step: Step) {
        self.waiting += usize::from(!step.is_renewal);
        let lane = match self.lanes.get_mut(channel) {
            Some(lane) => lane,
            None => {
                self.fresh.push_back(channel.clone());
                self.lanes.entry(channel.clone()).or_default()
            }
        };
        if lane.is_late || self.held_bytes + step.held() > MOST_BYTES {
            step.body = None;
        }
        self.held_bytes += step.held();
        lane.steps.push_back(step);
    }

    /// Has channels that wait publish, as far as there is room.
    pub(super) fn start(&mut self) {
        loop {
            let (channel, is_late) = match (self.fresh.front(), self.late.front()) {
                (Some(channel), _) => (channel, false),
                (None, Some(channel)) => (channel, true),
                (None, None) => return,
            };
            let Some(lane) = self.lanes.get_mut(channel) else {
                debug_assert!(false, "a channel that waits has rows");
                return;
            };
            let (rows, bytes) = lane.next();
            let most = if is_late { MOST_BYTES / 2 } else { MOST_BYTES };
            if self.flight_bytes + bytes > most && !self.flying.is_empty() {
                return self.give_up_one();
            }
            let waits = if is_late {
                &mut self.late
            } else {
                &mut self.fresh
            };
            let Some(channel) = waits.pop_front() else {
                return;
            };
            let mut taken = Vec::with_capacity(rows);
            for step in lane.steps.iter_mut().take(rows) {
                self.held_bytes -= step.held();
                taken.push((step.number, step.is_renewal, step.body.take()));
            }
            let pause = lane.backoff.as_mut().map(Backoff::next_pause);
            let (publisher, store) = (self.publisher.clone(), self.store.clone());
            let flight = fly(publisher, store, channel.clone(), pause, taken);
            let abort = self.flights.spawn(flight);
            self.flying.insert(abort.id(), channel);
            let number = self.number;
            self.number += 1;
            self.begun.insert(number, (Instant::now(), abort));
            self.flight_bytes += bytes;
            self.fresh_flights += usize::from(!is_late);
            lane.flight = Some(Flight {
                rows,
                bytes,
                number,
            });
        }
    }

    /// Gives the oldest flight up, if it takes long. Others wait for its room.
    fn give_up_one(&mut self) {
        if let Some(oldest) = self.begun.first_entry()
            && oldest.get().0.elapsed() >= LATE
        {
            oldest.remove().1.abort();
        }
    }

    /// Waits until a flight has ended, or takes too long while others wait.
    pub(super) async fn changed(&mut self) {
        if !self.arrived.is_empty() {
            return;
        }
        let others_wait = !(self.fresh.is_empty() && self.late.is_empty());
        let oldest = self.begun.first_key_value().filter(|_| others_wait);
        let late_at = oldest.map(|(_, (at, _))| *at + LATE);
        let late = async {
            match late_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let landing = async {
            match self.flights.join_next_with_id().await {
                Some(arrived) => arrived,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            arrived = landing => self.arrived.push(arrived),
            () = late => {}
        }
    }

    /// Notes which flights have ended, and has others start. Returns the rows that are done.
    pub(super) fn go_on(&mut self) -> Vec<u64> {
        let mut done = Vec::new();
        while let Some(arrived) = self.flights.try_join_next_with_id() {
            self.arrived.push(arrived);
        }
        for arrived in std::mem::take(&mut self.arrived) {
            match arrived {
                Ok((id, (rows, refusal))) => self.land(id, rows, refusal, &mut done),
                Err(error) => {
                    let refusal = error.is_panic().then(|| Refusal(error.to_string()));
                    self.land(error.id(), 0, refusal, &mut done);
                }
            }
        }
        self.start();
        done
    }

    fn land(&mut self, id: Id, rows: usize, refusal: Option<Refusal>, done: &mut Vec<u64>) {
        let Some(channel) = self.flying.remove(&id) else {
            return;
        };
        let Some(lane) = self.lanes.get_mut(&channel) else {
            return;
        };
        let Some(flight) = lane.flight.take() else {
            return;
        };
        self.begun.remove(&flight.number);
        self.flight_bytes -= flight.bytes;
        self.fresh_flights -= usize::from(!lane.is_late);
        for step in lane.steps.drain(..rows) {
            self.waiting -= usize::from(!step.is_renewal);
            done.push(step.number);
        }
        // One that was given up is tried again at once, and in its turn.
        lane.is_late = rows < flight.rows;
        match &refusal {
            Some(_) => drop(
                lane.backoff
                    .get_or_insert_with(|| Backoff::new(FIRST_PAUSE, LAST_PAUSE)),
            ),
            None => lane.backoff = None,
        }
        if lane.steps.is_empty() {
            self.lanes.remove(&channel);
            return;
        }
        if lane.is_late {
            for step in &mut lane.steps {
                self.held_bytes -= step.held();
                step.body = None;
            }
        }
        let waits = match lane.is_late {
            true => &mut self.late,
            false => &mut self.fresh,
        };
        waits.push_back(channel.clone());
        if let Some(Refusal(error)) = refusal {
            self.has_refused = true;
            self.log(&channel, &error);
        }
    }

    fn log(&mut self, channel: &ChannelName, error: &str) {
        if self.logged_at.is_some_and(|at| at.elapsed() < LOG_PAUSE) {
            return;
        }
        self.logged_at = Some(Instant::now());
        let count = self.waiting;
        tracing::warn!(%channel, error, count, "publications of a chain wait");
    }
}

/// Publishes rows of a channel, one after the other: a later one may not be accepted before an earlier
/// one.
async fn fly(
    publisher: Arc<dyn DurablePublisher>,
    store: SharedStore,
    channel: ChannelName,
    pause: Option<Duration>,
    rows: Vec<(u64, bool, Option<Box<Body>>)>,
) -> Arrival {
    if let Some(pause) = pause {
        sleep(pause).await;
    }
    let missing = rows.iter().filter(|row| !row.1 && row.2.is_none());
    let keys: Vec<_> = missing
        .map(|row| (JOURNAL, row.0.to_be_bytes().to_vec()))
        .collect();
    let stored = match keys.is_empty() {
        true => Ok(Vec::new()),
        false => store.get_many(keys).await,
    };
    let mut stored = match stored {
        Ok(stored) => stored.into_iter(),
        Err(error) => return (0, Some(Refusal(error.to_string()))),
    };
    let mut done = 0;
    for (number, is_renewal, body) in rows {
        let outcome = if is_renewal {
            publisher.start_new_epoch(&channel).await
        } else {
            let body = body.map(|body| *body).or_else(|| {
                let row = StoredRow::decode(&stored.next().flatten()?)?;
                let key = key_of(&row.term, number);
                Some(Body {
                    event: row.event?,
                    key,
                })
            });
            match body {
                Some(Body { event, key }) => {
                    let published = publisher.publish_once(&channel, event, &key).await;
                    match published {
                        Err(error) if !may_pass(&error) => {
                            skip(&*publisher, &channel, &error).await
                        }
                        outcome => outcome,
                    }
                }
                None => {
                    tracing::error!(%channel, number, "the store has lost a publication of a chain");
                    publisher.start_new_epoch(&channel).await
                }
            }
        };
        if let Err(error) = outcome {
            return (done, Some(Refusal(error.to_string())));
        }
        done += 1;
    }
    (done, None)
}

/// Goes on without a publication that is never accepted: its subscribers see a gap.
async fn skip(
    publisher: &dyn DurablePublisher,
    channel: &ChannelName,
    error: &StreamError,
) -> Result<(), StreamError> {
    tracing::error!(%channel, %error, "lost a publication of a chain");
    publisher.start_new_epoch(channel).await
}

/// Whether a publication that was refused may be accepted later.
fn may_pass(error: &StreamError) -> bool {
    !matches!(
        error.code(),
        ErrorCode::ResourceExhausted | ErrorCode::FailedPrecondition | ErrorCode::InvalidArgument
    )
}
