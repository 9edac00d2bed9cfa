//! Tokens: fetched once for all that need one, with a deadline, and replaced when they expire.
//!
//! A fetch lives as long as somebody waits for it. A token that comes after its deadline, or after
//! the connection that wanted it is gone, is dropped with the fetch and never used.

use std::{sync::Arc, time::Duration};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;

use crate::error::{BoxError, Error, ErrorKind};

/// A function that fetches a token.
pub(crate) type Fetch = Arc<dyn Fn() -> BoxFuture<'static, Result<String, BoxError>> + Send + Sync>;

/// Origin of tokens.
#[derive(Clone, Default)]
pub(crate) enum TokenSource {
    /// No token: the server is open, or this machine is trusted.
    #[default]
    Anonymous,
    /// One token for ever.
    Fixed(Arc<str>),
    /// A function, called when there is no token or the last one is refused or expires.
    Fetched(Fetch),
}

/// A token with the number of its fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: Arc<str>,
    generation: u64,
}

type Flight = BoxFuture<'static, Result<Token, Error>>;

#[derive(Default)]
struct State {
    /// Number of the last fetch that was started.
    generation: u64,
    current: Option<Token>,
    /// Weak: a fetch that nobody waits for is cancelled.
    flight: Option<WeakShared<Flight>>,
}

/// The tokens of one client.
pub(crate) struct Tokens {
    source: TokenSource,
    deadline: Duration,
    state: Mutex<State>,
}

impl Tokens {
    pub(crate) fn new(source: TokenSource, deadline: Duration) -> Self {
        Self {
            source,
            deadline,
            state: Mutex::default(),
        }
    }

    /// Whether a refused token can be replaced.
    pub(crate) fn is_renewable(&self) -> bool {
        matches!(self.source, TokenSource::Fetched(_))
    }

    /// Returns the current token, or fetches one. Concurrent callers share one fetch.
    ///
    /// # Errors
    /// [`ErrorKind::Token`]: the source failed, or the deadline passed.
    pub(crate) async fn get(&self) -> Result<Option<Token>, Error> {
        let fetch = match &self.source {
            TokenSource::Anonymous => return Ok(None),
            TokenSource::Fixed(text) => {
                return Ok(Some(Token {
                    text: text.clone(),
                    generation: 0,
                }));
            }
            TokenSource::Fetched(fetch) => fetch,
        };
        let flight = {
            let mut state = self.state.lock();
            if let Some(token) = &state.current {
                return Ok(Some(token.clone()));
            }
            match state.flight.as_ref().and_then(WeakShared::upgrade) {
                Some(flight) => flight,
                None => self.start(fetch.clone(), &mut state),
            }
        };
        let result = flight.await;
        let mut state = self.state.lock();
        if let Ok(token) = &result
            && token.generation == state.generation
        {
            state.current = Some(token.clone());
        }
        result.map(Some)
    }

    fn start(&self, fetch: Fetch, state: &mut State) -> Shared<Flight> {
        state.generation += 1;
        let (generation, deadline) = (state.generation, self.deadline);
        let flight = async move {
            match tokio::time::timeout(deadline, fetch()).await {
                Ok(Ok(text)) => Ok(Token {
                    text: text.into(),
                    generation,
                }),
                Ok(Err(source)) => {
                    let text = format!("the token source failed: {source}");
                    Err(Error::new(ErrorKind::Token, text).with_source(source))
                }
                Err(_) => {
                    let text = format!("the token source gave no token within {deadline:?}");
                    Err(Error::new(ErrorKind::Token, text))
                }
            }
        };
        let flight = flight.boxed().shared();
        state.flight = flight.downgrade();
        flight
    }

    /// Forgets a token that was refused or expires, unless there is a newer one.
    pub(crate) fn invalidate(&self, token: &Token) {
        let mut state = self.state.lock();
        if state.current.as_ref() == Some(token) {
            state.current = None;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::{Mutex as AsyncMutex, oneshot};

    use super::*;

    type Answers = Vec<oneshot::Receiver<&'static str>>;

    /// A source that gives these answers in turn, and the number of its calls.
    fn tokens(mut answers: Answers) -> (Arc<Tokens>, Arc<AtomicU32>) {
        answers.reverse();
        let (answers, calls) = (
            Arc::new(AsyncMutex::new(answers)),
            Arc::new(AtomicU32::new(0)),
        );
        let counter = calls.clone();
        let fetch: Fetch = Arc::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            let answers = answers.clone();
            async move {
                let answer = answers.lock().await.pop().ok_or("no more tokens")?;
                Ok(answer.await?.to_owned())
            }
            .boxed()
        });
        let source = TokenSource::Fetched(fetch);
        (Arc::new(Tokens::new(source, Duration::from_secs(5))), calls)
    }

    async fn text(tokens: &Tokens) -> String {
        tokens.get().await.unwrap().unwrap().text.to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn callers_share_one_fetch() {
        let (sender, answer) = oneshot::channel();
        let (tokens, calls) = tokens(vec![answer]);
        let both = async { tokio::join!(text(&tokens), text(&tokens)) };
        let send = async { sender.send("a").unwrap() };
        let ((first, second), ()) = tokio::join!(both, send);
        assert_eq!((first.as_str(), second.as_str()), ("a", "a"));
        assert_eq!(text(&tokens).await, "a");
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_after_its_deadline_is_discarded() {
        let (late, first) = oneshot::channel();
        let (sender, second) = oneshot::channel();
        let (tokens, _) = tokens(vec![first, second]);
        let error = tokens.get().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Token);
        // Nobody listens any more.
        assert!(late.send("late").is_err());
        sender.send("fresh").unwrap();
        assert_eq!(text(&tokens).await, "fresh");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_that_nobody_waits_for_is_cancelled() {
        let (late, first) = oneshot::channel();
        let (sender, second) = oneshot::channel();
        let (tokens, calls) = tokens(vec![first, second]);
        // The connection that wanted the token is replaced.
        assert!(tokens.get().now_or_never().is_none());
        assert!(late.is_closed());
        sender.send("fresh").unwrap();
        assert_eq!(text(&tokens).await, "fresh");
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_refused_token_is_forgotten() {
        let (senders, answers): (Vec<_>, Answers) = (0..2).map(|_| oneshot::channel()).unzip();
        for (sender, text) in senders.into_iter().zip(["a", "b"]) {
            sender.send(text).unwrap();
        }
        let (tokens, _) = tokens(answers);
        let old = tokens.get().await.unwrap().unwrap();
        tokens.invalidate(&old);
        assert_eq!(text(&tokens).await, "b");
        // The second refusal of the old one, from a call that took longer.
        tokens.invalidate(&old);
        assert_eq!(text(&tokens).await, "b");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_source_is_an_error_with_its_text() {
        let (tokens, _) = tokens(vec![]);
        let error = tokens.get().await.unwrap_err();
        assert_eq!(error.to_string(), "the token source failed: no more tokens");
    }
}
