//! Load clients: one subscriber ([`connection`]), its protocol per transport ([`dialect`]),
//! and the loop that drives all of them and the sender ([`engine`]).

pub(crate) mod connection;
pub(crate) mod dialect;
pub(crate) mod engine;
pub(crate) mod sender;
pub(crate) mod socket;
mod tail;

pub(crate) use connection::End;
pub(crate) use dialect::{Dialect, Transport};
pub(crate) use engine::{Engine, Plan};
pub(crate) use sender::{Order, Route, Sender};
