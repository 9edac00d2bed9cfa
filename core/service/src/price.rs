//! `PriceService`: prices, market overview, sources.

use tidewire_price::PriceEngine;
use tidewire_proto::v1::{
    AddSourceRequest, AddSourceResponse, GetMarketOverviewRequest, GetPriceRequest,
    ListSourcesRequest, ListSourcesResponse, MarketOverview, PriceUpdate, RemoveSourceRequest,
    RemoveSourceResponse, price_service_server::PriceService,
};
use tonic::{Request, Response, Status};

use crate::{identity_of, status_of};

/// `PriceService` over the price engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PriceRpc {
    engine: PriceEngine,
}

impl PriceRpc {
    /// The service over this engine.
    #[must_use]
    pub fn new(engine: PriceEngine) -> Self {
        Self { engine }
    }
}

/// Prices are public, on a server that knows its callers.
fn admit<T>(request: &Request<T>) -> Result<(), Status> {
    identity_of(request)
        .known()
        .map_err(|error| status_of(&error))
}

#[tonic::async_trait]
impl PriceService for PriceRpc {
    async fn get_price(
        &self,
        request: Request<GetPriceRequest>,
    ) -> Result<Response<PriceUpdate>, Status> {
        admit(&request)?;
        let price = self.engine.get_price(&request.get_ref().symbol);
        price
            .map(Response::new)
            .map_err(|error| Status::not_found(error.to_string()))
    }

    async fn get_market_overview(
        &self,
        request: Request<GetMarketOverviewRequest>,
    ) -> Result<Response<MarketOverview>, Status> {
        admit(&request)?;
        Ok(Response::new(self.engine.overview()))
    }

    async fn list_sources(
        &self,
        request: Request<ListSourcesRequest>,
    ) -> Result<Response<ListSourcesResponse>, Status> {
        admit(&request)?;
        Ok(Response::new(ListSourcesResponse {
            sources: self.engine.sources(),
        }))
    }

    async fn add_source(
        &self,
        _request: Request<AddSourceRequest>,
    ) -> Result<Response<AddSourceResponse>, Status> {
        Err(Status::unimplemented(
            "AddSource is not built yet: name the source in the configuration",
        ))
    }

    async fn remove_source(
        &self,
        _request: Request<RemoveSourceRequest>,
    ) -> Result<Response<RemoveSourceResponse>, Status> {
        Err(Status::unimplemented(
            "RemoveSource is not built yet: leave the source out of the configuration",
        ))
    }
}
