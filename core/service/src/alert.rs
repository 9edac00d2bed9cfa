//! `AlertService`: alert rules, what they fired, and values of back ends.
//!
//! A request concerns the caller's own rules; a back end names the user. A rule of another user is
//! not found. Values for all users, and those of portfolios, need the `service` scope. On a server
//! that listens on loopback, a local request without a token may send them too.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use prost::Message;
use tidewire_alert::{AlertEngine, AlertError, AlertStats};
use tidewire_proto::{
    json,
    v1::{
        AlertEvent, AlertRequest, AlertRule, BacktestRequest, BacktestResponse, DeleteAlertRequest,
        DeleteAlertResponse, ErrorCode, EvaluateRequest, EvaluateResponse, ExplainAlertRequest,
        ExplainAlertResponse, ListAlertsRequest, ListAlertsResponse, ListFiresRequest,
        ListFiresResponse, RegisterAlertRequest, TriggerAlertRequest, TriggerAlertResponse,
        UpdateAlertRequest, alert_service_server::AlertService, server_message::Data,
    },
};
use tidewire_store::SharedStore;
use tidewire_stream::{Caller, ClientKey, ForwardedCall, Locality, Scope, StreamCore, StreamError};
use tonic::{Request, Response, Status};

use crate::{
    backtests::Backtests,
    caller_of,
    connection::connection_info,
    engine_slot::EngineSlot,
    forwarding::{ALERT, Call, INTERNAL_ALERT, Reached, Relay, carry_out, here, unknown_method},
    personal::{PersonalData, PersonalStream},
    status_of,
};

/// `AlertService` over the alert engine. Cheap to clone.
///
/// The engine opens after the service is made, and later still while another node owns the store.
/// Until then every call returns `unavailable` with the reason.
#[derive(Debug, Clone)]
pub struct AlertRpc {
    stream: Arc<StreamCore>,
    engine: EngineSlot<AlertEngine>,
    /// Why there never is one.
    fault: Arc<OnceLock<String>>,
    /// The turns of backtests.
    backtests: Backtests,
    relay: Relay,
}

/// Longest time of a backtest on another node: it waits and runs.
const BACKTEST: Duration = Duration::from_secs(22);

impl AlertRpc {
    /// The service whose streams are sessions of `stream`, without an engine.
    #[must_use]
    pub fn new(stream: Arc<StreamCore>) -> Self {
        Self {
            relay: Relay::Forward(stream.clone()),
            stream,
            engine: EngineSlot::new("alerts", "the server is starting"),
            fault: Arc::default(),
            backtests: Backtests::default(),
        }
    }

    /// The same service for requests that come from other nodes: it passes none on.
    pub(crate) fn for_other_nodes(&self) -> Self {
        Self {
            relay: Relay::Refuse,
            ..self.clone()
        }
    }

    /// Sets the engine, with the store that it is open on.
    pub fn set_engine(&self, engine: AlertEngine, store: SharedStore) {
        self.engine.set(engine, store);
    }

    /// The engine, once it is open.
    #[must_use]
    pub fn opened_engine(&self) -> Option<AlertEngine> {
        self.engine.opened()
    }

    /// Takes the engine out, if there is one. Calls return the reason until another one is set.
    pub fn set_absence(&self, reason: String) {
        self.engine.clear(reason);
    }

    /// Takes the engine out, if there is one. Calls go to the node that has the shared store, or
    /// wait for it if it is not known.
    pub fn set_elsewhere(&self, node: Option<&str>, reason: String) {
        self.engine.clear_for(node, reason);
    }

    /// Counts of the engine. None while there is none.
    #[must_use]
    pub fn stats(&self) -> Option<AlertStats> {
        self.engine.opened().map(|engine| engine.stats())
    }

    /// Sets why alerts do not work until the server is restarted. Calls return the reason.
    pub fn set_fault(&self, reason: String) {
        // An open engine goes on.
        if self.engine.opened().is_none() {
            self.set_absence(reason.clone());
        }
        let _ = self.fault.set(reason);
    }

    /// Why alerts do not work until the server is restarted. None while they do.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let engine = self.engine.opened();
        let fault = engine.and_then(|engine| engine.fault().map(str::to_owned));
        fault.or_else(|| self.fault.get().cloned())
    }

    /// Why the engine is not here. None if it is.
    pub(crate) fn absence(&self) -> Option<StreamError> {
        self.engine.get().err()
    }

    /// Reaches the engine, here or on another node.
    async fn reach<Q: Message, A: Message + Default>(
        &self,
        call: Call<'_, Q>,
    ) -> Result<Reached<AlertEngine, A>, StreamError> {
        self.relay.reach(&self.engine, call).await
    }

    /// Length that a list in a response should not exceed, in bytes: as much as may wait for a
    /// client.
    pub(crate) fn page_bytes(&self) -> usize {
        self.stream.options().outbox_bytes
    }

    /// Registers a rule.
    pub(crate) async fn register_as(
        &self,
        form: RuleForm,
        caller: &Caller,
        request: RegisterAlertRequest,
    ) -> Result<AlertRule, AlertRefusal> {
        let owner = owner_of(caller, request.user.as_deref())?;
        let name = match form {
            RuleForm::Field => (ALERT, "RegisterAlert"),
            RuleForm::Whole => (INTERNAL_ALERT, "register"),
        };
        let call = Call::once(name, caller, &request);
        let call = call.repeatable_if(request.idempotency_key.is_some());
        let engine = here!(self.reach(call).await?);
        let (rule, key) = (request.rule.unwrap_or_default(), request.idempotency_key);
        Ok(engine.register(&owner, rule, key).await?)
    }

    /// Changes a rule.
    pub(crate) async fn update_as(
        &self,
        form: RuleForm,
        caller: &Caller,
        request: UpdateAlertRequest,
    ) -> Result<AlertRule, AlertRefusal> {
        let owner = owner_of(caller, request.user.as_deref())?;
        let name = match form {
            RuleForm::Field => (ALERT, "UpdateAlert"),
            RuleForm::Whole => (INTERNAL_ALERT, "update"),
        };
        let call = Call::once(name, caller, &request);
        let engine = here!(self.reach(call).await?);
        let rule = request.rule.unwrap_or_default();
        Ok(engine.update(&owner, rule).await?)
    }

    /// Lists rules, up to about `bytes` of JSON, and at least one.
    pub(crate) async fn list_as(
        &self,
        caller: &Caller,
        request: &ListAlertsRequest,
        bytes: usize,
    ) -> Result<ListAlertsResponse, StreamError> {
        let owner = owner_of(caller, request.user.as_deref())?;
        let names_owner = caller.identity.has(Scope::Service);
        let call = Call::read((ALERT, "ListAlerts"), caller, request);
        let mut page = match self.reach(call).await? {
            Reached::Here(engine) => engine.list(&owner, request, names_owner).await?,
            Reached::Answered(page) => page,
        };
        if cut(&mut page.items, bytes) {
            page.next = page.items.last().map(|rule| rule.id.clone());
        }
        Ok(page)
    }

    /// Lists what fired, up to about `bytes` of JSON, and at least one.
    pub(crate) async fn fires_as(
        &self,
        caller: &Caller,
        request: &ListFiresRequest,
        bytes: usize,
    ) -> Result<ListFiresResponse, StreamError> {
        let owner = owner_of(caller, request.user.as_deref())?;
        let call = Call::read((ALERT, "ListFires"), caller, request);
        let mut page = match self.reach(call).await? {
            Reached::Here(engine) => engine.fires(&owner, request).await?,
            Reached::Answered(page) => page,
        };
        if cut(&mut page.items, bytes) {
            page.next = page.items.last().and_then(|event| event.id.clone());
        }
        Ok(page)
    }

    /// Deletes a rule.
    pub(crate) async fn delete_as(
        &self,
        caller: &Caller,
        request: DeleteAlertRequest,
    ) -> Result<DeleteAlertResponse, StreamError> {
        let owner = owner_of(caller, request.user.as_deref())?;
        let call = Call::once((ALERT, "DeleteAlert"), caller, &request);
        let engine = here!(self.reach(call).await?);
        engine.delete(&owner, &request.id).await?;
        Ok(DeleteAlertResponse { id: request.id })
    }

    /// Explains a rule.
    pub(crate) async fn explain_as(
        &self,
        caller: &Caller,
        request: &ExplainAlertRequest,
    ) -> Result<ExplainAlertResponse, StreamError> {
        let owner = owner_of(caller, request.user.as_deref())?;
        let call = Call::read((ALERT, "ExplainAlert"), caller, request);
        let engine = here!(self.reach(call).await?);
        Ok(engine.explain(&owner, &request.id).await?)
    }

    /// Carries out an internal request of another node: one of a session, whose errors name fields
    /// of the rule.
    pub(crate) async fn answer_internal(
        &self,
        call: &ForwardedCall,
    ) -> Result<Vec<u8>, StreamError> {
        let caller = &call.caller;
        match &*call.method {
            "register" => {
                carry_out(call, async |request| {
                    Ok(self.register_as(RuleForm::Whole, caller, request).await?)
                })
                .await
            }
            "update" => {
                carry_out(call, async |request| {
                    Ok(self.update_as(RuleForm::Whole, caller, request).await?)
                })
                .await
            }
            _ => Err(unknown_method(call)),
        }
    }
}

/// Where the rule is in a request of a client, by which errors name its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleForm {
    /// In the field `rule`: an RPC.
    Field,
    /// It is the request: a message of a session.
    Whole,
}

/// Why a request about a rule is refused. The caller knows where the rule is in its request.
pub(crate) enum AlertRefusal {
    Rule(AlertError),
    Other(StreamError),
}

impl From<AlertError> for AlertRefusal {
    fn from(error: AlertError) -> Self {
        Self::Rule(error)
    }
}

impl From<StreamError> for AlertRefusal {
    fn from(error: StreamError) -> Self {
        Self::Other(error)
    }
}

impl From<AlertRefusal> for StreamError {
    fn from(refusal: AlertRefusal) -> Self {
        match refusal {
            AlertRefusal::Rule(error) => error.into(),
            AlertRefusal::Other(error) => error,
        }
    }
}

impl AlertRefusal {
    /// The error of a request whose field `rule` has the rule.
    fn in_rule(self) -> StreamError {
        match self {
            Self::Rule(AlertError::Invalid { field, problem })
                if field != "user" && field != "idempotencyKey" =>
            {
                AlertError::Invalid { field, problem }.within("rule").into()
            }
            other => other.into(),
        }
    }
}

/// Checks that the caller may send values that concern all users.
fn check_sender(caller: &Caller) -> Result<(), StreamError> {
    if caller.locality == Locality::Local && caller.identity.user().is_none() {
        return Ok(());
    }
    caller.identity.require(Scope::Service)
}

/// Keeps the first items, up to about `bytes` of JSON, and at least one. True if some are left out.
fn cut<T: json::JsonValue>(items: &mut Vec<T>, bytes: usize) -> bool {
    let (mut kept, mut used) = (0, 0_usize);
    for item in &*items {
        used = used.saturating_add(json::to_vec(item).len());
        if used > bytes && kept > 0 {
            break;
        }
        kept += 1;
    }
    let is_cut = kept < items.len();
    items.truncate(kept);
    is_cut
}

fn answer<T>(result: Result<T, StreamError>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| status_of(&error))
}

fn missing_rule() -> StreamError {
    let text = "`rule` is missing, expected a rule";
    StreamError::new(ErrorCode::InvalidArgument, text)
}

/// Refuses fields of a rule that the request has a field of its own for.
fn check_rule(rule: &AlertRule) -> Result<(), StreamError> {
    let misplaced = [
        (rule.user.is_some(), "user"),
        (rule.idempotency_key.is_some(), "idempotencyKey"),
    ];
    for (is_given, field) in misplaced {
        if is_given {
            let text = format!("`rule.{field}`: given, expected `{field}` beside `rule`");
            return Err(StreamError::new(ErrorCode::InvalidArgument, text));
        }
    }
    Ok(())
}

/// Names of alerts, as of personal data.
const ALERTS: PersonalData = PersonalData {
    expected: "the user whose alerts they are",
    ownership: "alerts belong to a user",
    missed: "alerts were missed: list what fired, then stream again",
};

fn owner_of(caller: &Caller, user: Option<&str>) -> Result<String, StreamError> {
    ALERTS.owner(caller, user)
}

/// Selects the fires among a user's events.
fn select_fires(event: &Data, items: &mut Vec<Result<AlertEvent, Status>>) {
    if let Data::Alert(event) = event {
        items.push(Ok(event.clone()));
    }
}

#[tonic::async_trait]
impl AlertService for AlertRpc {
    type AlertStream = PersonalStream<AlertEvent>;

    async fn alert(
        &self,
        request: Request<AlertRequest>,
    ) -> Result<Response<Self::AlertStream>, Status> {
        let caller = caller_of(&request);
        let opened = async {
            let user = owner_of(&caller, request.get_ref().user.as_deref())?;
            // The events of users come from the node that owns a shared store too.
            self.relay.find(&self.engine).await?;
            let info = connection_info(&request);
            ALERTS.stream(&self.stream, &user, info, select_fires).await
        };
        answer(opened.await)
    }

    async fn register_alert(
        &self,
        request: Request<RegisterAlertRequest>,
    ) -> Result<Response<AlertRule>, Status> {
        let caller = caller_of(&request);
        let request = request.into_inner();
        let register = async {
            check_rule(request.rule.as_ref().ok_or_else(missing_rule)?)?;
            let registered = self.register_as(RuleForm::Field, &caller, request).await;
            registered.map_err(AlertRefusal::in_rule)
        };
        answer(register.await)
    }

    async fn update_alert(
        &self,
        request: Request<UpdateAlertRequest>,
    ) -> Result<Response<AlertRule>, Status> {
        let caller = caller_of(&request);
        let request = request.into_inner();
        let update = async {
            check_rule(request.rule.as_ref().ok_or_else(missing_rule)?)?;
            let updated = self.update_as(RuleForm::Field, &caller, request).await;
            updated.map_err(AlertRefusal::in_rule)
        };
        answer(update.await)
    }

    async fn list_alerts(
        &self,
        request: Request<ListAlertsRequest>,
    ) -> Result<Response<ListAlertsResponse>, Status> {
        let caller = caller_of(&request);
        let bytes = self.page_bytes();
        answer(self.list_as(&caller, request.get_ref(), bytes).await)
    }

    async fn list_fires(
        &self,
        request: Request<ListFiresRequest>,
    ) -> Result<Response<ListFiresResponse>, Status> {
        let caller = caller_of(&request);
        let bytes = self.page_bytes();
        answer(self.fires_as(&caller, request.get_ref(), bytes).await)
    }

    async fn delete_alert(
        &self,
        request: Request<DeleteAlertRequest>,
    ) -> Result<Response<DeleteAlertResponse>, Status> {
        let caller = caller_of(&request);
        answer(self.delete_as(&caller, request.into_inner()).await)
    }

    async fn trigger_alert(
        &self,
        request: Request<TriggerAlertRequest>,
    ) -> Result<Response<TriggerAlertResponse>, Status> {
        let caller = caller_of(&request);
        let request = request.into_inner();
        let trigger = async {
            let owner = owner_of(&caller, request.user.as_deref())?;
            let call = Call::once((ALERT, "TriggerAlert"), &caller, &request);
            let engine = here!(self.reach(call).await?);
            let event = engine.trigger(&owner, &request.id).await?;
            Ok(TriggerAlertResponse { event: Some(event) })
        };
        answer(trigger.await)
    }

    async fn evaluate(
        &self,
        request: Request<EvaluateRequest>,
    ) -> Result<Response<EvaluateResponse>, Status> {
        let caller = caller_of(&request);
        let evaluate = async {
            check_sender(&caller)?;
            let request = request.into_inner();
            let call = Call::once((ALERT, "Evaluate"), &caller, &request);
            let engine = here!(self.reach(call).await?);
            let evaluated = engine.evaluate(request).await?;
            Ok(EvaluateResponse {
                fired: evaluated.events,
                total: Some(evaluated.total),
            })
        };
        answer(evaluate.await)
    }

    async fn explain_alert(
        &self,
        request: Request<ExplainAlertRequest>,
    ) -> Result<Response<ExplainAlertResponse>, Status> {
        let caller = caller_of(&request);
        answer(self.explain_as(&caller, request.get_ref()).await)
    }

    async fn backtest(
        &self,
        request: Request<BacktestRequest>,
    ) -> Result<Response<BacktestResponse>, Status> {
        let caller = caller_of(&request);
        let backtest = async {
            caller.identity.require_known()?;
            let owner = caller
                .identity
                .user()
                .map_or_else(String::new, |user| user.as_str().to_owned());
            let request = request.into_inner();
            // Also before another node is asked, where it waits for another turn: backtests that wait here
            // take no places of other requests.
            let began = Instant::now();
            let turn = self.backtests.turn(ClientKey::from(&caller)).await?;
            let left = BACKTEST.saturating_sub(began.elapsed());
            let call = Call::read((ALERT, "Backtest"), &caller, &request).within(left);
            let engine = here!(self.reach(call).await?);
            let tested = Backtests::run(turn, move |is_wanted| {
                engine.backtest(&owner, request, is_wanted)
            });
            Ok(tested.await??)
        };
        answer(backtest.await)
    }
}
