//! Pyth Hermes: parser and URL of `https://hermes.pyth.network/v2/updates/price/stream`.
//!
//! Source: Pyth's "Hermes" documentation. A price is a whole number times a power of ten, with a
//! confidence and the second of its publication. There are no trades, no volume and no figures of
//! 24 hours. Feeds have ids instead of names: some are built in, others come from the source's
//! `ids`.

use std::borrow::Cow;

use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;
use smallvec::smallvec;

use super::{
    Events, FaultKind, Limits, ParseError, Stamp, Ticker, VenueEvent,
    event::excerpt,
    field::{decode, entries, epoch_us, is_price, missing, shifted},
    side_fields::{Documented, RawField, SideFields},
};
use crate::Symbol;

pub(super) const URL: &str = "https://hermes.pyth.network/v2/updates/price/stream";

/// The ids of a stream's feeds are in its URL, which must not grow too long.
pub(super) const LIMITS: Limits = Limits {
    symbols: Some(50),
    ..Limits::NONE
};

/// The built-in feeds, of prices in US dollars.
const KNOWN_FEEDS: [(&str, &str); 8] = [
    (
        "BTC",
        "e62df6c8b4a85fe1a67db44dc12de5db330f7ac66b72dc658afedf0f4a415b43",
    ),
    (
        "ETH",
        "ff61491a931112ddf1bd8147cd1b641375f79f5825126d665480874634fd0ace",
    ),
    (
        "SOL",
        "ef0d8b6fda2ceba41da15d4095d1da392a0d2f8ed0c6c7bc0f4cfac8c280b56d",
    ),
    (
        "XRP",
        "ec5d399846a9209f3fe5881d70aae9268c94339ff9817e8d18ff19fa05eea1c8",
    ),
    (
        "AVAX",
        "93da3352f9f1d105fdfe4971cfa80e9dd777bfc5d0f683ebb6e1294b92137bb7",
    ),
    (
        "LINK",
        "8ac0c70fff57e9aefdf5edf44b51d62c2d433653cbb2cf5cc06bb115af04d221",
    ),
    (
        "USDC",
        "eaa020c61cc479712813461ce153894a96a6c00b21ed0cfc2798d1f9a9e9c94a",
    ),
    (
        "USDT",
        "2b89b9dc8fdf9f34709a5b106b472f0f39bb6ca9ce04b0fd7f2e971688e2e53b",
    ),
];

/// The id of a symbol's feed, if it is built in.
pub(super) fn venue_name(symbol: &Symbol) -> Option<String> {
    let feed = KNOWN_FEEDS.iter().find(|(base, _)| *base == symbol.base());
    feed.filter(|_| symbol.quote() == "USD")
        .map(|(_, id)| (*id).to_owned())
}

/// The URL of the stream of these feeds.
pub(super) fn stream_url(url: &str, names: &[String]) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    let ids: Vec<_> = names.iter().map(|name| format!("ids[]={name}")).collect();
    format!("{url}{separator}{}&parsed=true", ids.join("&"))
}

/// A feed's id as frames write it: 64 hexadecimal digits.
pub(crate) fn feed_id(text: &str) -> Option<String> {
    let id = text.strip_prefix("0x").unwrap_or(text).to_ascii_lowercase();
    let is_id = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
    is_id.then_some(id)
}

#[derive(Deserialize)]
struct PythFrame<'a> {
    #[serde(borrow)]
    parsed: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct PythUpdate<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    price: PythPrice<'a>,
}

#[derive(Deserialize)]
struct PythPrice<'a> {
    #[serde(borrow)]
    price: Cow<'a, str>,
    #[serde(borrow)]
    conf: RawField<'a>,
    expo: i32,
    #[serde(borrow)]
    publish_time: RawField<'a>,
}

/// Parses the data of an event.
pub(super) fn parse(frame: &[u8]) -> Result<Events<'_>, ParseError> {
    let frame: PythFrame<'_> = decode(frame)?;
    match frame.parsed {
        Some(parsed) => entries(parsed, update),
        None => Ok(smallvec![VenueEvent::Ignored]),
    }
}

fn update(entry: &str) -> Result<VenueEvent<'_>, ParseError> {
    let update: PythUpdate<'_> = serde_json::from_str(entry)?;
    let price = scaled("price", &update.price.price, update.price.expo)?;
    if !is_price(price) {
        return Err(bad("price", &update.price.price));
    }
    let mut fields = SideFields::default();
    let confidence = fields.read("conf", Documented::Text, update.price.conf, |text| {
        scaled("conf", text, update.price.expo).ok()
    });
    let offer = |offer: Option<Decimal>| offer.filter(|offer| is_price(*offer));
    let published: Option<i64> = fields.integer(
        "publish_time",
        Documented::Number,
        update.price.publish_time,
    );
    let time_us = published.and_then(|second| epoch_us(second.checked_mul(1_000)?));
    Ok(VenueEvent::Ticker(Ticker {
        last: Some(price),
        last_id: published.and_then(|second| u64::try_from(second).ok()),
        // A confidence of ± c equals a bid and an ask at that distance.
        bid: offer(confidence.and_then(|confidence| price.checked_sub(confidence))),
        ask: offer(confidence.and_then(|confidence| price.checked_add(confidence))),
        stamp: time_us.map(Stamp::Sent),
        name: update.id,
        unexpected: fields.into_unexpected(),
        ..Ticker::default()
    }))
}

fn scaled(field: &str, text: &str, expo: i32) -> Result<Decimal, ParseError> {
    let digits: i128 = text.parse().map_err(|_| bad(field, text))?;
    let digits = Decimal::try_from_i128_with_scale(digits, 0).ok();
    let value = digits.and_then(|digits| shifted(digits, expo));
    value.ok_or_else(|| missing("a price that can be held"))
}

fn bad(field: &str, text: &str) -> ParseError {
    ParseError {
        kind: FaultKind::BadValue,
        detail: format!(
            "`{field}` is {:?}, expected a whole number above zero, in all from 1e-18 to 1e12",
            excerpt(text)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::venue::{
        VenueKind, Volume,
        testing::{self, fault, one},
    };

    const KIND: VenueKind = VenueKind::Pyth;

    const UPDATE: &str = r#"{"binary":{"encoding":"hex","data":["504e41"]},"parsed":[{"id":"e62df6c8b4a85fe1a67db44dc12de5db330f7ac66b72dc658afedf0f4a415b43","price":{"price":"6183801000001","conf":"3000000000","expo":-8,"publish_time":1723161257},"ema_price":{"price":"6","conf":"1","expo":-8,"publish_time":1723161257},"metadata":{"slot":1,"proof_available_time":1723161258,"prev_publish_time":1723161256}}]}"#;

    #[test]
    fn a_price_is_exact_and_its_confidence_becomes_offers() {
        let ticker = testing::ticker(KIND, UPDATE);
        assert_eq!(ticker.last.unwrap().to_string(), "61838.01000001");
        let offers = ticker.ask.unwrap() - ticker.bid.unwrap();
        assert_eq!(offers.normalize().to_string(), "60");
        assert_eq!(ticker.stamp, Some(Stamp::Sent(1_723_161_257_000_000)));
        assert_eq!(ticker.last_id, Some(1_723_161_257));
        assert_eq!(
            (ticker.change_percent, ticker.volume),
            (None, Volume::default())
        );
    }

    #[test]
    fn an_exponent_may_be_above_zero() {
        let round = UPDATE.replace("6183801000001", "61838");
        for (expo, price) in [(":2,", "6183800"), (":0,", "61838")] {
            let frame = round.replace(":-8,", expo);
            let ticker = testing::ticker(KIND, &frame);
            assert_eq!(
                ticker.last.unwrap().normalize().to_string(),
                price,
                "{expo}"
            );
        }
    }

    #[test]
    fn faults_have_their_kind() {
        for bad in ["\"0\"", "\"-5\"", "\"x\"", "\"1.5\""] {
            let frame = UPDATE.replace("\"6183801000001\"", bad);
            assert_eq!(fault(KIND, &frame), FaultKind::BadValue, "{bad}");
        }
        assert_eq!(
            fault(KIND, &UPDATE.replace("\"6183801000001\"", "5")),
            FaultKind::WrongType
        );
        for expo in [":20,", ":99,"] {
            let frame = UPDATE.replace(":-8,", expo);
            assert_eq!(fault(KIND, &frame), FaultKind::WrongType, "{expo}");
        }
        assert_eq!(
            fault(KIND, &UPDATE.replace(":-8,", ":-99,")),
            FaultKind::WrongType
        );
        assert_eq!(fault(KIND, &UPDATE[..99]), FaultKind::Malformed);
        assert_eq!(one(KIND, "{}"), Ok(VenueEvent::Ignored));
    }

    #[test]
    fn the_url_lists_the_feeds() {
        let names = ["aa".to_owned(), "bb".to_owned()];
        let url = stream_url("http://x/stream", &names);
        assert_eq!(url, "http://x/stream?ids[]=aa&ids[]=bb&parsed=true");
        assert_eq!(
            feed_id(&format!("0x{}", "AB".repeat(32))),
            Some("ab".repeat(32))
        );
        assert_eq!(feed_id("0x12"), None);
        for (base, id) in KNOWN_FEEDS {
            assert_eq!(feed_id(id).as_deref(), Some(id), "{base}");
        }
    }
}
