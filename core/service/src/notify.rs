//! `NotifyService`: notifications, inboxes, unread counts and preferences.
//!
//! Sending needs the `service` scope. On a server that listens on loopback, a local request
//! without a token may send too. A request about an inbox concerns the caller's own one; a
//! back end names the user.

mod internal;
mod metrics;
mod page;

use std::sync::Arc;

use prost::Message;
use tidewire_notification::{NotificationError, NotificationHub, NotifyOutcome, ScheduleRef};
use tidewire_proto::v1::{
    CancelScheduledRequest, CancelScheduledResponse, DismissRequest, DismissResponse, Dismissed,
    ErrorCode, GetEmailRequest, GetEmailResponse, GetPreferencesRequest, GetPushKeyRequest,
    GetPushKeyResponse, GetUnreadCountRequest, GetUnreadCountResponse, ListNotificationsRequest,
    ListNotificationsResponse, MarkAllReadRequest, MarkAllReadResponse, MarkReadRequest,
    MarkReadResponse, Notification, NotifyBatchRequest, NotifyBatchResponse, NotifyRequest,
    NotifyResponse, NotifyResult, Preferences, ReadReceipt, RecallBroadcastRequest,
    RecallBroadcastResponse, RegisterPushRequest, RegisterPushResponse, RetryDeadLetterRequest,
    RetryDeadLetterResponse, SetEmailRequest, SetEmailResponse, SetPreferencesRequest,
    StreamNotificationsRequest, UnregisterPushRequest, UnregisterPushResponse,
    cancel_scheduled_request, notify_result, notify_service_server::NotifyService,
    server_message::Data,
};
use tidewire_store::SharedStore;
use tidewire_stream::{
    CallQuota, Caller, ChannelName, Command, Identity, Locality, Scope, StreamCore, StreamError,
    UserId,
};
use tonic::{Request, Response, Status};

use self::{
    metrics::{RequestLabels, count_refused},
    page::{page_within, response_of},
};
use crate::{
    caller_of,
    connection::connection_info,
    counts::CountOrder,
    delivery::DeliverySlot,
    engine_slot::{EngineSlot, Location},
    forwarding::{Call, INTERNAL_NOTIFY, NOTIFY, Reached, Relay, here},
    personal::{PersonalData, PersonalStream},
    status_of,
};

/// `NotifyService` over the notification hub. Cheap to clone.
///
/// The hub opens after the service is made, and later still if the store cannot be written at
/// first, or while another node owns it. Until then every call returns `unavailable` with the reason.
#[derive(Debug, Clone)]
pub struct NotifyRpc {
    stream: Arc<StreamCore>,
    hub: EngineSlot<NotificationHub>,
    delivery: DeliverySlot,
    relay: Relay,
}

impl NotifyRpc {
    /// The service whose streams are sessions of `stream`, without a hub.
    #[must_use]
    pub fn new(stream: Arc<StreamCore>) -> Self {
        Self {
            relay: Relay::Forward(stream.clone()),
            stream,
            hub: EngineSlot::new("notifications", "the server is starting"),
            delivery: DeliverySlot::default(),
        }
    }

    /// The same service for requests that come from other nodes: it passes none on.
    pub(crate) fn for_other_nodes(&self) -> Self {
        Self {
            relay: Relay::Refuse,
            ..self.clone()
        }
    }

    /// The delivery channels outside of the application.
    #[must_use]
    pub fn delivery(&self) -> &DeliverySlot {
        &self.delivery
    }

    /// Sets the hub, with the store that it is open on.
    pub fn set_hub(&self, hub: NotificationHub, store: SharedStore) {
        self.hub.set(hub, store);
    }

    /// Takes the hub out, if there is one. Calls return the reason until another one is set.
    pub fn set_absence(&self, reason: String) {
        self.hub.clear(reason);
    }

    /// Takes the hub out, if there is one. Calls go to the node that has the shared store, or wait
    /// for it if it is not known.
    pub fn set_elsewhere(&self, node: Option<&str>, reason: String) {
        self.hub.clear_for(node, reason);
    }

    /// The hub, for parts of the server that notify users.
    ///
    /// # Errors
    /// `unavailable` with the reason, while there is no hub.
    pub fn open_hub(&self) -> Result<NotificationHub, StreamError> {
        self.hub()
    }

    fn hub(&self) -> Result<NotificationHub, StreamError> {
        self.hub.get()
    }

    /// Whether the hub is open, on a store that has not ended.
    #[must_use]
    pub fn has_hub(&self) -> bool {
        self.hub.is_open()
    }

    /// Why the hub is not here. None if it is.
    pub(crate) fn absence(&self) -> Option<StreamError> {
        self.hub.get().err()
    }

    /// Reaches the hub, here or on another node.
    async fn reach<Q: Message, A: Message + Default>(
        &self,
        call: Call<'_, Q>,
    ) -> Result<Reached<NotificationHub, A>, StreamError> {
        self.relay.reach(&self.hub, call).await
    }

    /// Length that a list in a response should not exceed, in bytes: as much as may wait for a
    /// client.
    pub(crate) fn page_bytes(&self) -> usize {
        self.stream.options().outbox_bytes
    }

    /// Bytes of the cached states of users, about. Zero without a hub.
    #[must_use]
    pub fn cache_bytes(&self) -> usize {
        let hub = self.hub.opened();
        hub.map_or(0, |hub| hub.cache_bytes())
    }

    /// Begins a command whose reply carries the count of a user: see [`CountOrder`].
    pub(crate) async fn count_order(
        &self,
        command: &Command,
        user: Option<&str>,
    ) -> Option<CountOrder> {
        match self.hub.locate() {
            Location::Here(_) | Location::Elsewhere(_) => {}
            Location::Later(_) | Location::Nowhere(_) => return None,
        }
        CountOrder::begin(command, user?, self.stream.clone(), self.clone()).await
    }

    /// Checks the channel of a request. The caller must be allowed to publish to it.
    fn check_channel(
        &self,
        caller: &Caller,
        mut request: NotifyRequest,
    ) -> Result<NotifyRequest, StreamError> {
        let Some(name) = &request.channel else {
            return Ok(request);
        };
        let in_field = |error: StreamError| {
            StreamError::new(error.code(), format!("`channel`: {}", error.message()))
        };
        let resolved = self.stream.namespaces().resolve(name);
        let (channel, namespace) = resolved.map_err(in_field)?;
        if ChannelName::user(channel.rest()).as_ref() == Ok(&channel) {
            let text = "`channel`: it belongs to one user, expected the user in `user`";
            return Err(StreamError::new(ErrorCode::InvalidArgument, text));
        }
        caller.may_publish(&channel, namespace).map_err(in_field)?;
        request.channel = Some(channel.as_str().to_owned());
        Ok(request)
    }

    /// Lists notifications, up to about `bytes` of JSON, and at least one.
    pub(crate) async fn list_as(
        &self,
        caller: &Caller,
        request: &ListNotificationsRequest,
        bytes: usize,
    ) -> Result<ListNotificationsResponse, StreamError> {
        let user = inbox_of(caller, request.user.as_deref())?;
        let call = Call::read((NOTIFY, "ListNotifications"), caller, request);
        let page = match self.reach(call).await? {
            Reached::Here(hub) => response_of(hub.list(&user, &hub.list_query(request)?).await?),
            Reached::Answered(page) => page,
        };
        Ok(page_within(page, bytes))
    }

    /// Marks notifications as read.
    pub(crate) async fn mark_read_as(
        &self,
        caller: &Caller,
        request: &MarkReadRequest,
    ) -> Result<ReadReceipt, StreamError> {
        let user = inbox_of(caller, request.user.as_deref())?;
        let call = Call::once((INTERNAL_NOTIFY, "mark_read"), caller, request);
        let hub = here!(self.reach(call).await?);
        Ok(hub.mark_read(&user, &request.ids).await?)
    }

    /// Marks all notifications as read, or all up to one.
    pub(crate) async fn mark_all_read_as(
        &self,
        caller: &Caller,
        request: &MarkAllReadRequest,
    ) -> Result<ReadReceipt, StreamError> {
        let user = inbox_of(caller, request.user.as_deref())?;
        let call = Call::once((INTERNAL_NOTIFY, "mark_all_read"), caller, request);
        let hub = here!(self.reach(call).await?);
        let up_to = request.up_to.as_deref();
        Ok(hub.mark_all_read(&user, up_to).await?)
    }

    /// Removes notifications.
    pub(crate) async fn dismiss_as(
        &self,
        caller: &Caller,
        request: &DismissRequest,
    ) -> Result<Dismissed, StreamError> {
        let user = inbox_of(caller, request.user.as_deref())?;
        let call = Call::once((INTERNAL_NOTIFY, "dismiss"), caller, request);
        let hub = here!(self.reach(call).await?);
        Ok(hub.dismiss(&user, &request.ids).await?)
    }

    /// Counts unread notifications.
    pub(crate) async fn unread_count_as(
        &self,
        caller: &Caller,
        request: &GetUnreadCountRequest,
    ) -> Result<GetUnreadCountResponse, StreamError> {
        let user = inbox_of(caller, request.user.as_deref())?;
        let call = Call::read((NOTIFY, "GetUnreadCount"), caller, request);
        let hub = here!(self.reach(call).await?);
        let unread_count = hub.unread_count(&user).await?;
        Ok(GetUnreadCountResponse { unread_count })
    }

    /// Reads preferences.
    pub(crate) async fn preferences_as(
        &self,
        caller: &Caller,
        user: Option<&str>,
    ) -> Result<Preferences, StreamError> {
        let request = GetPreferencesRequest {
            user: user.map(str::to_owned),
        };
        let user = inbox_of(caller, user)?;
        let call = Call::read((NOTIFY, "GetPreferences"), caller, &request);
        let hub = here!(self.reach(call).await?);
        Ok(hub.preferences(&user).await?)
    }

    /// Replaces preferences.
    pub(crate) async fn set_preferences_as(
        &self,
        caller: &Caller,
        user: Option<&str>,
        preferences: Preferences,
    ) -> Result<Preferences, StreamError> {
        let owner = inbox_of(caller, user)?;
        if preferences.user.is_some() {
            let text =
                "`preferences.user`: given, expected the user in `user` beside `preferences`";
            return Err(StreamError::new(ErrorCode::InvalidArgument, text));
        }
        let request = SetPreferencesRequest {
            user: user.map(str::to_owned),
            preferences: Some(preferences),
        };
        let call = Call::once((NOTIFY, "SetPreferences"), caller, &request);
        let hub = here!(self.reach(call).await?);
        let preferences = request.preferences.unwrap_or_default();
        Ok(hub.set_preferences(&owner, preferences).await?)
    }
}

/// Checks that the caller may send, and returns the sender's name. Idempotency keys and scheduled
/// notifications belong to the sender.
fn sender_of(caller: &Caller) -> Result<UserId, StreamError> {
    if caller.locality == Locality::Local && caller.identity.user().is_none() {
        // No token has this subject.
        return Ok(UserId::new(""));
    }
    caller.identity.require(Scope::Service)?;
    let user = caller.identity.user();
    Ok(user.cloned().unwrap_or_else(|| UserId::new("")))
}

/// Checks the id of a user whom a back end names.
fn check_user(user: &str) -> Result<(), StreamError> {
    if user.is_empty() {
        let text = "`user` is missing, expected the user whose address it is";
        return Err(StreamError::new(ErrorCode::InvalidArgument, text));
    }
    let checked = ChannelName::user(user);
    checked.map(drop).map_err(|error| {
        let text = format!("`user`: {user:?} is not the id of a user: {error}");
        StreamError::new(ErrorCode::InvalidArgument, text)
    })
}

/// The user whose inbox a message of a session concerns: the session's own one, unless the
/// message names another.
pub(crate) fn own_user(identity: &Identity, user: Option<String>) -> Option<String> {
    user.or_else(|| identity.user().map(|own| own.as_str().to_owned()))
}

fn response(outcome: NotifyOutcome) -> NotifyResponse {
    NotifyResponse {
        id: outcome.id.to_string(),
        recipients: outcome.recipients,
    }
}

fn result(result: Result<NotifyOutcome, StreamError>) -> NotifyResult {
    NotifyResult {
        result: Some(match result {
            Ok(outcome) => notify_result::Result::Notified(response(outcome)),
            Err(error) => notify_result::Result::Error(error.into()),
        }),
    }
}

fn answer<T>(result: Result<T, StreamError>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| status_of(&error))
}

/// Names of inboxes, as of personal data.
const INBOXES: PersonalData = PersonalData {
    expected: "the user whose inbox it is",
    ownership: "an inbox belongs to a user",
    missed: "notifications were missed: list them, then stream again",
};

fn inbox_of(caller: &Caller, user: Option<&str>) -> Result<String, StreamError> {
    INBOXES.owner(caller, user)
}

/// Selects the notifications among a user's events.
fn select_notifications(event: &Data, items: &mut Vec<Result<Notification, Status>>) {
    match event {
        Data::Notification(one) => items.push(Ok(one.clone())),
        Data::NotificationBatch(batch) => items.extend(batch.items.iter().cloned().map(Ok)),
        _ => {}
    }
}

#[tonic::async_trait]
impl NotifyService for NotifyRpc {
    type StreamNotificationsStream = PersonalStream<Notification>;

    async fn notify(
        &self,
        request: Request<NotifyRequest>,
    ) -> Result<Response<NotifyResponse>, Status> {
        let caller = caller_of(&request);
        let notify = async {
            let sender = sender_of(&caller)?;
            let request = self.check_channel(&caller, request.into_inner())?;
            let call = Call::once((NOTIFY, "Notify"), &caller, &request);
            let call = call.repeatable_if(request.idempotency_key.is_some());
            let hub = here!(self.reach(call).await?);
            let labels = RequestLabels::of(&request);
            let outcome = hub.notify(&sender, request).await?;
            labels.count_accepted();
            Ok(response(outcome))
        };
        answer(
            notify
                .await
                .inspect_err(|error: &StreamError| count_refused(error.code())),
        )
    }

    async fn notify_batch(
        &self,
        request: Request<NotifyBatchRequest>,
    ) -> Result<Response<NotifyBatchResponse>, Status> {
        let caller = caller_of(&request);
        let quota = request.extensions().get::<CallQuota>().cloned();
        let request = request.into_inner();
        let notify = async {
            let sender = sender_of(&caller)?;
            let requests = &request.notifications;
            if requests.is_empty() {
                let text = "`notifications` is missing or empty, expected one request at least";
                return Err(StreamError::new(ErrorCode::InvalidArgument, text));
            }
            let count = requests.len();
            let charge = || {
                // The call itself was charged as one message.
                if let Some(quota) = &quota {
                    quota.charge_messages(count.saturating_sub(1));
                }
            };
            let has_keys = requests.iter().all(|one| one.idempotency_key.is_some());
            let call = Call::once((NOTIFY, "NotifyBatch"), &caller, &request);
            let call = call.repeatable_if(has_keys);
            let hub = match self.reach(call).await.inspect(|_| charge())? {
                Reached::Here(hub) => hub,
                Reached::Answered(answer) => return Ok(answer),
            };
            let requests = request.notifications;
            let mut refusals = Vec::with_capacity(requests.len());
            let mut admitted = Vec::with_capacity(requests.len());
            let mut labels = Vec::with_capacity(requests.len());
            for request in requests {
                match self.check_channel(&caller, request) {
                    Ok(request) => {
                        labels.push(RequestLabels::of(&request));
                        admitted.push(request);
                        refusals.push(None);
                    }
                    Err(error) => refusals.push(Some(error)),
                }
            }
            let outcomes = hub.notify_batch(&sender, admitted).await.into_iter();
            let mut outcomes = outcomes.zip(labels);
            let results = refusals.into_iter().map(|refusal| {
                let outcome = match refusal {
                    Some(error) => Err(error),
                    // Each admitted request has one outcome.
                    None => match outcomes.next() {
                        Some((Ok(outcome), labels)) => {
                            labels.count_accepted();
                            Ok(outcome)
                        }
                        Some((Err(error), _)) => Err(error.into()),
                        None => Err(NotificationError::Damaged("result").into()),
                    },
                };
                result(outcome.inspect_err(|error| count_refused(error.code())))
            });
            let results = results.collect();
            Ok(NotifyBatchResponse { results })
        };
        // Only the refusal of the whole call: each request has counted its own.
        answer(
            notify
                .await
                .inspect_err(|error: &StreamError| count_refused(error.code())),
        )
    }

    async fn list_notifications(
        &self,
        request: Request<ListNotificationsRequest>,
    ) -> Result<Response<ListNotificationsResponse>, Status> {
        let caller = caller_of(&request);
        let bytes = self.page_bytes();
        answer(self.list_as(&caller, request.get_ref(), bytes).await)
    }

    async fn mark_read(
        &self,
        request: Request<MarkReadRequest>,
    ) -> Result<Response<MarkReadResponse>, Status> {
        let caller = caller_of(&request);
        let marked = self.mark_read_as(&caller, request.get_ref());
        answer(marked.await.map(|receipt| MarkReadResponse {
            ids: receipt.ids,
            unread_count: receipt.unread_count,
        }))
    }

    async fn mark_all_read(
        &self,
        request: Request<MarkAllReadRequest>,
    ) -> Result<Response<MarkAllReadResponse>, Status> {
        let caller = caller_of(&request);
        let marked = self.mark_all_read_as(&caller, request.get_ref());
        answer(marked.await.map(|receipt| MarkAllReadResponse {
            unread_count: receipt.unread_count,
        }))
    }

    async fn dismiss(
        &self,
        request: Request<DismissRequest>,
    ) -> Result<Response<DismissResponse>, Status> {
        let caller = caller_of(&request);
        let dismissed = self.dismiss_as(&caller, request.get_ref());
        answer(dismissed.await.map(|dismissed| DismissResponse {
            ids: dismissed.ids,
            unread_count: dismissed.unread_count,
        }))
    }

    async fn get_unread_count(
        &self,
        request: Request<GetUnreadCountRequest>,
    ) -> Result<Response<GetUnreadCountResponse>, Status> {
        let caller = caller_of(&request);
        answer(self.unread_count_as(&caller, request.get_ref()).await)
    }

    async fn stream_notifications(
        &self,
        request: Request<StreamNotificationsRequest>,
    ) -> Result<Response<Self::StreamNotificationsStream>, Status> {
        let caller = caller_of(&request);
        let opened = async {
            let user = inbox_of(&caller, request.get_ref().user.as_deref())?;
            // The events of users come from the node that owns a shared store too.
            self.relay.find(&self.hub).await?;
            let info = connection_info(&request);
            let stream = INBOXES.stream(&self.stream, &user, info, select_notifications);
            stream.await
        };
        answer(opened.await)
    }

    async fn get_preferences(
        &self,
        request: Request<GetPreferencesRequest>,
    ) -> Result<Response<Preferences>, Status> {
        let caller = caller_of(&request);
        let user = request.get_ref().user.as_deref();
        answer(self.preferences_as(&caller, user).await)
    }

    async fn set_preferences(
        &self,
        request: Request<SetPreferencesRequest>,
    ) -> Result<Response<Preferences>, Status> {
        let caller = caller_of(&request);
        let SetPreferencesRequest { user, preferences } = request.into_inner();
        let preferences = preferences.ok_or_else(|| {
            Status::invalid_argument("`preferences` is missing, expected the new preferences")
        })?;
        let set = self.set_preferences_as(&caller, user.as_deref(), preferences);
        answer(set.await)
    }

    async fn register_push(
        &self,
        request: Request<RegisterPushRequest>,
    ) -> Result<Response<RegisterPushResponse>, Status> {
        let caller = caller_of(&request);
        let request = request.into_inner();
        let register = async {
            let user = inbox_of(&caller, request.user.as_deref())?;
            let call = Call::once((NOTIFY, "RegisterPush"), &caller, &request);
            here!(self.reach_delivery(call).await?);
            let subscription = &request.subscription;
            let id = self.delivery.register_push(&user, subscription).await?;
            Ok(RegisterPushResponse { id })
        };
        answer(register.await)
    }

    async fn unregister_push(
        &self,
        request: Request<UnregisterPushRequest>,
    ) -> Result<Response<UnregisterPushResponse>, Status> {
        let caller = caller_of(&request);
        let request = request.into_inner();
        let unregister = async {
            let user = inbox_of(&caller, request.user.as_deref())?;
            let call = Call::once((NOTIFY, "UnregisterPush"), &caller, &request);
            here!(self.reach_delivery(call).await?);
            self.delivery.unregister_push(&user, &request.id).await?;
            Ok(UnregisterPushResponse {})
        };
        answer(unregister.await)
    }

    async fn get_push_key(
        &self,
        request: Request<GetPushKeyRequest>,
    ) -> Result<Response<GetPushKeyResponse>, Status> {
        let caller = caller_of(&request);
        let get = async {
            let call = Call::read((NOTIFY, "GetPushKey"), &caller, request.get_ref());
            here!(self.reach_delivery(call).await?);
            let public_key = self.delivery.push_key()?;
            Ok(GetPushKeyResponse { public_key })
        };
        answer(get.await)
    }

    async fn set_email(
        &self,
        request: Request<SetEmailRequest>,
    ) -> Result<Response<SetEmailResponse>, Status> {
        let caller = caller_of(&request);
        let request = request.into_inner();
        let set = async {
            // Also on loopback: a local program without a token must not divert a user's mail.
            caller.identity.require(Scope::Service)?;
            check_user(&request.user)?;
            let call = Call::once((NOTIFY, "SetEmail"), &caller, &request);
            here!(self.reach_delivery(call).await?);
            let (user, address) = (&request.user, request.address.as_deref());
            let subscribes = request.subscribe.unwrap_or(false);
            let set = self.delivery.set_email(user, address, subscribes);
            let unsubscribed = set.await?.then_some(true);
            Ok(SetEmailResponse { unsubscribed })
        };
        answer(set.await)
    }

    async fn retry_dead_letter(
        &self,
        request: Request<RetryDeadLetterRequest>,
    ) -> Result<Response<RetryDeadLetterResponse>, Status> {
        let caller = caller_of(&request);
        let request = request.into_inner();
        let retry = async {
            // Also on loopback: it sends to a receiver outside once more.
            caller.identity.require(Scope::Service)?;
            let call = Call::once((NOTIFY, "RetryDeadLetter"), &caller, &request);
            here!(self.reach_delivery(call).await?);
            self.delivery.retry_dead_letter(&request.id).await?;
            Ok(RetryDeadLetterResponse {})
        };
        answer(retry.await)
    }

    async fn get_email(
        &self,
        request: Request<GetEmailRequest>,
    ) -> Result<Response<GetEmailResponse>, Status> {
        let caller = caller_of(&request);
        let get = async {
            caller.identity.require(Scope::Service)?;
            let user = &request.get_ref().user;
            check_user(user)?;
            let call = Call::read((NOTIFY, "GetEmail"), &caller, request.get_ref());
            here!(self.reach_delivery(call).await?);
            let contact = self.delivery.email(user).await?;
            let unsubscribed = contact.as_ref().filter(|one| one.is_unsubscribed);
            let unsubscribed = unsubscribed.map(|_| true);
            Ok(GetEmailResponse {
                address: contact.map(|one| one.address),
                unsubscribed,
            })
        };
        answer(get.await)
    }

    async fn cancel_scheduled(
        &self,
        request: Request<CancelScheduledRequest>,
    ) -> Result<Response<CancelScheduledResponse>, Status> {
        let caller = caller_of(&request);
        let cancel = async {
            let sender = sender_of(&caller)?;
            let reference = match &request.get_ref().target {
                Some(cancel_scheduled_request::Target::Id(id)) => ScheduleRef::Id(id),
                Some(cancel_scheduled_request::Target::IdempotencyKey(key)) => {
                    ScheduleRef::Key(key)
                }
                None => {
                    let text = "neither `id` nor `idempotencyKey` is given, expected one of them";
                    return Err(StreamError::new(ErrorCode::InvalidArgument, text));
                }
            };
            let call = Call::once((NOTIFY, "CancelScheduled"), &caller, request.get_ref());
            let hub = here!(self.reach(call).await?);
            let id = hub.cancel_scheduled(&sender, reference).await?;
            Ok(CancelScheduledResponse { id: id.to_string() })
        };
        answer(cancel.await)
    }

    async fn recall_broadcast(
        &self,
        request: Request<RecallBroadcastRequest>,
    ) -> Result<Response<RecallBroadcastResponse>, Status> {
        let caller = caller_of(&request);
        let recall = async {
            sender_of(&caller)?;
            let id = request.get_ref().id.as_str();
            if id.is_empty() {
                let text = "`id` is missing, expected the id of the broadcast";
                return Err(StreamError::new(ErrorCode::InvalidArgument, text));
            }
            let call = Call::once((NOTIFY, "RecallBroadcast"), &caller, request.get_ref());
            let hub = here!(self.reach(call).await?);
            let id = hub.recall_broadcast(id).await?;
            Ok(RecallBroadcastResponse { id: id.to_string() })
        };
        answer(recall.await)
    }
}
