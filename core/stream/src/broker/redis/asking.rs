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

use std::collections::HashMap;

use tidewire_redis::{ServerAddress, slots::Redirection};

use super::{
    address::RedisOptions,
    calls::RedisCommand,
    connection::RedisConnection,
    error::RedisError,
    resp::{self, Reply},
    route::Place,
    script::Digests,
};

/// Connections to servers that slots are on their way to.
#[derive(Default)]
pub(super) struct Asking(HashMap<ServerAddress, (RedisConnection, Digests)>);

impl Asking {
    /// Has a server carry out commands of slots that are on their way to it.
    ///
    /// # Errors
    /// It does not answer. Some commands may have been carried out.
    pub(super) async fn exchange(
        &mut self,
        options: &RedisOptions,
        server: &ServerAddress,
        commands: &[RedisCommand],
    ) -> Result<Vec<Reply>, RedisError> {
        // Without it until all answers have come, or if a script is unknown.
        let (mut connection, digests) = match self.0.remove(server) {
            Some(known) => known,
            None => {
                let mut connection = RedisConnection::open_server(options, server).await?;
                let digests = Digests::load(&mut connection).await?;
                (connection, digests)
            }
        };
        let mut pipeline = Vec::new();
        for command in commands {
            // It holds for one command.
            resp::encode(&mut pipeline, &["ASKING"]);
            command.encode(&mut pipeline, &digests);
        }
        let replies = connection.exchange(&pipeline, 2 * commands.len()).await?;
        let replies: Vec<_> = replies.into_iter().skip(1).step_by(2).collect();
        let is_unknown = |reply: &Reply| matches!(reply, Reply::Error(text) if RedisError::Refused(text.clone()).is_unknown_script());
        if !replies.iter().any(is_unknown) {
            self.0.insert(server.clone(), (connection, digests));
        }
        Ok(replies)
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
