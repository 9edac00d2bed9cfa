//! Token events: decodes transfers, approvals and wraps from logs.
//!
//! `Transfer` and `Approval` have the same first topic in ERC-20 and ERC-721. The number of
//! topics distinguishes them, because only ERC-721 indexes the third argument. Contracts that
//! ignore the standard may index less:
//!
//! | topics | data | token |
//! |---|---|---|
//! | 4 | none | ERC-721 |
//! | 3 | a word | ERC-20, or an NFT whose id is not indexed |
//! | 1 | three words | either, nothing indexed |
//!
//! A log does not show which token the last two rows are. They are decoded as ERC-20, with
//! `indexed = false` in the last row. A caller that knows the contract can correct that.

use alloy::primitives::{Address, B256, U256};
use smallvec::SmallVec;

use super::topic;
use crate::abi::{address_at, address_word, list_at, word_at};

/// The amount of one NFT in a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NftAmount {
    /// The token id.
    pub id: U256,
    /// The number of tokens; 1 in ERC-721.
    pub amount: U256,
}

/// The event in a token's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenEvent {
    /// ERC-20 tokens moved.
    Erc20Transfer {
        /// The sender; zero for a mint.
        from: Address,
        /// The recipient; zero for a burn.
        to: Address,
        /// The amount, or the id if the contract is an NFT that does not index ids.
        value: U256,
        /// Whether any argument is indexed, as the standard requires.
        indexed: bool,
    },
    /// An ERC-721 token moved.
    Erc721Transfer {
        /// The sender.
        from: Address,
        /// The recipient.
        to: Address,
        /// The token id.
        id: U256,
    },
    /// ERC-1155 tokens of one or several ids moved.
    Erc1155Transfer {
        /// The account that moved them.
        operator: Address,
        /// The sender.
        from: Address,
        /// The recipient.
        to: Address,
        /// The ids and amounts. Empty in an empty batch.
        items: SmallVec<[NftAmount; 1]>,
    },
    /// An allowance to spend ERC-20 tokens.
    Erc20Approval {
        /// The owner of the tokens.
        owner: Address,
        /// The account that may spend them.
        spender: Address,
        /// The allowance; 0 revokes it.
        value: U256,
        /// As in [`TokenEvent::Erc20Transfer`].
        indexed: bool,
    },
    /// An approval to move one ERC-721 token.
    Erc721Approval {
        /// The owner of the tokens.
        owner: Address,
        /// The account that may move it; zero revokes the approval.
        spender: Address,
        /// The token id.
        id: U256,
    },
    /// An approval to move all of an owner's NFTs of a contract.
    ApprovalForAll {
        /// The owner of the tokens.
        owner: Address,
        /// The account that may move them.
        operator: Address,
        /// True to grant, false to revoke.
        approved: bool,
    },
    /// An allowance to spend ERC-20 tokens through Permit2.
    Permit2 {
        /// The owner of the tokens.
        owner: Address,
        /// The token's contract.
        token: Address,
        /// The account that may spend them.
        spender: Address,
        /// The allowance; 0 revokes it.
        amount: U256,
        /// The end of the allowance, in seconds since the Unix epoch.
        expiration: u64,
        /// The nonce of the signed permit. None if a call granted the allowance.
        nonce: Option<u64>,
    },
    /// Native coins became wrapped tokens.
    Wrap {
        /// The owner of the tokens.
        account: Address,
        /// The amount, in the smallest unit.
        value: U256,
    },
    /// Wrapped tokens became native coins.
    Unwrap {
        /// The owner of the tokens.
        account: Address,
        /// The amount, in the smallest unit.
        value: U256,
    },
}

/// A log with the first topic of a token event and other contents than its ABI demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a log of {event} has {topics} topics and {data} bytes of data that do not fit its ABI")]
pub struct MalformedLog {
    /// The event's name.
    pub event: &'static str,
    /// The number of topics.
    pub topics: usize,
    /// The length of the data, in bytes.
    pub data: usize,
}

/// Decodes a log of `contract`. None if it is not a token event.
///
/// Bytes after the arguments are ignored, as in Solidity's decoder.
///
/// # Errors
/// The first topic is that of a token event, and the rest does not fit.
pub fn decode(
    contract: Address,
    topics: &[B256],
    data: &[u8],
) -> Result<Option<TokenEvent>, MalformedLog> {
    let Some((event, arguments)) = topics.split_first() else {
        return Ok(None);
    };
    let arguments = Arguments { arguments, data };
    let (name, decoded) = match *event {
        topic::TRANSFER => ("Transfer", arguments.transfer()),
        topic::APPROVAL => ("Approval", arguments.approval()),
        topic::APPROVAL_FOR_ALL => ("ApprovalForAll", arguments.approval_for_all()),
        topic::TRANSFER_SINGLE => ("TransferSingle", arguments.transfer_single()),
        topic::TRANSFER_BATCH => ("TransferBatch", arguments.transfer_batch()),
        topic::DEPOSIT => ("Deposit", arguments.wrap()),
        topic::WITHDRAWAL => ("Withdrawal", arguments.unwrap()),
        _ if !topic::PERMIT2.contains(&contract) => return Ok(None),
        topic::PERMIT2_APPROVAL => ("Approval of Permit2", arguments.permit2(Permit::Call)),
        topic::PERMIT2_PERMIT => ("Permit of Permit2", arguments.permit2(Permit::Signed)),
        topic::PERMIT2_LOCKDOWN => ("Lockdown of Permit2", arguments.lockdown()),
        _ => return Ok(None),
    };
    decoded.map(Some).ok_or(MalformedLog {
        event: name,
        topics: topics.len(),
        data: data.len(),
    })
}

/// The way in which an allowance was granted through Permit2.
#[derive(Clone, Copy)]
enum Permit {
    Call,
    Signed,
}

/// A log without the first topic.
struct Arguments<'a> {
    arguments: &'a [B256],
    data: &'a [u8],
}

impl Arguments<'_> {
    fn transfer(&self) -> Option<TokenEvent> {
        let (from, to, number, indexed) = self.pair_and_number()?;
        Some(match indexed {
            Indexed::All => TokenEvent::Erc721Transfer {
                from,
                to,
                id: number,
            },
            Indexed::Pair | Indexed::Nothing => TokenEvent::Erc20Transfer {
                from,
                to,
                value: number,
                indexed: indexed == Indexed::Pair,
            },
        })
    }

    fn approval(&self) -> Option<TokenEvent> {
        let (owner, spender, number, indexed) = self.pair_and_number()?;
        Some(match indexed {
            Indexed::All => TokenEvent::Erc721Approval {
                owner,
                spender,
                id: number,
            },
            Indexed::Pair | Indexed::Nothing => TokenEvent::Erc20Approval {
                owner,
                spender,
                value: number,
                indexed: indexed == Indexed::Pair,
            },
        })
    }

    /// The arguments of an event that ERC-20 and ERC-721 share.
    fn pair_and_number(&self) -> Option<(Address, Address, U256, Indexed)> {
        match self.arguments {
            [from, to, id] => {
                let pair = (address_word(from)?, address_word(to)?);
                Some((pair.0, pair.1, (*id).into(), Indexed::All))
            }
            [from, to] => {
                let pair = (address_word(from)?, address_word(to)?);
                Some((pair.0, pair.1, word_at(self.data, 0)?, Indexed::Pair))
            }
            [] => Some((
                address_at(self.data, 0)?,
                address_at(self.data, 1)?,
                word_at(self.data, 2)?,
                Indexed::Nothing,
            )),
            _ => None,
        }
    }

    fn approval_for_all(&self) -> Option<TokenEvent> {
        let [owner, operator] = self.arguments else {
            return None;
        };
        Some(TokenEvent::ApprovalForAll {
            owner: address_word(owner)?,
            operator: address_word(operator)?,
            approved: flag(word_at(self.data, 0)?)?,
        })
    }

    fn transfer_single(&self) -> Option<TokenEvent> {
        let item = NftAmount {
            id: word_at(self.data, 0)?,
            amount: word_at(self.data, 1)?,
        };
        self.erc1155(SmallVec::from_buf([item]))
    }

    fn transfer_batch(&self) -> Option<TokenEvent> {
        let ids = list_at(self.data, 0)?;
        let amounts = list_at(self.data, 1)?;
        if ids.len() != amounts.len() {
            return None;
        }
        let items = ids.into_iter().zip(amounts);
        self.erc1155(items.map(|(id, amount)| NftAmount { id, amount }).collect())
    }

    fn erc1155(&self, items: SmallVec<[NftAmount; 1]>) -> Option<TokenEvent> {
        let [operator, from, to] = self.arguments else {
            return None;
        };
        Some(TokenEvent::Erc1155Transfer {
            operator: address_word(operator)?,
            from: address_word(from)?,
            to: address_word(to)?,
            items,
        })
    }

    fn wrap(&self) -> Option<TokenEvent> {
        let (account, value) = self.account_and_value()?;
        Some(TokenEvent::Wrap { account, value })
    }

    fn unwrap(&self) -> Option<TokenEvent> {
        let (account, value) = self.account_and_value()?;
        Some(TokenEvent::Unwrap { account, value })
    }

    fn account_and_value(&self) -> Option<(Address, U256)> {
        let [account] = self.arguments else {
            return None;
        };
        Some((address_word(account)?, word_at(self.data, 0)?))
    }

    fn permit2(&self, permit: Permit) -> Option<TokenEvent> {
        let [owner, token, spender] = self.arguments else {
            return None;
        };
        let amount = word_at(self.data, 0).filter(|amount| amount.bit_len() <= 160)?;
        let nonce = match permit {
            Permit::Call => None,
            Permit::Signed => Some(time(word_at(self.data, 2)?)?),
        };
        Some(TokenEvent::Permit2 {
            owner: address_word(owner)?,
            token: address_word(token)?,
            spender: address_word(spender)?,
            amount,
            expiration: time(word_at(self.data, 1)?)?,
            nonce,
        })
    }

    fn lockdown(&self) -> Option<TokenEvent> {
        let [owner] = self.arguments else {
            return None;
        };
        Some(TokenEvent::Permit2 {
            owner: address_word(owner)?,
            token: address_at(self.data, 0)?,
            spender: address_at(self.data, 1)?,
            amount: U256::ZERO,
            expiration: 0,
            nonce: None,
        })
    }
}

/// The indexed arguments of a `Transfer` or an `Approval`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Indexed {
    All,
    Pair,
    Nothing,
}

fn flag(word: U256) -> Option<bool> {
    match u8::try_from(word).ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// Whether a number is the greatest one of 96, 128 or 160 bits.
fn is_greatest(value: &U256) -> bool {
    [96, 128, 160].contains(&value.bit_len()) && value.trailing_ones() == value.bit_len()
}

/// A `uint48`.
fn time(word: U256) -> Option<u64> {
    u64::try_from(word).ok().filter(|time| *time < 1 << 48)
}

impl TokenEvent {
    /// The token and the amount of an allowance of amounts; `contract` logged the event.
    #[must_use]
    pub fn allowance(&self, contract: Address) -> Option<(Address, U256)> {
        match self {
            Self::Erc20Approval { value, .. } => Some((contract, *value)),
            Self::Permit2 { token, amount, .. } => Some((*token, *amount)),
            _ => None,
        }
    }

    /// Whether an allowance is unlimited in practice, by its number alone. One of more than the
    /// token's supply is unlimited too.
    ///
    /// That holds for all NFTs of a contract, and for the numbers by which wallets mean "all":
    /// the greatest ones of 96, 128 and 160 bits, and all from 2²⁵⁵ on; through Permit2, whose
    /// amounts have 160 bits, from 2¹⁵⁹ on.
    ///
    /// ```
    /// # use alloy::primitives::{Address, U256};
    /// # use tidewire_chain::decode::TokenEvent;
    /// let approval = |value| TokenEvent::Erc20Approval {
    ///     owner: Address::ZERO, spender: Address::ZERO, value, indexed: true,
    /// };
    /// assert!(approval(U256::MAX).is_unlimited());
    /// assert!(!approval(U256::from(10).pow(U256::from(27))).is_unlimited());
    /// ```
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        match self {
            Self::Erc20Approval { value, .. } => value.bit(255) || is_greatest(value),
            Self::Permit2 { amount, .. } => amount.bit(159) || is_greatest(amount),
            Self::ApprovalForAll { approved, .. } => *approved,
            _ => false,
        }
    }
}
