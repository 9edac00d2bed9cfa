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
//! An answer may be lost on its way, above all while the connection of the asking node is opened again. A
//! node that asked for something that must not be done twice asks again then, under the same number, and
//! the other one [repeats](KeptAnswers) its answer.
//!
//! Nothing about connections is stored in Redis: a subscription costs it nothing, and there is
//! nothing to clean up.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
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
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use super::{
    address::RedisOptions,
    calls::{Calls, RedisCommand},
    error::RedisError,
    health::{Link, LinkHealth},
    hearing::Hearing,
    kept_answers::KeptAnswers,
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

/// Time without an answer after which a question is asked again. Doubled each time.
const REPETITION: Duration = Duration::from_secs(2);

/// Pause before a question that nobody heard is asked again. Doubled each time, up to the other one.
const UNHEARD_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Questions of this node that are under way at most. Beyond, they wait.
const QUESTIONS: usize = 512;

/// Questions of other nodes that are answered at once at most. Beyond, they are left unanswered.
const ANSWERING: usize = 768;

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
    kept: Mutex<KeptAnswers>,
    /// Whether this node hears answers.
    pub(super) hearing: Hearing,
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

    /// Forgets the question that was noted last, since it is not acted on. Messages are read one after the
    /// other.
    fn forget_last(&mut self) {
        if let Some(last) = self.order.pop_back() {
            self.known.remove(&last);
        }
    }
}

/// A question that waits for answers.
#[derive(Debug, Default)]
struct PendingAnswers {
    answers: Mutex<HashMap<NodeTag, Bytes>>,
    changed: Notify,
}

impl PendingAnswers {
    /// Waits until all of these nodes have answered.
    async fn of_all(&self, nodes: &[NodeTag]) {
        while !self.has_all(nodes) {
            self.changed.notified().await;
        }
    }

    fn has_all(&self, nodes: &[NodeTag]) -> bool {
        let answers = self.answers.lock();
        nodes.iter().all(|node| answers.contains_key(node))
    }
}

/// The nodes that were asked, as the script says.
struct Addressees {
    nodes: Vec<NodeTag>,
    /// Whether Redis sent the question to nobody.
    is_unheard: bool,
}

impl Addressees {
    fn read(reply: Reply) -> Result<Self, RedisError> {
        let mut parts = reply.array()?;
        let heard = parts.pop().map(Reply::string).transpose()?;
        let mut nodes = Vec::with_capacity(parts.len());
        for node in parts {
            nodes.extend(NodeTag::read(&node.text()?));
        }
        Ok(Self {
            nodes,
            is_unheard: heard.as_deref() == Some("0"),
        })
    }
}

/// The answers to a question that was certainly sent to nobody.
fn unheard() -> Answers {
    Answers {
        missing: 1,
        is_unheard: true,
        ..Answers::default()
    }
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
            kept: Mutex::default(),
            hearing: Hearing::new(),
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
        self.health.recover(&Link::Nodes);
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

    /// Asks other nodes, and waits for their answers. Nobody is asked while this node could not hear them.
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
        let once = match whom {
            Recipients::NodeOnce(tag, _) => Some(tag),
            Recipients::Others | Recipients::Node(_) => None,
        };
        let deadline = Instant::now() + time;
        let late = || RedisError::TimedOut(time.as_millis());
        let permit = timeout_at(deadline, self.permits.acquire()).await;
        let _permit = permit.map_err(|_| late())?;
        // A connection that was cut is open again within moments.
        let moments = deadline.min(Instant::now() + ANSWER_TIME);
        let hearing = match timeout_at(moments, self.hearing.after(0)).await {
            Ok(hearing) => hearing,
            Err(_) if once.is_some() => return Ok(unheard()),
            Err(_) => return Err(late()),
        };
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
            match once {
                Some(_) => self.calls.script_once(call.clone()).await,
                None => self.calls.script(call.clone()).await,
            }
        };
        let asked = timeout_at(deadline, asking).await.map_err(|_| late())?;
        let asked = match (asked.and_then(Addressees::read), once) {
            (Ok(asked), Some(_)) if asked.is_unheard => return Ok(unheard()),
            (Ok(asked), _) => asked.nodes,
            // It may have come to the node, which is asked again under the same number.
            (Err(error), Some(tag)) if !matches!(error, RedisError::Refused(_)) => vec![tag],
            (Err(error), _) => return Err(error),
        };
        let asked: Vec<_> = asked.into_iter().filter(|node| *node != self.tag).collect();
        let answered = registered.waiting.of_all(&asked);
        let repeating = async {
            match once {
                Some(_) => self.repeat(&call, hearing).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = answered => {}
            never = repeating => match never {},
            () = sleep_until(deadline) => {}
        }
        let answers = std::mem::take(&mut *registered.waiting.answers.lock());
        let is_missing = |node: &&NodeTag| !answers.contains_key(*node);
        Ok(Answers {
            missing: asked.iter().filter(is_missing).count(),
            answers: answers.into_values().collect(),
            is_unheard: false,
        })
    }

    /// Asks again under the same number: when this node hears again after it had begun to `hearing` times,
    /// and when no answer comes for long. The other node acts once.
    async fn repeat(&self, call: &ScriptCall, mut hearing: u64) -> Infallible {
        let mut wait = REPETITION;
        loop {
            match timeout(wait, self.hearing.after(hearing)).await {
                Ok(now) => hearing = now,
                Err(_) => wait *= 2,
            }
            let mut pause = UNHEARD_PAUSE.0;
            while !self.is_heard(call).await {
                sleep(pause).await;
                pause = (pause * 2).min(UNHEARD_PAUSE.1);
            }
        }
    }

    async fn is_heard(&self, call: &ScriptCall) -> bool {
        let asked = self.calls.script(call.clone()).await;
        asked
            .and_then(Addressees::read)
            .is_ok_and(|asked| !asked.is_unheard)
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
                let number = (message.sender, message.number);
                let is_new = self.received.lock().note(number.0, number.1);
                match is_new {
                    true => self.answer(&message, handler),
                    // Without one it is acted on at present, and the answer will be heard.
                    false => {
                        if let Some(answer) = self.kept.lock().find(number) {
                            tokio::spawn(self.clone().send(number.0, answer));
                        }
                    }
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
            // It may come again.
            self.received.lock().forget_last();
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
            let message = message.write();
            // Before it is sent, so that one who asks again gets it in any case.
            nodes.kept.lock().keep((sender, number), message.clone());
            nodes.send(sender, message).await;
        });
    }

    /// Sends an answer to a node.
    async fn send(self: Arc<Self>, to: NodeTag, message: Bytes) {
        let command = Bytes::from_static(b"SPUBLISH");
        let publish = vec![command, self.keys.node_channel(to), message];
        let sent = self.calls.call(RedisCommand::Plain(publish)).await;
        if let Err(error) = sent.and_then(number_of) {
            tracing::warn!(%error, "an answer to another server is lost");
        }
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
        received.forget_last();
        assert!(received.note(tags[0], 8) && !received.note(tags[1], 7));
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
