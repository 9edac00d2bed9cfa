//! Follows prices over a WebSocket and prints each one.
//!
//! ```text
//! cargo run --release -- replay --loop          # a server, in another terminal
//! cargo run --example watch_prices              # BTC-USD and ETH-USD
//! cargo run --example watch_prices -- ws://127.0.0.1:8080/v1/ws SOL-USD
//! ```

use std::{env, time::Duration};

use anyhow::{Context as _, bail};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::{connect_async, tungstenite::Message};

/// A server has so long to answer a sign of life.
const PATIENCE: Duration = Duration::from_millis(1_500);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let url = arguments.next();
    let url = url.as_deref().unwrap_or("ws://127.0.0.1:8080/v1/ws");
    let mut symbols: Vec<_> = arguments.collect();
    if symbols.is_empty() {
        symbols = vec!["BTC-USD".to_owned(), "ETH-USD".to_owned()];
    }
    let channels: Vec<_> = symbols
        .iter()
        .map(|symbol| format!("prices:{symbol}"))
        .collect();

    let (mut socket, _) = connect_async(url).await.context("is a server there?")?;
    let subscribe = json!({"type": "subscribe", "id": "1", "data": {"channels": channels}});
    socket.send(Message::text(subscribe.to_string())).await?;

    let mut heartbeat = Duration::from_secs(2);
    let mut is_asked = false;
    loop {
        let frame = match timeout(if is_asked { PATIENCE } else { heartbeat }, socket.next()).await
        {
            Ok(frame) => frame.context("the server closed the connection")??,
            Err(_) if is_asked => bail!("the server gives no sign of life: connect again"),
            Err(_) => {
                is_asked = true;
                socket.send(Message::text(r#"{"type":"ping"}"#)).await?;
                continue;
            }
        };
        is_asked = false;
        let Message::Text(text) = frame else { continue };
        let message: Value = serde_json::from_str(&text)?;
        let data = &message["data"];
        if let Some(ms) = data["heartbeatMs"].as_u64() {
            heartbeat = Duration::from_millis(ms);
        }
        match message["type"].as_str() {
            Some("price") => show(data),
            Some("price_batch") => data["updates"]
                .as_array()
                .into_iter()
                .flatten()
                .for_each(show),
            Some("subscribed") => complain(data)?,
            Some("error") => bail!("the server returned an error: {}", data["message"]),
            // Later servers send more types: unknown ones are ignored.
            _ => {}
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is what it is for")]
fn show(update: &Value) {
    let word = |name: &str| update[name].as_str().unwrap_or_default().to_owned();
    let note = if update["stale"] == true {
        ", stale"
    } else {
        ""
    };
    println!(
        "{} {} ({} sources{note})",
        word("symbol"),
        update["price"],
        update["sources"]
    );
}

/// Returns the error of the first channel whose subscription failed.
fn complain(subscribed: &Value) -> anyhow::Result<()> {
    for channel in subscribed["channels"].as_array().into_iter().flatten() {
        if let Some(reason) = channel["error"]["message"].as_str() {
            bail!("{}: {reason}", channel["channel"]);
        }
    }
    Ok(())
}
