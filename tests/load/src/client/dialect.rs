//! Dialects: how a subscriber connects and subscribes on each transport.

use clap::ValueEnum;
use memchr::memmem;
use tidewire_proto::{
    prost::Message as _,
    v1::{
        ChannelSubscription, ClientMessage, Position, ServerMessage, SubscribeRequest,
        client_message::Data as Outgoing, server_message::Data as Incoming,
    },
};

use crate::wire::{http1, http2, websocket};

/// Transport of a Tidewire client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// A WebSocket with JSON.
    WsJson,
    /// A WebSocket with protobuf.
    WsProto,
    /// Server-Sent Events over HTTP/1.1.
    Sse,
    /// A gRPC server stream on its own connection.
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

/// Protocol of a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Tidewire's protocol.
    Tidewire(Transport),
    /// The reference servers' protocol: a WebSocket whose URL names the channels, with a first
    /// frame once the subscription stands.
    Reference,
}

/// Framing of the bytes after the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// WebSocket frames.
    WebSocket,
    /// No framing: one endless text.
    Text,
    /// HTTP/2 frames, whose data form one stream.
    Http2,
}

/// Progress of a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Not connected yet.
    Wait,
    /// Received the welcome.
    Welcome,
    /// Subscribed.
    Subscribed,
}

/// A channel to subscribe to, with an optional position.
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

    /// Returns the first bytes of a connection.
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
            Self::Reference => http1::upgrade(&format!("/sub?ch={names}"), &extra),
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

    /// Returns the subscribe frame, unless the first bytes subscribed already.
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
                    data: Some(Outgoing::Subscribe(request(wanted))),
                };
                let message = message.encode_to_vec();
                websocket::client(&mut out, websocket::opcode::BINARY, &message);
            }
            _ => return None,
        }
        Some(out)
    }

    /// Interprets server data received before the subscriber was ready: one frame's payload,
    /// or the stream up to now.
    ///
    /// # Errors
    /// The server refused; the text is the server's.
    pub(crate) fn progress(self, said: &[u8]) -> Result<Progress, String> {
        match self {
            Self::Reference => Ok(Progress::Subscribed),
            Self::Tidewire(Transport::WsJson | Transport::Sse) => {
                let has = |text: &str| memmem::find(said, text.as_bytes()).is_some();
                let words = || String::from_utf8_lossy(said).into_owned();
                if has(r#""type":"subscribed""#) {
                    return if has(r#""error""#) {
                        Err(words())
                    } else {
                        Ok(Progress::Subscribed)
                    };
                }
                if has(r#""type":"error""#) {
                    return Err(words());
                }
                Ok(if has(r#""type":"welcome""#) {
                    Progress::Welcome
                } else {
                    Progress::Wait
                })
            }
            Self::Tidewire(Transport::WsProto) => progress_of(said),
            Self::Tidewire(Transport::Grpc) => {
                let mut last = Progress::Wait;
                let mut rest = said;
                while let Some((head, body)) = rest.split_first_chunk::<5>() {
                    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
                    let Some(message) = body.get(..length as usize) else {
                        break;
                    };
                    match progress_of(message)? {
                        Progress::Wait => {}
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

fn progress_of(message: &[u8]) -> Result<Progress, String> {
    let message = ServerMessage::decode(message).map_err(|error| error.to_string())?;
    match message.data {
        Some(Incoming::Welcome(_)) => Ok(Progress::Welcome),
        Some(Incoming::Subscribed(subscribed)) => {
            let refused = subscribed
                .channels
                .into_iter()
                .find_map(|channel| channel.error);
            refused.map_or(Ok(Progress::Subscribed), |error| Err(error.message))
        }
        Some(Incoming::Error(error)) => Err(error.message),
        _ => Ok(Progress::Wait),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_reports_progress() {
        let json = Dialect::Tidewire(Transport::WsJson);
        let welcome = br#"{"type":"welcome","data":{"subscriptions":[]}}"#;
        assert_eq!(json.progress(welcome), Ok(Progress::Welcome));
        let subscribed = br#"{"type":"subscribed","id":"s","data":{"channels":[]}}"#;
        assert_eq!(json.progress(subscribed), Ok(Progress::Subscribed));
        let refused = br#"{"type":"subscribed","data":{"channels":[{"error":{}}]}}"#;
        assert!(json.progress(refused).is_err());
        assert!(json.progress(br#"{"type":"error","data":{}}"#).is_err());
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
        let mut bytes = message(Incoming::Welcome(Default::default()));
        let welcomed = bytes.len();
        bytes.extend(message(Incoming::Subscribed(Default::default())));
        let grpc = Dialect::Tidewire(Transport::Grpc);
        assert_eq!(grpc.progress(&bytes[..3]), Ok(Progress::Wait));
        assert_eq!(grpc.progress(&bytes[..welcomed + 5]), Ok(Progress::Welcome));
        assert_eq!(grpc.progress(&bytes), Ok(Progress::Subscribed));
    }
}
