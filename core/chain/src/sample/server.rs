//! Sample server: JSON-RPC of the sample chain's node over WebSockets, with subscriptions.

use std::{collections::HashMap, sync::Arc};

use futures::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, broadcast, broadcast::error::RecvError},
};
use tokio_tungstenite::{
    WebSocketStream, accept_async_with_config,
    tungstenite::{Error, Message, protocol::WebSocketConfig},
};
use tokio_util::sync::CancellationToken;

use super::{
    ledger::{Ledger, LedgerEvent},
    rpc::{RpcFailure, answer},
};

/// Connections at most. The engine has a few.
const MAX_CONNECTIONS: usize = 32;

/// Subscriptions of a connection at most.
const MAX_SUBSCRIPTIONS: usize = 16;

/// The longest request, in bytes.
const MAX_MESSAGE: usize = 1 << 20;

/// Accepts connections until cancelled. Each is a task of its own.
pub(super) async fn serve(
    listener: &TcpListener,
    ledger: &Arc<Mutex<Ledger>>,
    events: &broadcast::Sender<LedgerEvent>,
    cancel: &CancellationToken,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Without a place, the connection waits.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        // A failed accept is that of one connection.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let (ledger, events, cancel) = (ledger.clone(), events.subscribe(), cancel.clone());
        tokio::spawn(async move {
            let _place = place;
            let connection = Connection {
                ledger,
                subscriptions: HashMap::new(),
                next: 1,
            };
            // An error ends the connection, as its end does.
            let _ = cancel
                .run_until_cancelled(connection.run(stream, events))
                .await;
        });
    }
}

/// The topic of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topic {
    Heads,
    Transactions,
    /// The hashes alone.
    TransactionHashes,
}

struct Connection {
    ledger: Arc<Mutex<Ledger>>,
    subscriptions: HashMap<String, Topic>,
    next: u64,
}

impl Connection {
    async fn run(
        mut self,
        stream: TcpStream,
        mut events: broadcast::Receiver<LedgerEvent>,
    ) -> Result<(), Error> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let mut socket = accept_async_with_config(stream, Some(config)).await?;
        loop {
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        if let Some(reply) = self.reply(&text) {
                            socket.send(Message::text(reply.to_string())).await?;
                        }
                    }
                    Some(Ok(Message::Close(_))) | None => return Ok(()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error),
                },
                event = events.recv() => match event {
                    Ok(event) => self.push(&mut socket, &event).await?,
                    // The engine polls for what it misses.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Ok(()),
                },
            }
        }
    }

    /// The reply to a request, or to a list of them.
    fn reply(&mut self, text: &str) -> Option<Value> {
        match serde_json::from_str(text).ok()? {
            Value::Array(requests) => Some(requests.iter().map(|one| self.reply_to(one)).collect()),
            request => Some(self.reply_to(&request)),
        }
    }

    fn reply_to(&mut self, request: &Value) -> Value {
        let method = request["method"].as_str().unwrap_or_default();
        let params = &request["params"];
        let result = match method {
            "eth_subscribe" => Ok(self.subscribe(params)),
            "eth_unsubscribe" => {
                let id = params[0].as_str().unwrap_or_default();
                Ok(json!(self.subscriptions.remove(id).is_some()))
            }
            _ => answer(&self.ledger.lock(), method, params),
        };
        let id = &request["id"];
        match result {
            Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
            Err(error) => json!({"jsonrpc": "2.0", "id": id, "error": RpcFailure::to_json(&error)}),
        }
    }

    fn subscribe(&mut self, params: &Value) -> Value {
        let topic = match (params[0].as_str(), params[1].as_bool()) {
            (Some("newHeads"), _) => Topic::Heads,
            (Some("newPendingTransactions"), Some(true)) => Topic::Transactions,
            _ => Topic::TransactionHashes,
        };
        if self.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return Value::Null;
        }
        let id = format!("{:#066x}", self.next);
        self.next += 1;
        self.subscriptions.insert(id.clone(), topic);
        json!(id)
    }

    /// Pushes an event to the subscriptions that it belongs to.
    async fn push(
        &self,
        socket: &mut WebSocketStream<TcpStream>,
        event: &LedgerEvent,
    ) -> Result<(), Error> {
        for (id, topic) in &self.subscriptions {
            let result = match (event, topic) {
                (LedgerEvent::Head(head), Topic::Heads) => json!(head),
                (LedgerEvent::Pending(new), Topic::Transactions) => json!(new),
                (LedgerEvent::Pending(new), Topic::TransactionHashes) => {
                    json!(new.inner.tx_hash())
                }
                _ => continue,
            };
            let params = json!({"subscription": id, "result": result});
            let push = json!({"jsonrpc": "2.0", "method": "eth_subscription", "params": params});
            socket.send(Message::text(push.to_string())).await?;
        }
        Ok(())
    }
}
