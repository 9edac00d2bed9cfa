//! Event filter: contracts, topics, and the signatures to decode by.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256, keccak256};
use tidewire_proto::v1::EventFilter;
use tidewire_stream::ChannelName;

use crate::{
    AccountAddressError,
    abi::{AbiError, EventAbis},
    address::parse_address,
    channel::events_channel,
};

/// Contracts that a filter can name.
const MAX_ADDRESSES: usize = 100;
/// Topics that a log can have.
const MAX_TOPICS: usize = 4;
/// Signatures that a filter can decode by.
const MAX_SIGNATURES: usize = 20;

/// Why a filter is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The filter would match every log of the chain.
    #[error("a filter names no address and no topic, expected at least one of either")]
    Everything,
    /// More of something than is allowed.
    #[error("a filter has {given} {what}, expected at most {most}")]
    TooMany {
        /// The part of the filter that is too long.
        what: &'static str,
        /// The number given.
        given: usize,
        /// The number allowed.
        most: usize,
    },
    /// An address is refused.
    #[error(transparent)]
    Address(#[from] AccountAddressError),
    /// Not a topic.
    #[error(
        "topic {position} is {given:?}, expected 32 bytes of hex that begin with 0x (an address has zeros on the left), or nothing for any"
    )]
    Topic {
        /// The position of the topic, from 0.
        position: usize,
        /// The topic as it was given.
        given: String,
    },
    /// A signature is refused.
    #[error(transparent)]
    Abi(#[from] AbiError),
}

/// Which logs match, and how they are decoded. Filters with the same meaning are equal, however
/// a client wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The contracts; empty for any.
    pub(super) addresses: BTreeSet<Address>,
    /// The topics by position; `None` for any.
    pub(super) topics: [Option<B256>; MAX_TOPICS],
    pub(super) abi: EventAbis,
}

impl Filter {
    /// Reads the filter of a client. An empty topic stands for any.
    ///
    /// # Errors
    /// Names what is wrong and what was expected.
    pub fn parse(filter: &EventFilter) -> Result<Self, FilterError> {
        bounded("addresses", filter.addresses.len(), MAX_ADDRESSES)?;
        bounded("topics", filter.topics.len(), MAX_TOPICS)?;
        bounded("signatures", filter.abi.len(), MAX_SIGNATURES)?;
        let addresses = filter.addresses.iter().map(|text| parse_address(text));
        let addresses = addresses.collect::<Result<BTreeSet<_>, _>>()?;
        let mut topics = [None; MAX_TOPICS];
        for (position, (text, topic)) in filter.topics.iter().zip(&mut topics).enumerate() {
            *topic = parse_topic(position, text)?;
        }
        if addresses.is_empty() && topics.iter().all(Option::is_none) {
            return Err(FilterError::Everything);
        }
        Ok(Self {
            addresses,
            topics,
            abi: EventAbis::parse(&filter.abi)?,
        })
    }

    /// The channel of the events. Equal filters share it.
    #[must_use]
    pub fn channel(&self, chain: u64) -> ChannelName {
        let mut text = Vec::new();
        for address in &self.addresses {
            text.extend_from_slice(address.as_slice());
        }
        for topic in self.topics {
            text.push(u8::from(topic.is_some()));
            text.extend_from_slice(topic.unwrap_or_default().as_slice());
        }
        for event in self.abi.events() {
            text.extend_from_slice(event.signature().as_bytes());
            text.push(0);
        }
        let digest = keccak256(text);
        events_channel(chain, &digest[..16])
    }
}

fn bounded(what: &'static str, given: usize, most: usize) -> Result<(), FilterError> {
    if given > most {
        return Err(FilterError::TooMany { what, given, most });
    }
    Ok(())
}

fn parse_topic(position: usize, text: &str) -> Result<Option<B256>, FilterError> {
    if text.is_empty() {
        return Ok(None);
    }
    let topic = text.starts_with("0x").then(|| text.parse().ok()).flatten();
    topic.map(Some).ok_or_else(|| FilterError::Topic {
        position,
        given: text.to_owned(),
    })
}
