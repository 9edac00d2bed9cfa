//! Calls of services on another node, which has what they need.
//!
//! The node that a client is connected to has checked its token and its rates, and passes on who the
//! caller is. The other one carries the call out as if the caller were its own client. Nothing that a
//! client sends can say who it is: the caller is made by the node, and nodes trust what comes over
//! Redis.
//!
//! A call is carried out once at most: the broker may ask again, and the other node knows the number of
//! the question. Its outcome says whether it was carried out, was certainly not begun, or is in
//! doubt. Only the second may be repeated without a thought.

use std::{
    collections::{BTreeSet, HashMap},
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::RwLock;
use prost::Message;
use tidewire_proto::v1::ErrorCode;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    NodeTag, RETRY_AFTER_MS, Recipients, StreamCore,
    question::{Answer, Call, Question},
};
use crate::{
    Caller, ClientKey, Identity, Locality, Scope, StreamError, UserId,
    identity::{ChannelPattern, UserIdentity},
    limit::{
        fair_semaphore::{FairPermit, FairSemaphore},
        semaphore::KeyedSemaphore,
    },
    session::ConnectionId,
};

/// Longest request of a call, in bytes: the longest message that gRPC takes.
const REQUEST_BYTES: usize = 4 << 20;

/// Calls of this node that other nodes carry out at once, of each class. Further ones wait for their turn. A
/// lane that alone is busy has a third: 64 calls of one engine, 32 about one chain.
const FORWARDED: ByClass<usize> = ByClass {
    engine: 192,
    chain: 96,
    node: 64,
};

/// The same of one client, with those that wait. Further ones are refused.
const CLIENT_CALLS: u32 = 256;

/// Calls of other nodes that this one carries out at once, of each class: more than one node sends. They
/// leave places of the broker to clients' messages and to operators.
const RECEIVED: ByClass<usize> = ByClass {
    engine: 288,
    chain: 192,
    node: 128,
};

/// Time that a call has beyond that of the node that asks. That node is the one that gives up.
const GRACE: Duration = Duration::from_secs(1);

/// Classes of calls. Each has places of its own, so that calls of one class hold up none of another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CallClass {
    /// Requests of clients that need the one engine of all nodes.
    #[default]
    Engine,
    /// Requests of clients that need the engine of a chain, which may wait for the chain's endpoints.
    Chain,
    /// Requests that nodes make for themselves.
    Node,
}

/// One value for each class.
#[derive(Debug)]
struct ByClass<T> {
    engine: T,
    chain: T,
    node: T,
}

impl<T> ByClass<T> {
    fn get(&self, class: CallClass) -> &T {
        match class {
            CallClass::Engine => &self.engine,
            CallClass::Chain => &self.chain,
            CallClass::Node => &self.node,
        }
    }
}

impl ByClass<usize> {
    fn semaphores(&self) -> ByClass<FairSemaphore<String>> {
        ByClass {
            engine: FairSemaphore::new(self.engine),
            chain: FairSemaphore::new(self.chain),
            node: FairSemaphore::new(self.node),
        }
    }
}

/// The lane of a call. Calls that wait for the same engine have the same one, and an engine that does not
/// answer holds up its lane alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallLane {
    /// The class.
    pub class: CallClass,
    /// Its name in errors, in the plural, such as "requests about chain 1".
    pub name: String,
}

/// A call of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardedCall {
    /// The lane.
    pub lane: CallLane,
    /// The service, by which its handler is registered.
    pub service: String,
    /// The method.
    pub method: String,
    /// The caller.
    pub caller: Caller,
    /// The request, as protobuf.
    pub body: Bytes,
    /// Longest time until the response.
    pub time: Duration,
}

/// Outcome of a call on another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallOutcome {
    /// It was carried out: the response, as protobuf.
    Response(Bytes),
    /// The service refused it.
    Refused(StreamError),
    /// It was certainly not begun: the node is not there, or cannot carry it out. The text says why.
    NotBegun(String),
    /// It is not known whether it was carried out. The text says why.
    InDoubt(String),
}

/// Why a call of another node is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallRefusal {
    /// This node is not the one that can carry it out, and nothing was begun. The text says why.
    NotOwner(String),
    /// The service refused it.
    Error(StreamError),
}

/// Carries out the calls of other nodes to one service.
pub trait CallHandler: Send + Sync + 'static {
    /// Carries out a call. Returns the response as protobuf.
    fn call(
        self: Arc<Self>,
        call: ForwardedCall,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, CallRefusal>> + Send>>;
}

/// Handlers and places of calls between nodes.
pub(in crate::stream_core) struct CallPlaces {
    handlers: RwLock<HashMap<&'static str, Weak<dyn CallHandler>>>,
    forwarded: ByClass<FairSemaphore<String>>,
    clients: KeyedSemaphore<ClientKey>,
    received: ByClass<FairSemaphore<String>>,
}

impl Default for CallPlaces {
    fn default() -> Self {
        Self {
            handlers: RwLock::default(),
            forwarded: FORWARDED.semaphores(),
            clients: KeyedSemaphore::default(),
            received: RECEIVED.semaphores(),
        }
    }
}

impl CallPlaces {
    /// A place for the call of another node.
    fn turn(&self, lane: &CallLane) -> Option<FairPermit<String>> {
        self.received.get(lane.class).try_acquire(&lane.name)
    }
}

/// A class, as nodes tell each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum WireClass {
    Engine = 0,
    Chain = 1,
    Node = 2,
}

impl From<CallClass> for WireClass {
    fn from(class: CallClass) -> Self {
        match class {
            CallClass::Engine => Self::Engine,
            CallClass::Chain => Self::Chain,
            CallClass::Node => Self::Node,
        }
    }
}

impl Call {
    /// The lane. Nodes of earlier versions name none: each service is one then.
    fn lane(&self) -> CallLane {
        let class = match WireClass::try_from(self.class) {
            Ok(WireClass::Engine) | Err(_) => CallClass::Engine,
            Ok(WireClass::Chain) => CallClass::Chain,
            Ok(WireClass::Node) => CallClass::Node,
        };
        let name = match &*self.lane {
            "" => format!("requests to {}", self.service),
            name => name.to_owned(),
        };
        CallLane { class, name }
    }
}

/// A caller, as nodes tell each other.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WireCaller {
    #[prost(string, optional, tag = "1")]
    user: Option<String>,
    /// Whether a caller without a user is anonymous. Otherwise it is not known.
    #[prost(bool, tag = "2")]
    is_anonymous: bool,
    #[prost(int64, tag = "3")]
    expires_at_ms: i64,
    #[prost(bool, tag = "4")]
    is_service: bool,
    #[prost(bool, tag = "5")]
    is_admin: bool,
    #[prost(string, repeated, tag = "6")]
    channels: Vec<String>,
    #[prost(string, repeated, tag = "7")]
    wallets: Vec<String>,
    #[prost(string, optional, tag = "8")]
    address: Option<String>,
    #[prost(bool, tag = "9")]
    is_local: bool,
    #[prost(string, optional, tag = "10")]
    connection: Option<String>,
}

impl From<&Caller> for WireCaller {
    fn from(caller: &Caller) -> Self {
        let mut wire = Self {
            is_anonymous: caller.identity == Identity::Anonymous,
            address: caller.address.map(|address| address.to_string()),
            is_local: caller.locality == Locality::Local,
            connection: caller.connection.map(|id| id.as_str().to_owned()),
            ..Self::default()
        };
        if let Identity::User(identity) = &caller.identity {
            wire.user = Some(identity.user.as_str().to_owned());
            wire.expires_at_ms = identity.expires_at_ms;
            wire.is_service = identity.scopes.contains(&Scope::Service);
            wire.is_admin = identity.scopes.contains(&Scope::Admin);
            let channels = identity.channels.iter();
            wire.channels = channels.map(|pattern| pattern.0.to_string()).collect();
            wire.wallets = identity.wallets.iter().cloned().collect();
        }
        wire
    }
}

impl From<WireCaller> for Caller {
    fn from(wire: WireCaller) -> Self {
        let identity = match (wire.user, wire.is_anonymous) {
            (Some(user), _) => {
                let mut identity = UserIdentity::new(UserId::new(&user), wire.expires_at_ms);
                let service = wire.is_service.then_some(Scope::Service);
                let admin = wire.is_admin.then_some(Scope::Admin);
                identity.scopes = service.into_iter().chain(admin).collect::<BTreeSet<_>>();
                let channels = wire.channels.iter();
                identity.channels = channels.map(|text| ChannelPattern::new(text)).collect();
                identity.wallets = wire.wallets.into_iter().collect();
                identity.into()
            }
            (None, true) => Identity::Anonymous,
            (None, false) => Identity::Unknown,
        };
        Self {
            identity,
            address: wire.address.and_then(|address| address.parse().ok()),
            locality: match wire.is_local {
                true => Locality::Local,
                false => Locality::Remote,
            },
            connection: wire.connection.as_deref().and_then(ConnectionId::parse),
        }
    }
}

impl StreamCore {
    /// Registers what carries out the calls of other nodes to a service, as long as it exists.
    pub fn register_call_handler(&self, service: &'static str, handler: Weak<dyn CallHandler>) {
        self.call_places.handlers.write().insert(service, handler);
    }

    /// Has another node carry out a call. It is carried out once at most, and waits for its turn and its
    /// response no longer than its time.
    ///
    /// # Errors
    /// The request is too long, or the client has too many calls under way. It was not sent.
    pub async fn call_node(
        &self,
        node: &str,
        call: ForwardedCall,
    ) -> Result<CallOutcome, StreamError> {
        if call.body.len() > REQUEST_BYTES {
            let text = format!(
                "the request is {} bytes long, expected {REQUEST_BYTES} at most for another server",
                call.body.len()
            );
            return Err(StreamError::new(ErrorCode::ResourceExhausted, text));
        }
        let CallLane { class, name } = &call.lane;
        let client = ClientKey::from(&call.caller);
        let place = self.call_places.clients.try_acquire(&client, CLIENT_CALLS);
        let Some(_place) = place else {
            let text = format!(
                "{CLIENT_CALLS} requests of this client wait for another server already, expected fewer at once"
            );
            return Err(exhausted(text));
        };
        let deadline = Instant::now() + call.time;
        let places = self.call_places.forwarded.get(*class);
        let Ok(Some(_turn)) = timeout_at(deadline, places.acquire(name)).await else {
            return Err(exhausted(format!(
                "too many {name} wait for another server"
            )));
        };
        let tag = NodeTag::read(node.as_bytes());
        let Some(tag) = tag.filter(|tag| self.broker().node_tag() != Some(*tag)) else {
            return Ok(CallOutcome::NotBegun(format!("{node} is no other node")));
        };
        let time = deadline.saturating_duration_since(Instant::now());
        let question = Question::Call(Call {
            class: WireClass::from(call.lane.class).into(),
            lane: call.lane.name,
            service: call.service,
            method: call.method,
            caller: Some(WireCaller::from(&call.caller)),
            body: call.body,
            time_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        });
        let encoded = question.to_bytes();
        let asked = self.broker().ask(Recipients::NodeOnce(tag, time), &encoded);
        let Some(asked) = asked else {
            let text = "this server has no other nodes".to_owned();
            return Ok(CallOutcome::NotBegun(text));
        };
        let answers = match asked.await {
            Ok(answers) => answers,
            Err(error) => return Ok(CallOutcome::InDoubt(error.message().to_owned())),
        };
        if answers.is_unheard || (answers.answers.is_empty() && answers.missing == 0) {
            return Ok(CallOutcome::NotBegun(format!("node {node} is not there")));
        }
        let answer = answers.answers.first().and_then(Answer::read);
        Ok(match answer {
            Some(Answer::Response(body)) => CallOutcome::Response(body),
            Some(Answer::NotBegun(reason)) => CallOutcome::NotBegun(reason),
            Some(Answer::Refusal(refusal)) => {
                let error = StreamError::from(refusal);
                match error.code() {
                    // No client can call a method that this node does not have.
                    ErrorCode::Unimplemented => CallOutcome::NotBegun(format!(
                        "node {node} is of another version: {}",
                        error.message()
                    )),
                    _ => CallOutcome::Refused(error),
                }
            }
            _ => CallOutcome::InDoubt(format!("node {node} does not answer")),
        })
    }

    /// Carries out a call of another node.
    pub(super) async fn answer_call(&self, call: Call) -> Answer {
        let time = Duration::from_millis(call.time_ms);
        let lane = call.lane();
        // Without a line: a question that is not answered at all would be in doubt.
        let Some(_turn) = self.call_places.turn(&lane) else {
            return Answer::NotBegun(format!(
                "the node carries out as many {} as it may",
                lane.name
            ));
        };
        let handler = self
            .call_places
            .handlers
            .read()
            .get(&*call.service)
            .cloned();
        let Some(handler) = handler.and_then(|handler| handler.upgrade()) else {
            let text = format!(
                "this server carries out no calls of other servers to {:?}",
                call.service
            );
            return StreamError::new(ErrorCode::Unimplemented, text).into();
        };
        let called = handler.call(ForwardedCall {
            lane,
            service: call.service,
            method: call.method,
            caller: call.caller.unwrap_or_default().into(),
            body: call.body,
            time,
        });
        match timeout(time + GRACE, called).await {
            Ok(Ok(body)) => Answer::Response(body.into()),
            Ok(Err(CallRefusal::NotOwner(reason))) => Answer::NotBegun(reason),
            Ok(Err(CallRefusal::Error(error))) => error.into(),
            // The node that asked waits no longer: to it, the outcome is in doubt.
            Err(_) => {
                let text = "the time of the request is over";
                StreamError::new(ErrorCode::DeadlineExceeded, text).into()
            }
        }
    }
}

fn exhausted(text: impl Into<String>) -> StreamError {
    StreamError::new(ErrorCode::ResourceExhausted, text).with_retry_after_ms(RETRY_AFTER_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_the_same_on_another_node() {
        for class in [CallClass::Engine, CallClass::Chain, CallClass::Node] {
            let call = Call {
                class: WireClass::from(class).into(),
                lane: "requests about chain 1".to_owned(),
                ..Call::default()
            };
            let read = Call::decode(&*call.encode_to_vec()).unwrap().lane();
            assert_eq!((read.class, &*read.name), (class, "requests about chain 1"));
        }
        // Of an earlier version.
        let call = Call {
            service: "chains".to_owned(),
            ..Call::default()
        };
        let expected = CallLane {
            class: CallClass::Engine,
            name: "requests to chains".to_owned(),
        };
        assert_eq!(call.lane(), expected);
    }

    #[test]
    fn a_caller_is_the_same_on_another_node() {
        let mut identity = UserIdentity::new(UserId::new("ann"), 7);
        identity.scopes.insert(Scope::Service);
        identity.channels.push(ChannelPattern::new("orders:*"));
        identity.wallets.insert("0xabc".to_owned());
        let user = Caller {
            address: Some([127, 0, 0, 1].into()),
            locality: Locality::Local,
            connection: Some(ConnectionId::random()),
            ..Caller::from(Identity::from(identity))
        };
        let others = [Identity::Anonymous, Identity::Unknown].map(Caller::from);
        for caller in others.into_iter().chain([user]) {
            let encoded = WireCaller::from(&caller).encode_to_vec();
            let read = WireCaller::decode(&*encoded).unwrap();
            assert_eq!(Caller::from(read), caller);
        }
    }

    #[test]
    fn a_call_without_a_caller_has_no_rights() {
        let caller = Caller::from(WireCaller::default());
        assert_eq!(caller.identity, Identity::Unknown);
        assert_eq!(caller.locality, Locality::Remote);
    }
}
