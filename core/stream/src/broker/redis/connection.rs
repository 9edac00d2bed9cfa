//! Connection: a TCP connection to Redis, signed in, for pipelines of commands.
//!
//! It is our own, since order and repetition matter here: a pipeline is written once and in order,
//! and whether a part of it is repeated after a fault is decided by its sender, who knows what a
//! repetition does.

use std::time::Duration;

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use super::{
    address::RedisOptions,
    error::RedisError,
    resp::{self, Reply},
};

/// Room for replies that is reserved at once, in bytes.
const READ_BYTES: usize = 64 << 10;

/// A connection that is signed in.
#[derive(Debug)]
pub(super) struct RedisConnection {
    stream: TcpStream,
    buffer: BytesMut,
    timeout: Duration,
}

impl RedisConnection {
    /// Connects and signs in.
    pub(super) async fn open(options: &RedisOptions) -> Result<Self, RedisError> {
        let address = &options.address;
        let connect = TcpStream::connect((&*address.host, address.port));
        let stream = match timeout(options.timeout, connect).await {
            Ok(stream) => stream?,
            Err(_) => return Err(timed_out(options.timeout)),
        };
        stream.set_nodelay(true)?;
        let mut connection = Self {
            stream,
            buffer: BytesMut::with_capacity(READ_BYTES),
            timeout: options.timeout,
        };
        if let Some(password) = &address.password {
            match &address.user {
                Some(user) => connection.call(&["AUTH", user, password]).await?,
                None => connection.call(&["AUTH", password]).await?,
            };
        }
        if address.database != 0 {
            let database = address.database.to_string();
            connection.call(&["SELECT", &database]).await?;
        }
        // The first fault of a server that wants a password, or loads its data.
        connection.call(&["PING"]).await?;
        Ok(connection)
    }

    /// Sends one command, and waits for its answer.
    ///
    /// # Errors
    /// The connection broke, or the server refused the command.
    pub(super) async fn call<A: AsRef<[u8]>>(
        &mut self,
        arguments: &[A],
    ) -> Result<Reply, RedisError> {
        let mut bytes = Vec::new();
        resp::encode(&mut bytes, arguments);
        let replies = self.exchange(&bytes, 1).await?;
        match replies.into_iter().next() {
            Some(Reply::Error(text)) => Err(RedisError::Refused(text)),
            Some(reply) => Ok(reply),
            None => Err(RedisError::Protocol("no answer came".to_owned())),
        }
    }

    /// Sends a pipeline of encoded commands, and waits for their answers.
    ///
    /// # Errors
    /// The connection broke, or not all answers came in time. Some commands may have run. The
    /// connection must not be used any more: answers may still come.
    pub(super) async fn exchange(
        &mut self,
        commands: &[u8],
        count: usize,
    ) -> Result<Vec<Reply>, RedisError> {
        let deadline = Instant::now() + self.timeout;
        let exchange = async {
            self.stream.write_all(commands).await?;
            let mut replies = Vec::with_capacity(count);
            while replies.len() < count {
                match resp::decode(&mut self.buffer)? {
                    Some(reply) => replies.push(reply),
                    None => self.fill().await?,
                }
            }
            Ok(replies)
        };
        match timeout_at(deadline, exchange).await {
            Ok(replies) => replies,
            Err(_) => Err(timed_out(self.timeout)),
        }
    }

    /// Sends encoded commands without waiting for answers.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn send(&mut self, commands: &[u8]) -> Result<(), RedisError> {
        match timeout(self.timeout, self.stream.write_all(commands)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(timed_out(self.timeout)),
        }
    }

    /// A reply that has arrived already.
    ///
    /// # Errors
    /// The bytes are not RESP.
    pub(super) fn arrived(&mut self) -> Result<Option<Reply>, RedisError> {
        resp::decode(&mut self.buffer)
    }

    /// Waits for more bytes. May be cancelled without losing any.
    ///
    /// # Errors
    /// The connection broke, or the server ended it.
    pub(super) async fn fill(&mut self) -> Result<(), RedisError> {
        self.buffer.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(RedisError::Connection("the server ended it".to_owned())),
            _ => Ok(()),
        }
    }
}

fn timed_out(after: Duration) -> RedisError {
    RedisError::TimedOut(after.as_millis())
}
