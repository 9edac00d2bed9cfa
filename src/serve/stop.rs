//! Stop of a server: the signals that ask for it, and the steps until the process ends.
//!
//! Each step has an end, and the whole as well: a thread of its own ends the process if nothing else does.

use std::{
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use tidewire_stream::deadline;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, timeout_at},
};

use super::{Lifetime, RunningServer};
use crate::{engine_store::EngineStore, histories};

/// Longest part of the drain window that is left for threads and histories, after clients.
const MAX_RESERVE: Duration = Duration::from_secs(2);

/// Time of a stop that is left when its last step has to end.
const LAST_MOMENT: Duration = Duration::from_millis(200);

/// Time of a stop that is for closing the store, after histories were saved.
const CLOSING: Duration = Duration::from_millis(800);

/// Time from SIGTERM to a forced exit where the drain window is shorter: a short window cuts
/// clients, and must not lose histories.
const SHORTEST_EXIT: Duration = Duration::from_secs(5);

impl RunningServer {
    /// Sends clients away over the drain window, stops accepting, ends all tasks, and saves
    /// histories last, when nothing is published any more.
    pub(super) async fn shut_down(self, window: Duration) {
        let Lifetime { tasks, stop, halt } = self.lifetime;
        tracing::info!(
            connections = self.gateway.connections(),
            "stopping: clients are sent away"
        );
        if let Some(pushes) = &self.pushes {
            pushes.close();
        }
        stop.cancel();
        let started = Instant::now();
        let _exit = exit_after(window.max(SHORTEST_EXIT));
        let reserve = (window / 5).min(MAX_RESERVE);
        let cut = deadline(started, window.saturating_sub(reserve));
        // In a task of its own: a session that is stuck in its lock keeps only that task.
        let stream = self.stream.clone();
        let drained = tokio::spawn(async move { stream.drain(window).await });
        let is_drained = timeout_at(cut, drained).await.is_ok();
        halt.cancel();
        // Another node publishes prices while this one ends its connections.
        let price_owner = self.price_owner;
        let handed_over = price_owner.map(|owner| tokio::spawn(async move { owner.end().await }));
        tasks.close();
        if timeout_at(cut, tasks.wait()).await.is_err() || !is_drained {
            tracing::warn!(
                tasks = tasks.len(),
                "some connections did not end in time and are cut"
            );
        }
        self.threads.end(cut + reserve / 2).await;
        let end = deadline(started, window.max(SHORTEST_EXIT) - LAST_MOMENT);
        // Early, so that another node takes over while this one saves what is its own.
        if let Some(lease) = self.engine_store.as_ref().and_then(EngineStore::lease) {
            let _ = timeout_at(end, lease.end()).await;
        }
        if let Some(handed_over) = handed_over {
            let _ = timeout_at(end, handed_over).await;
        }
        let save_until = end - CLOSING;
        if timeout_at(save_until, self.stream.flush()).await.is_err() {
            let waiting = self.stream.broker().link();
            tracing::error!(
                bytes = waiting.map_or(0, |link| link.waiting_bytes),
                "publications that waited for Redis are lost"
            );
        }
        if let Some(store) = &self.store
            && let Err(error) = histories::save(&**store, &self.stream, save_until).await
        {
            tracing::error!(%error, "histories are not saved: clients will read their state again");
        }
        if let Some(store) = &self.store {
            let closed = timeout_at(end, store.close()).await;
            let reason = match closed {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the time of the stop is over".to_owned()),
            };
            if let Some(reason) = reason {
                tracing::warn!(
                    reason,
                    "the log of the store is not emptied: the next start applies it"
                );
            }
        }
        tracing::info!("stopped");
    }
}

/// Ends the process after `time`, unless what is returned is dropped before: a shard's thread that
/// is stuck in a lock could stop every orderly way out.
fn exit_after(time: Duration) -> Sender<()> {
    let (done, is_done) = channel::<()>();
    let watch = thread::Builder::new().name("tidewire-exit".to_owned());
    // A thread of its own waits, because every runtime may be stuck.
    let watched = watch.spawn(move || {
        if is_done.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("the stop takes too long: the process ends, and histories may be lost");
            std::process::exit(1);
        }
    });
    if let Err(error) = watched {
        tracing::warn!(%error, "nothing watches over the time of the stop");
    }
    done
}

/// SIGTERM and SIGINT, caught from the moment it exists.
pub(crate) struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignal {
    /// Starts to catch the signals.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of the signals.
    pub(crate) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
