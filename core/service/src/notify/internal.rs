//! Requests of other nodes and of parts of this server that no RPC has in this form.

use std::net::IpAddr;

use prost::Message;
use tidewire_notification::NotificationHub;
use tidewire_proto::v1::{
    GetUnreadCountRequest, GetUnreadCountResponse, ListDeadLettersRequest, ListDeadLettersResponse,
    NotifyBatchRequest, NotifyBatchResponse, NotifyRequest, NotifyResult,
};
use tidewire_stream::{
    Caller, ForwardedCall, Identity, Scope, StreamError, UserId, identity::UserIdentity,
};

use super::{NotifyRpc, result};
use crate::{
    UnsubscribeAnswer,
    forwarding::{Call, INTERNAL_NOTIFY, NOTIFY, Reached, carry_out, here, unknown_method},
};

/// A request at the unsubscribe URL.
#[derive(Clone, PartialEq, Message)]
struct UnsubscribeRequest {
    #[prost(string, tag = "1")]
    method: String,
    #[prost(string, tag = "2")]
    token: String,
}

#[derive(Clone, PartialEq, Message)]
struct UnsubscribeResponse {
    #[prost(bool, tag = "1")]
    is_done: bool,
}

/// A part of the server as the caller of a request.
fn part(name: &UserId) -> Caller {
    let mut identity = UserIdentity::new(name.clone(), i64::MAX);
    identity.scopes.insert(Scope::Service);
    Identity::from(identity).into()
}

impl NotifyRpc {
    /// Sends notifications of a part of the server, in the name of `sender`, to the hub here or on
    /// another node. Each should have an idempotency key.
    ///
    /// # Errors
    /// There is no hub, or it does not answer.
    pub async fn notify_batch_as(
        &self,
        sender: &UserId,
        notifications: Vec<NotifyRequest>,
    ) -> Result<Vec<NotifyResult>, StreamError> {
        let has_keys = notifications.iter();
        let has_keys = has_keys.clone().all(|one| one.idempotency_key.is_some());
        let (caller, request) = (part(sender), NotifyBatchRequest { notifications });
        let call = Call::once((NOTIFY, "NotifyBatch"), &caller, &request).repeatable_if(has_keys);
        let hub = match self.reach(call).await? {
            Reached::Here(hub) => hub,
            Reached::Answered(NotifyBatchResponse { results }) => return Ok(results),
        };
        let outcomes = hub.notify_batch(sender, request.notifications).await;
        let results = outcomes.into_iter();
        Ok(results
            .map(|outcome| result(outcome.map_err(StreamError::from)))
            .collect())
    }

    /// Reaches the delivery channels, which are where the hub is.
    pub(super) async fn reach_delivery<Q: Message, A: Message + Default>(
        &self,
        call: Call<'_, Q>,
    ) -> Result<Reached<Option<NotificationHub>, A>, StreamError> {
        // Without a hub they say themselves which of them there are.
        if self.hub.is_nowhere() {
            return Ok(Reached::Here(None));
        }
        Ok(match self.reach(call).await? {
            Reached::Here(hub) => Reached::Here(Some(hub)),
            Reached::Answered(answer) => Reached::Answered(answer),
        })
    }

    /// Handles a request at the unsubscribe URL, here or on another node. `address` is that of the client,
    /// if it is known.
    ///
    /// # Errors
    /// The server did not make the token, has no e-mail, or its store fails.
    pub async fn unsubscribe(
        &self,
        method: &http::Method,
        token: &str,
        address: Option<IpAddr>,
    ) -> Result<UnsubscribeAnswer, StreamError> {
        let request = UnsubscribeRequest {
            method: method.to_string(),
            token: token.to_owned(),
        };
        let caller = Caller {
            address,
            ..Caller::from(Identity::Anonymous)
        };
        // To unsubscribe twice is the same as once.
        let call = Call::read((INTERNAL_NOTIFY, "unsubscribe"), &caller, &request);
        match self.reach_delivery(call).await? {
            Reached::Here(_) => self.delivery.unsubscribe(method, token).await,
            Reached::Answered(UnsubscribeResponse { is_done: true }) => Ok(UnsubscribeAnswer::Done),
            Reached::Answered(UnsubscribeResponse { is_done: false }) => {
                Ok(UnsubscribeAnswer::Page)
            }
        }
    }

    /// A page of dead letters, here or on another node, for a caller who is an operator.
    pub(crate) async fn dead_letters_as(
        &self,
        caller: &Caller,
        request: &ListDeadLettersRequest,
    ) -> Result<ListDeadLettersResponse, StreamError> {
        let call = Call::read((INTERNAL_NOTIFY, "dead_letters"), caller, request);
        here!(self.reach_delivery(call).await?);
        self.delivery.dead_letters(request).await
    }

    /// Publishes the count of a user's unread notifications, here or on another node.
    pub(crate) async fn publish_count(&self, user: &str) -> Result<(), StreamError> {
        let request = GetUnreadCountRequest {
            user: Some(user.to_owned()),
        };
        // As the user: each has a line of its own to the other node.
        let user_identity = UserIdentity::new(UserId::new(user), i64::MAX);
        let caller = Caller::from(Identity::from(user_identity));
        let call = Call::read((INTERNAL_NOTIFY, "publish_count"), &caller, &request);
        match self.reach(call).await? {
            Reached::Here(hub) => Ok(hub.publish_count(user).await?),
            Reached::Answered(GetUnreadCountResponse { .. }) => Ok(()),
        }
    }

    /// Carries out an internal request of another node.
    pub(crate) async fn answer_internal(
        &self,
        call: &ForwardedCall,
    ) -> Result<Vec<u8>, StreamError> {
        let caller = &call.caller;
        match &*call.method {
            "mark_read" => {
                carry_out(call, async |request| {
                    self.mark_read_as(caller, &request).await
                })
                .await
            }
            "mark_all_read" => {
                carry_out(call, async |request| {
                    self.mark_all_read_as(caller, &request).await
                })
                .await
            }
            "dismiss" => {
                carry_out(call, async |request| {
                    self.dismiss_as(caller, &request).await
                })
                .await
            }
            "dead_letters" => {
                caller.require_operator()?;
                carry_out(call, async |request| {
                    self.dead_letters_as(caller, &request).await
                })
                .await
            }
            "publish_count" => {
                carry_out(call, async |request: GetUnreadCountRequest| {
                    self.publish_count(request.user()).await?;
                    Ok(GetUnreadCountResponse::default())
                })
                .await
            }
            "unsubscribe" => {
                carry_out(call, async |request: UnsubscribeRequest| {
                    let method = match &*request.method {
                        "POST" => http::Method::POST,
                        _ => http::Method::GET,
                    };
                    let answer = self.unsubscribe(&method, &request.token, caller.address);
                    let answer = answer.await?;
                    let is_done = answer == UnsubscribeAnswer::Done;
                    Ok(UnsubscribeResponse { is_done })
                })
                .await
            }
            _ => Err(unknown_method(call)),
        }
    }
}
