//! Tokens: fetched once for all that need one, with a deadline, and replaced when they expire.
//!
//! A fetch lives as long as somebody waits for it. A token that comes after its deadline, or after
//! the connection that wanted it is gone, is dropped with the fetch and never used.
//!
//! Example: a token is fetched, and the server cannot be reached until the token has expired. The
//! server refuses it then, which says nothing about the source: the next attempt fetches another.
//! Two refusals of tokens that were fetched for the very attempt are final ([`Refusals`]).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;
use tokio::time::Instant;

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
    fetched_at: Instant,
}

/// Refusals of a client's tokens since the server last accepted one.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// A token was refused that had been fetched for the very attempt.
    has_new: bool,
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
                    fetched_at: Instant::now(),
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
            match tokio::time::timeout(deadline, caught(fetch)).await {
                Ok(Ok(text)) => Ok(Token {
                    text: checked(text)?.into(),
                    generation,
                    fetched_at: Instant::now(),
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

    /// Forgets a token that the server refused to an attempt that began at `since`. Returns whether
    /// another attempt can succeed: the token may have grown old since it was fetched, and one that
    /// was fetched for the attempt may come from a cache of the source, once.
    pub(crate) fn renew(&self, refused: &Token, since: Instant, refusals: &mut Refusals) -> bool {
        if !self.is_renewable() {
            return false;
        }
        if refused.fetched_at >= since && std::mem::replace(&mut refusals.has_new, true) {
            return false;
        }
        self.invalidate(refused);
        true
    }
}

/// Calls a token source. A panic of the application's code is an error, and ends no task of the
/// client.
async fn caught(fetch: Fetch) -> Result<String, BoxError> {
    // The source is called again as it is: its own state is the application's.
    let called = catch_unwind(AssertUnwindSafe(|| fetch()));
    let result = match called {
        Ok(token) => AssertUnwindSafe(token).catch_unwind().await,
        Err(panic) => Err(panic),
    };
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(format!("it panicked: {}", text.unwrap_or("without a text")).into())
    })
}

/// Returns a text that can be a token (RFC 6750, 2.1). The server would refuse another, such as the
/// page of a proxy's error, and end the session.
fn checked(text: String) -> Result<String, Error> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_token) {
        return Ok(text);
    }
    let start: String = text.chars().take(40).collect();
    let text = format!("the token source returned no token: {start:?}, expected a JWT");
    Err(Error::new(ErrorKind::Token, text))
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

    /// A source that gives this token at once.
    fn source_of(token: &'static str) -> Tokens {
        let fetch: Fetch = Arc::new(move || async move { Ok(token.to_owned()) }.boxed());
        Tokens::new(TokenSource::Fetched(fetch), Duration::from_secs(5))
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_new_token_that_is_refused_is_final_and_an_old_one_never() {
        let tokens = source_of("a");
        let mut refusals = Refusals::default();
        let pass = || tokio::time::advance(Duration::from_secs(9));
        // Fetched for the attempt, and refused.
        let attempt = Instant::now();
        let token = tokens.get().await.unwrap().unwrap();
        assert!(tokens.renew(&token, attempt, &mut refusals));
        // Its successor waits for the server longer than it lives, again and again.
        for _ in 0..3 {
            let old = tokens.get().await.unwrap().unwrap();
            pass().await;
            let attempt = Instant::now();
            assert_eq!(tokens.get().await.unwrap().unwrap(), old);
            assert!(tokens.renew(&old, attempt, &mut refusals));
        }
        let attempt = Instant::now();
        let token = tokens.get().await.unwrap().unwrap();
        assert!(!tokens.renew(&token, attempt, &mut refusals));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fixed_token_that_is_refused_is_final() {
        let tokens = Tokens::new(TokenSource::Fixed("a".into()), Duration::from_secs(5));
        let token = tokens.get().await.unwrap().unwrap();
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(!tokens.renew(&token, Instant::now(), &mut Refusals::default()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_text_that_is_no_token_is_an_error_and_not_kept() {
        for text in ["", "two\nlines", "<html>502 Bad Gateway</html>"] {
            let tokens = source_of(text);
            let error = tokens.get().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Token);
            assert!(error.to_string().contains("no token"), "{error}");
            assert!(tokens.state.lock().current.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_panics_is_an_error_and_is_called_again() {
        let calls = Arc::new(AtomicU32::new(0));
        let fetch: Fetch = Arc::new(move || match calls.fetch_add(1, Ordering::SeqCst) {
            0 => panic!("no session store"),
            1 => async { panic!("no answer") }.boxed(),
            _ => async { Ok("a".to_owned()) }.boxed(),
        });
        let tokens = Tokens::new(TokenSource::Fetched(fetch), Duration::from_secs(5));
        for expected in ["no session store", "no answer"] {
            let error = tokens.get().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Token);
            let text = format!("the token source failed: it panicked: {expected}");
            assert_eq!(error.to_string(), text);
        }
        assert_eq!(text(&tokens).await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_source_is_an_error_with_its_text() {
        let (tokens, _) = tokens(vec![]);
        let error = tokens.get().await.unwrap_err();
        assert_eq!(error.to_string(), "the token source failed: no more tokens");
    }
}
