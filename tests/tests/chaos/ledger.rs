//! Ledger: what was acknowledged, what each subscriber received, and what the difference is.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write as _,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    fault::Fault,
    market::{Fires, Tape},
};

/// Time in which a probe is to be delivered.
const IN_TIME: Duration = Duration::from_secs(1);

/// A position that a server gave: the epoch and the seq.
pub(crate) type Place = (String, u64);

/// A publication, by its number, which is its document too.
#[derive(Debug, Clone)]
pub(crate) struct Publication {
    /// Index of its channel.
    pub(crate) channel: usize,
    /// Index of the round that it was sent in.
    pub(crate) round: usize,
    pub(crate) sent: Instant,
    /// Set once a server has acknowledged it.
    pub(crate) place: Option<Place>,
}

/// A notice of a server that a subscriber missed something: a `gap`, or a resumption that was refused.
#[derive(Debug)]
struct Notice {
    from: Place,
    to: Place,
    at: Instant,
}

impl Notice {
    /// Whether it covers a publication.
    fn covers(&self, (epoch, seq): &Place, sent: Instant) -> bool {
        let is_after = self.from.0 == *epoch && *seq > self.from.1;
        let is_before = self.to.0 == *epoch && *seq <= self.to.1;
        if self.from.0 == self.to.0 {
            return is_after && is_before;
        }
        // An epoch that this subscriber has never seen lies between the two.
        let is_between = self.from.0 != *epoch && self.to.0 != *epoch && self.at >= sent;
        is_after || is_before || is_between
    }
}

/// The part of a subscriber on one channel.
#[derive(Debug, Default)]
pub(crate) struct Track {
    /// The newest position.
    pub(crate) at: Place,
    /// When each publication was first delivered, and the epochs that it was delivered in.
    delivered: HashMap<u64, (Instant, Vec<String>)>,
    notices: Vec<Notice>,
    doubled: usize,
    again: usize,
    unseen: usize,
}

impl Track {
    /// Notes a publication.
    pub(crate) fn deliver(&mut self, seq: u64, number: u64) {
        match seq.checked_sub(self.at.1 + 1) {
            Some(missing) => self.unseen += usize::from(missing > 0),
            None => self.doubled += 1,
        }
        self.at.1 = self.at.1.max(seq);
        let now = Instant::now();
        let (_, epochs) = self.delivered.entry(number).or_insert((now, Vec::new()));
        match epochs.contains(&self.at.0) {
            true => self.doubled += 1,
            false => self.again += usize::from(!epochs.is_empty()),
        }
        epochs.push(self.at.0.clone());
    }

    /// Notes that the stream goes on from another position.
    pub(crate) fn jump(&mut self, to: Place) {
        let from = std::mem::replace(&mut self.at, to.clone());
        let at = Instant::now();
        self.notices.push(Notice { from, to, at });
    }

    pub(crate) fn has(&self, number: u64) -> bool {
        self.delivered.contains_key(&number)
    }

    fn is_lost(&self, number: u64, publication: &Publication) -> bool {
        let Some(place) = &publication.place else {
            return false;
        };
        let mut notices = self.notices.iter();
        !self.has(number) && !notices.any(|one| one.covers(place, publication.sent))
    }
}

/// Counts of one kind of fault.
#[derive(Debug, Default)]
struct Row {
    rounds: usize,
    lost: usize,
    late: Late,
    longest: Duration,
    /// The longest time without a price.
    silence: Duration,
}

/// Deliveries of probes that were late.
#[derive(Debug, Default, Clone, Copy)]
struct Late {
    /// To clients that keep to the times of the protocol.
    clients: usize,
    /// To back ends, which send pings more often.
    back_ends: usize,
}

impl Late {
    fn add(&mut self, other: Self) {
        self.clients += other.clients;
        self.back_ends += other.back_ends;
    }
}

/// The results of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: BTreeMap<Fault, Row>,
    acknowledged: usize,
    probes: usize,
    late: Late,
    /// Acknowledged publications that a subscriber neither received nor was told of.
    pub(crate) lost: usize,
    /// Publications that came to a subscriber twice in one epoch.
    pub(crate) doubled: usize,
    /// Publications that came again after a new epoch, of which the subscriber was told.
    again: usize,
    /// Holes without a `gap`.
    pub(crate) unseen: usize,
    /// Positions that two publications were acknowledged with.
    pub(crate) shared: usize,
    notified: usize,
    /// Acknowledged notifications that are not in the inbox.
    pub(crate) forgotten: usize,
    /// Notifications that are in an inbox twice.
    pub(crate) repeated: usize,
    probes_a_minute: usize,
    /// How many subscribers are clients, and how many back ends.
    subscribers: Late,
    examples: Vec<String>,
    pub(crate) tape: Tape,
    pub(crate) fires: Fires,
    /// How often another server owned the prices, and the store.
    pub(crate) owners: [usize; 2],
}

impl Report {
    /// Compares what was published on each channel with what each subscriber has. Channel 0 is that
    /// of the probes.
    pub(crate) fn new(
        rounds: &[Fault],
        publications: &[Publication],
        subscribers: &[Vec<Track>],
        back_ends: usize,
        probe_interval: Duration,
    ) -> Self {
        let mut report = Self::default();
        for fault in rounds {
            report.rows.entry(*fault).or_default().rounds += 1;
        }
        let a_minute = Duration::from_secs(60).as_millis() / probe_interval.as_millis();
        report.probes_a_minute = usize::try_from(a_minute).expect("a few thousand");
        let clients = subscribers.len() - back_ends;
        report.subscribers = Late { clients, back_ends };
        let mut given = HashSet::new();
        for (number, publication) in (0..).zip(publications) {
            let channel = publication.channel;
            if let Some(place) = &publication.place {
                report.acknowledged += 1;
                report.shared += usize::from(!given.insert((channel, place)));
            }
            let mut row = Row::default();
            for (index, tracks) in subscribers.iter().enumerate() {
                let track = &tracks[channel];
                if track.is_lost(number, publication) {
                    // One example for each publication.
                    if row.lost == 0 {
                        report.examples.push(format!(
                            "{number} to subscriber {index}: {publication:?}, {:?}",
                            track.notices
                        ));
                    }
                    row.lost += 1;
                }
                let delivered = track.delivered.get(&number);
                let delay = delivered.map(|(at, _)| at.duration_since(publication.sent));
                row.longest = row.longest.max(delay.unwrap_or_default());
                if channel == 0 {
                    let is_late = delay.is_none_or(|delay| delay > IN_TIME);
                    match index < clients {
                        true => row.late.clients += usize::from(is_late),
                        false => row.late.back_ends += usize::from(is_late),
                    }
                }
            }
            report.probes += usize::from(channel == 0);
            report.lost += row.lost;
            report.late.add(row.late);
            // The publications before the first fault belong to no row.
            let fault = publication
                .round
                .checked_sub(1)
                .and_then(|round| rounds.get(round));
            if let Some(fault) = fault {
                let total = report.rows.entry(*fault).or_default();
                total.lost += row.lost;
                total.late.add(row.late);
                total.longest = total.longest.max(row.longest);
            }
        }
        for track in subscribers.iter().flatten() {
            report.doubled += track.doubled;
            report.again += track.again;
            report.unseen += track.unseen;
        }
        report
    }

    /// Compares the titles of an inbox with those that were acknowledged.
    pub(crate) fn add_inbox(&mut self, acknowledged: &[String], titles: &[String]) {
        let kept: HashSet<_> = titles.iter().collect();
        self.notified += acknowledged.len();
        self.repeated += titles.len() - kept.len();
        let missing = acknowledged.iter().filter(|title| !kept.contains(title));
        self.forgotten += missing.count();
    }

    /// Adds what became of the prices.
    pub(crate) fn add_market(&mut self, rounds: &[Fault], tape: Tape, fires: Fires) {
        for (round, silence) in &tape.silences {
            let fault = round.checked_sub(1).and_then(|round| rounds.get(round));
            if let Some(row) = fault.and_then(|fault| self.rows.get_mut(fault)) {
                row.silence = row.silence.max(*silence);
            }
        }
        (self.tape, self.fires) = (tape, fires);
    }

    /// The shares of deliveries that were late, in percent, if each of these faults had a minute: to
    /// clients, to back ends, and to all.
    fn late_in_minutes(&self, late: Late, rounds: usize) -> [f64; 3] {
        let Late { clients, back_ends } = self.subscribers;
        let all = (late.clients + late.back_ends, clients + back_ends);
        [(late.clients, clients), (late.back_ends, back_ends), all]
            .map(|(late, subscribers)| share(late, rounds * self.probes_a_minute * subscribers))
    }

    /// The shares that arrived in time, for the summary.
    fn in_time(late: [f64; 3]) -> String {
        let [clients, back_ends, all] = late.map(|late| 100.0 - late);
        format!("{all:.3} % ({clients:.3} % to clients, {back_ends:.3} % to back ends)")
    }

    /// The table of docs/cluster.md, and the counts of the whole run.
    pub(crate) fn table(&self) -> String {
        let mut text = "| fault | rounds | lost | longest takeover | longest time without a price | late probes of a minute, to clients | to back ends |\n|---|---|---|---|---|---|---|\n".to_owned();
        for (fault, row) in &self.rows {
            let Row {
                rounds,
                lost,
                longest,
                silence,
                ..
            } = row;
            let (title, longest) = (fault.title(), longest.as_secs_f64());
            let [clients, back_ends, _] = self.late_in_minutes(row.late, *rounds);
            let silence = silence.as_secs_f64();
            writeln!(
                text,
                "| {title} | {rounds} | {lost} | {longest:.1} s | {silence:.1} s | {clients:.2} % | {back_ends:.2} % |"
            )
            .expect("a string takes text");
        }
        let Self {
            acknowledged,
            lost,
            doubled,
            again,
            unseen,
            shared,
            ..
        } = self;
        let Self {
            probes,
            notified,
            forgotten,
            repeated,
            tape,
            fires,
            ..
        } = self;
        let rounds = self.rows.values().map(|row| row.rounds).sum();
        writeln!(
            text,
            "\n{rounds} rounds, {acknowledged} acknowledged publications: {lost} lost, {doubled} doubled, {again} again after a new epoch, {unseen} holes without a gap, {shared} positions given twice\n\
             {notified} acknowledged notifications: {forgotten} lost, {repeated} doubled\n\
             {} prices: {} doubled, {} that went back, {} skipped for the newest one by a reconnect, {} owners of the prices and {} of the store after the first\n\
             {} rules whose price was published: {} missed, {} doubled, {} without a notification\n\
             {probes} probes: delivered within 1 s in this run {}, with one fault a minute {}",
            tape.published,
            tape.doubled,
            tape.backwards,
            tape.skipped,
            self.owners[0],
            self.owners[1],
            fires.expected,
            fires.missed,
            fires.doubled,
            fires.silent,
            Self::in_time(self.late_in_run()),
            Self::in_time(self.late_in_minutes(self.late, rounds)),
        )
        .expect("a string takes text");
        let examples = [
            ("lost", &self.examples),
            ("prices", &tape.examples),
            ("alerts", &fires.examples),
        ];
        for (what, examples) in examples {
            for example in examples.iter().take(5) {
                writeln!(text, "{what}: {example}").expect("a string takes text");
            }
        }
        text
    }

    /// The shares of deliveries of this run that were late, in percent.
    fn late_in_run(&self) -> [f64; 3] {
        let Late { clients, back_ends } = self.subscribers;
        let late = self.late;
        let all = (late.clients + late.back_ends, clients + back_ends);
        [(late.clients, clients), (late.back_ends, back_ends), all]
            .map(|(late, subscribers)| share(late, self.probes * subscribers))
    }
}

/// A share in percent.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn share(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}
