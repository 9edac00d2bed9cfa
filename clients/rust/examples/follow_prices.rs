//! Follows prices, and prints each one. It survives restarts of the server.
//!
//! ```text
//! cargo run --release -- replay --loop                                 # a server, in another terminal
//! cargo run -p tidewire-client --example follow_prices                 # BTC-USD
//! cargo run -p tidewire-client --example follow_prices -- http://127.0.0.1:8080 SOL-USD ETH-USD
//! ```

use std::env;

use futures::{StreamExt as _, stream::select_all};
use tidewire_client::{Client, Event};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "this is what it is for")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let url = arguments
        .next()
        .unwrap_or("http://127.0.0.1:8080".to_owned());
    let mut symbols: Vec<_> = arguments.collect();
    if symbols.is_empty() {
        symbols.push("BTC-USD".to_owned());
    }

    let client = Client::new(url)?;
    let mut events = select_all(symbols.iter().map(|symbol| client.prices(symbol)));
    while let Some(event) = events.next().await {
        match event? {
            Event::Message(message) => {
                // Exact decimals, as text. `None` if no venue has delivered one yet.
                let price = message
                    .data
                    .price
                    .map_or("unknown".to_owned(), |price| price.value);
                println!(
                    "{} {price} ({} sources)",
                    message.data.symbol, message.data.sources
                );
            }
            Event::Gap(_) => {}
            Event::Retry(error) => println!("refused for now: {error}"),
        }
    }
    Ok(())
}
