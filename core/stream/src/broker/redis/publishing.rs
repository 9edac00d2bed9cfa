//! Publishing: queues publications of shared channels, and waits for what becomes of them.

use std::sync::Arc;

use bytes::Bytes;
use tidewire_proto::v1::ErrorCode;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    RedisBroker, WRITERS,
    error::RedisError,
    health::Link,
    keys::{fnv, partition},
    queue::{Item, KeyUse, Mode, Queue, Receipt},
    record,
    unavailable::{Unavailable as _, without_addresses},
};
use crate::{
    ChannelName, Class, Content, Event, Position, StreamError, Urgency,
    broker::{
        Fence, LocalDelivery, PublishFuture, Sender,
        idempotency::{check_key, fingerprint},
    },
    limit::ClientKey,
};

/// The outcome of a publication that waits. A sender that drops it has given up: then the publication makes
/// room for others at once, also where its server is lost.
struct Outcome {
    outcome: Option<oneshot::Receiver<Result<Receipt, StreamError>>>,
    queue: Arc<Queue>,
    channel: ChannelName,
    ticket: u64,
}

impl Outcome {
    /// Waits for it: as long as the broker exists.
    async fn wait(mut self) -> Result<Receipt, StreamError> {
        let received = match &mut self.outcome {
            Some(outcome) => outcome.await.ok(),
            None => None,
        };
        // It is not in the queue any more.
        self.outcome = None;
        received.unwrap_or_else(|| {
            let ended = RedisError::Connection("the broker has ended".to_owned());
            Err(ended.unavailable("it is not known whether this was published"))
        })
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if self.outcome.take().is_some() {
            self.queue.give_up(&self.channel, self.ticket);
        }
    }
}

impl<D: LocalDelivery> RedisBroker<D> {
    /// Queues a publication of a shared channel. Returns the queue, and its ticket there.
    fn queue(&self, channel: &ChannelName, item: Item) -> Result<(&Arc<Queue>, u64), StreamError> {
        // The remainder is below the number of queues.
        let queue = &self.queues[(partition(channel) % WRITERS) as usize];
        let ticket = queue.push(channel, item).map_err(|full| {
            let fault = self.health.fault_at(&self.health.place_of(channel));
            let fault = fault.map(|fault| without_addresses(&fault));
            let fault = fault.unwrap_or_else(|| "it is slower than the publishers".to_owned());
            let text = format!("nothing was published: {full}: {fault}");
            StreamError::new(ErrorCode::Unavailable, text).with_retry_after_ms(1_000)
        })?;
        Ok((queue, ticket))
    }

    /// Queues a publication whose sender waits for the outcome.
    fn queue_for(
        &self,
        channel: &ChannelName,
        payload: Bytes,
        mode: Mode,
        fence: Option<&Arc<Fence>>,
        key: Option<KeyUse>,
    ) -> Result<Outcome, StreamError> {
        let (reply, outcome) = oneshot::channel();
        let item = Item {
            payload,
            mode,
            fence: fence.cloned(),
            key,
            reply: Some(reply),
            is_latest: false,
        };
        let (queue, ticket) = self.queue(channel, item)?;
        Ok(Outcome {
            outcome: Some(outcome),
            queue: queue.clone(),
            channel: channel.clone(),
            ticket,
        })
    }

    pub(super) fn offer_shared(
        &self,
        channel: &ChannelName,
        (content, urgency): (&Content, Urgency),
        mode: Mode,
        fence: Option<&Arc<Fence>>,
    ) {
        let namespace = self.namespaces.get(channel);
        self.enqueue(
            channel,
            Item {
                payload: record::encode(content, urgency),
                mode,
                fence: fence.cloned(),
                key: None,
                reply: None,
                is_latest: namespace.is_some_and(|one| one.class == Class::Latest),
            },
        );
    }

    /// Queues a publication that nobody waits for.
    fn enqueue(&self, channel: &ChannelName, item: Item) {
        if let Err(error) = self.queue(channel, item) {
            self.owed.lose(channel, &error);
        }
    }

    pub(super) fn offer_shared_once(
        &self,
        channel: &ChannelName,
        event: Event,
        urgency: Urgency,
        key: &str,
        fence: Option<&Arc<Fence>>,
    ) -> PublishFuture {
        let key = self.key_use(channel, key, &event, &ClientKey::Unknown);
        let queued = key.and_then(|key| {
            let payload = record::encode(&event.into(), urgency);
            self.queue_for(channel, payload, Mode::Any, fence, Some(key))
        });
        Box::pin(async move { queued?.wait().await.map(drop) })
    }

    pub(super) async fn publish_shared(
        &self,
        channel: &ChannelName,
        event: Event,
        idempotency_key: Option<&str>,
        sender: &Sender,
    ) -> Result<Position, StreamError> {
        let key = match idempotency_key {
            None => None,
            Some(key) => Some(self.key_use(channel, key, &event, &sender.client)?),
        };
        let client = sender.is_limited.then_some(&sender.client);
        let may_create = client.is_none_or(|client| self.shares.has_room(client));
        let payload = record::encode(&event.into(), Urgency::Ordinary);
        let mode = match may_create {
            true => Mode::Any,
            false => Mode::Existing,
        };
        let (link, queued_at) = (self.publishing_link(channel), Instant::now());
        let outcome = self.queue_for(channel, payload, mode, None, key)?;
        let written = match timeout(self.options.timeout, outcome.wait()).await {
            Ok(written) => written?,
            Err(_) => {
                let error = self.timed_out(channel);
                // A writer takes nothing before its connection works, and nothing that nobody waits for.
                let is_unsent = link == self.publishing_link(channel)
                    && self.health.has_failed_since(&link, queued_at);
                return Err(error.unavailable(match is_unsent {
                    true => "nothing was published",
                    false => "it is not known whether this was published, and a repetition with an idempotency key is safe",
                }));
            }
        };
        let Receipt { position, is_new } = written;
        if let Some(client) = client.filter(|_| is_new) {
            self.shares.note_new_channel(client);
        }
        Ok(position)
    }

    /// The connection that publishes on a channel.
    fn publishing_link(&self, channel: &ChannelName) -> Link {
        let writer = partition(channel) % WRITERS;
        Link::Publishing(self.health.place_of(channel), writer)
    }

    /// The name in Redis of a sender's idempotency key, and the fingerprint of its body.
    fn key_use(
        &self,
        channel: &ChannelName,
        key: &str,
        event: &Event,
        client: &ClientKey,
    ) -> Result<KeyUse, StreamError> {
        check_key(key)?;
        let owner = match client {
            ClientKey::User(user) => format!("u{}", user.as_str()),
            ClientKey::Network(network) => format!("n{network:?}"),
            ClientKey::Unknown => "-".to_owned(),
        };
        // Two digests of 64 bits over different texts: a collision of both does not happen.
        let text = format!("{}\0{owner}\0{key}", channel.as_str());
        let reversed: Vec<u8> = text.bytes().rev().collect();
        let digest = format!("{:016x}{:016x}", fnv(text.as_bytes()), fnv(&reversed));
        Ok(KeyUse {
            name: self.keys.idempotency(channel, &digest),
            fingerprint: format!("{:016x}", fingerprint(event)).into(),
        })
    }
}
