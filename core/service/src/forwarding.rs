//! Forwarding: requests that another node carries out, because it owns the shared store, a chain, or the
//! price engine.
//!
//! A node that does not own the store has no hub and no alert engine, and one that does not own a chain
//! has no engine for it. The price engine of one that does not own the prices publishes nothing. The node
//! checks the caller, passes the request on to the owner with the caller, and returns the owner's response.
//! The owner never passes such a request on again: if it does not own what is needed any more, it says
//! this, and the node that asks looks at the lease again.
//!
//! ```text
//! client ─▶ this node: checks the caller ─▶ EngineSlot::locate ─┬─ Here ──────▶ the engine
//!                     ▲                                         ├─ Elsewhere ─▶ the owner ─▶ the engine
//!                     └──── not begun: again, within 3 s ───────┴─ Later
//! ```
//!
//! A request that was certainly not begun is sent again, and so is one that may be repeated: it
//! reads, or has an idempotency key. The token of its caller is checked before each further attempt.
//! Otherwise a lost answer is an error which says that the outcome is not known.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message;
use tidewire_proto::{rpc::protobuf, v1::ErrorCode};
use tidewire_stream::{
    CallClass, CallHandler, CallLane, CallOutcome, CallRefusal, Caller, ForwardedCall, StreamCore,
    StreamError,
};
use tokio::time::{Instant, sleep};
use tonic::{Request, Response};

use crate::{
    AlertRpc, NotifyRpc, PriceRpc, WatchRpc,
    engine_slot::{Changes, EngineSlot, Location},
    from_status,
};

/// The service of RPCs about notifications.
pub(crate) const NOTIFY: &str = "NotifyService";

/// The service of RPCs about alerts.
pub(crate) const ALERT: &str = "AlertService";

/// The service of RPCs about prices.
pub(crate) const PRICE: &str = "PriceService";

/// Requests that need the hub and that no RPC has in this form: messages of sessions, and parts of the
/// server.
pub(crate) const INTERNAL_NOTIFY: &str = "notify";

/// The same of the alert engine.
pub(crate) const INTERNAL_ALERT: &str = "alert";

/// Requests that need the engine of a chain.
pub(crate) const CHAINS: &str = "chains";

/// Longest time of a request, with all attempts.
const TIME: Duration = Duration::from_secs(10);

/// Longest wait for a node that can carry a request out: a takeover takes 3 s after a kill.
pub(crate) const TAKEOVER: Duration = Duration::from_secs(3);

/// Pause before another attempt, unless the owner changes before.
const PAUSE: Duration = Duration::from_millis(50);

/// Time for an answer that is on its way when the owner changes.
const GRACE: Duration = Duration::from_millis(250);

/// After so many milliseconds a request that was not carried out, or may not have been, may be
/// repeated.
pub(crate) const RETRY_AFTER_MS: u32 = 1_000;

/// A request that may need another node.
pub(crate) struct Call<'a, Q> {
    service: &'static str,
    method: &'static str,
    class: CallClass,
    /// Whether the engine answers from memory, so that it shares no lane with those that wait.
    is_short: bool,
    caller: &'a Caller,
    request: &'a Q,
    is_repeatable: bool,
    time: Duration,
    /// Longest wait for another owner, after the first failed attempt.
    patience: Duration,
}

impl<'a, Q: Message> Call<'a, Q> {
    /// A request that must not be carried out twice.
    pub(crate) fn once(
        (service, method): (&'static str, &'static str),
        caller: &'a Caller,
        request: &'a Q,
    ) -> Self {
        Self {
            service,
            method,
            class: CallClass::Engine,
            is_short: false,
            caller,
            request,
            is_repeatable: false,
            time: TIME,
            patience: TAKEOVER,
        }
    }

    /// A request that reads.
    pub(crate) fn read(
        name: (&'static str, &'static str),
        caller: &'a Caller,
        request: &'a Q,
    ) -> Self {
        Self::once(name, caller, request).repeatable_if(true)
    }

    /// The same request, which may be carried out twice if the condition holds.
    pub(crate) fn repeatable_if(self, is_repeatable: bool) -> Self {
        Self {
            is_repeatable,
            ..self
        }
    }

    /// The same request, which waits for no other owner: something else answers it then.
    pub(crate) fn without_waiting(self) -> Self {
        Self {
            patience: Duration::ZERO,
            ..self
        }
    }

    /// The same request, as one of another class.
    pub(crate) fn in_class(self, class: CallClass) -> Self {
        Self { class, ..self }
    }

    /// The same request. If the condition holds, the engine answers it from memory.
    pub(crate) fn short_if(self, is_short: bool) -> Self {
        Self { is_short, ..self }
    }

    /// The same request, which may take so long.
    pub(crate) fn within(self, time: Duration) -> Self {
        Self { time, ..self }
    }
}

impl<Q> Call<'_, Q> {
    fn lane<E: Clone>(&self, slot: &EngineSlot<E>) -> CallLane {
        let subject = slot.subject();
        CallLane {
            class: self.class,
            name: match self.is_short {
                true => format!("short {subject}"),
                false => subject.to_owned(),
            },
        }
    }
}

/// Where a request is carried out.
pub(crate) enum Reached<E, A> {
    /// Here, by this engine.
    Here(E),
    /// It was carried out on another node, which answered this.
    Answered(A),
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// It was refused.
    Refused(StreamError),
    /// Nobody carried it out in time, as far as this node knows.
    Absent(StreamError),
}

impl From<Unanswered> for StreamError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Refused(error) | Unanswered::Absent(error) => error,
        }
    }
}

/// The engine of a request that is carried out here. Otherwise returns the answer of the other node.
macro_rules! here {
    ($reached:expr) => {
        match $reached {
            $crate::forwarding::Reached::Here(engine) => engine,
            $crate::forwarding::Reached::Answered(answer) => return Ok(answer),
        }
    };
}
pub(crate) use here;

/// The way to the node that has an engine.
#[derive(Debug, Clone)]
pub(crate) enum Relay {
    /// Requests of clients are passed on.
    Forward(Arc<StreamCore>),
    /// Requests of other nodes are not.
    Refuse,
}

impl Relay {
    /// Reaches an engine, here or on another node.
    ///
    /// # Errors
    /// There is none, or none in time, or the other node refuses the request or does not answer.
    pub(crate) async fn reach<E: Clone, Q: Message, A: Message + Default>(
        &self,
        slot: &EngineSlot<E>,
        call: Call<'_, Q>,
    ) -> Result<Reached<E, A>, StreamError> {
        Ok(self.try_reach(slot, call).await?)
    }

    /// The same, for a request that something else may answer.
    ///
    /// # Errors
    /// Says whether the request was refused.
    pub(crate) async fn try_reach<E: Clone, Q: Message, A: Message + Default>(
        &self,
        slot: &EngineSlot<E>,
        call: Call<'_, Q>,
    ) -> Result<Reached<E, A>, Unanswered> {
        use Unanswered::{Absent, Refused};
        // Most requests are carried out here, and need none of the rest.
        if let Location::Here(engine) = slot.locate() {
            return Ok(Reached::Here(engine));
        }
        let Self::Forward(stream) = self else {
            return slot.get().map(Reached::Here).map_err(Absent);
        };
        let mut wait = Wait::new(slot, (call.time, call.patience));
        let mut is_in_doubt = false;
        let mut is_first = true;
        let body = Bytes::from(call.request.encode_to_vec());
        loop {
            // The token was checked when the request came, and may have been revoked since.
            if !std::mem::take(&mut is_first)
                && let Err(error) = stream.authenticator().check_again(&call.caller.identity)
            {
                let text = format!("{}{}", error.message(), doubt(is_in_doubt));
                return Err(Refused(StreamError::new(error.code(), text)));
            }
            let reason = match slot.locate() {
                Location::Here(engine) => return Ok(Reached::Here(engine)),
                Location::Nowhere(reason) => return Err(Absent(slot.absence(&reason))),
                Location::Later(reason) => reason,
                Location::Elsewhere(node) => {
                    let forwarded = ForwardedCall {
                        lane: call.lane(slot),
                        service: call.service.to_owned(),
                        method: call.method.to_owned(),
                        caller: call.caller.clone(),
                        body: body.clone(),
                        time: wait.left(),
                    };
                    let asked = ask(stream, slot, &node, forwarded).await;
                    match asked.map_err(Absent)? {
                        CallOutcome::Response(body) => {
                            return decode(body).map(Reached::Answered).map_err(Refused);
                        }
                        CallOutcome::Refused(error) => return Err(Refused(error)),
                        CallOutcome::NotBegun(reason) => reason,
                        CallOutcome::InDoubt(reason) => {
                            is_in_doubt = true;
                            reason
                        }
                    }
                }
            };
            let may_repeat = call.is_repeatable || !is_in_doubt;
            if !may_repeat || !wait.pause().await {
                let error = slot.absence(&format!("{reason}{}", doubt(is_in_doubt)));
                return Err(Absent(error.with_retry_after_ms(RETRY_AFTER_MS)));
            }
        }
    }

    /// Waits until an engine is here, or on a node that is known.
    ///
    /// # Errors
    /// There is none, or none in time.
    pub(crate) async fn find<E: Clone>(&self, slot: &EngineSlot<E>) -> Result<(), StreamError> {
        let mut wait = Wait::new(slot, (TAKEOVER, TAKEOVER));
        loop {
            let reason = match slot.locate() {
                Location::Here(_) | Location::Elsewhere(_) => return Ok(()),
                Location::Nowhere(reason) => return Err(slot.absence(&reason)),
                Location::Later(reason) => reason,
            };
            if !wait.pause().await {
                return Err(slot.absence(&reason).with_retry_after_ms(RETRY_AFTER_MS));
            }
        }
    }
}

/// The wait of a request for a node that can carry it out.
struct Wait<E> {
    slot: EngineSlot<E>,
    changes: Changes<E>,
    end: Instant,
    /// The end of the wait for another owner, which begins with the first failed attempt.
    takeover: Option<Instant>,
    patience: Duration,
}

impl<E: Clone> Wait<E> {
    fn new(slot: &EngineSlot<E>, (time, patience): (Duration, Duration)) -> Self {
        Self {
            slot: slot.clone(),
            changes: slot.changes(),
            end: Instant::now() + time,
            takeover: None,
            patience,
        }
    }

    /// Time that is left for an attempt.
    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Waits before the next attempt. Returns false if there is no time for one.
    async fn pause(&mut self) -> bool {
        let now = Instant::now();
        let takeover = *self.takeover.get_or_insert(now + self.patience);
        let given_up = self.slot.waits_until();
        let end = given_up.map_or(takeover, |until| until.min(takeover));
        if now >= end.min(self.end) {
            return false;
        }
        tokio::select! {
            () = self.changes.next() => {}
            () = sleep(PAUSE) => {}
        }
        true
    }
}

/// The end of an error text.
fn doubt(is_in_doubt: bool) -> &'static str {
    match is_in_doubt {
        true => ", and it is not known whether the request was carried out",
        false => "",
    }
}

/// Asks a node. Waits no longer when another one is the owner.
async fn ask<E: Clone>(
    stream: &StreamCore,
    slot: &EngineSlot<E>,
    node: &str,
    call: ForwardedCall,
) -> Result<CallOutcome, StreamError> {
    let replaced = async {
        slot.moved_from(node).await;
        sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        outcome = stream.call_node(node, call) => outcome,
        () = replaced => Ok(CallOutcome::InDoubt(format!(
            "node {node}, which had {}, does not answer",
            slot.property()
        ))),
    }
}

pub(crate) fn decode<T: Message + Default>(body: Bytes) -> Result<T, StreamError> {
    T::decode(body).map_err(|error| {
        let text = format!("the message of another server is not understood: {error}");
        StreamError::new(ErrorCode::Internal, text)
    })
}

/// Reads an internal request, has it carried out, and writes its response.
pub(crate) async fn carry_out<Q: Message + Default, A: Message>(
    call: &ForwardedCall,
    operation: impl AsyncFnOnce(Q) -> Result<A, StreamError>,
) -> Result<Vec<u8>, StreamError> {
    let request = decode(call.body.clone())?;
    Ok(operation(request).await?.encode_to_vec())
}

/// The services that other nodes may call.
#[derive(Debug)]
pub struct ForwardedCalls {
    notify: NotifyRpc,
    alert: AlertRpc,
    watch: WatchRpc,
    price: PriceRpc,
}

impl ForwardedCalls {
    /// Lets other nodes call these services, as long as what is returned exists.
    #[must_use]
    pub fn register(
        stream: &StreamCore,
        notify: &NotifyRpc,
        alert: &AlertRpc,
        watch: &WatchRpc,
        price: &PriceRpc,
    ) -> Arc<Self> {
        let calls = Arc::new(Self {
            notify: notify.for_other_nodes(),
            alert: alert.for_other_nodes(),
            watch: watch.clone(),
            price: price.for_other_nodes(),
        });
        let handler: Arc<dyn CallHandler> = calls.clone();
        for service in [
            NOTIFY,
            ALERT,
            INTERNAL_NOTIFY,
            INTERNAL_ALERT,
            CHAINS,
            PRICE,
        ] {
            stream.register_call_handler(service, Arc::downgrade(&handler));
        }
        calls
    }

    async fn answer(&self, call: ForwardedCall) -> Result<Vec<u8>, CallRefusal> {
        if call.service == CHAINS {
            return self.watch.answer_call(call).await;
        }
        // The engine of a term that may have ended does not begin it.
        let absence = match &*call.service {
            PRICE => self.price.absence(),
            ALERT | INTERNAL_ALERT => self.alert.absence(),
            _ => self.notify.absence(),
        };
        if let Some(absence) = absence {
            return Err(CallRefusal::NotOwner(absence.message().to_owned()));
        }
        let answered = match &*call.service {
            INTERNAL_NOTIFY => self.notify.answer_internal(&call).await,
            INTERNAL_ALERT => self.alert.answer_internal(&call).await,
            _ => self.answer_rpc(call).await,
        };
        answered.map_err(CallRefusal::Error)
    }

    async fn answer_rpc(&self, call: ForwardedCall) -> Result<Vec<u8>, StreamError> {
        let method = call.method;
        let mut request = Request::new(call.body);
        request.extensions_mut().insert(call.caller);
        let answered = match &*call.service {
            PRICE => protobuf::price_service(&self.price, &method, request).await,
            ALERT => protobuf::alert_service(&self.alert, &method, request).await,
            _ => protobuf::notify_service(&self.notify, &method, request).await,
        };
        answered
            .map(Response::into_inner)
            .map_err(|status| from_status(&status).into())
    }
}

impl CallHandler for ForwardedCalls {
    fn call(
        self: Arc<Self>,
        call: ForwardedCall,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, CallRefusal>> + Send>> {
        Box::pin(async move { self.answer(call).await })
    }
}

/// Refuses a method that only a newer version knows.
pub(crate) fn unknown_method(call: &ForwardedCall) -> StreamError {
    let text = format!(
        "this server does not know the method {:?} of other servers",
        call.method
    );
    StreamError::new(ErrorCode::Unimplemented, text)
}
