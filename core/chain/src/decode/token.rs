//! The events of tokens: transfers, approvals, wraps.
//!
//! `Transfer` and `Approval` have the same first topic in ERC-20 and ERC-721; the number
//! of topics tells them apart, because only ERC-721 indexes the third argument. A
//! contract that is older than the standard, or ignores it, may index less:
//!
//! | topics | data | what it is |
//! |---|---|---|
//! | 4 | none | ERC-721 |
//! | 3 | a word | ERC-20, or an NFT whose id is not indexed |
//! | 1 | three words | either, nothing indexed |
//!
//! A log cannot say which of the two the last rows are. They come out as ERC-20, with
//! `indexed` false where nothing is indexed, and whoever knows the contract corrects that.

use alloy::primitives::{Address, B256, U256};
use smallvec::SmallVec;

use super::{
    topic,
    word::{address_at, address_word, list_at, word_at},
};

/// A part of an NFT transfer: which, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NftAmount {
    /// Which.
    pub id: U256,
    /// How many; 1 in ERC-721.
    pub amount: U256,
}

/// What a token's log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenEvent {
    /// ERC-20 tokens moved.
    Erc20Transfer {
        /// From whom; zero when they are made.
        from: Address,
        /// To whom; zero when they are destroyed.
        to: Address,
        /// How many, or which if the contract is an NFT that does not index ids.
        value: U256,
        /// The log indexes something, as the standard demands.
        indexed: bool,
    },
    /// An ERC-721 token moved.
    Erc721Transfer {
        /// From whom.
        from: Address,
        /// To whom.
        to: Address,
        /// Which.
        id: U256,
    },
    /// ERC-1155 tokens moved, one kind or several.
    Erc1155Transfer {
        /// Who moved them.
        operator: Address,
        /// From whom.
        from: Address,
        /// To whom.
        to: Address,
        /// Which and how many; nothing in an empty batch.
        items: SmallVec<[NftAmount; 1]>,
    },
    /// The right to spend ERC-20 tokens.
    Erc20Approval {
        /// Whose tokens.
        owner: Address,
        /// Who may spend them.
        spender: Address,
        /// How many; 0 takes the right back.
        value: U256,
        /// As in [`TokenEvent::Erc20Transfer`].
        indexed: bool,
    },
    /// The right to move one ERC-721 token.
    Erc721Approval {
        /// Whose.
        owner: Address,
        /// Who may move it; zero takes the right back.
        spender: Address,
        /// Which.
        id: U256,
    },
    /// The right to move all NFTs of a contract.
    ApprovalForAll {
        /// Whose.
        owner: Address,
        /// Who may move them.
        operator: Address,
        /// Given, or taken back.
        approved: bool,
    },
    /// The right to spend ERC-20 tokens through Permit2.
    Permit2 {
        /// Whose tokens.
        owner: Address,
        /// Their contract.
        token: Address,
        /// Who may spend them.
        spender: Address,
        /// How many; 0 takes the right back.
        amount: U256,
        /// Until when, in seconds since the Unix epoch.
        expiration: u64,
        /// The number of the signed permit; none where it was given by a call.
        nonce: Option<u64>,
    },
    /// The chain's own coin became its token.
    Wrap {
        /// Whose.
        account: Address,
        /// How much.
        value: U256,
    },
    /// The token became the coin again.
    Unwrap {
        /// Whose.
        account: Address,
        /// How much.
        value: U256,
    },
}

/// A log that has the first topic of a token's event and breaks its ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a log of {event} has {topics} topics and {data} bytes of data that do not fit its ABI")]
pub struct MalformedLog {
    /// The event's name.
    pub event: &'static str,
    /// How many topics there are.
    pub topics: usize,
    /// How many bytes of data there are.
    pub data: usize,
}

/// What a log of `contract` says about tokens; none if nothing.
///
/// Bytes after the arguments are ignored, as contracts' own decoders do.
///
/// # Errors
/// The first topic is that of a token's event, and the rest does not fit.
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

/// How a right was given through Permit2.
#[derive(Clone, Copy)]
enum Permit {
    Call,
    Signed,
}

/// A log without its first topic.
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

    /// The arguments of what ERC-20 and ERC-721 share.
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

/// Which arguments of a `Transfer` or an `Approval` are topics.
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

/// A `uint48`.
fn time(word: U256) -> Option<u64> {
    u64::try_from(word).ok().filter(|time| *time < 1 << 48)
}

impl TokenEvent {
    /// Whether the right that is given has no bound in practice: all of a contract's
    /// NFTs, or one of the greatest numbers that wallets and tokens mean "all" by
    /// (those of 96, 128 and 160 bits, and from 2²⁵⁵ on).
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
            Self::Erc20Approval { value, .. } | Self::Permit2 { amount: value, .. } => {
                value.bit(255)
                    || [96, 128, 160].contains(&value.bit_len())
                        && value.trailing_ones() == value.bit_len()
            }
            Self::ApprovalForAll { approved, .. } => *approved,
            _ => false,
        }
    }
}
