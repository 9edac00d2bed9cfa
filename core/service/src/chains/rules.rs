//! Transaction watches of alert rules: begun, ended and handed over on the owner of the chain.
//!
//! The alert engine is on the node that owns the shared store, and its rules name transactions of all
//! chains.

use prost::Message;
use tidewire_chain::{
    ChainEngine, ChainError,
    transaction::{Excess, Interest},
};
use tidewire_proto::v1::{TransactionStatus, UnwatchRequest, UnwatchResponse};
use tidewire_stream::{
    Caller, ForwardedCall, Identity, StreamError, UserId, identity::UserIdentity,
};

use super::ChainSlots;
use crate::forwarding::carry_out;

/// The methods of calls to another node.
const WATCH: &str = "rule_watch";
const UNWATCH: &str = "rule_unwatch";
const HAND_OVER: &str = "rule_hand_over";

/// A watch for the rule of a user.
#[derive(Clone, PartialEq, Message)]
struct RuleWatch {
    #[prost(uint64, tag = "1")]
    chain: u64,
    #[prost(string, tag = "2")]
    hash: String,
    #[prost(string, tag = "3")]
    user: String,
}

/// The response to one. Without a status, the share of the user is used.
#[derive(Clone, PartialEq, Message)]
struct RuleWatchReply {
    #[prost(message, optional, tag = "1")]
    status: Option<TransactionStatus>,
}

/// A watch that is to count for another user.
#[derive(Clone, PartialEq, Message)]
struct HandOver {
    #[prost(uint64, tag = "1")]
    chain: u64,
    #[prost(string, tag = "2")]
    hash: String,
    #[prost(string, tag = "3")]
    from: String,
    #[prost(string, tag = "4")]
    to: String,
    #[prost(bool, tag = "5")]
    is_excess_allowed: bool,
}

/// The response to it: whether the watch counts for the other user now, if it did for the first one.
#[derive(Clone, PartialEq, Message)]
struct HandOverReply {
    #[prost(bool, tag = "1")]
    is_done: bool,
}

/// The alert engine as the caller of requests about rules.
fn rules() -> Caller {
    let user = UserId::new("the rules of the alert engine");
    Identity::from(UserIdentity::new(user, i64::MAX)).into()
}

impl ChainSlots {
    /// Watches a transaction for a user's rule, and returns its status. None if the share of the user
    /// is used.
    ///
    /// # Errors
    /// The chain is not configured or does not answer in time, the hash is refused, or the chain has
    /// its maximum of watches.
    pub async fn watch_for_rule(
        &self,
        user: &UserId,
        chain: u64,
        hash: &str,
    ) -> Result<Option<TransactionStatus>, StreamError> {
        let request = RuleWatch {
            chain,
            hash: hash.to_owned(),
            user: user.as_str().to_owned(),
        };
        let caller = rules();
        let reply: RuleWatchReply = self.ask(chain, WATCH, &caller, &request).await?;
        Ok(reply.status)
    }

    /// Ends the watch of a transaction for rules.
    ///
    /// # Errors
    /// The chain is not configured or does not answer in time, or the hash is refused.
    pub async fn unwatch_for_rules(&self, chain: u64, hash: &str) -> Result<(), StreamError> {
        let request = UnwatchRequest {
            chain,
            tx_hash: hash.to_owned(),
        };
        let caller = rules();
        let _: UnwatchResponse = self.ask(chain, UNWATCH, &caller, &request).await?;
        Ok(())
    }

    /// Has the watch of a transaction for rules count for another user, if it counts for `from`. Returns
    /// false if the share of the other user is used, or the owner of the chain is not reached.
    pub async fn hand_rule_over(
        &self,
        (chain, hash): (u64, &str),
        from: &UserId,
        to: &UserId,
        excess: Excess,
    ) -> bool {
        let request = HandOver {
            chain,
            hash: hash.to_owned(),
            from: from.as_str().to_owned(),
            to: to.as_str().to_owned(),
            is_excess_allowed: excess == Excess::Allowed,
        };
        let caller = rules();
        let asked = self.ask(chain, HAND_OVER, &caller, &request).await;
        match asked {
            Ok(HandOverReply { is_done }) => is_done,
            Err(error) => {
                tracing::debug!(chain, %error, "a watch is not handed over");
                false
            }
        }
    }
}

/// Carries out a request. None if it is not about rules.
pub(super) async fn answer(
    engine: &ChainEngine,
    call: &ForwardedCall,
) -> Option<Result<Vec<u8>, StreamError>> {
    Some(match &*call.method {
        WATCH => carry_out(call, async |request| watch(engine, request).await).await,
        UNWATCH => carry_out(call, async |request| unwatch(engine, request).await).await,
        HAND_OVER => carry_out(call, async |request| Ok(hand_over(engine, &request))).await,
        _ => return None,
    })
}

async fn watch(engine: &ChainEngine, request: RuleWatch) -> Result<RuleWatchReply, StreamError> {
    let RuleWatch { chain, hash, user } = request;
    let engine = engine.for_user(&UserId::new(&user));
    let watched = engine.watch(chain, &hash, Interest::Rules, Vec::new());
    match watched.await {
        Ok(status) => Ok(RuleWatchReply {
            status: Some(status),
        }),
        Err(ChainError::ShareReached(_)) => Ok(RuleWatchReply::default()),
        Err(error) => Err(error.into()),
    }
}

async fn unwatch(
    engine: &ChainEngine,
    request: UnwatchRequest,
) -> Result<UnwatchResponse, StreamError> {
    let UnwatchRequest { chain, tx_hash } = request;
    engine.unwatch(chain, &tx_hash, Interest::Rules).await?;
    Ok(UnwatchResponse {})
}

fn hand_over(engine: &ChainEngine, request: &HandOver) -> HandOverReply {
    let excess = match request.is_excess_allowed {
        true => Excess::Allowed,
        false => Excess::Refused,
    };
    let (from, to) = (UserId::new(&request.from), UserId::new(&request.to));
    let engine = engine.for_user(&from);
    let done = engine.hand_over(request.chain, &request.hash, &to, excess);
    HandOverReply {
        is_done: done.is_ok(),
    }
}
