//! Wire formats of the client side.

pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod websocket;
