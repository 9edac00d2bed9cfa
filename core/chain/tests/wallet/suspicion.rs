//! Suspicion: updates by which a stranger may try to mislead a wallet's owner.

use alloy::primitives::address;
use tidewire_chain::wallet::{Tracing, WalletTracker};

use crate::{
    apply, index,
    scripted::Scripted,
    support::{CHAIN, Node, account, hash, transaction},
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
