//! Reads of the node: what a failed one leaves unread, and when it is made again.

use std::sync::Arc;

use alloy::primitives::Address;
use tidewire_chain::{
    RpcError,
    wallet::{Activity, Tracing, WalletTracker},
};
use tidewire_proto::v1::{WalletUpdate, wallet_update::Data};

use crate::{
    apply, index,
    scripted::Scripted,
    support::{CHAIN, Node, account, hash, refused, transaction},
    transfer, updates,
};

#[tokio::test]
async fn a_refused_balance_leaves_a_wallet_unread_and_a_revert_does_not() {
    let wallets = index(&[account(1)]);
    let unavailable = || RpcError::Unavailable {
        chain: CHAIN,
        reason: "error -32603: Internal error".to_owned(),
    };
    for (method, error, is_unread) in [
        ("eth_getBalance", unavailable(), true),
        ("eth_getBalance", refused(-32_602, None), true),
        ("eth_call", unavailable(), true),
        ("eth_call", refused(3, None), false),
    ] {
        let mut node = Node::default();
        node.send(transaction(hash(1), account(1), 0, account(2), 5));
        let mut update = node.mine(&[hash(1)]);
        let block = Arc::make_mut(&mut update.included);
        block
            .logs
            .push(transfer(account(0xAA), account(2), account(1), 5));
        let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
        let client = Scripted {
            failing: Some((method, error)),
            ..Scripted::default()
        };
        apply(&mut tracker, &update, &wallets, &client).await;
        let unread = tracker.take_unread();
        assert_eq!(unread.contains(&account(1)), is_unread, "{method}");
    }
}

#[tokio::test]
async fn a_node_that_is_down_leaves_wallets_unread() {
    let wallets = index(&[account(1)]);
    let update =
        Node::default().mine_logs(vec![transfer(account(0xAA), account(2), account(1), 5)]);
    let mut tracker = WalletTracker::new(CHAIN, Tracing::Auto);
    let client = Scripted {
        is_down: true,
        ..Scripted::default()
    };
    assert!(
        apply(&mut tracker, &update, &wallets, &client)
            .await
            .is_empty()
    );
    // The wallet's channel has a gap.
    assert!(tracker.take_unread().into_iter().eq([account(1)]));
    // It is reported once.
    assert!(tracker.take_unread().is_empty());
    let up = Scripted::default();
    apply(&mut tracker, &update, &wallets, &up).await;
    assert!(tracker.take_unread().is_empty());
}

#[tokio::test]
async fn a_symbol_that_could_not_be_read_is_read_again_later() {
    let (token, wallets) = (account(0xAA), index(&[account(1)]));
    let mut node = Node::default();
    let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
    let mut client = Scripted {
        failing: Some(("eth_call", refused(3, None))),
        ..Scripted::default()
    };
    for (now_ms, expected) in [(0, None), (59_000, None), (61_000, Some("TOK"))] {
        let update = node.mine_logs(vec![transfer(token, account(2), account(1), 5)]);
        let block = update.included.block;
        let amount = block.number;
        client
            .tokens
            .insert((block.hash, token, account(1)), amount);
        let activity = Activity::of(&update.included, &wallets);
        let is_watched = |wallet: &Address| wallets.contains(wallet);
        let events = tracker.apply(&update, activity, is_watched, &client, now_ms);
        let sent = updates(events.await);
        // The node recovers, but the failure is remembered for a minute.
        client.failing = None;
        let symbol = sent.iter().find_map(|update| match &update.data {
            Some(Data::Balance(change)) => change.symbol.clone(),
            _ => None,
        });
        assert_eq!(symbol.as_deref(), expected, "at {now_ms}");
    }
}

#[tokio::test]
async fn a_token_that_uses_up_the_gas_hides_no_other_balance() {
    let (bomb, token) = (account(0xAA), account(0xAB));
    let wallets = index(&[account(1), account(2)]);
    let update = Node::default().mine_logs(vec![
        transfer(bomb, account(9), account(1), 1),
        transfer(token, account(9), account(2), 5),
    ]);
    let mut client = Scripted {
        has_multicall: true,
        gas_bomb: Some(bomb),
        ..Scripted::default()
    };
    let block = update.included.block.hash;
    client.tokens.insert((block, token, account(2)), 5);
    let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
    let sent = apply(&mut tracker, &update, &wallets, &client).await;
    assert!(
        matches!(
            &sent[..],
            [WalletUpdate { data: Some(Data::Balance(change)), .. }]
                if change.delta == "5" && change.symbol.as_deref() == Some("TOK")
        ),
        "{sent:?}"
    );
    assert!(tracker.take_unread().is_empty());
}
