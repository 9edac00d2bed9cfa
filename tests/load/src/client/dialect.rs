//! How a subscriber opens its connection and subscribes, on each transport.

use clap::ValueEnum;
use memchr::memmem;
use tidewire_proto::{
    prost::Message as _,
    v1::{
        ChannelSubscription, ClientMessage, Position, ServerMessage, SubscribeRequest,
        client_message::Data as Asked, server_message::Data as Said,
    },
};

use crate::wire::{http1, http2, websocket};

/// How a client of Tidewire is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// A WebSocket with JSON.
    WsJson,
    /// A WebSocket with protobuf.
    WsProto,
    /// Server-Sent Events over HTTP/1.1.
    Sse,
    /// A gRPC server stream on a connection of its own.
    Grpc,
}

impl Transport {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::WsJson => "ws-json",
            Self::WsProto => "ws-proto",
            Self::Sse => "sse",
            Self::Grpc => "grpc",
        }
    }
}

/// What a subscriber speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Tidewire's protocol.
    Tidewire(Transport),
    /// What the servers speak that stand beside it: a WebSocket whose URL names the
    /// channels, and a first frame once it is subscribed.
    Beside,
}

/// How the bytes after the head are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Into WebSocket frames.
    WebSocket,
    /// Not at all: a text that goes on.
    Text,
    /// Into HTTP/2 frames, whose data go on.
    Http2,
}

/// How far a subscriber is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing that matters yet.
    Wait,
    /// It was welcomed.
    Welcome,
    /// It is subscribed.
    Subscribed,
}

/// One channel that a subscriber wants, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) channel: String,
    pub(crate) since: Option<(String, u64)>,
}

impl Dialect {
    pub(crate) fn framing(self) -> Framing {
        match self {
            Self::Tidewire(Transport::Sse) => Framing::Text,
            Self::Tidewire(Transport::Grpc) => Framing::Http2,
            _ => Framing::WebSocket,
        }
    }

    /// The first bytes of a connection.
    pub(crate) fn hello(self, wanted: &[Wanted], is_deflated: bool) -> Vec<u8> {
        let names: Vec<_> = wanted
            .iter()
            .map(|wanted| wanted.channel.as_str())
            .collect();
        let names = names.join(",");
        let mut extra = String::new();
        if is_deflated {
            extra += "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
                      client_no_context_takeover\r\n";
        }
        match self {
            Self::Beside => http1::upgrade(&format!("/sub?ch={names}"), &extra),
            Self::Tidewire(Transport::WsJson) => http1::upgrade("/v1/ws", &extra),
            Self::Tidewire(Transport::WsProto) => {
                extra += "Sec-WebSocket-Protocol: tidewire.v1.proto\r\n";
                http1::upgrade("/v1/ws", &extra)
            }
            Self::Tidewire(Transport::Sse) => {
                http1::event_stream(&format!("/v1/sse?channels={names}"))
            }
            Self::Tidewire(Transport::Grpc) => {
                let request = request(wanted).encode_to_vec();
                http2::call("/tidewire.v1.StreamService/Subscribe", &request)
            }
        }
    }

    /// The frame that subscribes, where the first bytes did not.
    pub(crate) fn subscribe(self, wanted: &[Wanted]) -> Option<Vec<u8>> {
        if wanted.is_empty() {
            return None;
        }
        let mut out = Vec::new();
        match self {
            Self::Tidewire(Transport::WsJson) => {
                let channels: Vec<_> = wanted.iter().map(json).collect();
                let message = serde_json::json!({
                    "type": "subscribe", "id": "s", "data": {"channels": channels},
                });
                let message = message.to_string();
                websocket::client(&mut out, websocket::opcode::TEXT, message.as_bytes());
            }
            Self::Tidewire(Transport::WsProto) => {
                let message = ClientMessage {
                    id: Some("s".to_owned()),
                    data: Some(Asked::Subscribe(request(wanted))),
                };
                let message = message.encode_to_vec();
                websocket::client(&mut out, websocket::opcode::BINARY, &message);
            }
            _ => return None,
        }
        Some(out)
    }

    /// Reads what the server said before the subscriber was ready: a frame's
    /// payload, or all of the stream so far.
    ///
    /// # Errors
    /// What was refused, in the server's words.
    pub(crate) fn step(self, said: &[u8]) -> Result<Step, String> {
        match self {
            Self::Beside => Ok(Step::Subscribed),
            Self::Tidewire(Transport::WsJson | Transport::Sse) => {
                let has = |text: &str| memmem::find(said, text.as_bytes()).is_some();
                let words = || String::from_utf8_lossy(said).into_owned();
                if has(r#""type":"subscribed""#) {
                    return if has(r#""error""#) {
                        Err(words())
                    } else {
                        Ok(Step::Subscribed)
                    };
                }
                if has(r#""type":"error""#) {
                    return Err(words());
                }
                Ok(if has(r#""type":"welcome""#) {
                    Step::Welcome
                } else {
                    Step::Wait
                })
            }
            Self::Tidewire(Transport::WsProto) => step_of(said),
            Self::Tidewire(Transport::Grpc) => {
                let mut last = Step::Wait;
                let mut rest = said;
                while let Some((head, body)) = rest.split_first_chunk::<5>() {
                    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
                    let Some(message) = body.get(..length as usize) else {
                        break;
                    };
                    match step_of(message)? {
                        Step::Wait => {}
                        step => last = step,
                    }
                    rest = &body[length as usize..];
                }
                Ok(last)
            }
        }
    }
}

fn json(wanted: &Wanted) -> serde_json::Value {
    match &wanted.since {
        None => serde_json::json!(wanted.channel),
        Some((epoch, seq)) => serde_json::json!({
            "channel": wanted.channel, "since": {"epoch": epoch, "seq": seq},
        }),
    }
}

fn request(wanted: &[Wanted]) -> SubscribeRequest {
    let channels = wanted.iter().map(|wanted| ChannelSubscription {
        channel: wanted.channel.clone(),
        since: wanted
            .since
            .clone()
            .map(|(epoch, seq)| Position { epoch, seq }),
        min_interval_ms: None,
    });
    SubscribeRequest {
        channels: channels.collect(),
    }
}

fn step_of(message: &[u8]) -> Result<Step, String> {
    let message = ServerMessage::decode(message).map_err(|error| error.to_string())?;
    match message.data {
        Some(Said::Welcome(_)) => Ok(Step::Welcome),
        Some(Said::Subscribed(subscribed)) => {
            let refused = subscribed
                .channels
                .into_iter()
                .find_map(|channel| channel.error);
            refused.map_or(Ok(Step::Subscribed), |error| Err(error.message))
        }
        Some(Said::Error(error)) => Err(error.message),
        _ => Ok(Step::Wait),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_are_told_apart() {
        let json = Dialect::Tidewire(Transport::WsJson);
        let welcome = br#"{"type":"welcome","data":{"subscriptions":[]}}"#;
        assert_eq!(json.step(welcome), Ok(Step::Welcome));
        let subscribed = br#"{"type":"subscribed","id":"s","data":{"channels":[]}}"#;
        assert_eq!(json.step(subscribed), Ok(Step::Subscribed));
        let refused = br#"{"type":"subscribed","data":{"channels":[{"error":{}}]}}"#;
        assert!(json.step(refused).is_err());
        assert!(json.step(br#"{"type":"error","data":{}}"#).is_err());
    }

    #[test]
    fn a_stream_of_messages_is_read_as_far_as_it_came() {
        let message = |data| {
            let message = ServerMessage {
                data: Some(data),
                ..ServerMessage::default()
            };
            let message = message.encode_to_vec();
            let mut out = vec![0];
            out.extend_from_slice(&(message.len() as u32).to_be_bytes());
            out.extend_from_slice(&message);
            out
        };
        let mut bytes = message(Said::Welcome(Default::default()));
        let welcomed = bytes.len();
        bytes.extend(message(Said::Subscribed(Default::default())));
        let grpc = Dialect::Tidewire(Transport::Grpc);
        assert_eq!(grpc.step(&bytes[..3]), Ok(Step::Wait));
        assert_eq!(grpc.step(&bytes[..welcomed + 5]), Ok(Step::Welcome));
        assert_eq!(grpc.step(&bytes), Ok(Step::Subscribed));
    }
}
