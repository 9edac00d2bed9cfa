//! Publishing: queues publications of shared channels, and waits for what becomes of them.

use std::sync::Arc;

use tidewire_proto::v1::ErrorCode;
use tokio::{sync::oneshot, time::timeout};

use super::{
    RedisBroker, WRITERS,
    error::RedisError,
    keys::{fnv, partition},
    queue::{Item, KeyUse, Mode, Receipt},
    record,
    unavailable::Unavailable as _,
};
use crate::{
    ChannelName, Content, Event, Position, StreamError, Urgency,
    broker::{
        Fence, LocalDelivery, PublishFuture, Sender,
        idempotency::{check_key, fingerprint},
    },
    limit::ClientKey,
};

impl<D: LocalDelivery> RedisBroker<D> {
    /// Queues a publication of a shared channel.
    fn queue(&self, channel: &ChannelName, item: Item) -> Result<(), StreamError> {
        // The remainder is below the number of queues.
        let queue = &self.queues[(partition(channel) % WRITERS) as usize];
        queue.push(channel, item).map_err(|_| {
            let fault = self.health.fault();
            let fault = fault.unwrap_or_else(|| "it is slower than the publishers".to_owned());
            let text = format!(
                "nothing was published: {} bytes wait for Redis already, as many as broker.buffer_bytes allows: {fault}",
                self.buffer.used()
            );
            StreamError::new(ErrorCode::Unavailable, text).with_retry_after_ms(1_000)
        })
    }

    pub(super) fn offer_shared(
        &self,
        channel: &ChannelName,
        (content, urgency): (&Content, Urgency),
        mode: Mode,
        fence: Option<&Arc<Fence>>,
    ) {
        self.enqueue(
            channel,
            Item {
                payload: record::encode(content, urgency),
                mode,
                fence: fence.cloned(),
                key: None,
                reply: None,
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
        let (reply, outcome) = oneshot::channel();
        let key = self.key_use(channel, key, &event, &ClientKey::Unknown);
        let queued = key.and_then(|key| {
            let item = Item {
                payload: record::encode(&event.into(), urgency),
                mode: Mode::Any,
                fence: fence.cloned(),
                key: Some(key),
                reply: Some(reply),
            };
            self.queue(channel, item)
        });
        // It waits for Redis as long as the broker exists.
        Box::pin(async move {
            queued?;
            match outcome.await {
                Ok(published) => published.map(drop),
                Err(_) => {
                    let ended = RedisError::Connection("the broker has ended".to_owned());
                    Err(ended.unavailable("it is not known whether this was published"))
                }
            }
        })
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
        let (reply, outcome) = oneshot::channel();
        let item = Item {
            payload: record::encode(&event.into(), Urgency::Ordinary),
            mode: match may_create {
                true => Mode::Any,
                false => Mode::Existing,
            },
            fence: None,
            key,
            reply: Some(reply),
        };
        self.queue(channel, item)?;
        let unknown = |error: RedisError| {
            error.unavailable("it is not known whether this was published, and a repetition with an idempotency key is safe")
        };
        let written = match timeout(self.options.timeout, outcome).await {
            Ok(Ok(written)) => written?,
            Ok(Err(_)) => {
                return Err(unknown(RedisError::Connection(
                    "the broker has ended".to_owned(),
                )));
            }
            Err(_) => {
                return Err(unknown(self.health.timed_out(self.options.timeout)));
            }
        };
        let Receipt { position, is_new } = written;
        if let Some(client) = client.filter(|_| is_new) {
            self.shares.note_new_channel(client);
        }
        Ok(position)
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
