//! What the operator says of a chain.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::{
    abi::{AbiError, ErrorAbi},
    decode::CustomErrors,
    endpoint::{Address, AddressError, trust},
};

/// One chain.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainConfig {
    /// The chain's id, as its nodes tell it.
    pub id: u64,
    /// What it is called in logs.
    pub name: Option<String>,
    /// Where its nodes are.
    #[serde(default)]
    pub endpoints: Vec<EndpointConfig>,
    /// How often a block comes, in milliseconds. Nodes that do not push are asked about
    /// three times as often.
    pub block_time_ms: Option<u64>,
    /// How many blocks confirm a transaction.
    #[serde(default = "confirmations")]
    pub confirmations: u32,
    /// What cannot be taken back.
    #[serde(default)]
    pub finality: Finality,
    /// How many endpoints must tell of a block before it counts.
    #[serde(default = "agreement")]
    pub agreement: usize,
    /// How long a call may take, in milliseconds.
    #[serde(default = "call_timeout_ms")]
    pub call_timeout_ms: u64,
    /// How many blocks a reorg may take back. Past it the chain begins anew.
    #[serde(default = "reorg_limit")]
    pub reorg_limit: usize,
    /// How many blocks that were missed are read. Past it the chain begins anew.
    #[serde(default = "catch_up")]
    pub catch_up: u64,
    /// How long no node must have a pending transaction before it counts as dropped, in
    /// milliseconds.
    #[serde(default = "drop_after_ms")]
    pub drop_after_ms: u64,
    /// Whether headers are held against their hash. On some chains they hash otherwise; then
    /// what links them is believed.
    #[serde(default = "is_held")]
    pub header_hash: bool,
    /// Whether transactions are held against their hashes and the header's root.
    #[serde(default = "is_held")]
    pub transactions_root: bool,
    /// Whether receipts are held against the header's root. On some chains they do not
    /// hash to it; then the header's bloom alone is what they are held against.
    #[serde(default = "is_held")]
    pub receipts_root: bool,
    /// Signatures of errors, such as `error NotYet(uint256 at)`, to say by why transactions
    /// failed. Those of the token standards are known.
    #[serde(default)]
    pub errors: Vec<String>,
}

fn confirmations() -> u32 {
    12
}

fn agreement() -> usize {
    1
}

fn call_timeout_ms() -> u64 {
    10_000
}

fn reorg_limit() -> usize {
    128
}

fn catch_up() -> u64 {
    50_000
}

fn drop_after_ms() -> u64 {
    60_000
}

fn is_held() -> bool {
    true
}

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "expected wss://…, https://…, a path, or a table with `url` and `ca_file`"
)]
pub enum EndpointConfig {
    /// `wss://…`, `https://…` or the path of a socket.
    Address(String),
    /// The same, and who signs its certificate.
    Signed(SignedEndpoint),
}

/// A node whose certificate a private authority signs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedEndpoint {
    /// `wss://…` or `https://…`.
    pub url: String,
    /// The file with the certificates, in PEM, of those who alone are trusted for it.
    pub ca_file: PathBuf,
}

/// What cannot be taken back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"finalized\", \"safe\" or a number of blocks"
)]
pub enum Finality {
    /// What the node says.
    Tag(FinalityTag),
    /// What has so many blocks on it.
    Depth(u64),
    /// As the node says, since nothing else was said.
    #[default]
    #[serde(skip)]
    Unsaid,
}

/// What a node may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalityTag {
    /// What would cost validators their stake to take back.
    Finalized,
    /// What most of them have attested.
    Safe,
}

impl Finality {
    /// The tag that the node is asked for, if it is asked.
    #[must_use]
    pub fn tag(self) -> Option<&'static str> {
        match self {
            Self::Unsaid | Self::Tag(FinalityTag::Finalized) => Some("finalized"),
            Self::Tag(FinalityTag::Safe) => Some("safe"),
            Self::Depth(_) => None,
        }
    }
}

/// What is wrong with the configuration of the chains.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Two chains have one id.
    #[error("[[chain]] id = {0} is there twice")]
    Twice(u64),
    /// A chain has no endpoint.
    #[error("chain {0}: `endpoints` is empty, expected one at least")]
    NoEndpoint(u64),
    /// An endpoint is none.
    #[error("chain {chain}: {error}")]
    Endpoint {
        /// The chain's id.
        chain: u64,
        /// What is wrong with it.
        error: AddressError,
    },
    /// A number is out of bounds.
    #[error("chain {chain}: `{key}` is {found}, expected {expected}")]
    Bounds {
        /// The chain's id.
        chain: u64,
        /// The key.
        key: &'static str,
        /// Its value.
        found: u64,
        /// What was expected.
        expected: String,
    },
    /// The signature of an error is refused.
    #[error("chain {chain}: `errors`: {error}")]
    Abi {
        /// The chain's id.
        chain: u64,
        /// What is wrong with it.
        error: AbiError,
    },
    /// Its channel has no name.
    #[error("the channel of a chain has no name: {0}")]
    Channel(String),
    /// A file of certificates cannot be read.
    #[error("the certificates of a chain's endpoint cannot be read from {}: {error}", .path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// TLS cannot be set up.
    #[error("connections to chains cannot be encrypted: {0}")]
    Tls(String),
}

impl ChainConfig {
    /// Checks all chains, alone and together.
    ///
    /// # Errors
    /// Names the chain, the key and what was expected.
    pub fn check_all(chains: &[Self]) -> Result<(), ConfigError> {
        let mut seen = HashSet::new();
        for chain in chains {
            if !seen.insert(chain.id) {
                return Err(ConfigError::Twice(chain.id));
            }
            chain.check()?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ConfigError> {
        let addresses = self.addresses()?;
        if addresses.is_empty() {
            return Err(ConfigError::NoEndpoint(self.id));
        }
        for (_, ca_file) in &addresses {
            trust(ca_file.as_deref())?;
        }
        let bounds = [
            ("id", self.id, 1, u64::MAX),
            ("confirmations", self.confirmations.into(), 1, 10_000),
            (
                "agreement",
                self.agreement as u64,
                1,
                addresses.len() as u64,
            ),
            ("call_timeout_ms", self.call_timeout_ms, 100, 600_000),
            ("reorg_limit", self.reorg_limit as u64, 1, 4_096),
            ("catch_up", self.catch_up, 1, u64::MAX),
            ("drop_after_ms", self.drop_after_ms, 1_000, 86_400_000),
            (
                "block_time_ms",
                self.block_time_ms.unwrap_or(1_000),
                50,
                3_600_000,
            ),
        ];
        for (key, found, least, most) in bounds {
            if !(least..=most).contains(&found) {
                let expected = if most == u64::MAX {
                    format!("{least} at least")
                } else {
                    format!("{least} to {most}")
                };
                return Err(ConfigError::Bounds {
                    chain: self.id,
                    key,
                    found,
                    expected,
                });
            }
        }
        for signature in &self.errors {
            ErrorAbi::parse(signature).map_err(|error| ConfigError::Abi {
                chain: self.id,
                error,
            })?;
        }
        Ok(())
    }

    /// The errors that are known on it.
    #[must_use]
    pub fn custom_errors(&self) -> CustomErrors {
        let mut errors = CustomErrors::well_known();
        for signature in &self.errors {
            if let Err(error) = errors.add(signature) {
                // The configuration was checked before.
                tracing::warn!(chain = self.id, %error, "the signature of an error is passed over");
            }
        }
        errors
    }

    /// Where its nodes are, and the file of whom alone each trusts, if there is one.
    ///
    /// # Errors
    /// One is no address.
    pub fn addresses(&self) -> Result<Vec<(Address, Option<PathBuf>)>, ConfigError> {
        let parsed = self.endpoints.iter().map(|endpoint| {
            let (text, ca_file) = match endpoint {
                EndpointConfig::Address(text) => (text, None),
                EndpointConfig::Signed(signed) => (&signed.url, Some(signed.ca_file.clone())),
            };
            let address = text.parse().map_err(|error| ConfigError::Endpoint {
                chain: self.id,
                error,
            });
            Ok((address?, ca_file))
        });
        parsed.collect()
    }

    /// What it is called.
    #[must_use]
    pub fn label(&self) -> String {
        self.name
            .clone()
            .unwrap_or_else(|| format!("chain {}", self.id))
    }

    /// How often a block comes.
    #[must_use]
    pub fn block_time(&self) -> Duration {
        let default = if self.id == 1 { 12_000 } else { 2_000 };
        Duration::from_millis(self.block_time_ms.unwrap_or(default))
    }
}
