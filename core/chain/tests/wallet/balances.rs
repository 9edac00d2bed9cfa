//! Balances: of coins and tokens, and what changed them.

use std::sync::Arc;

use alloy::primitives::Address;
use serde_json::json;
use tidewire_chain::wallet::{Tracing, WalletTracker};
use tidewire_proto::v1::{BalanceSource, WalletUpdate, wallet_update::Data};

use crate::{
    apply, index,
    scripted::Scripted,
    support::{CHAIN, Node, account, hash, transaction},
    transfer,
};

#[tokio::test]
async fn token_balances_are_read_at_the_block_in_few_requests() {
    for has_multicall in [true, false] {
        let (token, old) = (account(0xAA), account(0xAB));
        let wallets = index(&[account(1), account(2)]);
        let mut node = Node::default();
        let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
        let update = node.mine_logs(vec![
            transfer(token, account(1), account(2), 5),
            transfer(old, account(9), account(1), 1),
            // Neither party is watched.
            transfer(token, account(8), account(9), 5),
        ]);
        let block = update.included.block;
        let mut client = Scripted {
            has_multicall,
            old: vec![old],
            ..Scripted::default()
        };
        for (wallet, token, before, after) in [(1, token, 10, 5), (2, token, 0, 5), (1, old, 3, 4)]
        {
            let wallet = account(wallet);
            client.tokens.insert((block.parent, token, wallet), before);
            client.tokens.insert((block.hash, token, wallet), after);
        }
        let sent = apply(&mut tracker, &update, &wallets, &client).await;
        let mut changes = Vec::new();
        for update in sent {
            let Some(Data::Balance(change)) = update.data else {
                panic!("{:?}", update.data);
            };
            assert_eq!(change.decimals, Some(6));
            changes.push((change.symbol.unwrap(), change.current, change.delta));
        }
        let own = |symbol: &str, now: &str, delta: &str| {
            (symbol.to_owned(), now.to_owned(), delta.to_owned())
        };
        assert_eq!(
            changes,
            [
                own("TOK", "5", "-5"),
                own("MKR", "4", "1"),
                own("TOK", "5", "5")
            ]
        );
        let requests = client.requests.lock().unwrap().len();
        // With Multicall3, only `supportsInterface`, which the tokens lack, is called again alone.
        assert_eq!(requests, if has_multicall { 4 } else { 6 });
    }
}

#[tokio::test]
async fn coins_that_a_contract_moves_are_found_by_a_trace() {
    let wallets = index(&[account(7)]);
    let mut node = Node::default();
    node.send(transaction(hash(1), account(1), 0, account(2), 5));
    let update = node.mine(&[hash(1)]);
    let block = update.included.block;
    let mut tracker = WalletTracker::new(CHAIN, Tracing::Auto);
    let inner = json!({"type": "CALL", "from": account(2), "to": account(7), "value": "0x5"});
    let mut client = Scripted {
        trace: Some(json!([{"result": {
            "type": "CALL", "from": account(1), "to": account(2), "value": "0x5",
            "calls": [inner],
        }}])),
        ..Scripted::default()
    };
    client.coins.insert((block.hash, account(7)), 5);
    let sent = apply(&mut tracker, &update, &wallets, &client).await;
    assert!(matches!(
        &sent[..],
        [WalletUpdate { data: Some(Data::Balance(change)), .. }]
            if change.how() == BalanceSource::Trace && change.delta == "5"
    ));
}

#[tokio::test]
async fn a_withdrawal_of_a_validator_is_sent() {
    let wallets = index(&[account(1), account(2)]);
    let mut node = Node::default();
    node.send(transaction(hash(1), account(2), 0, account(3), 5));
    let mut update = node.mine(&[hash(1)]);
    let block = Arc::make_mut(&mut update.included);
    block.withdrawals = vec![account(1), account(2), account(9)];
    let block = block.block;
    let mut client = Scripted::default();
    for (wallet, before, after) in [(1, 10, 17), (2, 10, 12)] {
        client.coins.insert((block.parent, account(wallet)), before);
        client.coins.insert((block.hash, account(wallet)), after);
    }
    let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
    let sent = apply(&mut tracker, &update, &wallets, &client).await;
    let changes: Vec<_> = sent
        .iter()
        .filter_map(|update| match &update.data {
            Some(Data::Balance(change)) => Some((change.delta.as_str(), change.how())),
            _ => None,
        })
        .collect();
    // A wallet with a transaction of its own is read for that.
    let expected = [
        ("7", BalanceSource::Withdrawal),
        ("2", BalanceSource::Balance),
    ];
    assert_eq!(changes, expected);
}

#[tokio::test]
async fn a_token_whose_constructor_mints_to_a_wallet_is_sent() {
    for has_multicall in [true, false] {
        let (token, wallets) = (account(0xAA), index(&[account(1)]));
        let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
        let mint = transfer(token, Address::ZERO, account(1), 5);
        let update = Node::default().mine_logs(vec![mint]);
        let block = update.included.block;
        let mut client = Scripted {
            has_multicall,
            made_in: vec![(token, block.hash)],
            ..Scripted::default()
        };
        client.tokens.insert((block.hash, token, account(1)), 5);
        let sent = apply(&mut tracker, &update, &wallets, &client).await;
        assert!(
            matches!(
                &sent[..],
                [WalletUpdate { data: Some(Data::Balance(change)), .. }]
                    if change.previous.as_deref() == Some("0") && change.delta == "5"
            ),
            "{sent:?}"
        );
    }
}
