//! Scheduling: adding, replacing, cancelling and delivering; and recalling broadcasts.

use std::{collections::BTreeSet, sync::Arc};

use prost::Message as _;
use tidewire_proto::v1::Notification;
use tidewire_stream::UserId;

use super::{NotificationHub, parse_id, sending};
use crate::{
    NotificationError, NotificationId,
    draft::{Draft, Target},
    hub_core::HubCore,
    id::Order,
    idempotency, locks,
    schedule::{self, Schedule},
    tables::{self, DueWork},
    work::Work,
};

/// Reference to a scheduled notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleRef<'a> {
    /// The id that the request returned.
    Id(&'a str),
    /// The idempotency key of the request.
    Key(&'a str),
}

impl NotificationHub {
    /// Cancels a scheduled notification before its time. Only its sender can.
    ///
    /// # Errors
    /// The id is malformed, nothing of this sender is scheduled under it, or the store cannot be
    /// written.
    pub async fn cancel_scheduled(
        &self,
        sender: &UserId,
        reference: ScheduleRef<'_>,
    ) -> Result<NotificationId, NotificationError> {
        let core = &self.0;
        let (text, id) = match reference {
            ScheduleRef::Id(text) => (text, Some(parse_id("id", text)?)),
            ScheduleRef::Key(text) => (text, None),
        };
        let mut stripes = BTreeSet::from([locks::SCHEDULES]);
        let hash = idempotency::key_hash(sender, text);
        if id.is_none() {
            stripes.insert(core.locks.stripe(&hash));
        }
        let mut work = Work::lock(core, &stripes).await;
        let unknown = || NotificationError::NotScheduled(text.to_owned());
        let order = match id {
            Some(id) => core.order(id).ok_or_else(unknown)?,
            None => {
                let row = idempotency::row(idempotency::SCHEDULED, &hash);
                let record = core
                    .store
                    .get(tables::KEYS, row)
                    .await?
                    .ok_or_else(unknown)?;
                idempotency::decode(&record)?.order
            }
        };
        let schedule = load(core, order)
            .await?
            .filter(|schedule| schedule.sender == *sender);
        let schedule = schedule.ok_or_else(unknown)?;
        remove(core, &mut work, &schedule);
        work.commit().await?;
        Ok(core.id(order))
    }

    /// Removes a broadcast from all lists and counts. The id is that of the notification, or the
    /// one under which it was scheduled. One that still waits for its time is cancelled.
    ///
    /// # Errors
    /// The id is malformed, there is no such broadcast, or the store cannot be written.
    pub async fn recall_broadcast(&self, id: &str) -> Result<NotificationId, NotificationError> {
        let core = &self.0;
        let unknown = || NotificationError::NoBroadcast(id.to_owned());
        let order = core.order(parse_id("id", id)?).ok_or_else(unknown)?;
        let stripes = BTreeSet::from([locks::SCHEDULES, locks::BROADCASTS]);
        let mut work = Work::lock(core, &stripes).await;
        let live = work.live.find(order).map(|broadcast| broadcast.order);
        match live.or_else(|| work.live.find_scheduled(order)) {
            Some(live) => work.remove_broadcasts(vec![live]),
            None => {
                let schedule = load(core, order).await?;
                let schedule =
                    schedule.filter(|schedule| schedule.message.target == Target::Everyone);
                remove(core, &mut work, &schedule.ok_or_else(unknown)?);
            }
        }
        work.commit().await?;
        Ok(core.id(order))
    }
}

/// Stages a new scheduled notification.
pub(super) fn add(work: &mut Work<'_>, order: Order, sender: &UserId, due_ms: i64, draft: &Draft) {
    let schedule = Schedule::new(order, sender, due_ms, draft);
    let key = order.0.to_be_bytes();
    work.batch
        .put(tables::SCHEDULES, key, schedule::encode(&schedule));
    work.add_due(due_ms, &DueWork::Delivery(order));
    if let Some(slot) = schedule.slot {
        work.batch.put(tables::SLOTS, slot, key);
    }
}

/// Removes a scheduled notification whose slot another one takes over.
pub(super) async fn replace(
    core: &HubCore,
    work: &mut Work<'_>,
    replaced: Order,
) -> Result<(), NotificationError> {
    let Some(mut schedule) = load(core, replaced).await? else {
        // It was scheduled by this very batch: its rows are staged, and deleted again.
        return replace_staged(core, work, replaced);
    };
    schedule.slot = None;
    remove(core, work, &schedule);
    Ok(())
}

fn replace_staged(
    core: &HubCore,
    work: &mut Work<'_>,
    replaced: Order,
) -> Result<(), NotificationError> {
    let key = replaced.0.to_be_bytes();
    let staged = work
        .batch
        .writes()
        .iter()
        .rev()
        .find_map(|write| match write {
            tidewire_store::Write::Put(table, found, value)
                if *table == tables::SCHEDULES && *found == key =>
            {
                Some(value.clone())
            }
            _ => None,
        });
    if let Some(record) = staged {
        let mut schedule = schedule::decode(replaced, &record)?;
        schedule.slot = None;
        remove(core, work, &schedule);
    }
    Ok(())
}

/// Stages the removal of a scheduled notification. Its idempotency key stays known.
fn remove(core: &HubCore, work: &mut Work<'_>, schedule: &Schedule) {
    let order = schedule.order;
    work.batch.delete(tables::SCHEDULES, order.0.to_be_bytes());
    work.batch.delete(
        tables::DUE,
        tables::due(schedule.due_ms, &DueWork::Delivery(order)),
    );
    if let Some(slot) = schedule.slot {
        work.batch.delete(tables::SLOTS, slot);
    }
    if let Some((hash, record)) = schedule.key_record() {
        let time_ms = work.now_ms.max(core.ids.last().time_ms());
        work.batch.delete(
            tables::KEYS,
            idempotency::row(idempotency::SCHEDULED, &hash),
        );
        let period = idempotency::period(time_ms);
        let row = idempotency::row(period, &hash);
        core.key_periods.insert(period);
        work.batch
            .put(tables::KEYS, row, idempotency::encode(&record));
    }
}

async fn load(core: &HubCore, order: Order) -> Result<Option<Schedule>, NotificationError> {
    let record = core
        .store
        .get(tables::SCHEDULES, order.0.to_be_bytes().into())
        .await?;
    record
        .map(|record| schedule::decode(order, &record))
        .transpose()
}

/// Delivers a scheduled notification whose time has come, unless it was cancelled or replaced
/// meanwhile. Returns whether that is done: one that has expired by a clock that is in doubt waits.
pub(super) async fn deliver_due(
    core: &Arc<HubCore>,
    order: Order,
) -> Result<bool, NotificationError> {
    // Its recipients never change, so the locks can be chosen before they are held.
    let Some(schedule) = load(core, order).await? else {
        return Ok(true);
    };
    let mut stripes = BTreeSet::from([locks::SCHEDULES]);
    if let Some((hash, _)) = &schedule.key {
        stripes.insert(core.locks.stripe(hash));
    }
    match &schedule.message.target {
        Target::Users(users) => stripes.extend(users.iter().map(|user| core.locks.stripe(user))),
        Target::Everyone => drop(stripes.insert(locks::BROADCASTS)),
        Target::Channel(_) => {}
    }
    let mut work = Work::lock(core, &stripes).await;
    let Some(mut schedule) = load(core, order).await? else {
        return Ok(true);
    };
    if schedule.due_ms > work.now_ms {
        return Ok(true);
    }
    let expires_at_ms = schedule.message.expiry.at_ms(work.now_ms);
    if work.time.hides(expires_at_ms) {
        return Ok(false);
    }
    remove(core, &mut work, &schedule);
    let message = &mut schedule.message;
    let has_expired = expires_at_ms.is_some_and(|at_ms| at_ms <= work.now_ms);
    if !has_expired {
        let shared = Notification::decode(message.text.as_slice());
        let mut shared =
            shared.map_err(|_| NotificationError::Damaged("scheduled notification"))?;
        shared.scheduled_id = Some(core.id(order).to_string());
        message.text = shared.encode_to_vec();
        message.shared = Some(shared);
        if let Target::Users(users) = &message.target {
            work.load(users, Vec::new()).await?;
        }
        let delivered = work.next_order();
        sending::deliver(core, &mut work, delivered, message, Some(order)).await?;
    }
    work.commit().await?;
    Ok(true)
}
