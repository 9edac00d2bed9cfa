//! Requests a price over gRPC with its sources and method, then subscribes to it.
//!
//! ```text
//! cargo run --release -- replay --loop          # a server, in another terminal
//! cargo run --example grpc_prices               # BTC-USD
//! cargo run --example grpc_prices -- http://127.0.0.1:8080 SOL-USD
//! ```

use std::env;

use anyhow::Context as _;
use tidewire_proto::v1::{
    ChannelSubscription, Decimal, GetPriceRequest, PriceUpdate, SubscribeRequest,
    price_service_client::PriceServiceClient, server_message::Data,
    stream_service_client::StreamServiceClient,
};
use tonic::transport::Endpoint;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let url = arguments.next();
    let symbol = arguments.next();
    let symbol = symbol.as_deref().unwrap_or("BTC-USD");
    let endpoint = Endpoint::from_shared(url.unwrap_or("http://127.0.0.1:8080".to_owned()))?;
    let channel = endpoint.connect().await.context("is a server there?")?;

    let request = GetPriceRequest {
        symbol: symbol.to_owned(),
    };
    let answer = PriceServiceClient::new(channel.clone())
        .get_price(request)
        .await?;
    let answer = answer.into_inner();
    show(&answer);
    for source in &answer.source_details {
        say(&format!(
            "  {}: {} after {} trades",
            source.source,
            text(source.price.as_ref()),
            source.trades
        ));
    }

    let request = SubscribeRequest {
        channels: vec![ChannelSubscription {
            channel: format!("prices:{symbol}"),
            ..ChannelSubscription::default()
        }],
    };
    let stream = StreamServiceClient::new(channel).subscribe(request).await?;
    let mut stream = stream.into_inner();
    while let Some(message) = stream.message().await? {
        match message.data {
            Some(Data::Price(update)) => show(&update),
            Some(Data::PriceBatch(batch)) => batch.updates.iter().for_each(show),
            // Later servers send more types: unknown ones are ignored.
            _ => {}
        }
    }
    Ok(())
}

fn show(update: &PriceUpdate) {
    say(&format!(
        "{} {} ({} sources)",
        update.symbol,
        text(update.price.as_ref()),
        update.sources
    ));
}

/// Prices are exact decimals, as text.
fn text(price: Option<&Decimal>) -> &str {
    price.map_or("unknown", |price| &price.value)
}

#[expect(clippy::print_stdout, reason = "this is what it is for")]
fn say(line: &str) {
    println!("{line}");
}
