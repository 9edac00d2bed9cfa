//! Keeper: the task in which a node takes part in a lease.
//!
//! Each look compares the number of commits with the highest one that this node knows of. If Redis
//! has fewer, it has lost some: the node says so, and the engines open from what is there. A lease
//! under which nothing is committed has none.

use std::{sync::Arc, time::Duration};

use tidewire_redis::{RedisError, RedisOptions, Reply};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};

use super::{
    clock::LeaseInstant,
    command::{LEASE, call, wait},
    exchange::Exchange,
    lease::{Candidacy, Losses, Ownership, Tenure},
    preference::{Prefer, Preference, TenureChange},
    term::Term,
};
use crate::StoreError;

/// How long a node that is silent is the owner: two extensions may be late by a quarter of a
/// second.
pub(super) const LIFETIME: Duration = Duration::from_millis(2_500);

/// Time between two extensions.
pub(super) const EXTENSION: Duration = Duration::from_secs(1);

/// Time between two looks of a node that is not the owner, and between two attempts.
const LOOK: Duration = Duration::from_millis(250);

/// Time that a lease must have been free before a node takes it for which others come first. With the
/// lifetime of the lease it is below 3 s.
const LATER: Duration = Duration::from_millis(250);

/// Time that a lease must have been free before a node takes it that cannot use what it is about: what
/// needs no more than the owner's store works again.
const LAST_RESORT: Duration = Duration::from_secs(5);

/// Remaining time of a lease whose owner is late with its extension.
const SOON: Duration = Duration::from_secs(1);

/// Time in which a node does not take a lease that it has given up: others are first, and the clients
/// are not told of a new term all the time.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// Time for which a lease that was ended on purpose may be without an owner.
const HANDOVER: Duration = Duration::from_secs(1);

/// The thing that the lease is about.
pub(super) struct Subject {
    /// Its name in logs.
    pub(super) label: String,
    /// The key of the lease.
    pub(super) key: String,
    /// Replicas that must have all that was written before a term begins.
    pub(super) replicas: u32,
    pub(super) candidacy: Candidacy,
    pub(super) prefer: Box<dyn Prefer>,
}

/// The newest state of the lease that this node knows of.
#[derive(Debug, Default)]
struct Seen {
    number: u64,
    commits: u64,
}

/// The answer of the script.
struct Answer {
    /// When the script was called.
    asked_at: LeaseInstant,
    is_own: bool,
    term: String,
    node: String,
    remaining_ms: u64,
    commits: u64,
    /// The number of commits when the term after that of this node began.
    began: Option<u64>,
    /// Whether another node asks for the lease of this one.
    is_wanted: bool,
}

/// Takes part in a lease.
pub(super) struct Keeper<T> {
    subject: Subject,
    node: String,
    exchange: Exchange,
    /// Opens what this node holds in a term.
    open: Box<dyn Fn(Arc<Term>) -> T + Send>,
    /// The term of this node.
    own: Option<Arc<Term>>,
    /// Until when this node only looks, since it has given the lease up.
    looks_until: Option<LeaseInstant>,
    /// Since when the lease has been free.
    free_since: Option<LeaseInstant>,
    /// Whether it was logged that the lease is free.
    is_reported: bool,
    ownership: watch::Sender<Ownership<T>>,
    losses: Arc<Losses>,
    seen: Seen,
}

impl<T: Tenure> Keeper<T> {
    pub(super) fn new(
        redis: RedisOptions,
        node: String,
        subject: Subject,
        open: Box<dyn Fn(Arc<Term>) -> T + Send>,
        ownership: watch::Sender<Ownership<T>>,
        losses: Arc<Losses>,
    ) -> Self {
        let exchange = Exchange::new(redis, &subject.key);
        Self {
            subject,
            node,
            exchange,
            open,
            own: None,
            looks_until: None,
            free_since: None,
            is_reported: false,
            ownership,
            losses,
            seen: Seen::default(),
        }
    }

    pub(super) async fn run(mut self, mut endings: mpsc::Receiver<oneshot::Sender<()>>) {
        loop {
            let pause = self.step().await;
            // The end of a term is acted on once.
            let own = self.own.clone().filter(|term| term.end().is_none());
            let term_ended = async {
                match &own {
                    Some(term) => drop(term.ended().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                asked = endings.recv() => {
                    self.end(TenureChange::Ended).await;
                    let _ = asked.map(|done| done.send(()));
                    return;
                }
                () = term_ended => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Asks Redis once, and returns the pause until the next question.
    async fn step(&mut self) -> Duration {
        let own = self.own.clone();
        if let Some(term) = own.as_ref().filter(|term| term.is_given_up()) {
            return self.give_up(term).await;
        }
        let mode = match &own {
            None if !self.may_take() || self.leaves_to_others() => "look",
            None => "take",
            Some(term) if term.end().is_some() => "again",
            Some(_) => "hold",
        };
        let acknowledged = own.as_ref().map_or(0, |term| term.acknowledged());
        let (answer, lacking) = match self.ask_with_replicas(mode).await {
            Ok(answered) => answered,
            Err(error) => {
                self.fail(own.as_deref(), unanswered(&error));
                return LOOK;
            }
        };
        self.seen.commits = self.seen.commits.max(acknowledged);
        self.compare(&answer, own.as_deref());
        self.watch_end(&answer);
        match (answer.is_own, own.filter(|term| term.name == answer.term)) {
            (true, Some(term)) => {
                term.extend(answer.asked_at, LIFETIME);
                let preference = self.subject.prefer.preference();
                let hands_over = matches!(preference, Preference::HandOver | Preference::Unusable);
                if answer.is_wanted && hands_over {
                    tracing::info!("hands {} over to another node", self.subject.label);
                    self.end(TenureChange::HandedOver).await;
                    self.own = None;
                } else if term.end().is_none() {
                    return EXTENSION;
                }
            }
            (true, None) => {
                if let Some(term) = self.own.take().filter(|term| term.end().is_none()) {
                    // A fence of the broker was later.
                    let text = "Redis has lost later terms of the lease, and another term begins";
                    term.finish(StoreError::NoOwner(text.to_owned()));
                    self.note(TenureChange::Ended);
                }
                return self.begin(answer).await;
            }
            (false, _) => {
                if let Some(term) = self.own.take() {
                    term.finish(StoreError::TakenOver);
                    self.note(TenureChange::Ended);
                }
                let next_look = self.next_look(answer.remaining_ms);
                let owner = match (answer.remaining_ms, lacking) {
                    (_, Some(error)) if answer.remaining_ms == 0 || answer.node == self.node => {
                        Ownership::Unknown(unanswered(&error))
                    }
                    (0, _) => Ownership::Unknown(StoreError::NoOwner("no node owns it".to_owned())),
                    _ => Ownership::Other {
                        node: answer.node,
                        term: answer.term,
                    },
                };
                self.publish(owner);
                self.report_free();
                return next_look;
            }
        }
        LOOK
    }

    /// The pause before the next look at the lease of another node: it looks when that one ends, if nobody
    /// extends it.
    fn next_look(&self, remaining_ms: u64) -> Duration {
        let remaining = Duration::from_millis(remaining_ms);
        match self.may_take() && !remaining.is_zero() && remaining <= LOOK {
            // Redis rounds down.
            true => remaining + self.delay() + Duration::from_millis(1),
            false => LOOK,
        }
    }

    /// Whether this node may become the owner at present.
    fn may_take(&self) -> bool {
        let now = LeaseInstant::now();
        self.subject.candidacy == Candidacy::Candidate
            && self.looks_until.is_none_or(|until| now >= until)
    }

    /// Whether this node does not take the lease at present, since it cannot use what that is about.
    fn leaves_to_others(&self) -> bool {
        let now = LeaseInstant::now();
        self.subject.prefer.preference() == Preference::Unusable
            && self
                .free_since
                .is_none_or(|since| now < since.after(LAST_RESORT))
    }

    /// Takes note of a lease that is free, or about to be.
    fn watch_end(&mut self, answer: &Answer) {
        let is_free = !answer.is_own && answer.remaining_ms == 0;
        self.free_since = self.free_since.filter(|_| is_free);
        if is_free {
            self.free_since.get_or_insert(answer.asked_at);
        }
        if !answer.is_own && Duration::from_millis(answer.remaining_ms) <= SOON {
            self.subject.prefer.expect_free();
        }
    }

    /// How long a lease must have been free before this node takes it.
    fn delay(&self) -> Duration {
        match self.subject.prefer.preference() {
            Preference::Equal | Preference::Wanted => Duration::ZERO,
            Preference::Allowed | Preference::HandOver | Preference::Unusable => LATER,
        }
    }

    fn note(&self, change: TenureChange) {
        self.subject.prefer.note(change);
    }

    /// Ends the lease of a term that was given up.
    async fn give_up(&mut self, term: &Term) -> Duration {
        if let Err(error) = self.ask("end").await {
            self.fail(None, unanswered(&error));
            return LOOK;
        }
        self.own = None;
        self.note(TenureChange::GivenUp);
        self.looks_until = Some(LeaseInstant::now().after(GIVEN_UP));
        self.publish(Ownership::Unknown(term.end().unwrap_or(StoreError::Closed)));
        LOOK
    }

    /// Begins a term that Redis gave to this node.
    async fn begin(&mut self, answer: Answer) -> Duration {
        let term = Term::new(answer.term, answer.commits, answer.asked_at, LIFETIME);
        let term = Arc::new(term);
        self.own = Some(term.clone());
        if let Err(error) = self.check_replicas().await {
            // The next attempt takes another term.
            term.finish(unanswered(&error));
            self.publish(Ownership::Unknown(unanswered(&error)));
            return LOOK * 2;
        }
        tracing::info!(
            term = term.name,
            commits = answer.commits,
            "this node owns {}",
            self.subject.label
        );
        self.note(TenureChange::Began);
        self.publish(Ownership::Own((self.open)(term)));
        EXTENSION
    }

    /// Compares the commits that Redis has with those that are known.
    fn compare(&mut self, answer: &Answer, own: Option<&Term>) {
        // Another owner began with fewer commits than this node was told of.
        let began = answer.began.filter(|_| own.is_some());
        let base = began.unwrap_or(answer.commits).min(answer.commits);
        let lost = self.seen.commits.saturating_sub(base);
        if lost > 0 {
            self.losses.note(lost, &self.subject.label);
            if let Some(term) = own {
                term.finish(StoreError::Lost(lost));
                // Where the lease was not lost, the term is asked about once more: it lacks nothing further.
                term.acknowledge(answer.commits);
            }
        }
        self.seen.commits = answer.commits;
        let number = answer.term.split('-').next();
        let number = number.and_then(|number| number.parse().ok());
        self.seen.number = self.seen.number.max(number.unwrap_or(0));
    }

    fn fail(&mut self, own: Option<&Term>, error: StoreError) {
        match own.filter(|term| term.end().is_none()) {
            Some(term) => term.fail_lease(error),
            None => self.publish(Ownership::Unknown(error)),
        }
    }

    fn publish(&self, next: Ownership<T>) {
        self.ownership.send_if_modified(|known| {
            let is_same = match (&*known, &next) {
                (Ownership::Other { term: known, .. }, Ownership::Other { term: next, .. }) => {
                    known == next
                }
                (Ownership::Unknown(known), Ownership::Unknown(next)) => known == next,
                _ => false,
            };
            if is_same {
                return false;
            }
            match &next {
                Ownership::Other { node, term } => {
                    tracing::info!(node, term, "another node owns {}", self.subject.label);
                }
                // The next owner is about to take it, or it is logged later that nobody does.
                Ownership::Unknown(StoreError::NoOwner(reason)) => {
                    tracing::info!(reason, "{} has no owner for a moment", self.subject.label);
                }
                Ownership::Unknown(error) => {
                    tracing::warn!(%error, "{} cannot be used", self.subject.label);
                }
                Ownership::Own(_) => {}
            }
            *known = next;
            true
        });
    }

    /// Logs once that nobody takes a lease that is free.
    fn report_free(&mut self) {
        let now = LeaseInstant::now();
        let is_long = self
            .free_since
            .is_some_and(|since| now >= since.after(HANDOVER));
        if is_long && !self.is_reported {
            let label = &self.subject.label;
            tracing::warn!(error = "no node owns it", "{label} cannot be used");
        }
        self.is_reported = is_long;
    }

    /// Ends the lease, if this node has it.
    async fn end(&mut self, change: TenureChange) {
        let Some(term) = self.own.clone() else {
            return;
        };
        term.finish(StoreError::Closed);
        if let Err(error) = self.ask("end").await {
            let label = &self.subject.label;
            tracing::warn!(%error, "the lease of {label} ends by itself, and not at once");
        }
        self.note(change);
        let text = "this node has ended its lease".to_owned();
        self.publish(Ownership::Unknown(StoreError::NoOwner(text)));
    }

    /// Asks, and takes the lease only if as many replicas as the operator wants are up to date: a term
    /// that begins and ends at once tells all clients of a gap. Returns what was lacking, too.
    async fn ask_with_replicas(
        &mut self,
        mode: &str,
    ) -> Result<(Answer, Option<RedisError>), RedisError> {
        let takes = matches!(mode, "take" | "again");
        if !takes || self.subject.replicas == 0 {
            return Ok((self.ask(mode).await?, None));
        }
        // The replicas are not asked while another node is the owner.
        if mode == "take" {
            let answer = self.ask("look").await?;
            if answer.remaining_ms > 0 {
                return Ok((answer, None));
            }
        }
        match self.check_replicas().await {
            Ok(()) => Ok((self.ask(mode).await?, None)),
            Err(error) => Ok((self.ask("look").await?, Some(error))),
        }
    }

    async fn ask(&mut self, mode: &str) -> Result<Answer, RedisError> {
        let mine = self.own.as_ref().map_or("", |term| &term.name);
        let digits = format!("{:08x}", rand::random::<u32>());
        let lifetime = LIFETIME.as_millis().to_string();
        let number = self.seen.number.to_string();
        let asks = match self.subject.prefer.preference() {
            Preference::Wanted if self.may_take() => "1",
            _ => "0",
        };
        let delay = self.delay().as_millis().to_string();
        let node = &*self.node;
        let arguments = [node, mine, &lifetime, mode, &digits, &number, asks, &delay];
        let command = call(LEASE, &[&self.subject.key], &arguments);
        let asked_at = LeaseInstant::now();
        let reply = self.exchange.call(&command).await?;
        answer(reply, asked_at)
    }

    /// Checks that as many replicas as the operator wants have all that was written.
    async fn check_replicas(&mut self) -> Result<(), RedisError> {
        let wanted = self.subject.replicas;
        if wanted == 0 {
            return Ok(());
        }
        let command = wait(wanted, self.exchange.timeout() / 2);
        match self.exchange.call(&command).await? {
            Reply::Integer(had) if had >= i64::from(wanted) => Ok(()),
            Reply::Integer(had) => Err(RedisError::Connection(format!(
                "{had} replicas are up to date, expected {wanted} as in store.replicas"
            ))),
            other => Err(RedisError::Protocol(format!(
                "{other:?} came, expected a number"
            ))),
        }
    }
}

fn unanswered(error: &RedisError) -> StoreError {
    StoreError::NoOwner(format!("Redis: {error}"))
}

fn answer(reply: Reply, asked_at: LeaseInstant) -> Result<Answer, RedisError> {
    let mut parts = reply.array()?.into_iter();
    let mut next = || {
        let missing = || RedisError::Protocol("a part of the lease is missing".to_owned());
        parts.next().ok_or_else(missing)?.string()
    };
    let number = |text: String| {
        text.parse()
            .map_err(|_| RedisError::Protocol(format!("{text:?} came, expected a number")))
    };
    Ok(Answer {
        asked_at,
        is_own: next()? == "1",
        term: next()?,
        node: next()?,
        remaining_ms: number(next()?)?,
        commits: number(next()?)?,
        began: next()?.parse().ok(),
        is_wanted: next()? == "1",
    })
}
