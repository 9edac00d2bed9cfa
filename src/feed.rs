//! Price feed: drives the price engine from the venues, or from a recording.

use std::time::Duration;

use tidewire_price::{PriceConfig, PriceEngine, Recording, ReplaySpeed, ReplayStart};
use tidewire_proto::v1::{ConnectionState, Source};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::fallback::PATIENCE;

/// Where prices come from.
pub(crate) enum Feed {
    /// The venues.
    Live,
    /// A recording.
    Replay(Replay),
}

/// A recording to replay.
pub(crate) struct Replay {
    /// Opens the recording, once for each time it is played.
    pub(crate) open: Box<dyn Fn() -> anyhow::Result<Recording> + Send + Sync>,
    pub(crate) speed: ReplaySpeed,
    pub(crate) start: ReplayStart,
    pub(crate) repeat: Repeat,
}

/// How often a recording is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    Once,
    Forever,
}

/// A feed that can start: a recording is open.
pub(crate) enum OpenFeed {
    Live,
    Replay(Replay, Recording),
}

impl Feed {
    /// The built-in sample, for ever.
    pub(crate) fn sample() -> Self {
        Self::Replay(Replay {
            open: Box::new(|| Ok(Recording::sample()?)),
            speed: ReplaySpeed::Times(1.0),
            start: ReplayStart::Now,
            repeat: Repeat::Forever,
        })
    }

    /// Opens the feed.
    pub(crate) fn open(self) -> anyhow::Result<OpenFeed> {
        match self {
            Self::Live => Ok(OpenFeed::Live),
            Self::Replay(replay) => {
                let recording = (replay.open)()?;
                Ok(OpenFeed::Replay(replay, recording))
            }
        }
    }
}

impl OpenFeed {
    /// Whether prices come from the venues.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self, Self::Live)
    }

    /// Whether the data is made up.
    pub(crate) fn is_sample(&self) -> bool {
        matches!(self, Self::Replay(_, recording) if recording.head().sample)
    }

    /// The configuration of an engine for this feed: a recording brings its own sources.
    pub(crate) fn price_config(&self, config: &PriceConfig) -> PriceConfig {
        match self {
            Self::Live => config.clone(),
            Self::Replay(_, recording) => PriceEngine::replay_config(config.clone(), recording),
        }
    }

    /// Starts the feed in `tasks`, until cancelled. `replay` is the command that plays sample data.
    pub(crate) fn start(
        self,
        prices: &PriceEngine,
        replay: String,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) {
        match self {
            Self::Live => {
                prices.connect(tasks, cancel);
                tasks.spawn(suggest_sample(prices.clone(), replay, cancel.clone()));
            }
            Self::Replay(recording, first) => {
                prices.run_clock(tasks, cancel);
                tasks.spawn(play(recording, first, prices.clone(), cancel.clone()));
            }
        }
    }
}

/// Logs how to go on without venues, once, if none delivers within [`PATIENCE`].
async fn suggest_sample(prices: PriceEngine, replay: String, cancel: CancellationToken) {
    if cancel.run_until_cancelled(sleep(PATIENCE)).await.is_none() {
        return;
    }
    let mut sources = prices.sources();
    // A source that trades none of the symbols is never connected.
    sources.retain(|source| !source.symbols.is_empty());
    let is_live = |source: &Source| source.state() == ConnectionState::Live;
    if sources.is_empty() || sources.iter().any(is_live) {
        return;
    }
    let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
    tracing::warn!(
        tried = names.join(", "),
        "no venue answers: check the network and the proxy of this machine. To try the server on sample data meanwhile, stop it and run {replay}"
    );
}

/// Least time between two messages of the log about passes that have ended.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Plays a recording once, or again and again.
async fn play(replay: Replay, first: Recording, prices: PriceEngine, cancel: CancellationToken) {
    if first.head().sample {
        tracing::warn!("replaying sample data: these are not market prices");
    }
    let (speed, start) = (replay.speed, replay.start);
    let (mut frames, mut passes) = (0, 0_u64);
    let mut logged: Option<Instant> = None;
    let next = |played| {
        frames += played;
        passes += 1;
        let mut next = None;
        // An empty recording would be played again without a pause.
        if replay.repeat == Repeat::Forever && !cancel.is_cancelled() && played > 0 {
            next = (replay.open)()
                .inspect_err(|error| tracing::error!(%error, "the recording cannot be read again"))
                .ok()
                .map(Recording::quiet);
        }
        let is_due = logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL);
        if next.is_none() || is_due {
            let text = match next.is_some() {
                true => "the recording was played, and is played again",
                false => "the replay has ended",
            };
            tracing::info!(frames, passes, "{text}");
            if frames == 0 && next.is_none() && !cancel.is_cancelled() {
                tracing::warn!("the recording has no frame that can be played");
            }
            (frames, passes) = (0, 0);
            logged = Some(Instant::now());
        }
        next
    };
    prices
        .replay_again(first, speed, start, &cancel, next)
        .await;
}
