//! Client of a Tidewire server over gRPC: streams that survive their connection, and calls that are
//! safe to repeat.
//!
//! # Quick start
//!
//! A back end sends a notification:
//!
//! ```no_run
//! # async fn send(token: String) -> Result<(), tidewire_client::Error> {
//! use tidewire_client::{Client, NotificationType, Notify};
//!
//! let client = Client::builder("http://127.0.0.1:8080").token(token).build()?;
//! let paid = Notify::user("ada", NotificationType::PaymentReceived, "Payment received");
//! let sent = client.notify(paid.body("0.5 ETH from Grace")).await?;
//! # let _ = sent;
//! # Ok(())
//! # }
//! ```
//!
//! A service follows a price:
//!
//! ```no_run
//! # async fn follow() -> Result<(), tidewire_client::Error> {
//! use tidewire_client::Client;
//!
//! let client = Client::new("http://127.0.0.1:8080")?;
//! let mut prices = client.prices("BTC-USD");
//! while let Some(update) = prices.next_data().await? {
//!     println!("{} {:?}", update.symbol, update.price);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A channel of orders, on which each message counts:
//!
//! ```no_run
//! # #[derive(serde::Deserialize, serde::Serialize)]
//! # struct Order { id: u64 }
//! # fn show(_: Order) {}
//! # async fn reload() {}
//! # async fn follow() -> Result<(), tidewire_client::Error> {
//! use tidewire_client::{Client, Event};
//!
//! let client = Client::new("http://127.0.0.1:8080")?;
//! let mut orders = client.messages("demo:orders");
//! client.publish("demo:orders", &Order { id: 7 }).await?;
//! while let Some(event) = orders.next().await {
//!     match event? {
//!         Event::Message(message) => show(message.data.parse()?),
//!         // Something was missed and does not come: read the state again.
//!         Event::Gap(_) => reload().await,
//!         // The server refused the channel for the moment.
//!         Event::Retry(error) => eprintln!("{error}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Connections
//!
//! All subscriptions share one connection, calls another. Both open on first use. HTTP/2 pings find
//! a link that drops packets: the next connection resumes within 5 s. Delays between attempts are
//! random, up to 250 ms, then twice as much each time, at most 4 s. A server that drains says when
//! to come back.
//!
//! Attempts end only when the server refuses the client: a token that is not accepted (from a token
//! source: two that were fetched for the attempt), a revoked token, an operator's disconnect, a
//! message that it cannot read. They end also with the Tokio runtime that the client was built in.
//! Then each subscription yields the [`Error`], and [`Client::state`] is [`ConnectionState::Closed`] with it. Why a
//! connection was lost is in [`ConnectionState::Reconnecting`].
//!
//! # Subscriptions
//!
//! A history channel resumes after its last position: each message comes once, in order. Messages
//! that were missed and come again have [`Message::is_replay`]. When the server does not have them
//! any more, the stream yields [`Event::Gap`] and goes on. A latest channel sends its newest value.
//!
//! Subscriptions are counted: the first one to a channel subscribes, dropping the last one
//! unsubscribes. Each has a queue of its own, so that a slow consumer delays nobody: a latest
//! channel keeps its newest value, a history channel up to
//! [`queue_capacity`](ClientBuilder::queue_capacity) events. Beyond, the oldest are dropped, and
//! the consumer receives a gap with their number in their place.
//!
//! # Calls
//!
//! A call is tried again until its deadline while the server cannot be reached. `publish`, `notify`,
//! `notify_batch` and `register_alert` carry an idempotency key, so that repeated attempts act once.
//! Every failure is an [`Error`] with its [`ErrorKind`].

mod backoff;
mod builder;
mod calls;
mod client;
mod error;
mod notice;
mod payload;
mod queue;
mod registry;
mod requests;
mod session;
mod state;
mod subscription;
mod token;

pub use builder::ClientBuilder;
pub use client::Client;
pub use error::{BoxError, Error, ErrorKind};
pub use notice::Notify;
pub use payload::{Json, Payload, UserEvent};
pub use state::ConnectionState;
pub use subscription::{Event, Gap, GapReason, Message, SubscribeOptions, Subscription};
/// All messages of the protocol, for the fields of requests and events.
pub use tidewire_proto::v1 as proto;
pub use tidewire_proto::v1::{NotificationType, Position, Priority, server_message::Data};
