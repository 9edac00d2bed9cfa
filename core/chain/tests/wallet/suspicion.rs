//! Suspicion: updates by which a stranger may try to mislead a wallet's owner.

use std::sync::Arc;

use alloy::primitives::address;
use tidewire_chain::wallet::{Tracing, WalletTracker};

use crate::{
    apply, index,
    scripted::Scripted,
    support::{CHAIN, Node, account, hash, transaction},
    transfer,
};

#[tokio::test]
async fn a_transaction_from_an_address_that_imitates_a_recipient_is_suspicious() {
    let wallets = index(&[account(1)]);
    let recipient = address!("abcd000000000000000000000000000000001234");
    let alike = address!("abcdffffffffffffffffffffffffffffffff1234");
    let mut node = Node::default();
    let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
    let client = Scripted::default();
    let mut suspicions = Vec::new();
    for (number, from, to, value) in [
        (1, account(1), recipient, 5),
        (2, alike, account(1), 1),
        (3, account(9), account(1), 0),
        (4, account(9), account(1), 1),
    ] {
        node.send(transaction(hash(number), from, number, to, value));
        let update = node.mine(&[hash(number)]);
        let sent = apply(&mut tracker, &update, &wallets, &client).await;
        suspicions.push(sent[0].suspicious.clone().unwrap_or_default());
    }
    assert_eq!(suspicions[0], "");
    assert!(
        suspicions[1].contains("looks like 0xabcd0000"),
        "{suspicions:?}"
    );
    assert_eq!(suspicions[2], "it moves nothing");
    assert_eq!(suspicions[3], "");
}

#[tokio::test]
async fn a_stranger_cannot_log_a_payment_of_a_wallet() {
    let wallets = index(&[account(1)]);
    let recipient = address!("abcd000000000000000000000000000000001234");
    let alike = address!("abcdffffffffffffffffffffffffffffffff1234");
    // The log is in the block of a transaction of the wallet: in that transaction, or in another.
    for (logged_in, is_paid) in [(hash(1), true), (hash(2), false)] {
        let mut node = Node::default();
        let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
        let client = Scripted::default();
        node.send(transaction(hash(1), account(1), 1, account(5), 0));
        node.send(transaction(hash(2), account(9), 1, account(5), 0));
        let mut update = node.mine(&[hash(1), hash(2)]);
        let mut paid = transfer(account(0xAA), account(1), recipient, 5);
        paid.transaction_hash = Some(logged_in);
        Arc::make_mut(&mut update.included).logs.push(paid);
        apply(&mut tracker, &update, &wallets, &client).await;
        node.send(transaction(hash(3), alike, 1, account(1), 1));
        let update = node.mine(&[hash(3)]);
        let sent = apply(&mut tracker, &update, &wallets, &client).await;
        let suspicion = sent[0].suspicious.clone().unwrap_or_default();
        assert_eq!(suspicion.contains("looks like 0xabcd0000"), is_paid);
    }
}
