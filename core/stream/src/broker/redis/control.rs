//! Control task: hears the questions of other nodes ([`Nodes`]), and keeps the revocations of all
//! nodes equal.
//!
//! A revocation is a message on one shard channel of all nodes. It is also in a hash, whose version
//! changes with it, by a random step: a Redis that has lost some never has the same version again. A
//! node compares its own revocations with the hash when it has subscribed, and when the version is
//! another than expected. It adds what the hash lacks. So a revocation reaches a node that was away,
//! and a Redis that was emptied.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::oneshot,
    task::AbortHandle,
    time::{MissedTickBehavior, interval},
};

use super::{
    address::RedisOptions,
    calls::{Calls, RedisCommand, backoff},
    connection::RedisConnection,
    error::RedisError,
    health::{Link, LinkHealth},
    keys::KeyNames,
    nodes::Nodes,
    resp::{self, Reply},
    script::{Script, ScriptCall},
};
use crate::{
    Backoff, UserId,
    auth::Revocation,
    broker::{ControlHandler, NodeTag},
};

/// Time between two pings.
const PING: Duration = Duration::from_secs(1);

/// Silence beyond the longest wait for an answer, after which the connection is opened again.
const SILENCE_GRACE: Duration = Duration::from_secs(2);

/// Revocations that are read in one step, about.
const STEP: &[u8] = b"500";

/// Time after its expiry after which a revocation is removed, in milliseconds: clocks may differ.
const EXPIRY_GRACE_MS: i64 = 24 * 60 * 60 * 1_000;

/// Greatest step of the version. Two billion such steps fit in its 63 bits.
const VERSION_STEP: u64 = 1 << 32;

/// First letters of the fields of revocations.
const TOKEN: &str = "t:";
const USER: &str = "u:";

/// The task of the connection.
pub(super) struct ControlTask {
    pub(super) options: RedisOptions,
    pub(super) keys: KeyNames,
    pub(super) nodes: Arc<Nodes>,
    pub(super) health: Arc<LinkHealth>,
    pub(super) calls: Calls,
    pub(super) handler: Weak<dyn ControlHandler>,
    /// Whether Redis lacks a revocation of this node, since it could not be sent.
    pub(super) is_behind: Arc<AtomicBool>,
    /// Told once the revocations of other nodes are in force here.
    pub(super) ready: Option<oneshot::Sender<()>>,
}

/// The tasks that serve other nodes. They end when it is dropped.
#[derive(Debug)]
pub(super) struct ControlTasks {
    pub(super) listening: AbortHandle,
    pub(super) lease: AbortHandle,
}

impl Drop for ControlTasks {
    fn drop(&mut self) {
        self.listening.abort();
        self.lease.abort();
    }
}

/// The call that spreads a revocation to all nodes, and keeps it.
pub(super) fn call(
    keys: &KeyNames,
    node: NodeTag,
    revocation: &Revocation,
    expires_at_ms: i64,
) -> ScriptCall {
    let (field, until_ms) = match revocation {
        Revocation::Token(id) => (format!("{TOKEN}{id}"), 0),
        Revocation::User(user, until_ms) => (format!("{USER}{}", user.as_str()), *until_ms),
    };
    // Times before 1970 are those of tokens that have expired.
    let (until, expires) = (until_ms.max(0), expires_at_ms.max(0));
    let message = format!("{} revoke {until} {expires} {field}", node.as_str());
    let [revocations, version] = keys.control();
    ScriptCall {
        script: Script::Control,
        keys: 2,
        arguments: vec![
            revocations,
            version,
            keys.control_channel(),
            message.into(),
            field.into(),
            until.to_string().into(),
            expires.to_string().into(),
            rand::random_range(1..=VERSION_STEP).to_string().into(),
        ],
    }
}

/// A revocation by its field in the hash, and its expiry.
fn revocation(field: &str, until: &str, expires: &str) -> Option<(Revocation, i64)> {
    let until_ms = until.parse().ok()?;
    let revocation = match field.strip_prefix(TOKEN) {
        Some(id) => Revocation::Token(id.to_owned()),
        None => Revocation::User(UserId::new(field.strip_prefix(USER)?), until_ms),
    };
    Some((revocation, expires.parse().ok()?))
}

/// Carries out the revocation of a message, unless this node has sent it. None if a newer version
/// wrote it in another form.
fn apply(handler: &dyn ControlHandler, node: NodeTag, message: &str) -> Option<()> {
    let (sender, rest) = message.split_once(' ')?;
    if sender == node.as_str() {
        return Some(());
    }
    let rest = rest.strip_prefix("revoke ")?;
    let (until, rest) = rest.split_once(' ')?;
    let (expires, field) = rest.split_once(' ')?;
    let (revocation, expires_at_ms) = revocation(field, until, expires)?;
    handler.revoke(&revocation, expires_at_ms);
    Some(())
}

impl ControlTask {
    /// Listens until the handler is gone, or until it is aborted.
    pub(super) async fn run(mut self) {
        let mut backoff = backoff();
        loop {
            let version = self.options.sentinels.version();
            let listened = self.listen(&mut backoff).await;
            self.nodes.hearing.end();
            let Err(error) = listened else {
                return;
            };
            self.health.fail(Link::Control, &error);
            let pause = backoff.next_pause();
            self.options.sentinels.pause(version, pause).await;
        }
    }

    async fn listen(&mut self, backoff: &mut Backoff) -> Result<(), RedisError> {
        let everybody = self.keys.control_channel();
        let mut connection = RedisConnection::open(&self.options, &everybody).await?;
        let (mut subscribe, mut ping) = (Vec::new(), Vec::new());
        for name in [self.keys.node_channel(self.nodes.tag), everybody.clone()] {
            resp::encode(&mut subscribe, &[&b"SSUBSCRIBE"[..], &name]);
        }
        resp::encode(&mut ping, &["PING"]);
        connection.send(&subscribe).await?;
        let mut pings = interval(PING);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut comparisons = interval(self.options.comparison);
        comparisons.set_missed_tick_behavior(MissedTickBehavior::Delay);
        comparisons.reset();
        // Counted in pings: a process that stood still has first to read what came meanwhile.
        let mut unanswered = 0;
        let mut version = Bytes::new();
        loop {
            while let Some(reply) = connection.arrived()? {
                unanswered = 0;
                if let Some(confirmed) = self.receive(reply, &everybody)? {
                    self.nodes.hearing.begin();
                    version = confirmed.synchronise(self).await?;
                    backoff.reset();
                    self.health.recover(&Link::Control);
                    if let Some(ready) = self.ready.take() {
                        // The start may have waited long enough.
                        let _ = ready.send(());
                    }
                }
            }
            tokio::select! {
                filled = connection.fill() => filled?,
                _ = pings.tick() => {
                    connection.check_master()?;
                    let longest = self.options.timeout + SILENCE_GRACE;
                    unanswered += 1;
                    if PING * unanswered > longest + PING {
                        return Err(RedisError::TimedOut(longest.as_millis()));
                    }
                    connection.send(&ping).await?;
                    if self.is_behind.swap(false, Ordering::AcqRel) {
                        version = Subscribed.synchronise(self).await.inspect_err(|_| {
                            self.is_behind.store(true, Ordering::Release);
                        })?;
                    }
                }
                _ = comparisons.tick() => {
                    if self.handler.strong_count() == 0 {
                        return Ok(());
                    }
                    // The revocations of other nodes change it as well. A Redis without one may have
                    // been emptied before this node had read another one.
                    let newest = self.version().await?;
                    if newest.is_empty() || newest != version {
                        version = Subscribed.synchronise(self).await?;
                    }
                }
            }
        }
    }

    /// Carries out what came. Returns whether the last subscription was confirmed.
    fn receive(&self, reply: Reply, last: &[u8]) -> Result<Option<Subscribed>, RedisError> {
        let parts = match reply {
            // The answer to a ping before the subscription.
            Reply::Text(_) => return Ok(None),
            Reply::Error(text) => {
                return match RedisError::Refused(text) {
                    // A server that cannot save refuses pings too.
                    error if error.refuses_writes() => Ok(None),
                    error => Err(error),
                };
            }
            reply => reply.array()?,
        };
        let mut parts = parts.into_iter();
        let kind = parts.next().map(Reply::text).transpose()?;
        match kind.as_deref() {
            Some(b"ssubscribe") => {
                let name = parts.next().map(Reply::text).transpose()?;
                Ok((name.as_deref() == Some(last)).then_some(Subscribed))
            }
            Some(b"sunsubscribe") => Err(RedisError::Connection(
                "the server ended the subscription".to_owned(),
            )),
            Some(b"smessage") => {
                if let (Some(Reply::Text(message)), Some(handler)) =
                    (parts.nth(1), self.handler.upgrade())
                {
                    if self.nodes.receive(&message, &handler) {
                        return Ok(None);
                    }
                    let message = String::from_utf8_lossy(&message);
                    if apply(&*handler, self.nodes.tag, &message).is_none() {
                        tracing::warn!("a request of another node cannot be read");
                    }
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// The version of the revocations in Redis.
    async fn version(&self) -> Result<Bytes, RedisError> {
        let [_, version] = self.keys.control();
        let question = vec![Bytes::from_static(b"GET"), version];
        match self.calls.call(RedisCommand::Plain(question)).await? {
            Reply::Nil => Ok(Bytes::new()),
            reply => reply.text(),
        }
    }
}

/// A subscription that was confirmed: nothing that is sent from now on is missed.
struct Subscribed;

impl Subscribed {
    /// Takes over the revocations in Redis, and adds those that it lacks. Returns their version.
    async fn synchronise(self, task: &ControlTask) -> Result<Bytes, RedisError> {
        let version = task.version().await?;
        let Some(handler) = task.handler.upgrade() else {
            return Ok(version);
        };
        let known = read(task, &*handler).await?;
        for (revocation, expires_at_ms) in handler.revocations() {
            let call = call(&task.keys, task.nodes.tag, &revocation, expires_at_ms);
            let [.., field, until, expires, _] = &call.arguments[..] else {
                continue;
            };
            let value = [&until[..], b" ", expires].concat();
            if known.get(field).is_none_or(|known| *known != value) {
                task.calls.script(call).await?;
            }
        }
        Ok(version)
    }
}

/// Reads the revocations in Redis, and removes those that expired long ago.
async fn read(
    task: &ControlTask,
    handler: &dyn ControlHandler,
) -> Result<HashMap<Bytes, Vec<u8>>, RedisError> {
    let [hash, _] = task.keys.control();
    let long_ago = handler.now_ms() - EXPIRY_GRACE_MS;
    let (mut known, mut cursor) = (HashMap::new(), Bytes::from_static(b"0"));
    loop {
        let step = ["HSCAN", "COUNT"].map(|word| Bytes::from_static(word.as_bytes()));
        let [scan, count] = step;
        let scan = vec![scan, hash.clone(), cursor, count, Bytes::from_static(STEP)];
        let mut reply = task
            .calls
            .call(RedisCommand::Plain(scan))
            .await?
            .array()?
            .into_iter();
        let (Some(next), Some(entries)) = (reply.next(), reply.next()) else {
            return Err(RedisError::Protocol(
                "revocations have no cursor".to_owned(),
            ));
        };
        cursor = next.text()?;
        let mut entries = entries.array()?.into_iter();
        let mut expired = Vec::new();
        while let (Some(field), Some(value)) = (entries.next(), entries.next()) {
            // Copies: a reply shares the memory of its whole buffer.
            let field = Bytes::copy_from_slice(&field.text()?);
            let value = value.text()?.to_vec();
            let parsed = std::str::from_utf8(&field)
                .ok()
                .zip(std::str::from_utf8(&value).ok());
            let parsed = parsed.and_then(|(field, value)| {
                let (until, expires) = value.split_once(' ')?;
                revocation(field, until, expires)
            });
            match parsed {
                Some((_, expires_at_ms)) if expires_at_ms < long_ago => expired.push(field),
                Some((revocation, expires_at_ms)) => {
                    handler.revoke(&revocation, expires_at_ms);
                    known.insert(field, value);
                }
                None => tracing::warn!("a revocation in Redis cannot be read"),
            }
        }
        if !expired.is_empty() {
            let remove = [vec![Bytes::from_static(b"HDEL"), hash.clone()], expired].concat();
            task.calls.call(RedisCommand::Plain(remove)).await?;
        }
        if &*cursor == b"0" {
            return Ok(known);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use parking_lot::Mutex;

    use super::*;

    /// The revocations that were carried out, as text.
    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);

    impl ControlHandler for Recorder {
        fn revoke(&self, revocation: &Revocation, expires_at_ms: i64) {
            self.0
                .lock()
                .push(format!("{revocation:?} {expires_at_ms}"));
        }

        fn revocations(&self) -> Vec<(Revocation, i64)> {
            Vec::new()
        }

        fn now_ms(&self) -> i64 {
            0
        }

        fn answer(self: Arc<Self>, question: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> {
            Box::pin(std::future::ready(question))
        }
    }

    #[test]
    fn a_message_is_read_as_it_was_sent_and_not_by_its_sender() {
        let keys = KeyNames::new("tidewire", 0);
        let (one, two) = (NodeTag::random(), NodeTag::random());
        for (revocation, expires_at_ms) in [
            (Revocation::Token("a b".to_owned()), i64::MAX),
            (Revocation::User(UserId::new("ann"), 5), 7),
        ] {
            let call = call(&keys, one, &revocation, expires_at_ms);
            let message = String::from_utf8_lossy(&call.arguments[3]).into_owned();
            let recorder = Recorder::default();
            assert_eq!(apply(&recorder, one, &message), Some(()));
            assert!(recorder.0.lock().is_empty());
            assert_eq!(apply(&recorder, two, &message), Some(()));
            let expected = format!("{revocation:?} {expires_at_ms}");
            assert_eq!(*recorder.0.lock(), [expected]);
            assert_eq!(apply(&recorder, two, "one other thing"), None);
        }
    }
}
