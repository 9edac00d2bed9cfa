//! Calls: commands that may be repeated, such as reads, on a connection to each server that many share.
//!
//! All commands that wait are sent as one pipeline. After a fault of the connection they are sent
//! again on the next one, as long as somebody waits for them. Where a slot of a cluster has moved, they
//! are sent to its other server.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tidewire_redis::ServerAddress;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    address::RedisOptions,
    asking::{self, Asking},
    connection::RedisConnection,
    error::RedisError,
    health::{Link, LinkHealth},
    resp::{self, Reply},
    route::{Place, Route},
    script::{Digests, ScriptCall},
};
use crate::Backoff;

/// Commands that wait for the connection at most. Beyond, callers wait for room.
const QUEUE: usize = 4_096;

/// Commands of one pipeline at most.
const PIPELINE: usize = 256;

/// Pause after the first failed connection, and the longest.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Pauses that are as long as the first one: a failover takes about a second.
const EAGER: u32 = 20;

/// The pauses between two connections.
pub(super) fn backoff() -> Backoff {
    Backoff::with_jitter(PAUSES.0, PAUSES.1).eager(EAGER)
}

/// Time after which a command whose slot is moving is sent again.
const MOVING: Duration = Duration::from_millis(20);

/// Whether a command is sent again after a connection broke before its answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repetition {
    /// It is: it may be carried out twice.
    Allowed,
    /// It fails: it is not known whether it was carried out.
    Forbidden,
}

/// A command.
#[derive(Debug, Clone)]
pub(super) enum RedisCommand {
    /// A script, loaded where it is unknown.
    Script(ScriptCall),
    /// Any other command.
    Plain(Vec<Bytes>),
}

impl RedisCommand {
    /// Appends the command to a pipeline.
    pub(super) fn encode(&self, out: &mut Vec<u8>, digests: &Digests) {
        match self {
            Self::Script(call) => digests.encode(out, call),
            Self::Plain(arguments) => resp::encode(out, arguments),
        }
    }

    /// The key, or the shard channel, that decides on the server.
    fn key(&self) -> &[u8] {
        let key = match self {
            Self::Script(call) => call.arguments.first(),
            Self::Plain(arguments) => arguments.get(1),
        };
        key.map_or(&[], |key| key)
    }
}

#[derive(Debug)]
struct Call {
    command: RedisCommand,
    /// The server, if it is not that of the key.
    place: Option<Place>,
    repetition: Repetition,
    reply: oneshot::Sender<Result<Reply, RedisError>>,
}

/// The sending side. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Calls(Arc<Workers>);

/// The workers, one for each server.
#[derive(Debug)]
struct Workers {
    options: RedisOptions,
    route: Route,
    health: Arc<LinkHealth>,
    senders: Mutex<HashMap<Place, mpsc::Sender<Call>>>,
    /// Sessions call from threads that may end before a worker does.
    runtime: Handle,
}

impl Calls {
    /// Calls without a connection yet, whose tasks run on the current runtime.
    pub(super) fn new(options: &RedisOptions, route: &Route, health: Arc<LinkHealth>) -> Self {
        Self(Arc::new(Workers {
            options: options.clone(),
            route: route.clone(),
            health,
            senders: Mutex::default(),
            runtime: Handle::current(),
        }))
    }

    /// Where each channel is.
    pub(super) fn route(&self) -> &Route {
        &self.0.route
    }

    /// Sends a command to the server of its key, and waits for the answer.
    ///
    /// # Errors
    /// No answer came in time, or the server refused the command.
    pub(super) async fn call(&self, command: RedisCommand) -> Result<Reply, RedisError> {
        self.send(command, None, Repetition::Allowed).await
    }

    /// Sends a command without a key to a server.
    ///
    /// # Errors
    /// As those of [`call`](Self::call).
    pub(super) async fn call_at(
        &self,
        place: &Place,
        command: RedisCommand,
    ) -> Result<Reply, RedisError> {
        let place = Some(place.clone());
        self.send(command, place, Repetition::Allowed).await
    }

    async fn send(
        &self,
        command: RedisCommand,
        place: Option<Place>,
        repetition: Repetition,
    ) -> Result<Reply, RedisError> {
        let (reply, answer) = oneshot::channel();
        let asked = match &place {
            Some(place) => place.clone(),
            None => self.0.route.of_key(command.key()),
        };
        let call = async {
            let call = Call {
                command,
                place,
                repetition,
                reply,
            };
            self.0.dispatch(call).await;
            let ended = || RedisError::Connection("the connection has ended".to_owned());
            answer.await.map_err(|_| ended())?
        };
        let timeout = self.0.options.timeout;
        match tokio::time::timeout(timeout, call).await {
            Ok(reply) => reply,
            Err(_) => Err(self.0.health.timed_out(&asked, timeout)),
        }
    }

    /// Calls a script.
    ///
    /// # Errors
    /// As those of [`call`](Self::call).
    pub(super) async fn script(&self, call: ScriptCall) -> Result<Reply, RedisError> {
        self.call(RedisCommand::Script(call)).await
    }

    /// Calls a script that is carried out once at most.
    ///
    /// # Errors
    /// As those of [`call`](Self::call), and the connection broke.
    pub(super) async fn script_once(&self, call: ScriptCall) -> Result<Reply, RedisError> {
        let command = RedisCommand::Script(call);
        self.send(command, None, Repetition::Forbidden).await
    }

    /// Calls a script that mostly reads. A server that refuses writes carries it out as long as
    /// nothing has to be written.
    ///
    /// # Errors
    /// As those of [`call`](Self::call).
    pub(super) async fn read(&self, call: ScriptCall) -> Result<Reply, RedisError> {
        let refused = match self.script(call.clone()).await {
            Err(error) if error.refuses_writes() => error,
            reply => return reply,
        };
        match call.read_only() {
            Some(call) => self.script(call).await.map_err(|_| refused),
            None => Err(refused),
        }
    }
}

impl Workers {
    /// Hands a call to the worker of its server, once there is one.
    async fn dispatch(self: &Arc<Self>, call: Call) {
        let mut call = call;
        while !call.reply.is_closed() {
            let place = match &call.place {
                Some(place) => place.clone(),
                None => self.route.of_key(call.command.key()),
            };
            if place == Place::Nowhere {
                let mut maps = self.route.changes();
                if self.route.of_key(call.command.key()) == place {
                    tokio::select! {
                        _ = maps.changed() => {}
                        () = call.reply.closed() => return,
                    }
                }
                continue;
            }
            if call.place.is_some() && self.route.is_gone(&place) {
                return;
            }
            let sender = self.sender(&place);
            match sender.send(call).await {
                Ok(()) => return,
                // The worker has ended.
                Err(mpsc::error::SendError(again)) => {
                    call = again;
                    let mut senders = self.senders.lock();
                    if senders
                        .get(&place)
                        .is_some_and(|one| one.same_channel(&sender))
                    {
                        senders.remove(&place);
                    }
                }
            }
        }
    }

    fn sender(self: &Arc<Self>, place: &Place) -> mpsc::Sender<Call> {
        let mut senders = self.senders.lock();
        if let Some(sender) = senders.get(place) {
            return sender.clone();
        }
        let (sender, queue) = mpsc::channel(QUEUE);
        let worker = Worker {
            options: self.options.clone(),
            route: self.route.clone(),
            place: place.clone(),
            health: self.health.clone(),
            workers: Arc::downgrade(self),
            queue,
        };
        self.runtime.spawn(worker.run());
        senders.insert(place.clone(), sender.clone());
        sender
    }
}

/// The side of a connection.
#[derive(Debug)]
struct Worker {
    options: RedisOptions,
    route: Route,
    place: Place,
    health: Arc<LinkHealth>,
    workers: Weak<Workers>,
    queue: mpsc::Receiver<Call>,
}

impl Worker {
    /// Sends commands until all senders are gone, or the server has no slots any more.
    async fn run(mut self) {
        let mut waiting = Vec::new();
        let mut backoff = backoff();
        let (route, place) = (self.route.clone(), self.place.clone());
        while !route.is_gone(&place) && self.workers.strong_count() > 0 {
            let version = self.options.sentinels.version();
            let error = tokio::select! {
                biased;
                served = self.connect_and_serve(&mut waiting, &mut backoff) => match served {
                    Ok(()) => return,
                    Err(error) => error,
                },
                () = route.gone(&place) => break,
            };
            self.health.fail(self.link(), &error);
            let pause = backoff.next_pause();
            tokio::select! {
                () = self.options.sentinels.pause(version, pause) => {}
                () = route.gone(&place) => {}
            }
        }
        self.queue.close();
        while let Some(call) = self.queue.recv().await {
            waiting.push(call);
        }
        // One that was sent when the server was replaced may have been carried out.
        self.redirect(waiting);
        self.health.forget(&place);
    }

    fn link(&self) -> Link {
        Link::Reads(self.place.clone())
    }

    /// Has the server that slots are on their way to carry out commands. Returns those that it cannot
    /// yet.
    async fn ask(
        &self,
        asking: &mut Asking,
        server: &ServerAddress,
        calls: Vec<Call>,
    ) -> Vec<Call> {
        let mut calls = calls;
        let commands: Vec<_> = calls.iter().map(|call| call.command.clone()).collect();
        let replies = match asking.exchange(&self.options, server, &commands).await {
            Ok(Some(replies)) => replies,
            Ok(None) => return calls,
            Err(error) => {
                fail_unrepeatable(&mut calls, &error);
                return calls;
            }
        };
        let mut moving = Vec::new();
        for (call, reply) in calls.into_iter().zip(replies) {
            let reply = match reply {
                Reply::Error(text) => Err(RedisError::Refused(text)),
                reply => Ok(reply),
            };
            match reply {
                Err(error) if error.is_unknown_script() || error.is_transient() => {
                    moving.push(call)
                }
                // A caller that has given up needs no answer.
                reply => drop(call.reply.send(reply)),
            }
        }
        moving
    }

    /// Has commands sent to the servers of their keys, in a moment.
    fn redirect(&self, calls: Vec<Call>) {
        let Some(workers) = self.workers.upgrade().filter(|_| !calls.is_empty()) else {
            return;
        };
        tokio::spawn(async move {
            tokio::time::sleep(MOVING).await;
            for call in calls {
                let workers = workers.clone();
                tokio::spawn(async move { workers.dispatch(call).await });
            }
        });
    }

    async fn connect_and_serve(
        &mut self,
        waiting: &mut Vec<Call>,
        backoff: &mut Backoff,
    ) -> Result<(), RedisError> {
        let master = self.place.master();
        let mut connection = RedisConnection::open_master(&self.options, master).await?;
        let mut digests = Digests::load(&mut connection).await?;
        if waiting.is_empty() {
            self.health.recover(&self.link());
            backoff.reset();
        }
        let (mut pipeline, mut asking) = (Vec::new(), Asking::default());
        loop {
            waiting.retain(|call| !call.reply.is_closed());
            if waiting.is_empty() && self.queue.recv_many(waiting, PIPELINE).await == 0 {
                return Ok(());
            }
            pipeline.clear();
            for call in &*waiting {
                call.command.encode(&mut pipeline, &digests);
            }
            connection.check_master()?;
            let asked = Instant::now();
            let exchanged = async {
                let replies = connection.exchange(&pipeline, waiting.len()).await?;
                // A master that was replaced while it hung has what nobody else has.
                connection.confirm_master(&self.options, asked).await?;
                Ok::<_, RedisError>(replies)
            };
            let replies = exchanged
                .await
                .inspect_err(|error| fail_unrepeatable(waiting, error))?;
            let (mut again, mut moving, mut passing) = (Vec::new(), Vec::new(), None);
            let mut asked: HashMap<ServerAddress, Vec<Call>> = HashMap::new();
            for (call, reply) in waiting.drain(..).zip(replies) {
                let reply = match reply {
                    Reply::Error(text) => Err(RedisError::Refused(text)),
                    reply => Ok(reply),
                };
                match reply {
                    Err(error) if error.is_unknown_script() => again.push(call),
                    Err(error) if error.is_redirection() => {
                        match asking::target(&error, &self.place) {
                            Some(server) => asked.entry(server).or_default().push(call),
                            None => moving.push(call),
                        }
                    }
                    Err(error) if error.is_transient() => {
                        passing = Some(error);
                        again.push(call);
                    }
                    // A caller that has given up needs no answer.
                    reply => drop(call.reply.send(reply)),
                }
            }
            *waiting = again;
            for (server, calls) in asked {
                moving.extend(self.ask(&mut asking, &server, calls).await);
            }
            self.redirect(moving);
            if let Some(error) = passing {
                return Err(error);
            }
            self.health.recover(&self.link());
            backoff.reset();
            if !waiting.is_empty() {
                digests = Digests::load(&mut connection).await?;
            }
        }
    }
}

/// Fails the commands that may have been carried out, and must not be twice.
fn fail_unrepeatable(waiting: &mut Vec<Call>, error: &RedisError) {
    let is_unrepeatable = |call: &mut Call| call.repetition == Repetition::Forbidden;
    for call in waiting.extract_if(.., is_unrepeatable) {
        // A caller that has given up needs no answer.
        drop(call.reply.send(Err(error.clone())));
    }
}
