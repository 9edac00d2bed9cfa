//! Publishes orders to a channel, and follows it: each message comes once, in order, also over a
//! lost connection. The last position is printed, so that the next run can resume after it.
//!
//! ```text
//! cargo run --release                                                     # a server, in another terminal
//! cargo run -p tidewire-client --example follow_orders
//! cargo run -p tidewire-client --example follow_orders -- http://127.0.0.1:8080 EPOCH SEQ
//! ```

use std::env;

use serde::{Deserialize, Serialize};
use tidewire_client::{Client, Event, Position, SubscribeOptions};

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    id: u64,
    item: String,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "this is what it is for")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let url = arguments
        .first()
        .map_or("http://127.0.0.1:8080", String::as_str);
    let mut options = SubscribeOptions::default();
    if let [_, epoch, seq] = arguments.as_slice() {
        let (epoch, seq) = (epoch.clone(), seq.parse()?);
        options = options.since(Position { epoch, seq });
    }

    let client = Client::new(url)?;
    for (id, item) in (1..).zip(["tea", "coffee"]) {
        let item = item.to_owned();
        client.publish("demo:orders", &Order { id, item }).await?;
    }
    let mut orders = client.subscribe_with::<tidewire_client::Json>("demo:orders", options);
    let mut states = client.states();
    states
        .wait_for(tidewire_client::ConnectionState::is_connected)
        .await?;
    println!("connected");
    while let Some(event) = orders.next().await {
        match event? {
            Event::Message(message) => {
                let order: Order = message.data.parse()?;
                let note = if message.is_replay { ", missed" } else { "" };
                println!("order {} of {}{note}", order.id, order.item);
                if let Some(Position { epoch, seq }) = message.position {
                    println!("resume with {epoch} {seq}");
                }
            }
            Event::Gap(gap) => println!("gap on {}: read the orders again", gap.channel),
            Event::Retry(error) => println!("refused for now: {error}"),
        }
    }
    Ok(())
}
