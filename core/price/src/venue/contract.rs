//! What one contract of a market is worth, where a venue counts in contracts.

use rust_decimal::{Decimal, prelude::ToPrimitive as _};

use super::{Size, Volume, field::positive};
use crate::Symbol;

/// What one contract is worth: so much of base, or so much of quote.
///
/// Worked example: one contract of Binance's `BTCUSD_PERP` is worth 100 USD. Four of them at
/// 61,804.80 are 400 USD, or 400 / 61,804.80 = 0.00647… BTC. One of OKX's `BTC-USDT-SWAP`
/// is 0.01 BTC: four of them are 0.04 BTC, whatever the price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contract {
    amount: Decimal,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Base,
    Quote,
}

/// Why a text does not say what a contract is worth.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}, expected an amount of {base} or {quote}, for example \"100 {quote}\"")]
pub struct ContractError {
    text: String,
    base: String,
    quote: String,
}

impl Contract {
    /// Reads `100 USD`: an amount of the symbol's base or quote.
    ///
    /// # Errors
    /// The text is none.
    pub fn parse(text: &str, symbol: &Symbol) -> Result<Self, ContractError> {
        let read = || {
            let (amount, asset) = text.split_once(' ')?;
            let unit = match asset {
                asset if asset == symbol.base() => Unit::Base,
                asset if asset == symbol.quote() => Unit::Quote,
                _ => return None,
            };
            let amount = positive("amount", amount).ok()?;
            Some(Self { amount, unit })
        };
        read().ok_or_else(|| ContractError {
            text: text.to_owned(),
            base: symbol.base().to_owned(),
            quote: symbol.quote().to_owned(),
        })
    }
}

impl Size {
    /// How much that is in base, at this price. None where it counts contracts, and nobody
    /// said what one is worth.
    #[must_use]
    pub fn in_base(self, price: Decimal, contract: Option<&Contract>) -> Option<Decimal> {
        match self {
            Self::Base(size) => Some(size),
            Self::Quote(size) => size.checked_div(price),
            Self::Contracts(count) => {
                let contract = contract?;
                let worth = count.checked_mul(contract.amount)?;
                match contract.unit {
                    Unit::Base => Some(worth),
                    Unit::Quote => worth.checked_div(price),
                }
            }
        }
    }
}

impl Volume {
    /// How much that is in quote, about: by what the venue says in quote, else by contracts
    /// of a known amount of quote, else by what it says in base at the last price.
    #[must_use]
    pub fn quote_at(&self, last: Option<Decimal>, contract: Option<&Contract>) -> Option<f64> {
        let contracts = |unit: Unit| {
            let contract = contract.filter(|contract| contract.unit == unit)?;
            Some(self.contracts? * contract.amount.to_f64()?)
        };
        let in_base = || self.base.or_else(|| contracts(Unit::Base));
        let by_base = || Some(in_base()? * last?.to_f64()?);
        let quote = self.quote.or_else(|| contracts(Unit::Quote));
        quote.or_else(by_base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract(text: &str) -> Contract {
        Contract::parse(text, &Symbol::parse("BTC-USD").unwrap()).unwrap()
    }

    fn number(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn the_worked_example_holds() {
        let price = number("61804.80");
        let four = Size::Contracts(Decimal::from(4));
        let base = four.in_base(price, Some(&contract("100 USD"))).unwrap();
        assert_eq!(base, Decimal::from(400) / price);
        let base = four.in_base(price, Some(&contract("0.01 BTC")));
        assert_eq!(base, Some(number("0.04")));
        assert_eq!(four.in_base(price, None), None);
        let quote = Size::Quote(Decimal::from(400)).in_base(price, None);
        assert_eq!(quote, Some(Decimal::from(400) / price));
    }

    #[test]
    fn volumes_come_from_what_is_nearest_to_quote() {
        let volume = Volume {
            quote: None,
            base: Some(2.0),
            contracts: Some(1_000.0),
        };
        let last = Some(Decimal::from(50_000));
        let of_quote = contract("100 USD");
        assert_eq!(volume.quote_at(last, Some(&of_quote)), Some(100_000.0));
        assert_eq!(volume.quote_at(last, None), Some(100_000.0));
        let of_base = contract("0.001 BTC");
        let contracts = Volume {
            base: None,
            ..volume
        };
        assert_eq!(contracts.quote_at(last, Some(&of_base)), Some(50_000.0));
        assert_eq!(contracts.quote_at(last, None), None);
        assert_eq!(contracts.quote_at(None, Some(&of_base)), None);
        let quote = Volume::in_quote(Some(7.0));
        assert_eq!(quote.quote_at(None, Some(&of_quote)), Some(7.0));
    }

    #[test]
    fn what_is_no_worth_is_refused() {
        let symbol = Symbol::parse("BTC-USD").unwrap();
        for text in ["", "100", "100USD", "0 USD", "-1 USD", "100 EUR", "x BTC"] {
            let error = Contract::parse(text, &symbol).unwrap_err().to_string();
            assert!(error.contains("an amount of BTC or USD"), "{error}");
        }
    }
}
