//! What a client asks for.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256, keccak256};
use tidewire_proto::v1::EventFilter;
use tidewire_stream::{ChannelName, ChannelNameError};

use crate::abi::{AbiError, EventAbis};

/// How many contracts a filter can name.
const MAX_ADDRESSES: usize = 100;
/// How many topics a log can have.
const MAX_TOPICS: usize = 4;
/// How many signatures a filter can decode by.
const MAX_SIGNATURES: usize = 20;

/// Why a filter is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It would match every log of the chain.
    #[error("a filter names no address and no topic, expected at least one of either")]
    Everything,
    /// More of something than may be.
    #[error("a filter has {given} {what}, expected at most {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        given: usize,
        /// How many there may be.
        most: usize,
    },
    /// Not an address.
    #[error("address {0:?} is not 20 bytes of hex that begin with 0x")]
    Address(String),
    /// An address in mixed case that is not written as its checksum demands.
    #[error("address {given} has a wrong checksum, expected {expected} or lower case throughout")]
    Checksum {
        /// What was given.
        given: String,
        /// The same address, written right.
        expected: String,
    },
    /// Not a topic.
    #[error(
        "topic {place} is {given:?}, expected 32 bytes of hex that begin with 0x (an address has zeros on the left), or nothing for any"
    )]
    Topic {
        /// Which, from 0.
        place: usize,
        /// What was given.
        given: String,
    },
    /// A signature is refused.
    #[error(transparent)]
    Abi(#[from] AbiError),
}

/// Which logs, and how they are decoded. Equal filters are equal however they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The contracts; any if there are none.
    pub(super) addresses: BTreeSet<Address>,
    /// The topics by place; any where there is none.
    pub(super) topics: [Option<B256>; MAX_TOPICS],
    pub(super) abi: EventAbis,
}

impl Filter {
    /// Checks what a client asks for. An empty topic stands for any.
    ///
    /// # Errors
    /// Says what is wrong and what was expected.
    pub fn parse(filter: &EventFilter) -> Result<Self, FilterError> {
        bounded("addresses", filter.addresses.len(), MAX_ADDRESSES)?;
        bounded("topics", filter.topics.len(), MAX_TOPICS)?;
        bounded("signatures", filter.abi.len(), MAX_SIGNATURES)?;
        let addresses = filter.addresses.iter().map(|text| address(text));
        let addresses = addresses.collect::<Result<BTreeSet<_>, _>>()?;
        let mut topics = [None; MAX_TOPICS];
        for (place, (text, topic)) in filter.topics.iter().zip(&mut topics).enumerate() {
            *topic = parse_topic(place, text)?;
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

    /// The channel that its events come on, the same for equal filters.
    ///
    /// # Errors
    /// Never: what the name is made of is allowed in one.
    pub fn channel(&self, chain: u64) -> Result<ChannelName, ChannelNameError> {
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
        let short = alloy::hex::encode(&digest[..16]);
        ChannelName::parse(&format!("events:{chain}:{short}"))
    }
}

fn bounded(what: &'static str, given: usize, most: usize) -> Result<(), FilterError> {
    if given > most {
        return Err(FilterError::TooMany { what, given, most });
    }
    Ok(())
}

/// An address in one case throughout, or with the right checksum.
fn address(text: &str) -> Result<Address, FilterError> {
    let refused = || FilterError::Address(text.to_owned());
    let digits = text.strip_prefix("0x").ok_or_else(refused)?;
    let address: Address = text.parse().map_err(|_| refused())?;
    let has_upper = digits.bytes().any(|byte| byte.is_ascii_uppercase());
    let has_lower = digits.bytes().any(|byte| byte.is_ascii_lowercase());
    let expected = address.to_checksum(None);
    if has_upper && has_lower && expected != text {
        return Err(FilterError::Checksum {
            given: text.to_owned(),
            expected,
        });
    }
    Ok(address)
}

fn parse_topic(place: usize, text: &str) -> Result<Option<B256>, FilterError> {
    if text.is_empty() {
        return Ok(None);
    }
    let topic = text.starts_with("0x").then(|| text.parse().ok()).flatten();
    topic.map(Some).ok_or_else(|| FilterError::Topic {
        place,
        given: text.to_owned(),
    })
}
