//! The messages that `PriceService` answers.

use tidewire_proto::v1::{
    Error, GetPriceRequest, price_service_server::PriceService as _, server_message::Data,
};
use tidewire_stream::Session;

use super::handler::{Handler, Handlers, answered, answers, asking};
use crate::PriceRpc;

pub(super) fn register(handlers: &mut Handlers, price: &PriceRpc) {
    handlers.add(GetPrice(price.clone()));
}

/// Explains the price of a symbol.
struct GetPrice(PriceRpc);

impl Handler for GetPrice {
    answers!(GetPrice(GetPriceRequest));

    async fn answer(&self, session: &Session, request: GetPriceRequest) -> Result<Data, Error> {
        let answer = self.0.get_price(asking(session, request)).await;
        answered(answer, Data::Price)
    }
}
