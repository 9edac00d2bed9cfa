//! Transactions: from pending to final, without a receipt, and through reorgs.

use serde_json::json;
use tidewire_chain::{
    Call,
    wallet::{ConfirmationRules, Tracing, WalletTracker},
};
use tidewire_proto::v1::{
    BalanceSource, Direction, TransactionState, TransactionStatus, WalletUpdate,
    wallet_update::Data,
};

use crate::{
    apply, apply_at, index,
    scripted::Scripted,
    support::{CHAIN, Node, RECEIPT_FAULTS, account, hash, transaction},
    updates,
};

#[tokio::test]
async fn transactions_and_coin_balances_are_sent_from_pending_on_and_retracted() {
    let wallets = index(&[account(1)]);
    let mut node = Node::default();
    let mut tracker = WalletTracker::new(CHAIN, Tracing::Auto);
    let mut client = Scripted::default();
    let first = node.mine(&[]);
    assert!(
        apply(&mut tracker, &first, &wallets, &client)
            .await
            .is_empty()
    );
    assert!(
        client.requests.lock().unwrap().is_empty(),
        "nothing is read for a block without activity"
    );

    let submitted = transaction(hash(1), account(1), 0, account(2), 5);
    let pending = updates(tracker.apply_pending(&submitted, &wallets, 7));
    assert!(matches!(
        &pending[0].data,
        Some(Data::Transaction(sent)) if sent.status() == TransactionState::Pending
            && sent.direction() == Direction::Out && sent.value == "5"
    ));
    assert!(
        tracker.apply_pending(&submitted, &wallets, 7).is_empty(),
        "a pending transaction is sent once"
    );
    node.send(submitted.clone());
    let update = node.mine(&[hash(1)]);
    let block = update.included.block;
    let mut late = WalletTracker::new(CHAIN, Tracing::Off);
    apply(&mut late, &update, &wallets, &client).await;
    let receipt_call = Call::new("eth_getTransactionReceipt", json!([hash(1)]));
    let after_block = late.apply_pending(&submitted, &wallets, 7);
    assert!(after_block.is_empty(), "its block was sent before");
    client.receipts.insert(hash(1), node.respond(&receipt_call));
    client.coins.insert((block.parent, account(1)), 100);
    client.coins.insert((block.hash, account(1)), 94);
    let sent = apply(&mut tracker, &update, &wallets, &client).await;
    assert!(matches!(
        &sent[0].data,
        Some(Data::Transaction(sent)) if sent.status() == TransactionState::Confirming
            && sent.block_number == Some(2)
    ));
    let Some(Data::Balance(change)) = &sent[1].data else {
        panic!("{sent:?}");
    };
    assert_eq!(change.previous.as_deref(), Some("100"));
    assert_eq!(
        (change.current.as_str(), change.delta.as_str()),
        ("94", "-6")
    );
    assert_eq!(change.how(), BalanceSource::Balance);

    let reorg = node.reorg(1, &[]);
    apply(&mut late, &reorg, &wallets, &client).await;
    let again = late.apply_pending(&submitted, &wallets, 7);
    assert_eq!(again.len(), 1, "the transaction is pending again");
    let retracted = apply(&mut tracker, &reorg, &wallets, &client).await;
    assert!(retracted.iter().all(|update| update.removed));
    let data: Vec<_> = retracted
        .into_iter()
        .rev()
        .map(|update| update.data)
        .collect();
    assert_eq!(
        data,
        sent.into_iter()
            .map(|update| update.data)
            .collect::<Vec<_>>()
    );
}

/// The statuses of the transaction updates.
fn statuses(updates: &[WalletUpdate]) -> Vec<TransactionState> {
    let statuses = updates.iter().filter_map(|update| match &update.data {
        Some(Data::Transaction(sent)) => Some(sent.status()),
        _ => None,
    });
    statuses.collect()
}

#[tokio::test]
async fn a_transaction_without_its_own_receipt_is_unknown_until_it_has_one() {
    use TransactionState::{Confirmed, Confirming, Failed, Finalized, Unknown};
    let rules = ConfirmationRules {
        required: 2,
        finality_depth: 4,
        reorg_limit: 10,
    };
    for fault in RECEIPT_FAULTS {
        for (is_failing, blocks_later, expected) in [
            (true, 1, vec![Failed]),
            (true, 6, vec![Failed]),
            (false, 0, vec![Confirming, Confirmed]),
            (false, 1, vec![Confirming, Confirmed]),
            (false, 2, vec![Confirmed]),
            (false, 6, vec![Finalized]),
        ] {
            let wallets = index(&[account(1)]);
            let mut node = Node::default();
            let mut tracker = WalletTracker::new(CHAIN, Tracing::Off).with_rules(rules);
            node.mine(&[]);
            node.send(transaction(hash(1), account(1), 0, account(2), 5));
            if is_failing {
                node.failing.push(hash(1));
            }
            let mined = node.mine(&[hash(1)]);
            let call = Call::new("eth_getTransactionReceipt", json!([hash(1)]));
            let receipt = node.respond(&call).unwrap();
            let mut client = Scripted::default();
            client.receipts.insert(hash(1), fault(receipt.clone()));
            let mut sent = apply(&mut tracker, &mined, &wallets, &client).await;
            for _ in 1..blocks_later {
                let update = node.mine(&[]);
                sent.extend(apply(&mut tracker, &update, &wallets, &client).await);
            }
            assert_eq!(statuses(&sent), [Unknown]);
            client.receipts.insert(hash(1), Ok(receipt));
            let update = node.mine(&[]);
            let told = apply(&mut tracker, &update, &wallets, &client).await;
            assert_eq!(statuses(&told), expected, "after {blocks_later} blocks");
            // A reorg retracts all of it, the last first.
            let mut later = told;
            for _ in 0..2 {
                let update = node.mine(&[]);
                later.extend(apply(&mut tracker, &update, &wallets, &client).await);
            }
            let mut all = [statuses(&sent), statuses(&later)].concat();
            all.reverse();
            let reorg = node.reorg(node.blocks.len() - 1, &[]);
            let retracted = apply(&mut tracker, &reorg, &wallets, &client).await;
            assert_eq!(statuses(&retracted), all);
            assert!(retracted.iter().all(|update| update.removed));
        }
    }
}

#[tokio::test]
async fn a_later_state_is_sent_with_its_own_time() {
    use TransactionState::{Confirmed, Confirming, Finalized};
    let rules = ConfirmationRules {
        required: 2,
        finality_depth: 3,
        reorg_limit: 10,
    };
    let (wallets, mut node) = (index(&[account(1)]), Node::default());
    let mut tracker = WalletTracker::new(CHAIN, Tracing::Off).with_rules(rules);
    node.send(transaction(hash(1), account(2), 0, account(1), 5));
    let mined = node.mine(&[hash(1)]);
    let call = Call::new("eth_getTransactionReceipt", json!([hash(1)]));
    let mut client = Scripted::default();
    client.receipts.insert(hash(1), node.respond(&call));
    let mut update = mined;
    for (state, now_ms) in [(Confirming, 20), (Confirmed, 31), (Finalized, 42)] {
        let sent = apply_at(&mut tracker, &update, &wallets, &client, now_ms).await;
        assert_eq!(statuses(&sent), [state]);
        assert!(sent.iter().all(|update| update.timestamp == now_ms));
        update = node.mine(&[]);
    }
}

#[test]
fn an_end_without_a_block_is_sent_once_and_a_reorg_takes_it_back() {
    use TransactionState::{Cancelled, Dropped, Pending, Replaced};
    for end in [Replaced, Cancelled] {
        let wallets = index(&[account(1)]);
        let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
        let submitted = transaction(hash(1), account(1), 0, account(2), 5);
        assert_eq!(tracker.apply_pending(&submitted, &wallets, 7).len(), 1);
        let mut apply = |state, reorged: Option<bool>, timestamp| {
            let mut status = TransactionStatus {
                hash: hash(1).to_string(),
                replaced_by: (state == end).then(|| hash(2).to_string()),
                reorged,
                timestamp,
                ..TransactionStatus::default()
            };
            status.set_state(state);
            let sent = updates(tracker.apply_status(&status)).into_iter();
            let sent = sent.map(|update| match update.data {
                Some(Data::Transaction(sent)) => {
                    let state = sent.status();
                    (state, sent.replaced_by, update.removed, update.timestamp)
                }
                other => panic!("{other:?}"),
            });
            sent.collect::<Vec<_>>()
        };
        let by = || Some(hash(2).to_string());
        assert_eq!(apply(Pending, None, 8), []);
        for round in [10, 20] {
            assert_eq!(apply(end, None, round), [(end, by(), false, round)]);
            assert_eq!(apply(end, None, round + 1), []);
            assert_eq!(apply(Pending, None, round + 2), []);
            let taken_back = apply(Pending, Some(true), round + 3);
            assert_eq!(taken_back, [(end, by(), true, round + 3)]);
            assert_eq!(apply(Pending, Some(true), round + 4), []);
        }
        // A dropped transaction is forgotten.
        assert_eq!(apply(Dropped, None, 30), [(Dropped, None, false, 30)]);
        assert_eq!(apply(Dropped, None, 31), []);
        assert_eq!(apply(Pending, Some(true), 32), []);
    }
}
