//! Nodes: the servers that are there, and questions to them.
//!
//! A node is in a sorted set of Redis until its lease ends, by the clock of Redis. It extends the
//! lease once a second, and ends it when it stops. The set says who has to answer a question: what a
//! killed node had is gone with it, and for the rest of its lease it counts as missing.
//!
//! ```text
//!  asking node ──(script ask)──► shard channel of all nodes, or of one ──► answering nodes
//!       ▲                                                                       │
//!       └────────────────── shard channel of the asking node ◄──(SPUBLISH)──────┘
//! ```
//!
//! Nothing about connections is stored in Redis: a subscription costs it nothing, and there is
//! nothing to clean up.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    address::RedisOptions,
    calls::{Calls, RedisCommand},
    error::RedisError,
    health::{Link, LinkHealth},
    keys::KeyNames,
    resp::Reply,
    script::{Script, ScriptCall},
    versions::{NodeProtocol, Presence, Roll},
};
use crate::broker::{Answers, ControlHandler, NodeTag, Recipients};

/// How long a node that is silent is taken for present.
const LEASE: Duration = Duration::from_secs(5);

/// Time between two extensions.
const EXTENSION: Duration = Duration::from_secs(1);

/// Longest wait for the answers of all nodes. For that of one node, it is the usual timeout.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Questions of this node that are under way at most. Beyond, they wait.
const QUESTIONS: usize = 256;

/// Questions of other nodes that are answered at once at most. Beyond, they are left unanswered.
const ANSWERING: usize = 256;

/// Questions that are remembered, so that none is carried out twice: those of the seconds in which a
/// node may send one again.
const REMEMBERED: usize = 16_384;

/// The word between the sender and the number of a question.
const QUESTION: &[u8] = b"ask";

/// The same of an answer.
const ANSWER: &[u8] = b"answer";

/// The nodes, and the questions of this one.
#[derive(Debug)]
pub(super) struct Nodes {
    pub(super) tag: NodeTag,
    keys: KeyNames,
    calls: Calls,
    timeout: Duration,
    protocol: NodeProtocol,
    health: Arc<LinkHealth>,
    /// How many others there were at the last extension.
    others: AtomicUsize,
    /// The version that all nodes spoke then. 0 before the first one.
    agreed: AtomicU32,
    last: AtomicU64,
    waiting: Mutex<HashMap<u64, Arc<PendingAnswers>>>,
    permits: Semaphore,
    answering: Arc<Semaphore>,
    received: Mutex<ReceivedQuestions>,
}

/// The newest questions of other nodes. A node that lost the reply of Redis sends its question again,
/// and it must not be carried out twice.
#[derive(Debug, Default)]
struct ReceivedQuestions {
    known: HashSet<(NodeTag, u64)>,
    /// The same, oldest first.
    order: VecDeque<(NodeTag, u64)>,
}

impl ReceivedQuestions {
    /// Notes a question. Returns whether it is new.
    fn note(&mut self, sender: NodeTag, number: u64) -> bool {
        let is_new = self.known.insert((sender, number));
        if is_new {
            self.order.push_back((sender, number));
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
        is_new
    }
}

/// A question that waits for answers.
#[derive(Debug, Default)]
struct PendingAnswers {
    answers: Mutex<HashMap<NodeTag, Bytes>>,
    changed: Notify,
}

/// Removes a question when nobody waits for it any more.
struct Registered<'a> {
    nodes: &'a Nodes,
    number: u64,
    waiting: Arc<PendingAnswers>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.nodes.waiting.lock().remove(&self.number);
    }
}

/// A message between nodes: `sender kind number`, a line break, and the content.
struct Message<'a> {
    sender: NodeTag,
    kind: &'a [u8],
    number: u64,
    content: &'a [u8],
}

impl<'a> Message<'a> {
    fn read(message: &'a [u8]) -> Option<Self> {
        let end = message.iter().position(|byte| *byte == b'\n')?;
        let mut words = message[..end].split(|byte| *byte == b' ');
        let (sender, kind, number) = (words.next()?, words.next()?, words.next()?);
        if sender.len() != 8 || words.next().is_some() || ![QUESTION, ANSWER].contains(&kind) {
            return None;
        }
        Some(Self {
            sender: NodeTag::read(sender)?,
            kind,
            number: std::str::from_utf8(number).ok()?.parse().ok()?,
            content: &message[end + 1..],
        })
    }

    fn write(&self) -> Bytes {
        let number = self.number.to_string();
        let sender = &self.sender.as_bytes()[..];
        [
            sender,
            b" ",
            self.kind,
            b" ",
            number.as_bytes(),
            b"\n",
            self.content,
        ]
        .concat()
        .into()
    }
}

impl Nodes {
    pub(super) fn new(
        tag: NodeTag,
        keys: KeyNames,
        calls: Calls,
        options: &RedisOptions,
        health: Arc<LinkHealth>,
    ) -> Arc<Self> {
        Arc::new(Self {
            tag,
            keys,
            calls,
            timeout: options.timeout,
            protocol: options.protocol,
            health,
            others: AtomicUsize::new(0),
            agreed: AtomicU32::new(0),
            last: AtomicU64::new(0),
            waiting: Mutex::default(),
            permits: Semaphore::new(QUESTIONS),
            answering: Arc::new(Semaphore::new(ANSWERING)),
            received: Mutex::default(),
        })
    }

    /// Extends the lease of this node until it is aborted.
    pub(super) async fn keep_lease(self: Arc<Self>) {
        loop {
            // Without Redis there is no lease to keep: its fault is known.
            match self.lease(LEASE).await {
                Ok(Roll::Present(nodes)) => self.note(nodes),
                // They came while this node was away: its own lease had ended.
                Ok(Roll::Refused(stranger)) => {
                    self.health
                        .fail(Link::Nodes, &stranger.fault(self.protocol));
                }
                Err(_) => {}
            }
            tokio::time::sleep(EXTENSION).await;
        }
    }

    fn note(&self, nodes: Presence) {
        self.health.recover(Link::Nodes);
        let others = nodes.count.saturating_sub(1);
        self.others.store(others, Ordering::Relaxed);
        let before = self.agreed.swap(nodes.agreed, Ordering::Relaxed);
        if before != nodes.agreed {
            tracing::info!(
                version = nodes.agreed,
                "all nodes speak this version of the protocol between nodes"
            );
        }
    }

    /// The version of the protocol between nodes that all of them speak. None before it is known.
    pub(super) fn agreed(&self) -> Option<u32> {
        let agreed = self.agreed.load(Ordering::Relaxed);
        (agreed > 0).then_some(agreed)
    }

    /// Ends the lease of this node. It is not asked any more.
    pub(super) async fn leave(&self) {
        // A lease that cannot be ended ends by itself.
        let _ = self.lease(Duration::ZERO).await;
    }

    /// Sets the end of the lease, and returns the nodes that there are.
    async fn lease(&self, lifetime: Duration) -> Result<Roll, RedisError> {
        let tag = Bytes::copy_from_slice(self.tag.as_bytes());
        let lifetime = lifetime.as_millis().to_string();
        let call = roll_call(&self.keys, tag, lifetime, self.protocol);
        Roll::read(self.calls.script(call).await?)
    }

    /// Asks other nodes, and waits for their answers.
    ///
    /// # Errors
    /// Redis cannot be reached, or too many questions are under way.
    pub(super) async fn ask(
        &self,
        whom: Recipients,
        question: &[u8],
    ) -> Result<Answers, RedisError> {
        let (time, channel, node) = match whom {
            Recipients::Others => (
                ANSWER_TIME.min(self.timeout),
                self.keys.control_channel(),
                Bytes::new(),
            ),
            Recipients::Node(tag) | Recipients::NodeOnce(tag, _) => (
                match whom {
                    Recipients::NodeOnce(_, time) => time,
                    _ => self.timeout,
                },
                self.keys.node_channel(tag),
                Bytes::copy_from_slice(tag.as_bytes()),
            ),
        };
        let deadline = Instant::now() + time;
        let late = || RedisError::TimedOut(time.as_millis());
        let permit = timeout_at(deadline, self.permits.acquire()).await;
        let _permit = permit.map_err(|_| late())?;
        let registered = self.register();
        let message = Message {
            sender: self.tag,
            kind: QUESTION,
            number: registered.number,
            content: question,
        };
        let call = ScriptCall {
            script: Script::Ask,
            keys: 1,
            arguments: vec![self.keys.nodes(), channel, message.write(), node],
        };
        let asking = async {
            match whom {
                Recipients::NodeOnce(..) => self.calls.script_once(call).await,
                _ => self.calls.script(call).await,
            }
        };
        let asked = timeout_at(deadline, asking).await;
        let mut asked = asked.map_err(|_| late())??.array()?;
        let heard = asked.pop().map(Reply::string).transpose()?;
        if matches!(whom, Recipients::NodeOnce(..)) && heard.as_deref() == Some("0") {
            return Ok(Answers {
                missing: asked.len(),
                is_unheard: true,
                ..Answers::default()
            });
        }
        let mut asked = asked
            .into_iter()
            .map(|node| Ok(NodeTag::read(&node.text()?)))
            .collect::<Result<Vec<_>, RedisError>>()?;
        asked.retain(|node| node.is_some_and(|node| node != self.tag));
        let waiting = &registered.waiting;
        loop {
            let missing = {
                let answers = waiting.answers.lock();
                let is_missing =
                    |node: &&Option<NodeTag>| node.is_some_and(|node| !answers.contains_key(&node));
                asked.iter().filter(is_missing).count()
            };
            let is_late = missing > 0
                && timeout_at(deadline, waiting.changed.notified())
                    .await
                    .is_err();
            if missing == 0 || is_late {
                let answers = std::mem::take(&mut *waiting.answers.lock());
                let answers = answers.into_values().collect();
                return Ok(Answers {
                    answers,
                    missing,
                    is_unheard: false,
                });
            }
        }
    }

    /// How many other nodes there were when Redis was last reached.
    pub(super) fn others(&self) -> usize {
        self.others.load(Ordering::Relaxed)
    }

    fn register(&self) -> Registered<'_> {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let waiting = Arc::new(PendingAnswers::default());
        self.waiting.lock().insert(number, waiting.clone());
        Registered {
            nodes: self,
            number,
            waiting,
        }
    }

    /// Takes a question or an answer of another node. Returns false if the message is neither.
    pub(super) fn receive(
        self: &Arc<Self>,
        message: &[u8],
        handler: &Arc<dyn ControlHandler>,
    ) -> bool {
        let Some(message) = Message::read(message) else {
            return false;
        };
        if message.sender == self.tag {
            return true;
        }
        match message.kind {
            QUESTION => {
                // The answer to one that comes again is on its way.
                if self.received.lock().note(message.sender, message.number) {
                    self.answer(&message, handler);
                }
            }
            _ => {
                // One that came too late has nobody who waits for it.
                let waiting = self.waiting.lock().get(&message.number).cloned();
                if let Some(waiting) = waiting {
                    // A copy: the message shares the memory of a read buffer.
                    let answer = Bytes::copy_from_slice(message.content);
                    waiting.answers.lock().insert(message.sender, answer);
                    waiting.changed.notify_one();
                }
            }
        }
        true
    }

    fn answer(self: &Arc<Self>, question: &Message<'_>, handler: &Arc<dyn ControlHandler>) {
        let Ok(permit) = self.answering.clone().try_acquire_owned() else {
            tracing::warn!("a question of another server is not answered: too many come");
            return;
        };
        let (sender, number) = (question.sender, question.number);
        let content = Bytes::copy_from_slice(question.content);
        let (nodes, handler) = (self.clone(), handler.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let answer = handler.answer(content).await;
            let message = Message {
                sender: nodes.tag,
                kind: ANSWER,
                number,
                content: &answer,
            };
            let publish = vec![
                Bytes::from_static(b"SPUBLISH"),
                nodes.keys.node_channel(sender),
                message.write(),
            ];
            if let Err(error) = nodes
                .calls
                .call(RedisCommand::Plain(publish))
                .await
                .and_then(number_of)
            {
                tracing::warn!(%error, "an answer to another server is lost");
            }
        });
    }
}

/// Asks which nodes there are, for one that is about to join them.
pub(super) fn roll_question(keys: &KeyNames, protocol: NodeProtocol) -> ScriptCall {
    roll_call(keys, Bytes::new(), "-1".to_owned(), protocol)
}

fn roll_call(keys: &KeyNames, tag: Bytes, lifetime: String, protocol: NodeProtocol) -> ScriptCall {
    ScriptCall {
        script: Script::Lease,
        keys: 2,
        arguments: vec![
            keys.nodes(),
            keys.spoken(),
            tag,
            lifetime.into(),
            protocol.oldest.to_string().into(),
            protocol.newest.to_string().into(),
            Bytes::from_static(env!("CARGO_PKG_VERSION").as_bytes()),
        ],
    }
}

/// How many heard a message.
fn number_of(reply: Reply) -> Result<i64, RedisError> {
    match reply {
        Reply::Integer(number) => Ok(number),
        Reply::Error(text) => Err(RedisError::Refused(text)),
        other => Err(RedisError::Protocol(format!(
            "{other:?} came, expected a number"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_comes_again_is_no_new_one() {
        let tags = [b"00000001", b"00000002"].map(|tag| NodeTag::read(tag).unwrap());
        let mut received = ReceivedQuestions::default();
        assert!(received.note(tags[0], 7));
        assert!(!received.note(tags[0], 7));
        assert!(received.note(tags[1], 7) && received.note(tags[0], 8));
        for number in 0..2 * REMEMBERED as u64 {
            received.note(tags[1], 100 + number);
        }
        assert_eq!(
            (received.known.len(), received.order.len()),
            (REMEMBERED, REMEMBERED)
        );
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let tag = NodeTag::random();
        let message = Message {
            sender: tag,
            kind: QUESTION,
            number: 7,
            content: b"a\nb",
        };
        let written = message.write();
        let read = Message::read(&written).unwrap();
        assert_eq!((read.sender, read.kind, read.number), (tag, QUESTION, 7));
        assert_eq!(read.content, b"a\nb");
        for cut in 0..written.len() - message.content.len() {
            assert!(Message::read(&written[..cut]).is_none());
        }
        for other in [
            "0badcafe revoke 7\n",
            "x ask 7\n",
            "0badcafe ask x\n",
            "0badcafe ask 7",
        ] {
            assert!(Message::read(other.as_bytes()).is_none(), "{other:?}");
        }
    }
}
