//! Published prices: the answers of a node that does not run the price engine, from what the owner
//! of the engine published last.

use std::sync::Arc;

use tidewire_proto::v1::{ErrorCode, MarketOverview, PriceUpdate};
use tidewire_stream::{ChannelName, Event, PageLimit, StreamCore, StreamError};

/// The owner's name, if it is known.
type OwnerName = dyn Fn() -> Option<String> + Send + Sync;

/// The prices that another node publishes. Cheap to clone.
#[derive(Clone)]
pub struct PublishedPrices {
    stream: Arc<StreamCore>,
    owner: Arc<OwnerName>,
}

impl std::fmt::Debug for PublishedPrices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishedPrices").finish_non_exhaustive()
    }
}

impl PublishedPrices {
    /// The prices on the channels of `stream`. `owner` returns the name of the node that publishes
    /// them.
    #[must_use]
    pub fn new(
        stream: Arc<StreamCore>,
        owner: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            stream,
            owner: Arc::new(owner),
        }
    }

    /// The last published price of a symbol. It has no details of sources.
    pub(crate) async fn price(&self, symbol: &str) -> Result<PriceUpdate, StreamError> {
        match self.newest(&format!("prices:{symbol}")).await? {
            // Without an owner, nobody brings it up to date.
            Some(Event::Price(price)) => Ok(PriceUpdate {
                stale: price.stale || (self.owner)().is_none(),
                ..price
            }),
            _ => Err(self.absent(&format!("no price of {symbol} was published yet"))),
        }
    }

    /// The last published market overview.
    pub(crate) async fn overview(&self) -> Result<MarketOverview, StreamError> {
        match self.newest("market:overview").await? {
            Some(Event::MarketOverview(overview)) => Ok(overview),
            _ => Err(self.absent("no market overview was published yet")),
        }
    }

    async fn newest(&self, channel: &str) -> Result<Option<Event>, StreamError> {
        let channel = ChannelName::parse(channel)?;
        let history = self.stream.broker();
        let history = history.history(&channel, None, PageLimit::NEWEST).await?;
        let newest = history.publications.last();
        Ok(newest.map(|one| one.event().into_owned()))
    }

    /// The error of a request that only a node with the price engine answers.
    pub(crate) fn refusal(&self) -> StreamError {
        self.absent("this node does not run the price engine")
    }

    fn absent(&self, reason: &str) -> StreamError {
        let text = match (self.owner)() {
            Some(node) => format!(
                "{reason}: node {node} publishes prices, send the request to it, by the address of the node whose connection ids begin with {node}"
            ),
            None => format!("{reason}, and no node publishes prices at present"),
        };
        StreamError::new(ErrorCode::Unavailable, text).with_retry_after_ms(1_000)
    }
}
