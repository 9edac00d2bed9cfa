//! Price handlers: get price, get candles.

use tidewire_proto::v1::{
    Error, GetCandlesRequest, GetPriceRequest, price_service_server::PriceService as _,
    server_message::Data,
};
use tidewire_stream::Command;

use super::handler::{Handler, HandlerRegistry, handles, reply_from_service, request_as};
use crate::PriceRpc;

pub(super) fn register(handlers: &mut HandlerRegistry, price: &PriceRpc) {
    handlers.add(GetPrice(price.clone()));
    handlers.add(GetCandles(price.clone()));
}

/// Reads the price of a symbol.
struct GetPrice(PriceRpc);

impl Handler for GetPrice {
    handles!(GetPrice(GetPriceRequest));

    async fn answer(&self, command: &Command, request: GetPriceRequest) -> Result<Data, Error> {
        let answer = self.0.get_price(request_as(command, request)).await;
        reply_from_service(answer, Data::Price)
    }
}

/// Reads the candles of a symbol.
struct GetCandles(PriceRpc);

impl Handler for GetCandles {
    handles!(GetCandles(GetCandlesRequest));

    async fn answer(&self, command: &Command, request: GetCandlesRequest) -> Result<Data, Error> {
        let answer = self.0.get_candles(request_as(command, request)).await;
        reply_from_service(answer, Data::Candles)
    }
}
