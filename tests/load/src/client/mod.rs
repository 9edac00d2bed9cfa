//! The subscribers: how each speaks ([`dialect`]), one of them ([`connection`]), all
//! of them and the sender in one loop ([`engine`]).

pub(crate) mod connection;
pub(crate) mod dialect;
pub(crate) mod engine;
pub(crate) mod sender;
mod tail;

pub(crate) use connection::End;
pub(crate) use dialect::{Dialect, Transport};
pub(crate) use engine::{Engine, Plan};
pub(crate) use sender::{Order, Route, Sender};
