//! Requests to the engine of a chain, which is here or on the node that owns the chain.
//!
//! To do each of them twice is the same as once, so a request whose answer is lost is sent again.

use std::time::Duration;

use tidewire_chain::{ChainEngine, transaction::Interest};
use tidewire_proto::v1::{
    EventsTarget, GetLatestBlockRequest, LinkWalletRequest, LinkWalletResponse, TransactionStatus,
    TransactionTarget, UnlinkWalletRequest, UnlinkWalletResponse, UnwatchRequest, UnwatchResponse,
    WatchTransactionRequest, WatchTransactionResponse,
};
use tidewire_stream::{ForwardedCall, StreamError, UserId};

use super::{
    rules,
    wire::{ChannelReply, LinkReply},
};
use crate::forwarding::{carry_out, unknown_method};

/// The methods of requests about chains.
pub(crate) const STATUS: &str = "status";
pub(crate) const WATCH: &str = "watch";
pub(crate) const UNWATCH: &str = "unwatch";
pub(crate) const BLOCK: &str = "latest_block";
pub(crate) const EVENTS: &str = "events";
pub(crate) const LINK: &str = "link";
pub(crate) const UNLINK: &str = "unlink";

/// Longest time of a request: an engine waits 20 s for its processor or its store.
pub(super) const TIME: Duration = Duration::from_secs(22);

async fn status_on(
    engine: &ChainEngine,
    target: TransactionTarget,
) -> Result<TransactionStatus, StreamError> {
    let status = engine.status(target.chain, &target.tx_hash, target.abi);
    Ok(status.await?)
}

async fn watch_on(
    engine: &ChainEngine,
    request: WatchTransactionRequest,
) -> Result<WatchTransactionResponse, StreamError> {
    let interest = Interest::Durable(request.user);
    let watched = engine.watch(request.chain, &request.tx_hash, interest, request.abi);
    Ok(WatchTransactionResponse {
        status: Some(watched.await?),
    })
}

async fn unwatch_on(
    engine: &ChainEngine,
    request: UnwatchRequest,
) -> Result<UnwatchResponse, StreamError> {
    let interest = Interest::Durable(None);
    let ended = engine.unwatch(request.chain, &request.tx_hash, interest);
    ended.await?;
    Ok(UnwatchResponse {})
}

async fn events_on(
    engine: &ChainEngine,
    target: EventsTarget,
) -> Result<ChannelReply, StreamError> {
    let filter = target.events.unwrap_or_default();
    let channel = engine.watch_events(target.chain, filter).await?;
    Ok(ChannelReply {
        channel: channel.as_str().to_owned(),
    })
}

async fn link_on(
    engine: &ChainEngine,
    request: LinkWalletRequest,
) -> Result<LinkWalletResponse, StreamError> {
    let user = UserId::new(request.user.as_deref().unwrap_or_default());
    engine.link_wallet(&user, &request.address).await?;
    Ok(LinkWalletResponse {})
}

async fn unlink_on(
    engine: &ChainEngine,
    request: UnlinkWalletRequest,
) -> Result<UnlinkWalletResponse, StreamError> {
    let user = UserId::new(request.user.as_deref().unwrap_or_default());
    engine.unlink_wallet(&user, &request.address).await?;
    Ok(UnlinkWalletResponse {})
}

/// Whether a wallet is linked to a user.
pub(super) const IS_LINKED: &str = "is_linked";

/// Carries out a request on an engine.
pub(super) async fn answer(
    engine: &ChainEngine,
    call: &ForwardedCall,
) -> Result<Vec<u8>, StreamError> {
    let engine = &engine.on_behalf_of(&call.caller);
    match &*call.method {
        STATUS => carry_out(call, async |target| status_on(engine, target).await).await,
        WATCH => carry_out(call, async |request| watch_on(engine, request).await).await,
        UNWATCH => carry_out(call, async |request| unwatch_on(engine, request).await).await,
        BLOCK => {
            carry_out(call, async |request: GetLatestBlockRequest| {
                Ok(engine.latest_block(request.chain)?)
            })
            .await
        }
        EVENTS => carry_out(call, async |target| events_on(engine, target).await).await,
        LINK => carry_out(call, async |request| link_on(engine, request).await).await,
        UNLINK => carry_out(call, async |request| unlink_on(engine, request).await).await,
        IS_LINKED => {
            carry_out(call, async |asked: LinkWalletRequest| {
                let user = UserId::new(asked.user.as_deref().unwrap_or_default());
                let is_linked = engine.owns_wallet(&user, &asked.address);
                Ok(LinkReply { is_linked })
            })
            .await
        }
        _ => match rules::answer(engine, call).await {
            Some(answered) => answered,
            None => Err(unknown_method(call)),
        },
    }
}
