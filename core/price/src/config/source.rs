//! Source configuration: `[[prices.source]]`, a venue that prices come from.

use std::collections::BTreeMap;

use serde::Deserialize;
use tidewire_stream::{quotable_url, redact_url};

use super::{ConfigError, parse_symbol, valid};
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

    /// The configured URL, whose parts may hold a key. None for the venue's own, which is public.
    pub(crate) fn secret_url(&self) -> Option<&str> {
        (self.url != self.kind.url()).then_some(self.url.as_str())
    }

    /// A text of the venue without the parts of the configured URL, for logs and RPCs.
    pub(crate) fn redact(&self, text: &str) -> String {
        match self.secret_url() {
            Some(url) => redact_url(text, url),
            None => text.to_owned(),
        }
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
        let mut problems = Vec::new();
        let spec = self.read(&mut problems);
        problems.into_iter().next().map_or(Ok(spec), Err)
    }

    /// The source without the values at fault, and all faults.
    pub(super) fn read(&self, problems: &mut Vec<ConfigError>) -> SourceSpec {
        let name = self.known_name().to_owned();
        let is_name = !name.is_empty()
            && name.len() <= 64
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if !is_name {
            problems.push(ConfigError::SourceName(name.clone()));
        }
        let url = self.url.as_deref().unwrap_or(self.kind.url()).to_owned();
        problems.extend(self.check_url(&url).err());
        let ids = self.ids.iter();
        let ids = ids.filter_map(|(symbol, id)| {
            let id = valid(self.read_id(symbol, id), problems)?;
            Some((symbol.clone(), id))
        });
        let ids = ids.collect();
        let contracts = self.contracts.iter();
        let contracts = contracts.filter_map(|(symbol, worth)| {
            let contract = valid(self.read_contract(symbol, worth), problems)?;
            Some((symbol.clone(), contract))
        });
        SourceSpec {
            kind: self.kind,
            clock: self.clock,
            ids,
            contracts: contracts.collect(),
            name,
            url,
        }
    }

    fn check_url(&self, url: &str) -> Result<(), ConfigError> {
        let (schemes, expected) = match self.kind.transport() {
            VenueTransport::WebSocket => (["ws", "wss"], "ws://… or wss://…"),
            VenueTransport::ServerSentEvents => (["http", "https"], "http://… or https://…"),
        };
        if is_url(url, schemes) {
            return Ok(());
        }
        let name = self.known_name().to_owned();
        Err(ConfigError::SourceUrl(name, quotable_url(url), expected))
    }

    fn read_id(&self, symbol: &str, id: &str) -> Result<String, ConfigError> {
        let name = self.known_name();
        parse_symbol(&format!("prices.source {name:?}: ids"), symbol)?;
        let (id_of, expected) = match self.kind {
            VenueKind::Pyth => (feed_id(id), "the 64 hexadecimal digits of a feed of Pyth"),
            _ => (
                is_venue_name(id).then(|| id.to_owned()),
                "the venue's name as its frames spell it, for example BTCUSD_PERP",
            ),
        };
        id_of.ok_or_else(|| {
            ConfigError::SourceId(name.to_owned(), symbol.to_owned(), id.to_owned(), expected)
        })
    }

    fn read_contract(&self, symbol: &str, worth: &str) -> Result<Contract, ConfigError> {
        let name = self.known_name();
        let key = format!("prices.source {name:?}: contracts");
        let contract = Contract::parse(worth, &parse_symbol(&key, symbol)?);
        contract.map_err(|error| ConfigError::Contract(name.to_owned(), symbol.to_owned(), error))
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
