//! Command queue: runs the commands of one connection beside its reader.
//!
//! Most commands are answered as soon as they start. One that waits, for a node or a key set,
//! goes on beside the reader, and later commands overtake it: a ping is answered while a
//! `watch` waits. Replies carry the `id` of their command.
//!
//! # Order
//! Commands that concern one channel are answered in their order. After `auth`, every command
//! that depends on the client's identity or names a channel waits until it is answered, since
//! `auth` changes the subscriptions too. Example: `watch` of transaction `a` waits for a node;
//! `unwatch` of `a` waits for it, `subscribe` to another channel and `ping` do not.
//!
//! # Bounds
//! [`MAX_RUNNING`] commands of a connection run at the same time. [`MAX_COMMANDS`] and
//! [`MAX_BYTES`] bound those that run or wait; further ones are refused.

use std::{
    collections::{HashSet, VecDeque},
    future::pending,
    hash::{DefaultHasher, Hasher as _},
    pin::{Pin, pin},
};

use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tidewire_proto::{
    json,
    v1::{ClientMessage, Error, ErrorCode, client_message::Data as RequestData},
};
use tidewire_stream::Session;

use super::{Router, UNREADABLE, handler::AuthRequirement};

/// Commands of a connection that run at the same time, so that one client does not use up the
/// calls of a node.
const MAX_RUNNING: usize = 16;

/// Commands of a connection that run or wait.
const MAX_COMMANDS: usize = 256;

/// Bytes of the commands that run or wait. A single command may be longer.
const MAX_BYTES: usize = 64 << 10;

/// Milliseconds after which a client may send a refused command again.
const RETRY_MS: u32 = 1_000;

/// The commands of one connection. Dropping it cancels them.
pub struct CommandQueue {
    session: Session,
    router: Router,
    /// Commands that were not answered at once. Boxed, since most connections never have one.
    backlog: Option<Box<Backlog>>,
}

impl std::fmt::Debug for CommandQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommandQueue")
            .field("session", &self.session)
            .field("backlog", &self.backlog.as_ref().map(|all| all.len()))
            .finish_non_exhaustive()
    }
}

/// A command in progress. It returns its number when its reply is queued.
type Answer = Pin<Box<dyn Future<Output = u64> + Send>>;

#[derive(Default)]
struct Backlog {
    answers: FuturesUnordered<Answer>,
    running: Vec<RunningCommand>,
    waiting: VecDeque<PendingCommand>,
    /// Bytes of all commands here.
    bytes: usize,
    /// Number of the next command.
    number: u64,
}

struct RunningCommand {
    number: u64,
    order: CommandOrder,
    bytes: usize,
}

struct PendingCommand {
    message: ClientMessage,
    order: CommandOrder,
    bytes: usize,
}

/// The commands that a command keeps its order with.
#[derive(Debug, Default)]
struct CommandOrder {
    identity: IdentityUse,
    /// Hashes of the channels that it concerns. Two channels with the same hash are kept in
    /// order with each other, which harms neither.
    channels: Vec<u64>,
}

/// How a command uses the client's identity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum IdentityUse {
    /// Not at all.
    #[default]
    None,
    /// It acts in the client's name, or on subscriptions.
    Read,
    /// It changes the identity, and with it the subscriptions.
    Change,
}

/// The commands in progress before a command.
#[derive(Default)]
struct Predecessors {
    changes_identity: bool,
    channels: HashSet<u64>,
}

impl Predecessors {
    fn add(&mut self, order: &CommandOrder) {
        self.changes_identity |= order.identity == IdentityUse::Change;
        self.channels.extend(&order.channels);
    }

    /// Whether a command has to wait for one of them.
    fn precede(&self, order: &CommandOrder) -> bool {
        (self.changes_identity && order.identity != IdentityUse::None)
            || order.channels.iter().any(|one| self.channels.contains(one))
    }
}

impl CommandOrder {
    /// Whether the command needs no order at all, such as a ping.
    fn is_free(&self) -> bool {
        self.identity == IdentityUse::None && self.channels.is_empty()
    }
}

impl Backlog {
    fn len(&self) -> usize {
        self.running.len() + self.waiting.len()
    }

    fn is_full(&self, bytes: usize) -> bool {
        let len = self.len();
        len >= MAX_COMMANDS || (len > 0 && self.bytes + bytes > MAX_BYTES)
    }

    /// Drops the commands that have not begun.
    fn cancel_waiting(&mut self) {
        let waiting = self.waiting.drain(..);
        self.bytes -= waiting.map(|one| one.bytes).sum::<usize>();
    }

    fn predecessors(&self) -> Predecessors {
        let mut all = Predecessors::default();
        self.running.iter().for_each(|one| all.add(&one.order));
        self.waiting.iter().for_each(|one| all.add(&one.order));
        all
    }

    /// Takes the first waiting command that may start now.
    fn take_ready(&mut self) -> Option<PendingCommand> {
        if self.running.len() >= MAX_RUNNING {
            return None;
        }
        let mut before = Predecessors::default();
        self.running.iter().for_each(|one| before.add(&one.order));
        let ready = self.waiting.iter().position(|one| {
            let is_ready = !before.precede(&one.order);
            before.add(&one.order);
            is_ready
        });
        self.waiting.remove(ready?)
    }
}

impl CommandQueue {
    /// A queue of the commands of `session`.
    #[must_use]
    pub fn new(session: Session, router: Router) -> Self {
        Self {
            session,
            router,
            backlog: None,
        }
    }

    /// The session of the commands.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether no command is in progress.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.backlog.is_none()
    }

    /// Adds a command, whose message is `bytes` long. Its reply is queued at once if nothing
    /// has to be waited for, else by a later [`next_reply`](Self::next_reply). A session that is
    /// about to end runs no further command.
    pub fn push(&mut self, message: ClientMessage, bytes: usize) {
        if self.session.is_closing() {
            return;
        }
        let order = self.router.order_of(&message);
        if let Some(backlog) = &mut self.backlog
            && !order.is_free()
        {
            if backlog.is_full(bytes) {
                return self.refuse(message);
            }
            let is_next = backlog.running.len() < MAX_RUNNING;
            if !is_next || backlog.predecessors().precede(&order) {
                backlog.bytes += bytes;
                backlog.waiting.push_back(PendingCommand {
                    message,
                    order,
                    bytes,
                });
                return;
            }
        }
        self.start(message, order, bytes);
    }

    /// Answers an unreadable message with `error`, unless the session is about to end.
    pub fn answer_unreadable(&self, id: Option<String>, error: Error) {
        if self.session.is_closing() {
            return;
        }
        let reply = self.router.answer_unreadable(&self.session, id, error);
        self.session.begin_command().reply(reply);
    }

    /// Waits until the reply to a command in progress is queued. Waits for ever while there is
    /// none.
    pub async fn next_reply(&mut self) {
        let Some(backlog) = &mut self.backlog else {
            return pending().await;
        };
        let Some(number) = backlog.answers.next().await else {
            // Unreachable: a waiting command waits for a running one.
            self.backlog = None;
            return;
        };
        if let Some(index) = backlog.running.iter().position(|one| one.number == number) {
            let ended = backlog.running.swap_remove(index);
            backlog.bytes -= ended.bytes;
        }
        if self.session.is_closing() {
            backlog.cancel_waiting();
        }
        while let Some(ready) = self.backlog.as_mut().and_then(|all| all.take_ready()) {
            if let Some(backlog) = &mut self.backlog {
                backlog.bytes -= ready.bytes;
            }
            self.start(ready.message, ready.order, ready.bytes);
        }
        if self.backlog.as_ref().is_some_and(|all| all.len() == 0) {
            self.backlog = None;
        }
    }

    /// Waits while the client has too many unread replies. Commands in progress go on meanwhile:
    /// the bytes that they have reserved count too, and are free again only when they end.
    /// Calls `flush` before the wait and after each of their replies.
    pub async fn wait_for_reply_room(&mut self, flush: impl Fn()) {
        if !self.session.is_reply_queue_full() {
            return;
        }
        flush();
        let session = self.session.clone();
        let mut room = pin!(session.wait_for_reply_room());
        loop {
            tokio::select! {
                () = &mut room => return,
                () = self.next_reply(), if !self.is_empty() => flush(),
            }
        }
    }

    /// Starts a command. If it is not answered at once, it goes on in the backlog.
    fn start(&mut self, message: ClientMessage, order: CommandOrder, bytes: usize) {
        let (session, router) = (self.session.clone(), self.router.clone());
        let number = self.backlog.as_ref().map_or(0, |all| all.number);
        let mut answer: Answer = Box::pin(async move {
            let command = session.begin_command();
            let reply = router.answer(&command, message).await;
            command.reply(reply);
            number
        });
        if (&mut answer).now_or_never().is_some() {
            return;
        }
        let backlog = self.backlog.get_or_insert_default();
        backlog.number = number + 1;
        backlog.bytes += bytes;
        backlog.running.push(RunningCommand {
            number,
            order,
            bytes,
        });
        // Polled again there, with a waker.
        backlog.answers.push(answer);
    }

    /// Refuses a command, because too many are in progress.
    fn refuse(&self, message: ClientMessage) {
        let ClientMessage { id, data } = message;
        let kind = data.as_ref().map_or(UNREADABLE, json::client_data_type);
        let error = Error {
            code: ErrorCode::ResourceExhausted.into(),
            message: format!(
                "too many commands of this connection are in progress, expected at most {MAX_COMMANDS} with {MAX_BYTES} bytes: wait for their replies"
            ),
            retry_after_ms: Some(RETRY_MS),
        };
        let reply = self.router.refuse(&self.session, kind, id, error);
        self.session.begin_command().reply(reply);
    }
}

impl Router {
    /// The commands that a message's command keeps its order with.
    fn order_of(&self, message: &ClientMessage) -> CommandOrder {
        let Some(data) = &message.data else {
            return CommandOrder::default();
        };
        let handler = self.0.handlers.get(json::client_data_type(data));
        let Some(handler) = handler else {
            return CommandOrder::default();
        };
        let mut channels = Vec::new();
        handler.visit_channels(data, &mut |name| channels.push(hash(name)));
        let identity = match (data, handler.auth()) {
            (RequestData::Auth(_), _) => IdentityUse::Change,
            (_, AuthRequirement::Identity) => IdentityUse::Read,
            (_, AuthRequirement::None) if !channels.is_empty() => IdentityUse::Read,
            (_, AuthRequirement::None) => IdentityUse::None,
        };
        CommandOrder { identity, channels }
    }
}

/// The hash of a channel's name. Names that differ in case alone may be one channel.
fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    for byte in name.bytes() {
        hasher.write_u8(byte.to_ascii_lowercase());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(identity: IdentityUse, channels: &[u64]) -> CommandOrder {
        CommandOrder {
            identity,
            channels: channels.to_vec(),
        }
    }

    #[test]
    fn names_of_one_channel_have_one_hash() {
        assert_eq!(hash("wallet:0xAB"), hash("wallet:0xab"));
        assert_ne!(hash("wallet:0xab"), hash("wallet:0xac"));
    }

    #[test]
    fn only_dependent_commands_wait() {
        let mut before = Predecessors::default();
        before.add(&order(IdentityUse::Read, &[1]));
        assert!(before.precede(&order(IdentityUse::Read, &[2, 1])));
        assert!(!before.precede(&order(IdentityUse::Read, &[2])));
        assert!(!before.precede(&order(IdentityUse::Change, &[])));
        before.add(&order(IdentityUse::Change, &[]));
        assert!(before.precede(&order(IdentityUse::Read, &[2])));
        assert!(before.precede(&order(IdentityUse::Change, &[])));
        assert!(!before.precede(&CommandOrder::default()));
    }

    /// The command with this number, as the model sees it.
    fn model_order((identity, channels): &(u8, Vec<u64>)) -> CommandOrder {
        let identity = match identity {
            0 => IdentityUse::None,
            1 => IdentityUse::Read,
            _ => IdentityUse::Change,
        };
        order(identity, channels)
    }

    /// Whether `later` has to wait for `earlier`.
    fn depends(later: &CommandOrder, earlier: &CommandOrder) -> bool {
        let mut before = Predecessors::default();
        before.add(earlier);
        before.precede(later)
    }

    proptest! {
        /// Commands end in any order. Of two that depend on each other the earlier one ends
        /// before the later one starts, and a command waits for nothing else.
        #[test]
        fn dependent_commands_keep_their_order(
            commands in prop::collection::vec(
                (0..3_u8, prop::collection::vec(0..4_u64, 0..3)), 1..60),
            ends in prop::collection::vec(any::<prop::sample::Index>(), 60),
        ) {
            let mut backlog = Backlog::default();
            for (index, one) in commands.iter().enumerate() {
                backlog.waiting.push_back(PendingCommand {
                    message: ClientMessage { id: Some(index.to_string()), data: None },
                    order: model_order(one),
                    bytes: 1,
                });
            }
            let mut ends = ends.into_iter();
            let mut ended = vec![false; commands.len()];
            loop {
                while let Some(ready) = backlog.take_ready() {
                    let number: usize = ready.message.id.unwrap().parse().unwrap();
                    for earlier in 0..number {
                        let waits = depends(&ready.order, &model_order(&commands[earlier]));
                        prop_assert!(!waits || ended[earlier], "{number} overtakes {earlier}");
                    }
                    backlog.running.push(RunningCommand {
                        number: number as u64,
                        order: ready.order,
                        bytes: 1,
                    });
                }
                prop_assert!(backlog.running.len() <= MAX_RUNNING);
                if backlog.running.is_empty() {
                    break;
                }
                let index = ends.next().unwrap().index(backlog.running.len());
                let over = backlog.running.swap_remove(index);
                ended[usize::try_from(over.number).unwrap()] = true;
            }
            prop_assert!(ended.iter().all(|ended| *ended), "every command has its turn");
        }
    }
}
