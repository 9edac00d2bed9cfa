//! Asking: commands whose slot is on its way to another server of a cluster, which has their keys already.
//!
//! The server that hands the slot over answers `ASK` once it has none of the keys of a command. The
//! other one refuses the command with `TRYAGAIN` until it has all of them, and then carries it out after
//! `ASKING`:
//!
//! ```text
//!   keys of a channel      the slot's server   the other one
//!   all at the first       carries it out
//!   some at each           TRYAGAIN
//!   all at the other       ASK                 carries it out
//! ```
//!
//! A key that does not exist yet, such as that of a new idempotency key, is in the way until the whole
//! slot has moved. The fresh epoch of a partition is therefore none of the declared keys in a cluster:
//! channels that exist do not need it.
//!
//! The server that hands the slot over is healthy, and those who ask serve its other slots too. The other
//! one may hang. Connections to it are therefore opened beside the work, and an answer is not waited for
//! long.

use std::{collections::HashMap, time::Duration};

use tidewire_redis::{ServerAddress, slots::Redirection};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    address::RedisOptions,
    calls::RedisCommand,
    connection::RedisConnection,
    error::RedisError,
    resp::{self, Reply},
    route::Place,
    script::Digests,
};

/// Longest wait for answers. All slots of the server that hands one over wait meanwhile.
const WAIT: Duration = Duration::from_millis(250);

/// Pause before a server is connected to that did not answer.
const PAUSE: Duration = Duration::from_millis(250);

type Opened = (RedisConnection, Digests);

/// A connection, or one that is being opened.
enum Link {
    Open(Box<Opened>),
    Opening(JoinSet<Result<Opened, RedisError>>),
}

/// Connections to servers that slots are on their way to.
#[derive(Default)]
pub(super) struct Asking(HashMap<ServerAddress, Link>);

impl Asking {
    /// Has a server carry out commands of slots that are on their way to it. Returns none, and has sent
    /// nothing, if there is no connection to it yet.
    ///
    /// # Errors
    /// It does not answer. Some commands may have been carried out.
    pub(super) async fn exchange(
        &mut self,
        options: &RedisOptions,
        server: &ServerAddress,
        commands: &[RedisCommand],
    ) -> Result<Option<Vec<Reply>>, RedisError> {
        let Some((mut connection, digests)) = self.take(options, server) else {
            return Ok(None);
        };
        let mut pipeline = Vec::new();
        for command in commands {
            // It holds for one command.
            resp::encode(&mut pipeline, &["ASKING"]);
            command.encode(&mut pipeline, &digests);
        }
        let exchange = connection.exchange(&pipeline, 2 * commands.len());
        let exchanged = match timeout(WAIT.min(options.timeout), exchange).await {
            Ok(exchanged) => exchanged,
            Err(_) => Err(RedisError::Connection(format!("{server} does not answer"))),
        };
        let replies = match exchanged {
            Ok(replies) => replies,
            Err(error) => {
                self.open(options, server, PAUSE);
                return Err(error);
            }
        };
        let replies: Vec<_> = replies.into_iter().skip(1).step_by(2).collect();
        let is_unknown = |reply: &Reply| matches!(reply, Reply::Error(text) if RedisError::Refused(text.clone()).is_unknown_script());
        if replies.iter().any(is_unknown) {
            // The next connection has the scripts loaded.
            self.open(options, server, Duration::ZERO);
        } else {
            let opened = Link::Open(Box::new((connection, digests)));
            self.0.insert(server.clone(), opened);
        }
        Ok(Some(replies))
    }

    /// Takes the connection to a server, or has one opened.
    fn take(&mut self, options: &RedisOptions, server: &ServerAddress) -> Option<Opened> {
        let pause = match self.0.remove(server) {
            Some(Link::Open(opened)) => return Some(*opened),
            Some(Link::Opening(mut opening)) => match opening.try_join_next() {
                Some(Ok(Ok(opened))) => return Some(opened),
                Some(_) => PAUSE,
                None => {
                    self.0.insert(server.clone(), Link::Opening(opening));
                    return None;
                }
            },
            None => Duration::ZERO,
        };
        self.open(options, server, pause);
        None
    }

    /// Opens a connection to a server after a pause.
    fn open(&mut self, options: &RedisOptions, server: &ServerAddress, pause: Duration) {
        let (options, address) = (options.clone(), server.clone());
        let mut opening = JoinSet::new();
        opening.spawn(async move {
            sleep(pause).await;
            let mut connection = RedisConnection::open_server(&options, &address).await?;
            let digests = Digests::load(&mut connection).await?;
            Ok((connection, digests))
        });
        self.0.insert(server.clone(), Link::Opening(opening));
    }
}

/// The server that has the keys of a command already, if this is what the error of a place says.
pub(super) fn target(error: &RedisError, place: &Place) -> Option<ServerAddress> {
    let RedisError::Refused(text) = error else {
        return None;
    };
    match Redirection::read(text, place.master()?)? {
        Redirection::Ask(_, server) => Some(server),
        Redirection::Moved(..) => None,
    }
}
