//! Calls: unary RPCs with a deadline, a token, and attempts that are safe to repeat.
//!
//! A call that fails because the server cannot be reached, or asks to wait, is tried again until
//! its deadline. The request is the same each time. Its idempotency key, which the client adds
//! where the protocol has one, makes the server answer a repeated request with the first result.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status, transport::Channel};

use crate::{
    backoff::Backoff,
    error::{Error, ErrorKind},
    token::{Refusals, Token, Tokens},
};

/// Largest message that this client reads. The server's own limit is lower.
pub(crate) const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The connection for calls.
pub(crate) struct Calls {
    channel: Channel,
    tokens: Arc<Tokens>,
    deadline: Duration,
}

/// Adds a token to a request.
///
/// # Errors
/// [`ErrorKind::Token`]: the token has characters that no header can carry.
pub(crate) fn with_token<T>(message: T, token: Option<&Token>) -> Result<Request<T>, Error> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = format!("Bearer {}", token.text).parse().map_err(|_| {
            let text = "the token has a character that no header can carry, expected a JWT";
            Error::new(ErrorKind::Token, text)
        })?;
        request.metadata_mut().insert("authorization", value);
    }
    Ok(request)
}

/// Returns a new idempotency key.
pub(crate) fn new_key() -> Option<String> {
    Some(format!("{:032x}", rand::random::<u128>()))
}

impl Calls {
    pub(crate) fn new(channel: Channel, tokens: Arc<Tokens>, deadline: Duration) -> Self {
        Self {
            channel,
            tokens,
            deadline,
        }
    }

    /// Calls until there is an answer, an error that stays, or the deadline.
    pub(crate) async fn call<T, R, F>(
        &self,
        message: T,
        once: impl Fn(Channel, Request<T>) -> F,
    ) -> Result<R, Error>
    where
        T: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut last = None;
        match timeout(self.deadline, self.attempts(&message, once, &mut last)).await {
            Ok(result) => result,
            Err(_) => {
                let text = format!("no answer within {:?}", self.deadline);
                Err(match last {
                    Some(error) => {
                        let text = format!("{text}: {error}");
                        Error::new(ErrorKind::DeadlineExceeded, text).with_source(error)
                    }
                    None => Error::new(ErrorKind::DeadlineExceeded, text),
                })
            }
        }
    }

    async fn attempts<T, R, F>(
        &self,
        message: &T,
        once: impl Fn(Channel, Request<T>) -> F,
        last: &mut Option<Error>,
    ) -> Result<R, Error>
    where
        T: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut backoff = Backoff::default();
        let mut refusals = Refusals::default();
        loop {
            let since = Instant::now();
            let token = self.tokens.get().await?;
            let request = with_token(message.clone(), token.as_ref())?;
            let error = match once(self.channel.clone(), request).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => Error::of_status(&status),
            };
            match (error.kind(), token) {
                (ErrorKind::Unavailable | ErrorKind::ResourceExhausted, _) => {
                    let delay = backoff.next(error.retry_after());
                    *last = Some(error);
                    tokio::time::sleep(delay).await;
                }
                // The token's age may be the reason.
                (ErrorKind::Unauthenticated, Some(token))
                    if self.tokens.renew(&token, since, &mut refusals) => {}
                _ => return Err(error),
            }
        }
    }
}
