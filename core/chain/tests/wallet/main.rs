//! Wallet tracker against a scripted node.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod balances;
mod reads;
mod scripted;
#[path = "../support/mod.rs"]
mod support;
mod suspicion;
mod token_events;
mod transactions;

use alloy::{
    primitives::{Address, B256, LogData, U256, keccak256},
    rpc::types::Log,
};
use scripted::Scripted;
use support::hash;
use tidewire_chain::{
    ChainUpdate, ChannelEvent, WalletIndex,
    wallet::{Activity, WalletTracker},
};
use tidewire_proto::v1::WalletUpdate;
use tidewire_stream::Event;

fn log(contract: Address, signature: &str, topics: &[B256], data: &[U256]) -> Log {
    let mut all = vec![keccak256(signature)];
    all.extend_from_slice(topics);
    let data: Vec<u8> = data
        .iter()
        .flat_map(|word| word.to_be_bytes::<32>())
        .collect();
    Log {
        inner: alloy::primitives::Log {
            address: contract,
            data: LogData::new_unchecked(all, data.into()),
        },
        transaction_hash: Some(hash(1)),
        ..Log::default()
    }
}

fn transfer(contract: Address, from: Address, to: Address, value: u64) -> Log {
    log(
        contract,
        "Transfer(address,address,uint256)",
        &[from.into_word(), to.into_word()],
        &[U256::from(value)],
    )
}

fn index(wallets: &[Address]) -> WalletIndex {
    let mut index = WalletIndex::default();
    for wallet in wallets {
        index.watch(*wallet);
    }
    index
}

async fn apply(
    tracker: &mut WalletTracker,
    update: &ChainUpdate,
    index: &WalletIndex,
    client: &Scripted,
) -> Vec<WalletUpdate> {
    apply_at(tracker, update, index, client, 7).await
}

async fn apply_at(
    tracker: &mut WalletTracker,
    update: &ChainUpdate,
    index: &WalletIndex,
    client: &Scripted,
    now_ms: i64,
) -> Vec<WalletUpdate> {
    let activity = Activity::of(&update.included, index);
    let is_watched = |wallet: &Address| index.contains(wallet);
    let events = tracker.apply(update, activity, is_watched, client, now_ms);
    updates(events.await)
}

fn updates(events: Vec<ChannelEvent>) -> Vec<WalletUpdate> {
    let updates = events.into_iter().map(|event| match event.event {
        Event::WalletUpdate(update) => {
            assert_eq!(event.channel.as_str(), format!("wallet:{}", update.address));
            update
        }
        other => panic!("{other:?}"),
    });
    updates.collect()
}
