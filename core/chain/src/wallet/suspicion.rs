//! Suspicion: marks updates by which a stranger may try to mislead a wallet's owner.
//!
//! Address poisoning sends a worthless transfer from an address that looks like one that the
//! owner pays to, in the hope that the owner copies it later. Wallets show the beginning and the
//! end of an address, so an address *looks like* another one if their first four and last four
//! hex digits are equal.
//!
//! Example: the wallet paid 0xabcd…1234. A transaction from 0xabcd…1234 with other digits between
//! is marked, and so is one that moves nothing.

use std::collections::{HashMap, VecDeque};

use alloy::primitives::Address;
use tidewire_proto::v1::{Direction, WalletUpdate, wallet_update::Data};

/// Wallets whose recipients are remembered at most. Beyond, the one that paid first is forgotten.
const MAX_WALLETS: usize = 10_000;

/// Recipients of one wallet that are remembered.
const MAX_RECIPIENTS: usize = 32;

/// The recipients that wallets paid to.
#[derive(Debug, Default)]
pub(super) struct Recipients {
    by_wallet: HashMap<Address, VecDeque<Address>>,
    order: VecDeque<Address>,
}

impl Recipients {
    /// Remembers whom a wallet paid to.
    pub(super) fn insert(&mut self, wallet: Address, recipient: Address) {
        if !self.by_wallet.contains_key(&wallet) {
            self.order.push_back(wallet);
            if self.order.len() > MAX_WALLETS
                && let Some(oldest) = self.order.pop_front()
            {
                self.by_wallet.remove(&oldest);
            }
        }
        let recipients = self.by_wallet.entry(wallet).or_default();
        if recipients.contains(&recipient) {
            return;
        }
        if recipients.len() >= MAX_RECIPIENTS {
            recipients.pop_front();
        }
        recipients.push_back(recipient);
    }

    /// The recipient of a wallet that another address looks like.
    pub(super) fn imitated(&self, wallet: &Address, other: &Address) -> Option<Address> {
        let recipients = self.by_wallet.get(wallet)?;
        if recipients.contains(other) {
            return None;
        }
        let is_alike = |known: &&Address| known[..2] == other[..2] && known[18..] == other[18..];
        recipients.iter().find(is_alike).copied()
    }

    /// Why an update is suspicious, if it is.
    pub(super) fn suspicion(&self, wallet: &Address, update: &WalletUpdate) -> Option<String> {
        let (from, is_empty) = match update.data.as_ref()? {
            Data::Transaction(sent) if sent.direction() == Direction::In => {
                (&sent.from, sent.value == "0")
            }
            Data::Nft(moved) => {
                let mut items = moved.items.iter();
                let is_empty = moved.amount == "0" && items.all(|item| item.amount == "0");
                (&moved.from, is_empty)
            }
            _ => return None,
        };
        let from: Address = from.parse().ok()?;
        let imitated = (from != *wallet).then(|| self.imitated(wallet, &from));
        if let Some(imitated) = imitated.flatten() {
            return Some(format!(
                "its sender {from:?} looks like {imitated:?}, which the wallet paid to"
            ));
        }
        is_empty.then(|| "it moves nothing".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use tidewire_proto::v1::{NftTransfer, WalletTransaction};

    use super::*;

    fn incoming(from: &str, value: &str) -> WalletUpdate {
        let mut sent = WalletTransaction {
            from: from.to_owned(),
            value: value.to_owned(),
            ..WalletTransaction::default()
        };
        sent.set_direction(Direction::In);
        WalletUpdate {
            data: Some(Data::Transaction(sent)),
            ..WalletUpdate::default()
        }
    }

    #[test]
    fn a_sender_that_looks_like_a_recipient_is_suspicious() {
        let wallet = Address::with_last_byte(1);
        let paid = "0xabcd000000000000000000000000000000001234";
        let alike = "0xabcdffffffffffffffffffffffffffffffff1234";
        let other = "0xabcdffffffffffffffffffffffffffffffff1235";
        let mut recipients = Recipients::default();
        let suspicion = |recipients: &Recipients, from: &str, value: &str| {
            recipients.suspicion(&wallet, &incoming(from, value))
        };
        assert_eq!(suspicion(&recipients, alike, "5"), None);
        recipients.insert(wallet, paid.parse().unwrap());
        let marked = suspicion(&recipients, alike, "5").unwrap();
        assert!(marked.contains(alike) && marked.contains(paid), "{marked}");
        assert_eq!(suspicion(&recipients, other, "5"), None);
        assert_eq!(suspicion(&recipients, paid, "5"), None);
        let nothing = suspicion(&recipients, other, "0");
        assert_eq!(nothing.as_deref(), Some("it moves nothing"));
        let nft = WalletUpdate {
            data: Some(Data::Nft(NftTransfer {
                from: other.to_owned(),
                amount: "0".to_owned(),
                ..NftTransfer::default()
            })),
            ..WalletUpdate::default()
        };
        assert!(recipients.suspicion(&wallet, &nft).is_some());
    }

    #[test]
    fn recipients_are_bounded() {
        let mut recipients = Recipients::default();
        for wallet in 0..MAX_WALLETS + 5 {
            let wallet = Address::left_padding_from(&wallet.to_be_bytes());
            for recipient in 0..MAX_RECIPIENTS + 5 {
                recipients.insert(wallet, Address::left_padding_from(&recipient.to_be_bytes()));
            }
            assert_eq!(recipients.by_wallet[&wallet].len(), MAX_RECIPIENTS);
        }
        assert_eq!(recipients.by_wallet.len(), MAX_WALLETS);
        assert_eq!(recipients.order.len(), MAX_WALLETS);
    }
}
