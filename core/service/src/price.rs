//! `PriceService`: prices, market overview and sources.
//!
//! Where the nodes share prices, the owner of the price engine answers on all of them: see
//! [`SharedPrices`].

use std::sync::Arc;

use prost::Message;
use tidewire_price::{Candles, CandlesError, ConfigError, PriceEngine, SourceConfig, VenueKind};
use tidewire_proto::v1::{
    AddSourceRequest, AddSourceResponse, ErrorCode, GetCandlesRequest, GetCandlesResponse,
    GetMarketOverviewRequest, GetPriceRequest, ListSourcesRequest, ListSourcesResponse,
    MarketOverview, PriceUpdate, RemoveSourceRequest, RemoveSourceResponse,
    price_service_server::PriceService,
};
use tidewire_store::{EngineTerm, Ownership};
use tidewire_stream::{CallQuota, Scope, StreamCore, StreamError};
use tonic::{Code, Request, Response, Status};

use crate::{
    caller_of,
    forwarding::Reached,
    shared_prices::{Newest, SharedPrices},
    status::{identity_of, refusal, require_field, status_of},
};

/// `PriceService` over the price engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PriceRpc {
    engine: PriceEngine,
    tried: Option<PriceEngine>,
    /// The way to the owner, if one node owns the engine for all.
    shared: Option<SharedPrices>,
    candles: Candles,
}

impl PriceRpc {
    /// The service over `engine` and its `candles`. Operators and back ends may change sources.
    #[must_use]
    pub fn new(engine: PriceEngine, candles: Candles) -> Self {
        Self {
            engine,
            tried: None,
            shared: None,
            candles,
        }
    }

    /// The service over an engine that plays sample data while none of the venues of `tried`
    /// answers.
    #[must_use]
    pub fn in_place_of(self, tried: Option<PriceEngine>) -> Self {
        Self { tried, ..self }
    }

    /// The service on one of several nodes of which one owns the engine: it answers.
    #[must_use]
    pub fn shared(self, stream: &Arc<StreamCore>) -> Self {
        Self {
            shared: Some(SharedPrices::new(stream)),
            ..self
        }
    }

    /// The same on a node whose own engine does not run.
    #[must_use]
    pub fn shared_without_engine(self, stream: &Arc<StreamCore>) -> Self {
        Self {
            shared: Some(SharedPrices::new(stream).without_engine(stream)),
            ..self
        }
    }

    /// The same service for requests that come from other nodes: it passes none on.
    pub(crate) fn for_other_nodes(&self) -> Self {
        Self {
            shared: self.shared.as_ref().map(SharedPrices::for_other_nodes),
            ..self.clone()
        }
    }

    /// Sets the owner of the engine. Requests go to it.
    pub fn set_owner(&self, owner: &Ownership<EngineTerm>) {
        if let Some(shared) = &self.shared {
            shared.set_owner(owner);
        }
    }

    /// Why this node is not the owner of the engine. None if it is.
    pub(crate) fn absence(&self) -> Option<StreamError> {
        match &self.shared {
            Some(shared) => shared.absence(),
            None => Some(StreamError::new(
                ErrorCode::Unavailable,
                "this server does not share its prices",
            )),
        }
    }

    /// Whether some node brings prices up to date, as far as this one knows.
    fn has_owner(&self) -> bool {
        self.shared.as_ref().is_none_or(SharedPrices::has_owner)
    }

    /// Reaches what answers a request that reads.
    async fn read<A: Message + Default, T: Message>(
        &self,
        method: &'static str,
        request: &Request<T>,
    ) -> Result<Reached<(), A>, Status> {
        let Some(shared) = &self.shared else {
            return Ok(Reached::Here(()));
        };
        let caller = caller_of(request);
        let reached = shared.read(method, &caller, request.get_ref()).await;
        reached.map_err(|error| status_of(&error))
    }

    /// Reaches what answers a request for the newest value of a channel.
    async fn newest<A: Message + Default, T: Message>(
        &self,
        method: &'static str,
        request: &Request<T>,
    ) -> Result<Newest<'_, A>, Status> {
        let Some(shared) = &self.shared else {
            return Ok(Newest::Engine);
        };
        let caller = caller_of(request);
        let newest = shared.newest(method, &caller, request.get_ref()).await;
        newest.map_err(|error| status_of(&error))
    }

    /// Reaches the owner of the engine for a change.
    async fn change<A: Message + Default, T: Message>(
        &self,
        method: &'static str,
        request: &Request<T>,
    ) -> Result<Reached<(), A>, Status> {
        let Some(shared) = &self.shared else {
            return Ok(Reached::Here(()));
        };
        let caller = caller_of(request);
        let reached = shared.change(method, &caller, request.get_ref()).await;
        reached.map_err(|error| status_of(&error))
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
        let newest = self.newest("GetPrice", &request).await?;
        if let Newest::Owner(price) = newest {
            return Ok(Response::new(price));
        }
        let price = self.engine.get_price(symbol);
        let price = price.map_err(|error| refusal(Code::NotFound, &error))?;
        let Newest::Published(published) = newest else {
            return Ok(Response::new(price));
        };
        let price = published.price(&price.symbol).await;
        let price = price.map_err(|error| status_of(&error))?;
        Ok(Response::new(PriceUpdate {
            // Without an owner, nobody brings it up to date.
            stale: price.stale || !self.has_owner(),
            ..price
        }))
    }

    async fn get_market_overview(
        &self,
        request: Request<GetMarketOverviewRequest>,
    ) -> Result<Response<MarketOverview>, Status> {
        admit(&request)?;
        let overview = match self.newest("GetMarketOverview", &request).await? {
            Newest::Owner(overview) => Ok(overview),
            Newest::Engine => Ok(self.engine.overview()),
            Newest::Published(published) => published.overview().await,
        };
        overview
            .map(Response::new)
            .map_err(|error| status_of(&error))
    }

    async fn get_candles(
        &self,
        request: Request<GetCandlesRequest>,
    ) -> Result<Response<GetCandlesResponse>, Status> {
        admit(&request)?;
        let GetCandlesRequest {
            symbol,
            interval,
            since,
            limit,
        } = request.get_ref();
        require_field("symbol", symbol, SYMBOL)?;
        require_field("interval", interval, "one of 1m, 5m, 1h, 1d")?;
        // The call itself was charged as one message. The node of the client alone charges it.
        if let Some(quota) = request.extensions().get::<CallQuota>() {
            let days = Candles::days_of_page(interval, *limit);
            quota.charge_messages(days.saturating_sub(1));
        }
        if let Reached::Answered(answer) = self.read("GetCandles", &request).await? {
            return Ok(Response::new(answer));
        }
        let items = self.candles.get(symbol, interval, *since, *limit).await;
        let items = items.map_err(|error| candles_status(&error))?;
        Ok(Response::new(GetCandlesResponse { items }))
    }

    async fn list_sources(
        &self,
        request: Request<ListSourcesRequest>,
    ) -> Result<Response<ListSourcesResponse>, Status> {
        admit(&request)?;
        if let Reached::Answered(answer) = self.read("ListSources", &request).await? {
            return Ok(Response::new(answer));
        }
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
        let kinds = format!("one of {}", VenueKind::ALL.map(VenueKind::name).join(", "));
        require_field("kind", &request.get_ref().kind, &kinds)?;
        if let Reached::Answered(answer) = self.change("AddSource", &request).await? {
            return Ok(Response::new(answer));
        }
        let request = request.into_inner();
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
        require_field("name", &request.get_ref().name, "the name of a source")?;
        if let Reached::Answered(answer) = self.change("RemoveSource", &request).await? {
            return Ok(Response::new(answer));
        }
        let RemoveSourceRequest { name } = request.into_inner();
        let removed = self.engine.remove_source(&name);
        removed.map_err(|error| config_status(&error))?;
        Ok(Response::new(RemoveSourceResponse { name }))
    }
}
