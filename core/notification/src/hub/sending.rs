//! Sending: to users, to a channel, to everyone; one request or many.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use tidewire_proto::v1::{Notification, NotifyRequest};
use tidewire_store::{Key, Table};
use tidewire_stream::UserId;

use super::NotificationHub;
use crate::{
    HubEvent, NotificationError, NotificationId,
    admission::{Haste, PART},
    broadcast::Broadcast,
    channel_rows,
    draft::{self, Draft, Message, SenderKey, Target},
    hub_core::HubCore,
    id::Order,
    idempotency::{self, KeyHash, KeyRecord},
    inbox::Entry,
    locks,
    record::Body,
    schedule, tables,
    work::{self, Work},
};

/// Requests of one batch at most.
const MAX_BATCH: usize = 10_000;

/// Result of a request to notify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotifyOutcome {
    /// The notification, or the scheduled notification.
    pub id: NotificationId,
    /// Inboxes that list it, or will. A broadcast is in all, and counts as none.
    pub recipients: u64,
}

impl NotificationHub {
    /// Notifies one user, several users, a channel or everyone, now or at the request's
    /// `not_before`. After this the notification survives a crash.
    ///
    /// # Errors
    /// A field is refused, the idempotency key was used with another request, or the store
    /// cannot be written.
    pub async fn notify(
        &self,
        sender: &UserId,
        request: NotifyRequest,
    ) -> Result<NotifyOutcome, NotificationError> {
        let mut results = self.notify_batch(sender, vec![request]).await;
        // There is one result for each request.
        results
            .pop()
            .unwrap_or(Err(NotificationError::Damaged("result")))
    }

    /// Handles several requests in their order, in transactions of a bounded size. Each has its own
    /// result; a refused one does not affect the others. If the store fails, all of a transaction
    /// fail.
    pub async fn notify_batch(
        &self,
        sender: &UserId,
        requests: Vec<NotifyRequest>,
    ) -> Vec<Result<NotifyOutcome, NotificationError>> {
        let core = &self.0;
        let count = requests.len();
        if count > MAX_BATCH {
            let problem = format!("{count} requests, expected at most {MAX_BATCH}");
            return vec![Err(NotificationError::invalid("notifications", problem)); count];
        }
        let now_ms = core.clock.now_ms();
        let mut results = Vec::with_capacity(count);
        let mut requests = requests.into_iter();
        let mut check_part = || {
            let part = requests.by_ref().take(PART);
            let drafts = part.map(|request| draft::check(&core.kinds, sender, request, now_ms));
            drafts.collect::<Vec<_>>()
        };
        let mut drafts = check_part();
        while !drafts.is_empty() {
            // The next part is checked while this one is written.
            let (sent, next) =
                tokio::join!(send(core, sender, &mut drafts), async { check_part() });
            match sent {
                Ok(part) => results.extend(part),
                Err(error) => {
                    let refusal = |draft: Result<Draft, _>| draft.err().unwrap_or(error.clone());
                    results.extend(drafts.into_iter().map(|draft| Err(refusal(draft))));
                }
            }
            drafts = next;
        }
        results
    }
}

/// Locks all that the drafts need, handles them, and commits.
async fn send(
    core: &Arc<HubCore>,
    sender: &UserId,
    drafts: &mut [Result<Draft, NotificationError>],
) -> Result<Vec<Result<NotifyOutcome, NotificationError>>, NotificationError> {
    let stripes = stripes(core, drafts);
    let haste = Haste::of(drafts);
    let _permit = core.admission.enter(drafts.len(), haste).await;
    let mut work = Work::lock(core, &stripes).await;
    work.reserve(drafts.iter().flatten().count());
    if haste == Haste::Urgent {
        work.batch.mark_urgent();
    }
    let mut sending = Sending::load(core, sender, &mut work, drafts).await?;
    let mut results = Vec::with_capacity(drafts.len());
    for draft in drafts {
        results.push(match draft {
            Ok(draft) => sending.handle(&mut work, draft).await?,
            Err(error) => Err(error.clone()),
        });
    }
    work.commit().await?;
    Ok(results)
}

fn stripes(core: &HubCore, drafts: &[Result<Draft, NotificationError>]) -> BTreeSet<locks::Stripe> {
    let mut stripes = BTreeSet::new();
    for draft in drafts.iter().flatten() {
        if let Some(key) = &draft.key {
            stripes.insert(core.locks.stripe(&key.hash));
        }
        if draft.not_before_ms.is_some() {
            stripes.insert(locks::SCHEDULES);
            continue;
        }
        match &draft.message.target {
            Target::Users(users) => {
                stripes.extend(users.iter().map(|user| core.locks.stripe(user)))
            }
            Target::Everyone => drop(stripes.insert(locks::BROADCASTS)),
            Target::Channel(_) => {}
        }
    }
    stripes
}

/// Requests of one sender under their locks.
struct Sending<'a> {
    core: &'a HubCore,
    sender: &'a UserId,
    /// Known results of the idempotency keys.
    keys: HashMap<KeyHash, KeyRecord>,
    /// Scheduled notifications that later requests may replace.
    slots: HashMap<KeyHash, Order>,
}

impl<'a> Sending<'a> {
    /// Loads the inboxes, the idempotency keys and the slots that the drafts need.
    async fn load(
        core: &'a HubCore,
        sender: &'a UserId,
        work: &mut Work<'_>,
        drafts: &[Result<Draft, NotificationError>],
    ) -> Result<Self, NotificationError> {
        let mut rows: Vec<(Table, Key)> = Vec::new();
        let mut subjects = Vec::new();
        let mut users = HashSet::new();
        let periods = core.key_periods.all();
        for draft in drafts.iter().flatten() {
            if let Some(key) = &draft.key {
                for period in periods.iter().copied() {
                    rows.push((tables::KEYS, idempotency::row(period, &key.hash)));
                    subjects.push(key.hash);
                }
            }
            if let Some(slot) = schedule::slot(sender, draft) {
                rows.push((tables::SLOTS, slot.to_vec()));
                subjects.push(slot);
            }
            if let (Target::Users(targets), None) = (&draft.message.target, draft.not_before_ms) {
                users.extend(targets);
            }
        }
        let is_key: Vec<_> = rows
            .iter()
            .map(|(table, _)| *table == tables::KEYS)
            .collect();
        let values = work.load(users, rows).await?;
        let (mut keys, mut slots) = (HashMap::new(), HashMap::new());
        for ((subject, is_key), value) in subjects.into_iter().zip(is_key).zip(values) {
            let Some(value) = value else { continue };
            if is_key {
                keys.insert(subject, idempotency::decode(&value)?);
            } else if let Some(order) = tables::order(&value) {
                slots.insert(subject, order);
            }
        }
        Ok(Self {
            core,
            sender,
            keys,
            slots,
        })
    }

    /// Handles a draft. The outer error is that of the store.
    async fn handle(
        &mut self,
        work: &mut Work<'_>,
        draft: &mut Draft,
    ) -> Result<Result<NotifyOutcome, NotificationError>, NotificationError> {
        let recipients = draft.message.target.inboxes();
        if let Some(key) = &draft.key
            && let Some(known) = self.keys.get(&key.hash)
        {
            return Ok(match known.request == key.request {
                true => Ok(self.outcome(known.order, known.recipients)),
                false => Err(NotificationError::KeyReuse(key.text.clone())),
            });
        }
        if let Err(error) = draft.check_times(work.now_ms) {
            return Ok(Err(error));
        }
        let order = work.next_order();
        let period = match draft.not_before_ms {
            Some(due_ms) => {
                let replaced = schedule::slot(self.sender, draft)
                    .and_then(|slot| self.slots.insert(slot, order));
                if let Some(replaced) = replaced {
                    super::schedules::replace(self.core, work, replaced).await?;
                }
                super::schedules::add(work, order, self.sender, due_ms, draft);
                idempotency::SCHEDULED
            }
            None => {
                deliver(self.core, work, order, &mut draft.message, None).await?;
                idempotency::period(order.time_ms())
            }
        };
        if let Some(key) = &draft.key {
            self.remember(
                work,
                key,
                period,
                KeyRecord {
                    order,
                    request: key.request,
                    recipients,
                },
            );
        }
        Ok(Ok(self.outcome(order, recipients)))
    }

    fn remember(&mut self, work: &mut Work<'_>, key: &SenderKey, period: u32, record: KeyRecord) {
        let row = idempotency::row(period, &key.hash);
        self.core.key_periods.insert(period);
        work.batch
            .put(tables::KEYS, row, idempotency::encode(&record));
        self.keys.insert(key.hash, record);
    }

    fn outcome(&self, order: Order, recipients: u64) -> NotifyOutcome {
        NotifyOutcome {
            id: self.core.id(order),
            recipients,
        }
    }
}

/// Delivers a message now: into inboxes, to everyone, or to a channel. The inboxes are loaded,
/// and the locks held.
pub(super) async fn deliver(
    core: &HubCore,
    work: &mut Work<'_>,
    order: Order,
    message: &mut Message,
    scheduled: Option<Order>,
) -> Result<(), NotificationError> {
    let expires_at_ms = message.expiry.at_ms(work.now_ms);
    let class = message.class;
    let notification = match message.shared.take() {
        Some(shared) => work::complete(core, order, class, expires_at_ms, shared),
        None => work::notification(core, order, class, expires_at_ms, &message.text)?,
    };
    match &message.target {
        Target::Channel(channel) => {
            let channel = channel.clone();
            channel_rows::put(&mut work.batch, order, &channel, &notification);
            work.events.push(HubEvent::Channel {
                channel,
                notification: Box::new(notification),
            });
        }
        Target::Everyone => {
            let collapse = message.collapse;
            let replaced: Vec<_> = collapse
                .and_then(|hash| work.live.find_collapse(hash))
                .into_iter()
                .collect();
            work.add_broadcast(
                Broadcast {
                    order,
                    class,
                    expires_at_ms,
                    collapse,
                    scheduled,
                },
                &message.text,
            );
            // First the newcomer, so that a client that counts is right at the end.
            work.events.push(HubEvent::Broadcast {
                notification: Arc::new(Notification {
                    replaces: core.id_texts(&replaced),
                    ..notification
                }),
                class,
            });
            work.remove_broadcasts(replaced);
            let surplus = work.live.surplus(core.config.max_broadcasts);
            work.remove_broadcasts(surplus);
        }
        Target::Users(users) => {
            let entry = Entry {
                order,
                class,
                is_marked_read: false,
                expires_at_ms,
                collapse: message.collapse,
            };
            let retention = core.retention();
            let mut notification = Some(notification);
            for (place, user) in users.iter().enumerate() {
                // The last one takes it.
                let is_last = place + 1 == users.len();
                let one = match is_last {
                    true => notification.take(),
                    false => notification.clone(),
                };
                let is_full = work.inbox(user).state.items as usize >= retention.max_items;
                if is_full || message.collapse.is_some() {
                    work.load_blocks(user).await?;
                }
                work.insert(user, entry.clone(), retention, one.unwrap_or_default());
            }
            let inboxes = u32::try_from(users.len()).unwrap_or(u32::MAX);
            work.bodies.push(Body {
                order,
                inboxes,
                text: std::mem::take(&mut message.text),
            });
        }
    }
    Ok(())
}
