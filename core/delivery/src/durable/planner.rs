//! Planner: decides which outgoing notification goes to which endpoint, and when.
//!
//! - Webhooks get each notification at once, as programs do, whether or not its user still has it.
//! - Web Push goes to users without a connection, or to all who want it always. Quiet hours hold
//!   it back.
//! - E-mail goes to those who have still not read it some time later. Quiet hours hold it back.
//! - After quiet hours, all that they held back is one message, if the user wants a digest.
//!
//! Whatever the user has read, dismissed or hidden by then is not pushed and not mailed. Urgent
//! notifications and security warnings pass quiet hours and filters.
//!
//! # Connections without a client
//! A phone that lost its network stays connected until the keep-alive ends its connection. A
//! notification to a connected user is therefore judged once more after that time: it has reached
//! the user if there is a connection then. If there is none, it is sent.
//!
//! # Rows that wait
//! A row is judged at its time, and moves to another time or ends. New preferences bring a review:
//! it moves all rows of its user that wait to the present, and has them judged anew. The same is
//! done with rows that a clock that was ahead put off ([`ClockSteps`]).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tidewire_notification::{
    NotificationError, NotificationHub, NotificationId, Outgoing, OutgoingItem,
};
use tidewire_proto::v1::Notification;
use tidewire_store::{Batch, SharedStore};
use tidewire_stream::{SharedClock, UserId};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    clock_steps::ClockSteps,
    contacts::Contacts,
    jobs::{DurableJobs, message_id},
    rules::Rules,
};
use crate::{
    Channel, Content, DeliveryConfig, Dispatcher, EndpointId, Job, JobId, MAX_DIGEST,
    OutgoingMessage, Target, config::WebhookConfig,
};

/// Rows of one step.
const STEP_ROWS: usize = 256;

/// Rows of one user that one step of a review moves.
const REVIEW_ROWS: usize = 1_000;

/// Users to whom a broadcast is expanded in one transaction.
const BROADCAST_USERS: usize = 1_000;

/// Pause after a failure.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause: the clock may be set.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Longest time in quiet hours, with a clock change: a day and an hour, in milliseconds.
const LONGEST_QUIET_MS: i64 = 25 * 60 * 60 * 1_000;

/// Bit of a row: its webhooks are done.
const WEBHOOK: u8 = 1;
/// Bit of a row: Web Push is done.
const PUSH: u8 = 2;
/// Bit of a row: e-mail is done.
const EMAIL: u8 = 4;
/// Bit of a row: quiet hours held it back.
const HELD: u8 = 8;

const ALL: u8 = WEBHOOK | PUSH | EMAIL;

/// Whether users are connected.
pub trait Presence: Send + Sync + 'static {
    /// Whether a user has a connection.
    fn is_connected(&self, user: &UserId) -> bool;

    /// Time within which a connection ends whose client is gone.
    fn dead_after(&self) -> Duration;
}

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanOutcome {
    /// More is due.
    More,
    /// Nothing is due before this time, in milliseconds since the Unix epoch.
    Idle(Option<i64>),
}

/// Makes jobs of outgoing notifications.
pub struct Planner {
    hub: NotificationHub,
    store: SharedStore,
    contacts: Contacts,
    presence: Arc<dyn Presence>,
    clock: SharedClock,
    clock_steps: ClockSteps,
    config: DeliveryConfig,
    jobs: DurableJobs,
    dispatcher: Dispatcher,
}

impl std::fmt::Debug for Planner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Planner").finish_non_exhaustive()
    }
}

/// Changes that a step stores, and jobs that it offers afterwards.
#[derive(Default)]
struct Plan {
    batch: Batch,
    jobs: Vec<Job>,
    /// The earliest time of a row that was put off.
    next_ms: Option<i64>,
    /// Whether rows were added that are due.
    has_more: bool,
}

impl Plan {
    fn add(&mut self, job: Option<Job>) {
        if let Some(job) = job {
            DurableJobs::put(&mut self.batch, &job);
            self.jobs.push(job);
        }
    }

    fn end(&mut self, row: &Outgoing) {
        row.remove(&mut self.batch);
    }

    /// Moves a row to a later time.
    fn put_off(&mut self, row: &Outgoing, later: &Outgoing) {
        row.remove(&mut self.batch);
        later.put_waiting(&mut self.batch);
        let next_ms = self.next_ms.unwrap_or(later.due_ms);
        self.next_ms = Some(next_ms.min(later.due_ms));
    }
}

/// A user's channels at a moment.
struct Reach {
    rules: Rules,
    is_connected: bool,
    push: Vec<Target>,
    email: Option<Target>,
}

impl Reach {
    fn has(&self, channel: Channel) -> bool {
        match channel {
            Channel::Webhook => false,
            Channel::Push => !self.push.is_empty(),
            Channel::Email => self.email.is_some(),
        }
    }

    fn targets(&self, channel: Channel) -> &[Target] {
        match channel {
            Channel::Webhook => &[],
            Channel::Push => &self.push,
            Channel::Email => self.email.as_slice(),
        }
    }
}

/// Messages of a step to one user, without texts.
#[derive(Default)]
struct Outbound {
    single: Vec<(OutgoingItem, Channel)>,
    /// By channel: what quiet hours held back.
    digests: BTreeMap<Channel, Vec<OutgoingItem>>,
}

impl Planner {
    /// A planner of the notifications of the jobs' hub, which offers its jobs to `dispatcher`.
    #[must_use]
    pub fn new(
        jobs: DurableJobs,
        presence: Arc<dyn Presence>,
        config: DeliveryConfig,
        dispatcher: Dispatcher,
    ) -> Self {
        let email = config.email.as_ref();
        let waits_ms = [
            LONGEST_QUIET_MS,
            email.map_or(0, |email| millis(email.delay)),
            millis(presence.dead_after()),
        ];
        Self {
            clock_steps: ClockSteps::new(waits_ms.into_iter().fold(0, i64::saturating_add)),
            hub: jobs.hub().clone(),
            store: jobs.store().clone(),
            contacts: jobs.contacts().clone(),
            clock: jobs.clock().clone(),
            presence,
            config,
            jobs,
            dispatcher,
        }
    }

    /// Plans what is due, until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        let mut is_failing = false;
        loop {
            let pause = match self.step().await {
                Ok(PlanOutcome::More) => {
                    is_failing = false;
                    tokio::task::yield_now().await;
                    continue;
                }
                Ok(PlanOutcome::Idle(due_ms)) => {
                    is_failing = false;
                    let wait_ms = due_ms.map(|due_ms| due_ms.saturating_sub(self.clock.now_ms()));
                    // What has become due meanwhile has no time left.
                    let wait_ms = wait_ms.map(|wait_ms| u64::try_from(wait_ms).unwrap_or(0));
                    wait_ms.map_or(LONGEST_PAUSE, Duration::from_millis)
                }
                Err(error) => {
                    if !is_failing {
                        tracing::warn!(%error, "outgoing notifications wait for the store");
                    }
                    is_failing = true;
                    FAILURE_PAUSE
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.hub.outgoing_added() => {}
                () = sleep(pause.min(LONGEST_PAUSE)) => {}
            }
        }
    }

    /// Plans a bounded number of rows. [`run`](Self::run) calls it; tests call it in its place.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub async fn step(&self) -> Result<PlanOutcome, NotificationError> {
        let now_ms = self.clock.now_ms();
        self.clock_steps
            .follow(&self.hub, &self.store, now_ms)
            .await?;
        let mut rows = self.hub.outgoing(STEP_ROWS).await?;
        let due = rows.partition_point(|row| row.due_ms <= now_ms);
        let next_ms = rows.get(due).map(|row| row.due_ms);
        rows.truncate(due);
        // The rows of one user may go on after the step's.
        let cut = rows.last().filter(|_| due == STEP_ROWS).cloned();
        // One transaction for all: a broadcast to many users would else wait for as many flushes.
        let mut plan = Plan {
            next_ms,
            has_more: cut.is_some(),
            ..Plan::default()
        };
        rows.sort_by(|one, other| user_of(one).cmp(&user_of(other)));
        for rows in rows.chunk_by(|one, next| one.user == next.user) {
            match &rows[0].user {
                Some(user) => {
                    let cut = cut.as_ref().filter(|cut| cut.user.as_ref() == Some(user));
                    let planned = self.plan_user(&mut plan, user, rows.to_vec(), cut, now_ms);
                    match planned.await {
                        // A user who can never be read must not hold up all others for ever.
                        Err(error @ NotificationError::Damaged(_)) => {
                            tracing::error!(%error, user = user.as_str(), "not sent");
                            rows.iter().for_each(|row| plan.end(row));
                        }
                        planned => planned?,
                    }
                }
                None => {
                    for row in rows {
                        self.plan_broadcast(&mut plan, row, now_ms).await?;
                    }
                }
            }
        }
        if !plan.batch.is_empty() {
            self.store.commit(plan.batch).await?;
        }
        // In the order of their notifications, whoever their users are.
        let mut jobs = plan.jobs;
        jobs.sort_by(|one, other| one.message.id.cmp(&other.message.id));
        for job in jobs {
            self.jobs.offer(&self.dispatcher, job);
        }
        Ok(match plan.has_more {
            true => PlanOutcome::More,
            false => PlanOutcome::Idle(plan.next_ms),
        })
    }

    /// Plans the rows of a user that are due. `cut` is the last of them, if more may follow it.
    async fn plan_user(
        &self,
        plan: &mut Plan,
        user: &UserId,
        mut rows: Vec<Outgoing>,
        cut: Option<&Outgoing>,
        now_ms: i64,
    ) -> Result<(), NotificationError> {
        if let Some(review) = rows.iter().find(|row| row.is_review()) {
            self.review(plan, user, review, now_ms).await?;
            let reviews = rows.extract_if(.., |row| row.is_review());
            reviews.skip(1).for_each(|row| plan.end(&row));
        }
        let reach = self.reach(user, now_ms).await?;
        if let Some(cut) = cut
            && reach.rules.wants_digest()
        {
            // A digest is one message, however many rows it has.
            rows.extend(self.hub.outgoing_after(cut).await?);
        }
        self.plan_webhooks(plan, user, &rows, &reach).await?;
        let ids = rows.iter().filter(|row| row.done & ALL != ALL);
        let ids: Vec<_> = match reach.has(Channel::Push) || reach.has(Channel::Email) {
            true => ids.map(|row| row.id).collect(),
            false => Vec::new(),
        };
        let unread = self.hub.unread_among(user, &ids).await?;
        let unread: HashMap<_, _> = unread.into_iter().map(|item| (item.id, item)).collect();
        let mut outbound = Outbound::default();
        for row in &rows {
            match unread.get(&row.id) {
                Some(item) => self.plan_row(plan, &mut outbound, &reach, row, item, now_ms),
                None => plan.end(row),
            }
        }
        self.add_jobs(plan, user, &reach, outbound, now_ms).await
    }

    /// Decides about Web Push and e-mail of a row.
    fn plan_row(
        &self,
        plan: &mut Plan,
        outbound: &mut Outbound,
        reach: &Reach,
        row: &Outgoing,
        item: &OutgoingItem,
        now_ms: i64,
    ) {
        let mut later = Outgoing {
            done: row.done | WEBHOOK,
            connected_ms: None,
            sent_ms: Some(sent_ms(row, now_ms)),
            written_ms: Some(now_ms),
            ..row.clone()
        };
        let mut wait_ms: Option<i64> = None;
        for (bit, channel) in [(PUSH, Channel::Push), (EMAIL, Channel::Email)] {
            if row.done & bit != 0 {
                continue;
            }
            let at_ms = match self.when(reach, row, item, channel, now_ms) {
                When::Never => {
                    later.done |= bit;
                    continue;
                }
                When::Now => {
                    later.done |= bit;
                    let is_held = reach.rules.wants_digest() && row.done & HELD != 0;
                    match is_held {
                        true => outbound.digests.entry(channel).or_default().push(*item),
                        false => outbound.single.push((*item, channel)),
                    }
                    continue;
                }
                When::At(at_ms) => at_ms,
                When::Quiet(until_ms) => {
                    later.done |= HELD;
                    until_ms
                }
                When::Connected { since_ms, until_ms } => {
                    later.connected_ms = Some(since_ms);
                    until_ms
                }
            };
            wait_ms = Some(wait_ms.map_or(at_ms, |other| other.min(at_ms)));
        }
        match wait_ms {
            Some(due_ms) => plan.put_off(row, &Outgoing { due_ms, ..later }),
            None => plan.end(row),
        }
    }

    /// When an item goes to a channel of the user.
    fn when(
        &self,
        reach: &Reach,
        row: &Outgoing,
        item: &OutgoingItem,
        channel: Channel,
        now_ms: i64,
    ) -> When {
        if !reach.has(channel) || !reach.rules.passes(&self.hub, channel, item.class) {
            return When::Never;
        }
        if let Some(until_ms) = reach.rules.held_until_ms(channel, item.class) {
            return When::Quiet(until_ms);
        }
        if channel == Channel::Email {
            let email = self.config.email.as_ref();
            let delay_ms = email.map_or(0, |email| millis(email.delay));
            let due_ms = sent_ms(row, now_ms).saturating_add(delay_ms);
            if due_ms > now_ms {
                return When::At(due_ms);
            }
        }
        if !reach.is_connected || reach.rules.is_always(channel) {
            return When::Now;
        }
        let dead_after_ms = millis(self.presence.dead_after());
        let since_ms = row.connected_ms.unwrap_or(now_ms).min(now_ms);
        let until_ms = since_ms.saturating_add(dead_after_ms);
        match until_ms <= now_ms {
            true => When::Never,
            false => When::Connected { since_ms, until_ms },
        }
    }

    /// Reads the texts of what is sent to a user, and makes jobs of it.
    async fn add_jobs(
        &self,
        plan: &mut Plan,
        user: &UserId,
        reach: &Reach,
        outbound: Outbound,
        now_ms: i64,
    ) -> Result<(), NotificationError> {
        let items: Vec<_> = outbound.single.iter().map(|(item, _)| *item).collect();
        let texts = self.hub.texts_of(&items).await?;
        for ((item, channel), text) in outbound.single.iter().zip(texts) {
            let Some(text) = text else { continue };
            for target in reach.targets(*channel) {
                plan.add(job(user, item.id, &text, target.clone(), Some(now_ms)));
            }
        }
        for (channel, mut items) in outbound.digests {
            items.sort_unstable_by_key(|item| item.id);
            let left_out = items.len().saturating_sub(MAX_DIGEST);
            let texts = self.hub.texts_of(&items[left_out..]).await?;
            let content = Content::Digest {
                notifications: texts.into_iter().flatten().collect(),
                left_out,
            };
            let Some(last) = items.last() else { continue };
            for target in reach.targets(channel) {
                plan.add(digest(user, last.id, &content, target, now_ms));
            }
        }
        Ok(())
    }

    /// Has all that waits of a user judged anew.
    async fn review(
        &self,
        plan: &mut Plan,
        user: &UserId,
        review: &Outgoing,
        now_ms: i64,
    ) -> Result<(), NotificationError> {
        let rows = self.hub.outgoing_waiting(user, now_ms, REVIEW_ROWS).await?;
        for row in &rows {
            row.remove(&mut plan.batch);
            let row = Outgoing {
                due_ms: now_ms,
                written_ms: Some(now_ms),
                ..row.clone()
            };
            row.put(&mut plan.batch);
        }
        let (held, jobs) = self
            .jobs
            .release(&mut plan.batch, user, REVIEW_ROWS)
            .await?;
        plan.jobs.extend(jobs);
        plan.has_more |= !rows.is_empty();
        match rows.len() == REVIEW_ROWS || held == REVIEW_ROWS {
            true => plan.has_more = true,
            false => plan.end(review),
        }
        Ok(())
    }

    /// Plans the webhooks of rows. A program gets a notification also if its user has read,
    /// removed or replaced it by now.
    async fn plan_webhooks(
        &self,
        plan: &mut Plan,
        user: &UserId,
        rows: &[Outgoing],
        reach: &Reach,
    ) -> Result<(), NotificationError> {
        if self.config.webhook.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = rows.iter().filter(|row| row.done & WEBHOOK == 0).collect();
        let mut items: Vec<_> = rows
            .iter()
            .filter_map(|row| self.hub.item_of(row))
            .collect();
        if items.len() < rows.len() {
            // Rows of an earlier version have no class: the inbox knows it.
            let ids = rows.iter().filter(|row| row.class.is_none());
            let ids: Vec<_> = ids.map(|row| row.id).collect();
            items.extend(self.hub.unread_among(user, &ids).await?);
        }
        items.retain(|item| reach.rules.passes(&self.hub, Channel::Webhook, item.class));
        let texts = self.hub.texts_of(&items).await?;
        for (item, text) in items.iter().zip(texts) {
            let Some(text) = text else { continue };
            for webhook in self.webhooks(&text) {
                let target = Target::Webhook(webhook.name.as_str().into());
                plan.add(job(user, item.id, &text, target, None));
            }
        }
        Ok(())
    }

    fn webhooks<'a>(
        &'a self,
        notification: &'a Notification,
    ) -> impl Iterator<Item = &'a WebhookConfig> {
        let webhooks = self.config.webhook.iter();
        webhooks.filter(|webhook| webhook.matches(notification))
    }

    /// Plans a broadcast: its webhooks, and a row for each user with a contact.
    async fn plan_broadcast(
        &self,
        plan: &mut Plan,
        row: &Outgoing,
        now_ms: i64,
    ) -> Result<(), NotificationError> {
        let listed = self.hub.broadcast(row.id).await?;
        let is_listed = listed.is_some();
        // A broadcast that was replaced or recalled meanwhile goes to webhooks all the same.
        let sent = match self.hub.sent_broadcast(row) {
            Ok(sent) => sent,
            Err(error) => {
                tracing::error!(%error, id = %row.id, "not sent");
                None
            }
        };
        let sent = sent.or(listed.map(|(notification, _)| notification));
        if let Some(notification) = sent.filter(|_| row.done & WEBHOOK == 0) {
            for webhook in self.webhooks(&notification) {
                let target = Target::Webhook(webhook.name.as_str().into());
                let everyone = UserId::new("");
                plan.add(job(&everyone, row.id, &notification, target, None));
            }
        }
        // Rows of users are ordinary ones from here on. A crash in between expands it again, to
        // the same rows and messages.
        let mut after: Option<UserId> = None;
        if is_listed && (self.config.push.is_some() || self.config.email.is_some()) {
            plan.has_more = true;
            loop {
                let users = self
                    .contacts
                    .users_after(after.as_ref(), BROADCAST_USERS)
                    .await?;
                let mut batch = Batch::new();
                for user in &users {
                    let of_user = Outgoing {
                        sent_ms: row.sent_ms,
                        ..Outgoing::new(now_ms, Some(user.clone()), row.id, WEBHOOK)
                    };
                    of_user.put(&mut batch);
                }
                self.store.commit(batch).await?;
                let is_last = users.len() < BROADCAST_USERS;
                after = users.into_iter().next_back();
                if is_last || after.is_none() {
                    break;
                }
            }
        }
        plan.end(row);
        Ok(())
    }

    async fn reach(&self, user: &UserId, now_ms: i64) -> Result<Reach, NotificationError> {
        let mut push = Vec::new();
        if self.config.push.is_some() {
            for (_, id) in self.contacts.registrations(user).await? {
                push.extend(self.contacts.push_target(&id).await?);
            }
        }
        let email = match self.config.email {
            Some(_) => self.contacts.email(user).await?.map(Target::Email),
            None => None,
        };
        Ok(Reach {
            rules: Rules::read(&self.hub, user, now_ms).await?,
            is_connected: self.presence.is_connected(user),
            push,
            email,
        })
    }
}

/// When something goes to a channel.
enum When {
    Now,
    /// Not before this time, at which it is judged anew.
    At(i64),
    /// Not before quiet hours end.
    Quiet(i64),
    /// Not while the user is connected: it has arrived if a connection is there at the later time.
    Connected {
        since_ms: i64,
        until_ms: i64,
    },
    Never,
}

/// When the notification of a row was sent, at `now_ms` at the latest: the delay of a mail that a
/// clock that was ahead sent begins anew with the right one. The time of its id may be that of an
/// earlier clock that was ahead.
fn sent_ms(row: &Outgoing, now_ms: i64) -> i64 {
    row.sent_ms.unwrap_or(row.id.time_ms()).min(now_ms)
}

/// The user of a row, in the order of the rows. None comes first.
fn user_of(row: &Outgoing) -> Option<&str> {
    row.user.as_ref().map(UserId::as_str)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A message of one notification. Its age counts from `planned_ms`, or from its notification.
fn job(
    user: &UserId,
    id: NotificationId,
    notification: &Notification,
    target: Target,
    planned_ms: Option<i64>,
) -> Option<Job> {
    let id = endpoint_message(id, user, &target)?;
    let mut message = OutgoingMessage::notification(id, user.clone(), notification.clone());
    message.created_ms = planned_ms.unwrap_or(message.created_ms);
    Some(Job::new(JobId::new(message.id.as_str()), target, message))
}

/// One message of several items, the newest of which is `last`.
fn digest(
    user: &UserId,
    last: NotificationId,
    content: &Content,
    target: &Target,
    now_ms: i64,
) -> Option<Job> {
    let message = OutgoingMessage {
        id: endpoint_message(last, user, target)?,
        user: user.clone(),
        content: content.clone(),
        created_ms: now_ms,
        expires_ms: None,
    };
    let id = JobId::new(message.id.as_str());
    Some(Job::new(id, target.clone(), message))
}

fn endpoint_message(
    id: NotificationId,
    user: &UserId,
    target: &Target,
) -> Option<crate::MessageId> {
    let endpoint = match target {
        // All mails share an endpoint; the address tells them apart.
        Target::Email(address) => EndpointId {
            channel: Channel::Email,
            name: address.to_string().into(),
        },
        target => target.endpoint(),
    };
    message_id(id, user.as_str(), &endpoint)
}
