//! Planner: decides which outgoing notification goes to which endpoint, and when.
//!
//! - Webhooks get each notification at once, as programs do.
//! - Web Push goes to users without a connection, or to all who want it always. Quiet hours hold
//!   it back.
//! - E-mail goes to those who have still not read it some time later. Quiet hours hold it back.
//! - After quiet hours, all that they held back is one message, if the user wants a digest.
//!
//! Whatever the user has read, dismissed or hidden by then is not sent. Urgent notifications and
//! security warnings pass quiet hours and filters.

use std::{sync::Arc, time::Duration};

use tidewire_notification::{
    Class, NotificationError, NotificationHub, NotificationId, Outgoing, QuietHours,
};
use tidewire_proto::v1::{DeliveryFilter, Notification, Preferences};
use tidewire_store::{Batch, SharedStore};
use tidewire_stream::{SharedClock, UserId};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    contacts::Contacts,
    jobs::{DurableJobs, message_id},
};
use crate::{
    Channel, DeliveryConfig, Dispatcher, EndpointId, Job, JobId, OutgoingMessage, Target,
    config::WebhookConfig,
};

/// Rows of one step.
const STEP_ROWS: usize = 256;

/// Users to whom a broadcast is expanded in one transaction.
const BROADCAST_USERS: usize = 1_000;

/// Pause after a failure.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause: the clock may be set.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

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
    config: DeliveryConfig,
    jobs: DurableJobs,
    dispatcher: Dispatcher,
}

impl std::fmt::Debug for Planner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Planner").finish_non_exhaustive()
    }
}

/// A notification of one user that is still to be sent.
struct Item {
    row: Outgoing,
    notification: Notification,
    class: Class,
}

/// The time until `due_ms`. None is left if it has passed, as during a long step.
fn until(due_ms: i64, now_ms: i64) -> Duration {
    let wait_ms = due_ms.saturating_sub(now_ms).max(0);
    Duration::from_millis(wait_ms.unsigned_abs())
}

/// Changes that a step stores, and jobs that it offers afterwards.
#[derive(Default)]
struct Plan {
    batch: Batch,
    jobs: Vec<Job>,
    /// The earliest time to which a row was moved.
    next_ms: Option<i64>,
}

impl Plan {
    fn add(&mut self, job: Option<Job>) {
        if let Some(job) = job {
            DurableJobs::put(&mut self.batch, &job);
            self.jobs.push(job);
        }
    }

    /// Moves a row to another time, or ends it.
    fn change(&mut self, row: &Outgoing, done: u8, due_ms: Option<i64>) {
        row.remove(&mut self.batch);
        if let Some(due_ms) = due_ms
            && done & ALL != ALL
        {
            let row = Outgoing {
                due_ms,
                done,
                ..row.clone()
            };
            row.put(&mut self.batch);
            self.next_ms = Some(self.next_ms.map_or(due_ms, |next_ms| next_ms.min(due_ms)));
        }
    }
}

/// A user's channels at a moment.
struct Reach {
    preferences: Preferences,
    /// When quiet hours end, if they hold.
    quiet_until_ms: Option<i64>,
    is_connected: bool,
    push: Vec<Target>,
    email: Option<Target>,
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
        Self {
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
                    let now_ms = self.clock.now_ms();
                    due_ms.map_or(LONGEST_PAUSE, |due_ms| until(due_ms, now_ms))
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
        let rows = self.hub.outgoing(STEP_ROWS).await?;
        let is_full = rows.len() == STEP_ROWS;
        let due = rows.partition_point(|row| row.due_ms <= now_ms);
        let next_ms = rows.get(due).map(|row| row.due_ms);
        let mut is_expanded = false;
        // One transaction for all: a broadcast to many users would else wait for as many flushes.
        let mut plan = Plan::default();
        for rows in
            rows[..due].chunk_by(|one, next| (one.due_ms, &one.user) == (next.due_ms, &next.user))
        {
            match &rows[0].user {
                Some(user) => self.plan_user(&mut plan, user, rows, now_ms).await?,
                None => {
                    is_expanded = true;
                    for row in rows {
                        self.plan_broadcast(&mut plan, row, now_ms).await?;
                    }
                }
            }
        }
        // A row that was moved may be the next one.
        let idle_until_ms = [next_ms, plan.next_ms].into_iter().flatten().min();
        if !plan.batch.is_empty() {
            self.store.commit(plan.batch).await?;
        }
        for job in plan.jobs {
            self.jobs.offer(&self.dispatcher, job);
        }
        Ok(match next_ms {
            None if is_full => PlanOutcome::More,
            // The rows of its users are due.
            _ if is_expanded => PlanOutcome::More,
            _ => PlanOutcome::Idle(idle_until_ms),
        })
    }

    async fn plan_user(
        &self,
        plan: &mut Plan,
        user: &UserId,
        rows: &[Outgoing],
        now_ms: i64,
    ) -> Result<(), NotificationError> {
        let mut items = Vec::new();
        for row in rows {
            match self.hub.unread(user, row.id).await {
                Ok(Some((notification, class))) => items.push(Item {
                    row: row.clone(),
                    notification,
                    class,
                }),
                Ok(None) => plan.change(row, ALL, None),
                // One that can never be read must not hold up all others for ever.
                Err(error @ NotificationError::Damaged(_)) => {
                    tracing::error!(%error, user = user.as_str(), id = %row.id, "not sent");
                    plan.change(row, ALL, None);
                }
                Err(error) => return Err(error),
            }
        }
        if items.is_empty() {
            return Ok(());
        }
        let reach = self.reach(user, now_ms).await?;
        let (mut push_digest, mut email_digest) = (Vec::new(), Vec::new());
        let wants_digest = reach.preferences.digest.unwrap_or(false);
        for item in &items {
            let mut done = item.row.done;
            let mut wait_ms: Option<i64> = None;
            if done & WEBHOOK == 0 {
                self.plan_webhooks(plan, user, item, &reach.preferences);
                done |= WEBHOOK;
            }
            for (bit, channel) in [(PUSH, Channel::Push), (EMAIL, Channel::Email)] {
                if done & bit != 0 {
                    continue;
                }
                match self.when(&reach, item, channel, now_ms) {
                    When::Never => done |= bit,
                    When::At(at_ms) => {
                        wait_ms = Some(wait_ms.map_or(at_ms, |other| other.min(at_ms)));
                        if reach.quiet_until_ms == Some(at_ms) {
                            done |= HELD;
                        }
                    }
                    When::Now => {
                        done |= bit;
                        let is_held = wants_digest && item.row.done & HELD != 0;
                        match (is_held, channel) {
                            (true, Channel::Push) => push_digest.push(item),
                            (true, _) => email_digest.push(item),
                            (false, Channel::Push) => {
                                for target in &reach.push {
                                    plan.add(job(user, item, target.clone()));
                                }
                            }
                            (false, _) => {
                                let target = reach.email.clone();
                                plan.add(target.and_then(|target| job(user, item, target)));
                            }
                        }
                    }
                }
            }
            plan.change(&item.row, done, wait_ms);
        }
        for target in &reach.push {
            plan.add(digest(user, &push_digest, target, now_ms));
        }
        if let Some(target) = &reach.email {
            plan.add(digest(user, &email_digest, target, now_ms));
        }
        Ok(())
    }

    /// When an item goes to a channel of the user.
    fn when(&self, reach: &Reach, item: &Item, channel: Channel, now_ms: i64) -> When {
        let has_target = match channel {
            Channel::Push => self.config.push.is_some() && !reach.push.is_empty(),
            _ => self.config.email.is_some() && reach.email.is_some(),
        };
        let filter = filter(&reach.preferences, channel);
        if !has_target || !self.hub.passes(filter, item.class) {
            return When::Never;
        }
        if let Some(until_ms) = reach.quiet_until_ms
            && !item.class.is_exempt()
        {
            return When::At(until_ms);
        }
        if channel == Channel::Email {
            let delay = self
                .config
                .email
                .as_ref()
                .map_or(Duration::ZERO, |email| email.delay);
            let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
            let due_ms = item.notification.timestamp.saturating_add(delay_ms);
            // A clock that was set back does not hold it back for longer.
            if due_ms > now_ms && due_ms - now_ms <= delay_ms {
                return When::At(due_ms);
            }
        }
        let is_always = filter.and_then(|filter| filter.always).unwrap_or(false);
        match reach.is_connected && !is_always {
            true => When::Never,
            false => When::Now,
        }
    }

    fn plan_webhooks(
        &self,
        plan: &mut Plan,
        user: &UserId,
        item: &Item,
        preferences: &Preferences,
    ) {
        if !self
            .hub
            .passes(filter(preferences, Channel::Webhook), item.class)
        {
            return;
        }
        for webhook in self.webhooks(&item.notification) {
            let target = Target::Webhook(webhook.name.as_str().into());
            plan.add(job(user, item, target));
        }
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
        let Some((notification, class)) = self.hub.broadcast(row.id).await? else {
            plan.change(row, ALL, None);
            return Ok(());
        };
        if row.done & WEBHOOK == 0 {
            let item = Item {
                row: row.clone(),
                notification,
                class,
            };
            for webhook in self.webhooks(&item.notification) {
                let target = Target::Webhook(webhook.name.as_str().into());
                plan.add(job(&UserId::new(""), &item, target));
            }
        }
        // Rows of users are ordinary ones from here on. A crash in between expands it again, to
        // the same rows and messages.
        let mut after: Option<UserId> = None;
        if self.config.push.is_some() || self.config.email.is_some() {
            loop {
                let users = self
                    .contacts
                    .users_after(after.as_ref(), BROADCAST_USERS)
                    .await?;
                let mut batch = Batch::new();
                for user in &users {
                    let row = Outgoing {
                        due_ms: now_ms,
                        user: Some(user.clone()),
                        id: row.id,
                        done: WEBHOOK,
                    };
                    row.put(&mut batch);
                }
                self.store.commit(batch).await?;
                let is_last = users.len() < BROADCAST_USERS;
                after = users.into_iter().next_back();
                if is_last || after.is_none() {
                    break;
                }
            }
        }
        plan.change(row, ALL, None);
        Ok(())
    }

    async fn reach(&self, user: &UserId, now_ms: i64) -> Result<Reach, NotificationError> {
        let preferences = self.hub.preferences(user.as_str()).await?;
        // They were checked when they were set.
        let hours = preferences.quiet_hours.as_ref();
        let hours = hours.and_then(|hours| QuietHours::parse(hours).ok());
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
            quiet_until_ms: hours.and_then(|hours| hours.end_ms(now_ms)),
            is_connected: self.presence.is_connected(user),
            preferences,
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
    Never,
}

/// The user's filter of a channel.
fn filter(preferences: &Preferences, channel: Channel) -> Option<&DeliveryFilter> {
    let channels = preferences.channels.as_ref()?;
    match channel {
        Channel::Webhook => channels.webhook.as_ref(),
        Channel::Push => channels.push.as_ref(),
        Channel::Email => channels.email.as_ref(),
    }
}

fn job(user: &UserId, item: &Item, target: Target) -> Option<Job> {
    let id = endpoint_message(item.row.id, user, &target)?;
    let message = OutgoingMessage::notification(id, user.clone(), item.notification.clone());
    Some(Job::new(JobId::new(message.id.as_str()), target, message))
}

/// One message of several items. None if there is none.
fn digest(user: &UserId, items: &[&Item], target: &Target, now_ms: i64) -> Option<Job> {
    let last = items.last()?;
    let id = endpoint_message(last.row.id, user, target)?;
    let notifications = items.iter().map(|item| item.notification.clone()).collect();
    let message = OutgoingMessage::digest(id, user.clone(), notifications, now_ms);
    Some(Job::new(
        JobId::new(message.id.as_str()),
        target.clone(),
        message,
    ))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_passed_during_a_step_is_no_pause() {
        assert_eq!(until(1_500, 1_000), Duration::from_millis(500));
        for passed in [1_000, 999, i64::MIN] {
            assert_eq!(until(passed, 1_000), Duration::ZERO);
        }
    }
}
