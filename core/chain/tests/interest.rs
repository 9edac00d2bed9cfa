//! Shares of clients in the followed wallets and event filters.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::net::{IpAddr, Ipv4Addr};

use alloy::primitives::{Address, B256};
use tidewire_chain::{ChainConfig, ChainEngine, ChainError};
use tidewire_proto::v1::{ErrorCode, EventFilter};
use tidewire_stream::{
    AnonymousPolicy, Authenticator, Caller, Identity, Locality, ManualClock, Namespaces,
    StreamCore, StreamOptions, UserId,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A running engine of one chain that cannot be reached.
async fn engine() -> (ChainEngine, CancellationToken) {
    let clock = ManualClock::at(0);
    let policy = AnonymousPolicy::Read;
    let authenticator = Authenticator::hs256(&[7; 32], policy, clock.clone()).unwrap();
    let options = StreamOptions::default();
    let stream = StreamCore::in_memory(
        Namespaces::built_in(),
        authenticator,
        clock.clone(),
        options,
    );
    let config = serde_json::json!({"id": 1, "endpoints": ["http://127.0.0.1:1"]});
    let config: ChainConfig = serde_json::from_value(config).unwrap();
    let engine = ChainEngine::new(&[config], stream, clock, None).unwrap();
    let cancel = CancellationToken::new();
    engine.start(&TaskTracker::new(), &cancel).await.unwrap();
    (engine, cancel)
}

fn wallet(number: u64) -> String {
    format!("{:?}", Address::left_padding_from(&number.to_be_bytes()))
}

/// A filter of one topic, of the contracts with these numbers.
fn filter(topic: u64, contracts: impl Iterator<Item = u64>) -> EventFilter {
    EventFilter {
        addresses: contracts.map(wallet).collect(),
        topics: vec![B256::left_padding_from(&topic.to_be_bytes()).to_string()],
        abi: Vec::new(),
    }
}

/// A client without a token.
fn anonymous(last: u8) -> Caller {
    Caller {
        address: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))),
        identity: Identity::Anonymous,
        locality: Locality::default(),
        connection: None,
    }
}

#[tokio::test]
async fn a_client_cannot_follow_the_wallets_of_all() {
    let (engine, cancel) = engine().await;
    let providers = engine.channel_providers();
    let (_, wallets) = providers
        .iter()
        .find(|(name, _)| *name == "wallet")
        .unwrap();
    let (mallory, ada) = (anonymous(1), anonymous(2));
    for number in 0..50_000 {
        wallets.activate(&wallet(number), &mallory).unwrap();
    }
    let refused = wallets.activate(&wallet(50_000), &mallory).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::ResourceExhausted);
    assert_eq!(
        refused.message(),
        "50000 wallets are followed for this client, which is its share"
    );
    // A wallet that others follow costs nothing, and the others have their own shares.
    wallets.activate(&wallet(50_000), &ada).unwrap();
    wallets.activate(&wallet(50_000), &mallory).unwrap();
    // Back ends have none.
    engine.follow_wallet(&wallet(50_001)).unwrap();
    engine
        .link_wallet(&UserId::new("ada"), &wallet(50_002))
        .await
        .unwrap();
    cancel.cancel();
}

#[tokio::test]
async fn a_client_cannot_take_the_event_filters_of_all() {
    let (engine, cancel) = engine().await;
    let (mallory, ada) = (
        engine.on_behalf_of(&anonymous(1)),
        engine.on_behalf_of(&anonymous(2)),
    );
    // A filter of 100 contracts counts as ten.
    for topic in 0..499 {
        let filter = filter(topic, 0..100);
        mallory.watch_events(1, filter).await.unwrap();
    }
    for topic in 0..10 {
        mallory.watch_events(1, filter(topic, 0..10)).await.unwrap();
    }
    let further = filter(0, 0..1);
    let share = "5000 event filters are followed for this client, which is its share";
    let refused = mallory.watch_events(1, further.clone()).await;
    assert_eq!(refused, Err(ChainError::ShareReached(share.to_owned())));
    // A filter that others use costs nothing, and the others have their own shares.
    let channel = ada.watch_events(1, further.clone()).await.unwrap();
    assert_eq!(mallory.watch_events(1, further).await, Ok(channel.clone()));
    assert_eq!(mallory.follow_events(channel.rest()), Ok(()));
    engine.watch_events(1, filter(0, 0..2)).await.unwrap();
    cancel.cancel();
}
