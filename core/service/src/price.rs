//! `PriceService`: prices, market overview and sources.

use tidewire_price::{Candles, CandlesError, ConfigError, PriceEngine, SourceConfig, VenueKind};
use tidewire_proto::v1::{
    AddSourceRequest, AddSourceResponse, GetCandlesRequest, GetCandlesResponse,
    GetMarketOverviewRequest, GetPriceRequest, ListSourcesRequest, ListSourcesResponse,
    MarketOverview, PriceUpdate, RemoveSourceRequest, RemoveSourceResponse,
    price_service_server::PriceService,
};
use tidewire_stream::{CallQuota, Scope, StreamError};
use tonic::{Code, Request, Response, Status};

use crate::{
    PublishedPrices, caller_of,
    status::{identity_of, refusal, require_field, status_of},
};

/// `PriceService` over the price engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PriceRpc {
    engine: PriceEngine,
    tried: Option<PriceEngine>,
    /// The prices of another node, if this one does not run the engine.
    published: Option<PublishedPrices>,
    candles: Candles,
}

impl PriceRpc {
    /// The service over `engine` and its `candles`. Operators and back ends may change sources.
    #[must_use]
    pub fn new(engine: PriceEngine, candles: Candles) -> Self {
        Self {
            engine,
            tried: None,
            published: None,
            candles,
        }
    }

    /// The service over an engine that plays sample data while none of the venues of `tried`
    /// answers.
    #[must_use]
    pub fn in_place_of(self, tried: Option<PriceEngine>) -> Self {
        Self { tried, ..self }
    }

    /// The service over an engine that does not run on this node: prices are those that another
    /// one `published`.
    #[must_use]
    pub fn from_published(self, published: Option<PublishedPrices>) -> Self {
        Self { published, ..self }
    }

    /// Refuses a request that only a node with a running engine can answer.
    fn require_engine(&self) -> Result<(), Status> {
        match &self.published {
            Some(published) => Err(status_of(&published.refusal())),
            None => Ok(()),
        }
    }
}

/// Checks that the caller is an operator or a back end.
fn admit_operator<T>(request: &Request<T>) -> Result<(), Status> {
    let caller = caller_of(request);
    if caller.identity.has(Scope::Service) {
        return Ok(());
    }
    caller.require_operator().map_err(|error| {
        let message = "this needs a token with the `service` or `admin` scope";
        status_of(&StreamError::new(error.code(), message))
    })
}

/// The expected form of a symbol.
const SYMBOL: &str = "a symbol, for example \"BTC-USD\"";

/// The status of an error in the source configuration.
fn config_status(error: &ConfigError) -> Status {
    let code = match error {
        ConfigError::UnknownSource { .. } => Code::NotFound,
        ConfigError::TooManySources => Code::ResourceExhausted,
        ConfigError::SourceTwice(_) | ConfigError::NotConnected => Code::FailedPrecondition,
        _ => Code::InvalidArgument,
    };
    refusal(code, error)
}

/// The status of an error about candles.
fn candles_status(error: &CandlesError) -> Status {
    let code = match error {
        CandlesError::Symbol(_) => Code::NotFound,
        CandlesError::Interval(_) | CandlesError::Limit(_) => Code::InvalidArgument,
        CandlesError::Store(_) => Code::Unavailable,
    };
    refusal(code, error)
}

/// Checks that the caller is identified, if the server requires it. Prices are public.
fn admit<T>(request: &Request<T>) -> Result<(), Status> {
    identity_of(request)
        .require_known()
        .map_err(|error| status_of(&error))
}

#[tonic::async_trait]
impl PriceService for PriceRpc {
    async fn get_price(
        &self,
        request: Request<GetPriceRequest>,
    ) -> Result<Response<PriceUpdate>, Status> {
        admit(&request)?;
        let symbol = &request.get_ref().symbol;
        require_field("symbol", symbol, SYMBOL)?;
        let price = self.engine.get_price(symbol);
        let price = price.map_err(|error| refusal(Code::NotFound, &error))?;
        let Some(published) = &self.published else {
            return Ok(Response::new(price));
        };
        let price = published.price(&price.symbol).await;
        price.map(Response::new).map_err(|error| status_of(&error))
    }

    async fn get_market_overview(
        &self,
        request: Request<GetMarketOverviewRequest>,
    ) -> Result<Response<MarketOverview>, Status> {
        admit(&request)?;
        let Some(published) = &self.published else {
            return Ok(Response::new(self.engine.overview()));
        };
        let overview = published.overview().await;
        overview
            .map(Response::new)
            .map_err(|error| status_of(&error))
    }

    async fn get_candles(
        &self,
        request: Request<GetCandlesRequest>,
    ) -> Result<Response<GetCandlesResponse>, Status> {
        admit(&request)?;
        let quota = request.extensions().get::<CallQuota>().cloned();
        let GetCandlesRequest {
            symbol,
            interval,
            since,
            limit,
        } = request.into_inner();
        require_field("symbol", &symbol, SYMBOL)?;
        require_field("interval", &interval, "one of 1m, 5m, 1h, 1d")?;
        self.require_engine()?;
        // The call itself was charged as one message.
        if let Some(quota) = quota {
            let days = Candles::days_of_page(&interval, limit);
            quota.charge_messages(days.saturating_sub(1));
        }
        let items = self.candles.get(&symbol, &interval, since, limit).await;
        let items = items.map_err(|error| candles_status(&error))?;
        Ok(Response::new(GetCandlesResponse { items }))
    }

    async fn list_sources(
        &self,
        request: Request<ListSourcesRequest>,
    ) -> Result<Response<ListSourcesResponse>, Status> {
        admit(&request)?;
        self.require_engine()?;
        Ok(Response::new(ListSourcesResponse {
            sources: self.engine.sources(),
            tried: self
                .tried
                .as_ref()
                .map(PriceEngine::sources)
                .unwrap_or_default(),
        }))
    }

    async fn add_source(
        &self,
        request: Request<AddSourceRequest>,
    ) -> Result<Response<AddSourceResponse>, Status> {
        admit_operator(&request)?;
        self.require_engine()?;
        let request = request.into_inner();
        let kinds = format!("one of {}", VenueKind::ALL.map(VenueKind::name).join(", "));
        require_field("kind", &request.kind, &kinds)?;
        let kind =
            VenueKind::parse_name(&request.kind).map_err(|error| config_status(&error.into()))?;
        let source = SourceConfig {
            name: request.name,
            url: request.url,
            ..SourceConfig::new(kind)
        };
        let added = self.engine.add_source(&source);
        let added = added.map_err(|error| config_status(&error))?;
        Ok(Response::new(AddSourceResponse {
            source: Some(added),
        }))
    }

    async fn remove_source(
        &self,
        request: Request<RemoveSourceRequest>,
    ) -> Result<Response<RemoveSourceResponse>, Status> {
        admit_operator(&request)?;
        self.require_engine()?;
        let RemoveSourceRequest { name } = request.into_inner();
        require_field("name", &name, "the name of a source")?;
        let removed = self.engine.remove_source(&name);
        removed.map_err(|error| config_status(&error))?;
        Ok(Response::new(RemoveSourceResponse { name }))
    }
}
