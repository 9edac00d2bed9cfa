//! Exchange: a connection for one command after the other, which is opened when it is needed.

use std::time::Duration;

use tidewire_redis::{RedisConnection, RedisError, RedisOptions, Reply};

/// Longest wait for an answer, so that the extension of a lease can be repeated in time.
const ANSWER_TIME: Duration = Duration::from_millis(750);

/// A connection to the master that has a key.
pub(super) struct Exchange {
    /// The key of the commands.
    key: String,
    /// The options with a shorter time.
    options: RedisOptions,
    connection: Option<RedisConnection>,
}

impl Exchange {
    pub(super) fn new(redis: RedisOptions, key: &str) -> Self {
        let timeout = ANSWER_TIME.min(redis.timeout);
        Self {
            key: key.to_owned(),
            options: RedisOptions { timeout, ..redis },
            connection: None,
        }
    }

    /// Longest wait for an answer.
    pub(super) fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// Sends a command, and waits for the answer.
    ///
    /// # Errors
    /// The server does not answer in time, or refuses.
    pub(super) async fn call(&mut self, command: &[u8]) -> Result<Reply, RedisError> {
        // A connection after a fault is not used again, also if this is cancelled.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let time = self.options.timeout * 2;
                let opening = RedisConnection::open(&self.options, self.key.as_bytes());
                let opened = tokio::time::timeout(time, opening);
                let late = || Err(RedisError::TimedOut(time.as_millis()));
                opened.await.unwrap_or_else(|_| late())?
            }
        };
        connection.check_master()?;
        let replies = connection.exchange(command, 1).await?;
        match replies.into_iter().next() {
            Some(Reply::Error(text)) => Err(RedisError::Refused(text)),
            Some(reply) => {
                self.connection = Some(connection);
                Ok(reply)
            }
            None => Err(RedisError::Protocol("no answer came".to_owned())),
        }
    }
}
