//! Source configuration: `[[prices.source]]`, a venue that prices come from.

use std::collections::BTreeMap;
use tidewire_stream::redacted_url;

use serde::Deserialize;

use super::{ConfigError, parse_symbol};
use crate::{
    Symbol, VenueKind,
    venue::{Contract, VenueTransport, pyth::feed_id},
};

/// `[[prices.source]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// The venue's protocol.
    pub kind: VenueKind,
    /// The name of the source. The default is the kind.
    pub name: Option<String>,
    /// The address. The default is the venue's own.
    pub url: Option<String>,
    /// Which clock stamps its prices.
    #[serde(default)]
    pub clock: SourceClock,
    /// The venue's names of symbols that are not built in: feeds of Pyth, and contracts such
    /// as `BTCUSD_PERP`.
    #[serde(default)]
    pub ids: BTreeMap<String, String>,
    /// The value of one contract, by symbol, where the venue counts contracts: `100 USD`.
    #[serde(default)]
    pub contracts: BTreeMap<String, String>,
}

/// Which clock stamps a source's prices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceClock {
    /// The venue's clock, where its messages carry a time.
    #[default]
    Venue,
    /// This server's clock, at the arrival of a message.
    Arrival,
}

/// A validated source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    /// The name.
    pub name: String,
    /// The venue's protocol.
    pub kind: VenueKind,
    /// The address.
    pub url: String,
    /// Which clock stamps its prices.
    pub clock: SourceClock,
    /// The configured names of symbols at the venue.
    pub ids: BTreeMap<String, String>,
    /// The configured values of one contract, by symbol.
    pub contracts: BTreeMap<String, Contract>,
}

impl SourceSpec {
    /// The venue's name of a symbol, if the venue trades it.
    #[must_use]
    pub fn venue_name(&self, symbol: &Symbol) -> Option<String> {
        let given = self.ids.get(symbol.as_str()).cloned();
        given.or_else(|| self.kind.venue_name(symbol))
    }
}

impl SourceConfig {
    /// A source of this kind, with the defaults.
    #[must_use]
    pub fn new(kind: VenueKind) -> Self {
        Self {
            kind,
            name: None,
            url: None,
            clock: SourceClock::default(),
            ids: BTreeMap::new(),
            contracts: BTreeMap::new(),
        }
    }

    /// The name: the configured one, or that of the kind.
    pub(crate) fn known_name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.kind.name())
    }

    /// The validated source.
    ///
    /// # Errors
    /// Names the source and what was expected.
    pub fn spec(&self) -> Result<SourceSpec, ConfigError> {
        let name = self.known_name().to_owned();
        let is_name = !name.is_empty()
            && name.len() <= 64
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if !is_name {
            return Err(ConfigError::SourceName(name));
        }
        let url = self.url.as_deref().unwrap_or(self.kind.url()).to_owned();
        let (schemes, expected) = match self.kind.transport() {
            VenueTransport::WebSocket => (["ws", "wss"], "ws://… or wss://…"),
            VenueTransport::ServerSentEvents => (["http", "https"], "http://… or https://…"),
        };
        if !is_url(&url, schemes) {
            // Without a scheme there is no place for a password or a key to hide but a path.
            let shown = match url.contains("://") {
                true => redacted_url(&url),
                false => url
                    .split(['/', '?', '#', '@'])
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            };
            return Err(ConfigError::SourceUrl(name, shown, expected));
        }
        let mut ids = BTreeMap::new();
        for (symbol, id) in &self.ids {
            parse_symbol(&format!("prices.source {name:?}: ids"), symbol)?;
            let (id_of, expected) = match self.kind {
                VenueKind::Pyth => (feed_id(id), "the 64 hexadecimal digits of a feed of Pyth"),
                _ => (
                    is_venue_name(id).then(|| id.clone()),
                    "the venue's name as its frames spell it, for example BTCUSD_PERP",
                ),
            };
            let Some(id_of) = id_of else {
                let (symbol, id) = (symbol.clone(), id.clone());
                return Err(ConfigError::SourceId(name, symbol, id, expected));
            };
            ids.insert(symbol.clone(), id_of);
        }
        let mut contracts = BTreeMap::new();
        for (symbol, worth) in &self.contracts {
            let key = format!("prices.source {name:?}: contracts");
            match Contract::parse(worth, &parse_symbol(&key, symbol)?) {
                Ok(contract) => drop(contracts.insert(symbol.clone(), contract)),
                Err(error) => return Err(ConfigError::Contract(name, symbol.clone(), error)),
            }
        }
        Ok(SourceSpec {
            name,
            kind: self.kind,
            url,
            clock: self.clock,
            ids,
            contracts,
        })
    }
}

/// Whether a text can be a venue's name of a market, in letters of any script. It becomes part of
/// requests, so other characters are refused.
fn is_venue_name(text: &str) -> bool {
    let is_good = |c: char| c.is_alphanumeric() || "/_-.:".contains(c);
    (1..=64).contains(&text.chars().count()) && text.chars().all(is_good)
}

pub(super) fn is_url(url: &str, schemes: [&str; 2]) -> bool {
    let is_good = |uri: http::Uri| {
        uri.scheme_str()
            .is_some_and(|scheme| schemes.contains(&scheme))
            && uri.host().is_some_and(|host| !host.is_empty())
    };
    url.parse().is_ok_and(is_good)
}
