//! The client's side of what is spoken on the sockets, as bytes.

pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod websocket;
