//! Plain HTTP: JSON for unary RPCs, the console page, health and metrics.

pub(crate) mod connection;
pub(crate) mod console;
pub(crate) mod cors;
pub(crate) mod health;
pub(crate) mod request_body;
mod response_body;
mod response_timeout;
pub(crate) mod rpc;
pub(crate) mod unsent;
pub(crate) mod unsubscribe;
