//! Published prices: the answers of a node that does not run the price engine, from what the owner
//! of the engine published last.

use std::sync::Arc;

use tidewire_proto::v1::{ErrorCode, MarketOverview, PriceUpdate};
use tidewire_stream::{ChannelName, Event, PageLimit, StreamCore, StreamError};

use crate::forwarding::RETRY_AFTER_MS;

/// The prices that another node publishes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct PublishedPrices(Arc<StreamCore>);

impl std::fmt::Debug for PublishedPrices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishedPrices").finish_non_exhaustive()
    }
}

impl PublishedPrices {
    /// The prices on the channels of `stream`.
    pub(crate) fn new(stream: Arc<StreamCore>) -> Self {
        Self(stream)
    }

    /// The last published price of a symbol. It has no details of sources.
    pub(crate) async fn price(&self, symbol: &str) -> Result<PriceUpdate, StreamError> {
        match self.newest(&format!("prices:{symbol}")).await? {
            Some(Event::Price(price)) => Ok(price),
            _ => Err(absent(&format!("price of {symbol}"))),
        }
    }

    /// The last published market overview.
    pub(crate) async fn overview(&self) -> Result<MarketOverview, StreamError> {
        match self.newest("market:overview").await? {
            Some(Event::MarketOverview(overview)) => Ok(overview),
            _ => Err(absent("market overview")),
        }
    }

    async fn newest(&self, channel: &str) -> Result<Option<Event>, StreamError> {
        let channel = ChannelName::parse(channel)?;
        let history = self.0.broker();
        let history = history.history(&channel, None, PageLimit::NEWEST).await?;
        let newest = history.publications.last();
        Ok(newest.map(|one| one.event().into_owned()))
    }
}

fn absent(what: &str) -> StreamError {
    let text = format!(
        "no {what} was published yet, and the node that owns the price engine does not answer"
    );
    StreamError::new(ErrorCode::Unavailable, text).with_retry_after_ms(RETRY_AFTER_MS)
}
