//! Contracts: the value of one contract, where a venue counts in contracts.

use rust_decimal::{Decimal, prelude::ToPrimitive as _};

use super::{Size, Volume, field::size};
use crate::Symbol;

/// The value of one contract, as an amount of base or of quote.
///
/// Worked example: one contract of Binance's `BTCUSD_PERP` is worth 100 USD. Four of them at
/// 61,804.80 are 400 USD, or 400 / 61,804.80 = 0.00647… BTC. One contract of OKX's `BTC-USDT-SWAP`
/// is 0.01 BTC, so four of them are 0.04 BTC at any price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contract {
    amount: Decimal,
    unit: ContractUnit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ContractUnit {
    Base,
    Quote,
}

/// The error of [`Contract::parse`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}, expected an amount of {base} or {quote}, for example \"100 {quote}\"")]
pub struct ContractError {
    text: String,
    base: String,
    quote: String,
}

impl Contract {
    /// Parses an amount of the symbol's base or quote, for example `100 USD`.
    ///
    /// # Errors
    /// The text is not such an amount.
    pub fn parse(text: &str, symbol: &Symbol) -> Result<Self, ContractError> {
        let read = || {
            let (amount, asset) = text.split_once(' ')?;
            let unit = match asset {
                asset if asset == symbol.base() => ContractUnit::Base,
                asset if asset == symbol.quote() => ContractUnit::Quote,
                _ => return None,
            };
            let amount = size("amount", amount).ok()?;
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
    /// The size in base, at this price. `None` if it counts contracts of unknown value.
    #[must_use]
    pub fn in_base(self, price: Decimal, contract: Option<&Contract>) -> Option<Decimal> {
        match self {
            Self::Base(size) => Some(size),
            Self::Quote(size) => size.checked_div(price),
            Self::Contracts(count) => {
                let contract = contract?;
                let worth = count.checked_mul(contract.amount)?;
                match contract.unit {
                    ContractUnit::Base => Some(worth),
                    ContractUnit::Quote => worth.checked_div(price),
                }
            }
        }
    }
}

impl Volume {
    /// The approximate volume in quote. The venue's figure in quote comes first, then contracts
    /// valued in quote, then the figure in base at the last price.
    #[must_use]
    pub fn quote_at(&self, last: Option<Decimal>, contract: Option<&Contract>) -> Option<f64> {
        let contracts = |unit: ContractUnit| {
            let contract = contract.filter(|contract| contract.unit == unit)?;
            Some(self.contracts? * contract.amount.to_f64()?)
        };
        let in_base = || self.base.or_else(|| contracts(ContractUnit::Base));
        let by_base = || Some(in_base()? * last?.to_f64()?);
        let quote = self.quote.or_else(|| contracts(ContractUnit::Quote));
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
    fn volumes_come_from_the_unit_nearest_to_quote() {
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
    fn a_text_without_an_amount_is_refused() {
        let symbol = Symbol::parse("BTC-USD").unwrap();
        for text in ["", "100", "100USD", "0 USD", "-1 USD", "100 EUR", "x BTC"] {
            let error = Contract::parse(text, &symbol).unwrap_err().to_string();
            assert!(error.contains("an amount of BTC or USD"), "{error}");
        }
    }
}
