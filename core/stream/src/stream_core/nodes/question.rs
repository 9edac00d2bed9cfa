//! Questions between nodes and their answers, as protobuf. Nodes of different versions may run side
//! by side: a field keeps its number, and an unknown question has an answer of its own.

use bytes::Bytes;
use prost::Message;
use tidewire_proto::v1;

use super::{super::operator::Target, call::WireCaller};

/// A question to a node.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Question {
    /// The subscribers of a channel.
    #[prost(string, tag = "1")]
    Presence(String),
    /// A page of connections.
    #[prost(message, tag = "2")]
    Connections(Page),
    /// Closes connections.
    #[prost(message, tag = "3")]
    Disconnect(WireTarget),
    /// Subscribes connections.
    #[prost(message, tag = "4")]
    Subscribe(Subscription),
    /// Unsubscribes connections.
    #[prost(message, tag = "5")]
    Unsubscribe(Subscription),
    /// Carries out a message of a client.
    #[prost(message, tag = "6")]
    Post(Post),
    /// Calls a service.
    #[prost(message, tag = "7")]
    Call(Call),
    /// Unsubscribes connections that may not read the channel any more.
    #[prost(message, tag = "8")]
    Recheck(Subscription),
    /// The settings that nodes should have in common.
    #[prost(message, tag = "9")]
    Settings(SettingsQuestion),
}

/// An answer of a node.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Answer {
    /// The subscribers of a channel.
    #[prost(message, tag = "1")]
    Presence(PresenceAnswer),
    /// A page of connections.
    #[prost(message, tag = "2")]
    Connections(Connections),
    /// An action that was done.
    #[prost(message, tag = "3")]
    Count(Count),
    /// The response to a client's message.
    #[prost(message, tag = "4")]
    Post(PostReply),
    /// A question that was refused.
    #[prost(message, tag = "5")]
    Refusal(Refusal),
    /// The response of a service.
    #[prost(bytes = "bytes", tag = "6")]
    Response(Bytes),
    /// A call that was not begun, because the node is not the one that can carry it out, or has no
    /// place for it. The text says why.
    #[prost(string, tag = "7")]
    NotBegun(String),
    /// The settings of the node.
    #[prost(message, tag = "8")]
    Settings(SettingsAnswer),
}

#[derive(Clone, PartialEq, Message)]
struct QuestionMessage {
    #[prost(oneof = "Question", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    question: Option<Question>,
}

#[derive(Clone, PartialEq, Message)]
struct AnswerMessage {
    #[prost(oneof = "Answer", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    answer: Option<Answer>,
}

/// Filter and length of a page of connections.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Page {
    #[prost(string, optional, tag = "1")]
    pub(super) user: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) channel: Option<String>,
    #[prost(string, tag = "3")]
    pub(super) after: String,
    #[prost(uint32, tag = "4")]
    pub(super) limit: u32,
}

/// Connections that an action concerns.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WireTarget {
    #[prost(string, optional, tag = "1")]
    connection: Option<String>,
    #[prost(string, optional, tag = "2")]
    user: Option<String>,
}

/// Connections and a channel.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Subscription {
    #[prost(message, optional, tag = "1")]
    pub(super) target: Option<WireTarget>,
    #[prost(string, tag = "2")]
    pub(super) channel: String,
}

/// A client's message, and what proves that it is the client's.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Post {
    #[prost(string, tag = "1")]
    pub(super) connection: String,
    #[prost(string, optional, tag = "2")]
    pub(super) key: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub(super) user: Option<String>,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) body: Bytes,
}

/// A call of a service, with its caller.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Call {
    #[prost(string, tag = "1")]
    pub(super) service: String,
    #[prost(string, tag = "2")]
    pub(super) method: String,
    #[prost(message, optional, tag = "3")]
    pub(super) caller: Option<WireCaller>,
    /// The request, as protobuf.
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) body: Bytes,
    /// Time that was left when the call was sent.
    #[prost(uint64, tag = "5")]
    pub(super) time_ms: u64,
    /// The class of its lane.
    #[prost(int32, tag = "6")]
    pub(super) class: i32,
    /// The name of its lane.
    #[prost(string, tag = "7")]
    pub(super) lane: String,
}

/// A question without content.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SettingsQuestion {}

/// The settings of a node.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SettingsAnswer {
    #[prost(string, tag = "1")]
    pub(super) node: String,
    #[prost(string, tag = "2")]
    pub(super) place: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) values: Vec<SettingValue>,
}

/// A setting.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SettingValue {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

/// Subscribers of a channel.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PresenceAnswer {
    #[prost(uint32, tag = "1")]
    pub(super) connections: u32,
    #[prost(string, repeated, tag = "2")]
    pub(super) users: Vec<String>,
}

/// A page of connections.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Connections {
    #[prost(message, repeated, tag = "1")]
    pub(super) connections: Vec<v1::Connection>,
}

/// Connections for which something was done.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Count {
    #[prost(uint32, tag = "1")]
    pub(super) connections: u32,
}

/// An HTTP response.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PostReply {
    #[prost(uint32, tag = "1")]
    pub(super) status: u32,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) body: Bytes,
}

/// An error.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Refusal {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(uint32, optional, tag = "3")]
    pub(super) retry_after_ms: Option<u32>,
}

impl From<Target<'_>> for WireTarget {
    fn from(target: Target<'_>) -> Self {
        match target {
            Target::Connection(id) => Self {
                connection: Some(id.to_owned()),
                user: None,
            },
            Target::User(user) => Self {
                connection: None,
                user: Some(user.to_owned()),
            },
        }
    }
}

impl WireTarget {
    /// The connections. None if a newer version names them in another way.
    pub(super) fn get(&self) -> Option<Target<'_>> {
        match (&self.connection, &self.user) {
            (Some(id), _) => Some(Target::Connection(id)),
            (None, Some(user)) => Some(Target::User(user)),
            (None, None) => None,
        }
    }
}

impl Subscription {
    pub(super) fn new(target: Target<'_>, channel: &str) -> Self {
        Self {
            target: Some(target.into()),
            channel: channel.to_owned(),
        }
    }
}

impl Question {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let question = Some(self.clone());
        QuestionMessage { question }.encode_to_vec()
    }

    /// Reads a question. None if a newer version wrote it in another form.
    pub(super) fn read(bytes: Bytes) -> Option<Self> {
        QuestionMessage::decode(bytes).ok()?.question
    }
}

impl Answer {
    pub(super) fn to_bytes(&self) -> Bytes {
        let answer = Some(self.clone());
        AnswerMessage { answer }.encode_to_vec().into()
    }

    /// Reads an answer. None if a newer version wrote it in another form.
    pub(super) fn read(bytes: &Bytes) -> Option<Self> {
        AnswerMessage::decode(bytes.clone()).ok()?.answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_of_another_version_is_not_understood() {
        let question = Question::Disconnect(Target::User("ann").into());
        let encoded = Bytes::from(question.to_bytes());
        assert_eq!(Question::read(encoded.clone()), Some(question));
        for cut in 0..encoded.len() {
            assert_eq!(Question::read(encoded.slice(..cut)), None);
        }
        // Field 100.
        assert_eq!(Question::read(Bytes::from_static(&[0xa2, 6, 0])), None);
    }
}
