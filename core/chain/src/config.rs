//! Chain configuration: `[[chain]]`, its endpoints and its finality.

use std::{collections::HashSet, fmt, path::PathBuf, time::Duration};

use humantime::format_duration;
use serde::{Deserialize, Deserializer, de::Error as _};

use alloy::primitives::Address as AccountAddress;

use crate::{
    Provenance,
    abi::{AbiError, ErrorAbi},
    address::parse_address,
    decode::CustomErrors,
    endpoint::{Address, AddressError, TlsError, tls_config},
    profiles::{Profile, coin},
};

/// Blocks that a key can count at most: four months of a chain with a block every second.
const MOST_BLOCKS: u64 = 10_000_000;

/// Longest symbol of a coin, in bytes.
const MAX_SYMBOL_BYTES: usize = 16;

/// The last type of transaction that Ethereum has.
const LAST_KNOWN_TYPE: u8 = 4;

/// Tokens that a chain can list.
const MAX_TOKENS: usize = 10_000;

/// One chain.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainConfig {
    /// The chain's id, as its nodes return it.
    pub id: u64,
    /// The name in logs.
    pub name: Option<String>,
    /// The nodes.
    #[serde(default, deserialize_with = "endpoints")]
    pub endpoints: Vec<EndpointConfig>,
    /// The usual time between two blocks. Nodes that do not push heads are polled about
    /// three times as often.
    #[serde(default, with = "humantime_serde")]
    pub block_time: Option<Duration>,
    /// The number of blocks that confirm a transaction.
    #[serde(default = "confirmations")]
    pub confirmations: u32,
    /// The blocks that no reorg removes.
    #[serde(default)]
    pub finality: Finality,
    /// The number of endpoints that must have a block before it counts.
    #[serde(default = "agreement")]
    pub agreement: usize,
    /// The time after which a call to a node is given up.
    #[serde(default = "call_timeout", with = "humantime_serde")]
    pub call_timeout: Duration,
    /// The most blocks that a reorg may remove. A deeper one restarts the chain with a gap. The
    /// default is the chain's profile, as for the keys of proofs.
    pub reorg_limit: Option<usize>,
    /// The most missed blocks that are read. More of them restart the chain with a gap.
    #[serde(default = "catch_up")]
    pub catch_up: u64,
    /// The time for which no node has a pending transaction before it counts as dropped.
    #[serde(default = "drop_after", with = "humantime_serde")]
    pub drop_after: Duration,
    /// Whether headers must match their hashes. Some chains hash headers otherwise; there the
    /// links between blocks are believed.
    pub header_hash: Option<bool>,
    /// Whether transactions must match their hashes and the header's root.
    pub transactions_root: Option<bool>,
    /// Whether receipts must match the header's root. On some chains they do not; there they
    /// must match the header's bloom alone.
    pub receipts_root: Option<bool>,
    /// Whether logs must match the header's bloom. Some chains have a bloom of other logs, or
    /// none.
    pub logs_bloom: Option<bool>,
    /// Whether blocks may hold transactions or receipts of the chain itself, which are outside
    /// the header's roots and bloom: the state-sync transactions of Polygon.
    pub system_transactions: Option<bool>,
    /// The types of transactions that the chain has besides Ethereum's. A block with one of them is
    /// not proved against its roots. The default is the chain's profile.
    pub transaction_types: Option<Vec<u8>>,
    /// Signatures of custom errors, such as `error NotYet(uint256 at)`. They explain failed
    /// transactions. Those of the token standards are built in.
    #[serde(default)]
    pub errors: Vec<String>,
    /// The symbol of the chain's coin, in notifications. The default is the chain's profile.
    pub coin: Option<String>,
    /// Token contracts whose payments are notified like those of the coin, with their symbol.
    #[serde(default, deserialize_with = "tokens")]
    pub tokens: Vec<AccountAddress>,
    /// Whether the chain is made up. No key of the configuration sets it.
    #[serde(skip)]
    pub provenance: Provenance,
}

/// Reads addresses of contracts. An error quotes those at fault.
fn tokens<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<AccountAddress>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let (mut addresses, mut faults) = (Vec::new(), Vec::new());
    for text in &texts {
        match parse_address(text) {
            Ok(address) => addresses.push(address),
            Err(error) => faults.push(error.to_string()),
        }
    }
    match faults.is_empty() {
        true => Ok(addresses),
        false => Err(D::Error::custom(faults.join("; "))),
    }
}

/// Reads endpoints. An error does not quote them, as a URL may hold an API key.
fn endpoints<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<EndpointConfig>, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    serde_json::from_value(value).map_err(|_| {
        D::Error::custom(
            "expected a list, in which each endpoint is wss://…, https://…, a path, or a table with `url` and `ca_file`",
        )
    })
}

fn confirmations() -> u32 {
    12
}

fn agreement() -> usize {
    1
}

fn call_timeout() -> Duration {
    Duration::from_secs(10)
}

fn catch_up() -> u64 {
    50_000
}

fn drop_after() -> Duration {
    Duration::from_secs(60)
}

/// The address of a node.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "expected wss://…, https://…, a path, or a table with `url` and `ca_file`"
)]
pub enum EndpointConfig {
    /// `wss://…`, `https://…` or the path of a socket.
    Address(String),
    /// An address, and the authority that signs its certificate.
    Signed(SignedEndpoint),
}

impl fmt::Debug for EndpointConfig {
    /// Writes the scheme and the host, as the rest of a URL may hold a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Address(text) => text,
            Self::Signed(signed) => &signed.url,
        };
        match text.parse::<Address>() {
            Ok(address) => write!(f, "{address}"),
            Err(_) => f.write_str("an invalid address"),
        }
    }
}

/// A node with a certificate of a private authority.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedEndpoint {
    /// `wss://…` or `https://…`.
    pub url: String,
    /// A PEM file of the only certificates that are trusted for this node.
    pub ca_file: PathBuf,
}

/// Which blocks are final: no reorg removes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"finalized\", \"safe\" or a number of blocks"
)]
pub enum Finality {
    /// The blocks that the node reports under a tag.
    Tag(FinalityTag),
    /// The blocks with at least this many blocks after them.
    Depth(u64),
    /// The default: as the chain's profile, else as `finalized`.
    #[default]
    #[serde(skip)]
    Unsaid,
}

/// A block tag of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalityTag {
    /// A reorg would cost validators their stake.
    Finalized,
    /// Most validators have attested the block.
    Safe,
}

impl Finality {
    /// The tag to read from the node, if finality is not a depth.
    #[must_use]
    pub fn tag(self) -> Option<&'static str> {
        match self {
            Self::Unsaid | Self::Tag(FinalityTag::Finalized) => Some("finalized"),
            Self::Tag(FinalityTag::Safe) => Some("safe"),
            Self::Depth(_) => None,
        }
    }
}

/// An error in `[[chain]]`: the chain, the key, what was wrong and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Two chains have the same id.
    #[error("chain {0}: `id` is there twice, expected different ids")]
    Twice(u64),
    /// A chain has no endpoint.
    #[error("chain {0}: `endpoints` is empty, expected one at least")]
    NoEndpoint(u64),
    /// Two endpoints of a chain have the same address: one node would count as two.
    #[error("chain {chain}: `endpoints`: {address} is there twice, expected different endpoints")]
    EndpointTwice {
        /// The chain's id.
        chain: u64,
        /// The address, without its path.
        address: Address,
    },
    /// An endpoint's address is malformed.
    #[error("chain {chain}: `endpoints`: {error}")]
    Endpoint {
        /// The chain's id.
        chain: u64,
        /// The error of the address.
        error: AddressError,
    },
    /// A number or a duration is out of bounds.
    #[error("chain {chain}: `{key}` is {found}, expected {expected}")]
    Bounds {
        /// The chain's id.
        chain: u64,
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// The expected value.
        expected: String,
    },
    /// The signature of a custom error is refused.
    #[error("chain {chain}: `errors`: {error}")]
    Abi {
        /// The chain's id.
        chain: u64,
        /// The error of the signature.
        error: AbiError,
    },
    /// TLS to the endpoints cannot be set up.
    #[error("chain {chain}: `endpoints`: {error}")]
    Tls {
        /// The chain's id.
        chain: u64,
        /// The error of the certificates.
        error: TlsError,
    },
}

impl ChainConfig {
    /// Checks each chain, and that ids differ.
    ///
    /// # Errors
    /// Names the chain, the key and what was expected.
    pub fn check_all(chains: &[Self]) -> Result<(), ConfigError> {
        Self::problems(chains)
            .into_iter()
            .next()
            .map_or(Ok(()), Err)
    }

    /// All that is wrong, and nothing that only follows from another fault.
    #[must_use]
    pub fn problems(chains: &[Self]) -> Vec<ConfigError> {
        let mut seen = HashSet::new();
        let mut problems = Vec::new();
        for chain in chains {
            if !seen.insert(chain.id) {
                problems.push(ConfigError::Twice(chain.id));
            }
            chain.check_endpoints(&mut problems);
            chain.check_numbers(&mut problems);
            chain.check_durations(&mut problems);
            chain.check_texts(&mut problems);
            chain.check_types(&mut problems);
        }
        problems
    }

    fn check_endpoints(&self, problems: &mut Vec<ConfigError>) {
        if self.endpoints.is_empty() {
            problems.push(ConfigError::NoEndpoint(self.id));
        }
        // With another authority, the same address may be answered by another node.
        let mut known = Vec::new();
        for endpoint in &self.endpoints {
            let checked = self.address(endpoint).and_then(|(address, ca_file)| {
                let tls = tls_config(ca_file.as_deref());
                tls.map_err(|error| self.tls_error(error))?;
                Ok((address, ca_file))
            });
            match checked {
                Ok(endpoint) if known.contains(&endpoint) => {
                    let (chain, address) = (self.id, endpoint.0);
                    problems.push(ConfigError::EndpointTwice { chain, address });
                }
                Ok(endpoint) => known.push(endpoint),
                Err(error) => problems.push(error),
            }
        }
    }

    fn check_numbers(&self, problems: &mut Vec<ConfigError>) {
        let finality = match self.finality() {
            Finality::Depth(depth) => depth,
            Finality::Tag(_) | Finality::Unsaid => 0,
        };
        // Without endpoints, that is the fault, and not how many of them have to agree.
        let most_agreement = match self.endpoints.len() as u64 {
            0 => u64::MAX,
            count => count,
        };
        let bounds = [
            ("id", self.id, 1, u64::MAX),
            ("confirmations", self.confirmations.into(), 1, 10_000),
            ("agreement", self.agreement as u64, 1, most_agreement),
            ("reorg_limit", self.reorg_limit() as u64, 1, 4_096),
            ("catch_up", self.catch_up, 1, MOST_BLOCKS),
            ("finality", finality, 0, MOST_BLOCKS),
        ];
        for (key, found, least, most) in bounds {
            if !(least..=most).contains(&found) {
                let expected = match most {
                    u64::MAX => format!("{least} at least"),
                    most => format!("{least} to {most}"),
                };
                problems.push(self.out_of_bounds(key, found.to_string(), expected));
            }
        }
    }

    fn check_durations(&self, problems: &mut Vec<ConfigError>) {
        let durations = [
            ("call_timeout", self.call_timeout, 100, 600_000),
            ("drop_after", self.drop_after, 1_000, 86_400_000),
            ("block_time", self.block_time(), 50, 3_600_000),
        ];
        for (key, found, min_ms, max_ms) in durations {
            let (min, max) = (Duration::from_millis(min_ms), Duration::from_millis(max_ms));
            if !(min..=max).contains(&found) {
                let expected = format!("{} to {}", format_duration(min), format_duration(max));
                let found = format_duration(found).to_string();
                problems.push(self.out_of_bounds(key, found, expected));
            }
        }
    }

    /// The types that cannot be hashed do not include those that can.
    fn check_types(&self, problems: &mut Vec<ConfigError>) {
        for one in self.transaction_types.iter().flatten() {
            if *one <= LAST_KNOWN_TYPE {
                let expected = "types that Ethereum does not have, 0x05 to 0xff".to_owned();
                let found = format!("{one:#04x}");
                problems.push(self.out_of_bounds("transaction_types", found, expected));
            }
        }
    }

    fn check_texts(&self, problems: &mut Vec<ConfigError>) {
        let coin = self.coin.as_deref().unwrap_or("ETH");
        let is_symbol = coin.chars().all(|one| one.is_ascii_graphic());
        if coin.is_empty() || coin.len() > MAX_SYMBOL_BYTES || !is_symbol {
            let expected = format!("a symbol of 1 to {MAX_SYMBOL_BYTES} letters, such as \"ETH\"");
            problems.push(self.out_of_bounds("coin", format!("{coin:?}"), expected));
        }
        if self.tokens.len() > MAX_TOKENS {
            let found = format!("a list of {}", self.tokens.len());
            let expected = format!("{MAX_TOKENS} tokens at most");
            problems.push(self.out_of_bounds("tokens", found, expected));
        }
        let signatures = self.errors.iter();
        let wrong = signatures.filter_map(|signature| ErrorAbi::parse(signature).err());
        problems.extend(wrong.map(|error| ConfigError::Abi {
            chain: self.id,
            error,
        }));
    }

    fn out_of_bounds(&self, key: &'static str, found: String, expected: String) -> ConfigError {
        ConfigError::Bounds {
            chain: self.id,
            key,
            found,
            expected,
        }
    }

    /// The error of the certificates that its endpoints trust.
    pub(crate) fn tls_error(&self, error: TlsError) -> ConfigError {
        ConfigError::Tls {
            chain: self.id,
            error,
        }
    }

    /// The custom errors of the chain, with those that are built in.
    #[must_use]
    pub fn custom_errors(&self) -> CustomErrors {
        let mut errors = CustomErrors::well_known();
        for signature in &self.errors {
            if let Err(error) = errors.add(signature) {
                // The configuration was checked at the start.
                tracing::warn!(chain = self.id, %error, "the signature of a custom error is skipped");
            }
        }
        errors
    }

    /// The addresses of its nodes, each with its file of trusted certificates, if any.
    ///
    /// # Errors
    /// An address is malformed.
    pub fn addresses(&self) -> Result<Vec<(Address, Option<PathBuf>)>, ConfigError> {
        let endpoints = self.endpoints.iter();
        endpoints.map(|endpoint| self.address(endpoint)).collect()
    }

    /// The address of one node, with its file of trusted certificates, if any.
    fn address(
        &self,
        endpoint: &EndpointConfig,
    ) -> Result<(Address, Option<PathBuf>), ConfigError> {
        let (text, ca_file) = match endpoint {
            EndpointConfig::Address(text) => (text, None),
            EndpointConfig::Signed(signed) => (&signed.url, Some(signed.ca_file.clone())),
        };
        let address = text.parse().map_err(|error| ConfigError::Endpoint {
            chain: self.id,
            error,
        })?;
        Ok((address, ca_file))
    }

    /// The name in logs: the configured one, or the id.
    #[must_use]
    pub fn label(&self) -> String {
        self.name
            .clone()
            .unwrap_or_else(|| format!("chain {}", self.id))
    }

    /// The symbol of the chain's coin: as configured, else as in the chain's profile, if it has one.
    #[must_use]
    pub fn coin(&self) -> Option<&str> {
        self.coin.as_deref().or_else(|| coin(self.id))
    }

    /// The usual time between two blocks: as configured, else as in the chain's profile.
    #[must_use]
    pub fn block_time(&self) -> Duration {
        let default = || Profile::of(self.id).block_time();
        self.block_time.unwrap_or_else(default)
    }

    /// The most blocks that a reorg may remove.
    #[must_use]
    pub fn reorg_limit(&self) -> usize {
        let default = || Profile::of(self.id).reorg_limit;
        self.reorg_limit.unwrap_or_else(default)
    }

    /// The blocks that no reorg removes.
    #[must_use]
    pub fn finality(&self) -> Finality {
        match self.finality {
            Finality::Unsaid => Profile::of(self.id).finality,
            configured => configured,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_an_error_nor_a_debug_text_quotes_an_endpoint() {
        for endpoints in [
            serde_json::json!("https://node.example/MARKED"),
            serde_json::json!(["https://node.example/MARKED", 5]),
            serde_json::json!([{"url": "https://node.example/MARKED"}]),
            serde_json::json!({"url": "MARKED"}),
        ] {
            let config = serde_json::json!({"id": 1, "endpoints": endpoints});
            let error = serde_json::from_value::<ChainConfig>(config).unwrap_err();
            assert!(error.to_string().contains("expected a list"), "{error}");
            assert!(!error.to_string().contains("MARKED"), "{error}");
        }
        let endpoints = [
            "https://u:MARKED@node.example/MARKED?k=MARKED",
            "ht!tp://MARKED",
        ];
        let config = serde_json::json!({"id": 1, "endpoints": endpoints});
        let config: ChainConfig = serde_json::from_value(config).unwrap();
        let text = format!("{config:?}");
        assert!(
            !text.contains("MARKED") && text.contains("https://node.example"),
            "{text}"
        );
        let error = ChainConfig::check_all(&[config]).unwrap_err();
        assert!(!error.to_string().contains("MARKED"), "{error}");
    }
}
