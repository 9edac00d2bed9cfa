//! Backtests: which of them run, and which wait for their turn.
//!
//! A backtest is up to seconds of work. Two run at the same time, one of a client, and clients take
//! turns: a client with many of them delays no other. A client's line and all lines together are
//! bounded, and nobody waits longer than [`LIMIT`].
//!
//! Example: Mallory sends ten backtests. One runs, four wait, and five are refused. Bob's runs at once
//! beside Mallory's.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{ClientKey, StreamError};
use tokio::{sync::oneshot, time::timeout};

/// Backtests that run at the same time.
const RUNNING: usize = 2;

/// Backtests of one client that wait.
const WAITING_OF_CLIENT: usize = 4;

/// Backtests of all clients that wait.
const WAITING: usize = 256;

/// Time for which a backtest waits, and time for which it runs, at most.
const LIMIT: Duration = Duration::from_secs(10);

/// The turns of backtests. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backtests(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    /// Clients whose backtest runs.
    running: Vec<ClientKey>,
    /// Clients with a line, in turn.
    turns: VecDeque<ClientKey>,
    lines: HashMap<ClientKey, VecDeque<oneshot::Sender<Turn>>>,
}

/// The turn of a backtest, which ends on drop.
#[derive(Debug)]
pub(crate) struct Turn {
    backtests: Backtests,
    client: ClientKey,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut lines = self.backtests.0.lock();
        let place = lines
            .running
            .iter()
            .position(|client| *client == self.client);
        place.map(|place| lines.running.swap_remove(place));
        drop(lines);
        self.backtests.begin();
    }
}

impl Backtests {
    /// Waits for the turn of a client's backtest.
    ///
    /// # Errors
    /// Too many wait, or the turn does not come in time.
    pub(crate) async fn turn(&self, client: ClientKey) -> Result<Turn, StreamError> {
        let (sender, turn) = oneshot::channel();
        self.0.lock().push(client, sender)?;
        self.begin();
        match timeout(LIMIT, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(refusal(format!(
                "the backtest waited for {LIMIT:?} behind others, try again"
            ))),
        }
    }

    /// Runs a backtest in its turn, on a thread that may block. The argument of `work` says whether
    /// the result is still wanted: not once the caller has gone or the time is over.
    ///
    /// # Errors
    /// The time is over.
    pub(crate) async fn run<T: Send + 'static>(
        turn: Turn,
        work: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
    ) -> Result<T, StreamError> {
        // Dropped with this call.
        let caller = Arc::new(());
        let is_waiting = Arc::downgrade(&caller);
        let run = move || {
            // The next one begins when the work has ended, and not when its caller has gone.
            let _turn = turn;
            work(&|| is_waiting.strong_count() > 0)
        };
        let done = timeout(LIMIT, tokio::task::spawn_blocking(run)).await;
        drop(caller);
        match done {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(StreamError::new(ErrorCode::Internal, "the backtest failed")),
            Err(_) => Err(refusal(format!(
                "the backtest ran for {LIMIT:?}, expected fewer prices or longer windows"
            ))),
        }
    }

    /// Begins the backtests whose turn it is.
    fn begin(&self) {
        // Not sent under the lock: a turn that nobody takes ends at once.
        let begun = self.0.lock().next_turns();
        for (client, waiter) in begun {
            let backtests = self.clone();
            let _ = waiter.send(Turn { backtests, client });
        }
    }
}

impl Lines {
    fn push(
        &mut self,
        client: ClientKey,
        waiter: oneshot::Sender<Turn>,
    ) -> Result<(), StreamError> {
        let line = self.lines.entry(client.clone()).or_default();
        line.retain(|waiter| !waiter.is_closed());
        if line.len() >= WAITING_OF_CLIENT {
            return Err(refusal(format!(
                "{WAITING_OF_CLIENT} backtests of this client wait already, expected one after another"
            )));
        }
        if self.lines.values().map(VecDeque::len).sum::<usize>() >= WAITING {
            self.remove_gone();
        }
        if self.lines.values().map(VecDeque::len).sum::<usize>() >= WAITING {
            return Err(refusal(format!(
                "{WAITING} backtests wait already, try again"
            )));
        }
        if !self.turns.contains(&client) {
            self.turns.push_back(client.clone());
        }
        self.lines.entry(client).or_default().push_back(waiter);
        Ok(())
    }

    /// Removes the backtests whose callers have gone.
    fn remove_gone(&mut self) {
        self.lines.retain(|_, line| {
            line.retain(|waiter| !waiter.is_closed());
            !line.is_empty()
        });
        self.turns.retain(|client| self.lines.contains_key(client));
    }

    /// Takes the backtests that may begin, one of each client that has none.
    fn next_turns(&mut self) -> Vec<(ClientKey, oneshot::Sender<Turn>)> {
        let mut begun = Vec::new();
        for _ in 0..self.turns.len() {
            if self.running.len() >= RUNNING {
                break;
            }
            let Some(client) = self.turns.pop_front() else {
                break;
            };
            if self.running.contains(&client) {
                self.turns.push_back(client);
                continue;
            }
            let line = self.lines.entry(client.clone()).or_default();
            let waiter = std::iter::from_fn(|| line.pop_front()).find(|one| !one.is_closed());
            match line.is_empty() {
                true => drop(self.lines.remove(&client)),
                false => self.turns.push_back(client.clone()),
            }
            if let Some(waiter) = waiter {
                self.running.push(client.clone());
                begun.push((client, waiter));
            }
        }
        begun
    }
}

fn refusal(text: String) -> StreamError {
    StreamError::new(ErrorCode::ResourceExhausted, text)
}

#[cfg(test)]
mod tests {
    use tidewire_stream::UserId;

    use super::*;

    fn client(name: &str) -> ClientKey {
        ClientKey::User(UserId::new(name))
    }

    /// Asks for a turn until it is granted or queued.
    async fn ask(
        backtests: &Backtests,
        name: &str,
    ) -> tokio::task::JoinHandle<Result<Turn, StreamError>> {
        let (backtests, client) = (backtests.clone(), client(name));
        let asked = tokio::spawn(async move { backtests.turn(client).await });
        tokio::task::yield_now().await;
        asked
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_many_backtests_delays_no_other() {
        let backtests = Backtests::default();
        let mallory = backtests.turn(client("mallory")).await.unwrap();
        let mut waiting = Vec::new();
        for _ in 0..WAITING_OF_CLIENT {
            waiting.push(ask(&backtests, "mallory").await);
        }
        let refused = backtests.turn(client("mallory")).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::ResourceExhausted);
        let bob = backtests.turn(client("bob")).await.unwrap();
        // Both places are taken. Cleo's is next, since Mallory's follow one another.
        let cleo = ask(&backtests, "cleo").await;
        drop(bob);
        let _cleo = cleo.await.unwrap().unwrap();
        assert!(waiting.iter().all(|one| !one.is_finished()));
        drop(mallory);
        let _next = waiting.remove(0).await.unwrap().unwrap();
        assert!(waiting.iter().all(|one| !one.is_finished()));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_and_the_gone_take_no_turn() {
        let backtests = Backtests::default();
        let first = backtests.turn(client("ada")).await.unwrap();
        let gone = ask(&backtests, "ada").await;
        gone.abort();
        let late = backtests.turn(client("ada")).await.unwrap_err();
        assert!(late.to_string().contains("waited for 10s"), "{late}");
        let next = ask(&backtests, "ada").await;
        drop(first);
        drop(next.await.unwrap().unwrap());
        let lines = backtests.0.lock();
        assert!(lines.running.is_empty() && lines.lines.is_empty() && lines.turns.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn all_lines_together_are_bounded() {
        let backtests = Backtests::default();
        let mut turns = Vec::new();
        for name in ["x", "y"] {
            turns.push(backtests.turn(client(name)).await.unwrap());
        }
        let mut waiting = Vec::new();
        for number in 0..WAITING {
            waiting.push(ask(&backtests, &number.to_string()).await);
        }
        let refused = backtests.turn(client("z")).await.unwrap_err();
        assert!(
            refused.to_string().contains("256 backtests wait"),
            "{refused}"
        );
        // One that has gone leaves room.
        waiting.remove(0).abort();
        tokio::task::yield_now().await;
        let last = ask(&backtests, "z").await;
        assert!(!last.is_finished());
    }

    #[tokio::test]
    async fn the_work_ends_when_its_caller_leaves() {
        let backtests = Backtests::default();
        let turn = backtests.turn(client("ada")).await.unwrap();
        let (began, has_begun) = oneshot::channel();
        let call = tokio::spawn(Backtests::run(turn, move |is_wanted: &dyn Fn() -> bool| {
            let _ = began.send(());
            while is_wanted() {
                std::thread::yield_now();
            }
        }));
        has_begun.await.unwrap();
        call.abort();
        // The turn is free once the work has ended.
        backtests.turn(client("ada")).await.unwrap();
    }
}
