//! Price guard: holds back a price far from the last one until a second trade confirms it.
//!
//! A price above five times the last one, or below a fifth of it, is usually a venue's test or
//! error. It is a suspect, and not used. The next trade near it confirms it.
//!
//! A venue tells one print several times: as a trade, and in tickers before and after it. These
//! are one witness, whatever their order. So a ticker never confirms a price while trades arrive,
//! and a trade confirms a ticker's price only if its number differs from the ticker's. Where only
//! tickers arrive, another trade number confirms the first; without numbers, another price near it.
//!
//! Worked example: the last price is 100. Trade 6 at 600 is a suspect. A ticker at 600 does not
//! confirm it, with or without the number 6. Trade 7 at 601 does, and is the price. Had trade 7
//! been at 101, then 600 would be forgotten.

use rust_decimal::Decimal;

use crate::venue::TradeId;

/// A price this many times the last one, or less than that fraction of it, is a suspect.
const ABSURD: Decimal = Decimal::from_parts(5, 0, 0, false, 0);

/// The kind of report that carries a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Witness {
    /// A trade.
    Trade(TradeId),
    /// A ticker while trades arrive too, with the number of its last trade.
    Ticker(Option<u64>),
    /// A ticker where no trades arrive, with the number of its last trade.
    LoneTicker(Option<u64>),
}

/// Whether a price can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Plausible,
    /// It is too far from the last one, and nothing confirms it.
    Absurd,
}

/// An absurd price that waits for confirmation.
#[derive(Debug, Clone, Copy)]
struct Suspect {
    price: Decimal,
    witness: Witness,
}

/// The guard of one quote's price.
#[derive(Debug, Default)]
pub(super) struct PriceGuard {
    suspect: Option<Suspect>,
}

impl PriceGuard {
    /// Judges a price by the last one.
    pub(super) fn judge(
        &mut self,
        price: Decimal,
        last: Option<Decimal>,
        witness: Witness,
    ) -> Verdict {
        if last.is_none_or(|last| !is_far(last, price)) {
            // A ticker may still have the price from before a suspected trade.
            if !matches!(witness, Witness::Ticker(_)) {
                self.suspect = None;
            }
            return Verdict::Plausible;
        }
        let near = self.suspect.filter(|suspect| !is_far(suspect.price, price));
        if near.is_some_and(|suspect| witness.confirms(&suspect, price)) {
            self.suspect = None;
            return Verdict::Plausible;
        }
        // A suspected trade waits for the next trade, whatever tickers say meanwhile.
        let is_trade = |suspect: &Suspect| matches!(suspect.witness, Witness::Trade(_));
        if !(self.suspect.as_ref().is_some_and(is_trade) && matches!(witness, Witness::Ticker(_))) {
            self.suspect = Some(Suspect { price, witness });
        }
        Verdict::Absurd
    }
}

impl Witness {
    /// Whether this is surely another trade than the suspect.
    fn confirms(self, suspect: &Suspect, price: Decimal) -> bool {
        match (suspect.witness, self) {
            (_, Self::Ticker(_)) => false,
            (Self::Trade(told), Self::Trade(own)) => told != own,
            (Self::Ticker(told) | Self::LoneTicker(told), Self::Trade(own)) => match own {
                TradeId::Single(own) => told.is_some_and(|told| told != own),
                TradeId::Range { first, last } => {
                    told.is_some_and(|told| !(first..=last).contains(&told))
                }
                // A ticker's number is not comparable with these.
                TradeId::Aggregate(_) | TradeId::Sparse(_) | TradeId::Hashed(_) => false,
            },
            (Self::Ticker(told) | Self::LoneTicker(told), Self::LoneTicker(own)) => {
                match told.zip(own) {
                    Some((told, own)) => told != own,
                    None => told == own && suspect.price != price,
                }
            }
            (Self::Trade(TradeId::Single(told)), Self::LoneTicker(own)) => {
                own.is_some_and(|own| told != own)
            }
            (Self::Trade(_), Self::LoneTicker(_)) => false,
        }
    }
}

/// Whether one price is more than [`ABSURD`] times the other.
fn is_far(a: Decimal, b: Decimal) -> bool {
    let most = |price: Decimal| price.checked_mul(ABSURD).unwrap_or(Decimal::MAX);
    a > most(b) || b > most(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn single(id: u64) -> Witness {
        Witness::Trade(TradeId::Single(id))
    }

    /// The prices that are used, of those told after a price of 100.
    fn used(told: &[(i64, Witness)]) -> Vec<i64> {
        let (mut guard, mut last, mut used) =
            (PriceGuard::default(), Decimal::from(100), Vec::new());
        for (price, witness) in told {
            let number = Decimal::from(*price);
            if guard.judge(number, Some(last), *witness) == Verdict::Plausible {
                last = number;
                used.push(*price);
            }
        }
        used
    }

    #[test]
    fn the_worked_example_holds() {
        let ticker = |number| Witness::Ticker(number);
        let told = [
            (600, single(6)),
            (600, ticker(None)),
            (600, ticker(Some(6))),
        ];
        assert!(used(&told).is_empty());
        assert_eq!(used(&[(600, single(6)), (601, single(7))]), [601]);
        let told = [
            (600, single(6)),
            (101, single(7)),
            (600, single(8)),
            (599, single(9)),
        ];
        assert_eq!(used(&told), [101, 599]);
        assert_eq!(
            PriceGuard::default().judge(Decimal::ONE, None, single(1)),
            Verdict::Plausible
        );
    }

    #[test]
    fn one_print_is_one_witness_in_any_order() {
        for number in [None, Some(6), Some(7)] {
            let ticker = (600, Witness::Ticker(number));
            assert!(used(&[ticker, ticker, ticker]).is_empty());
            assert!(used(&[(600, single(6)), ticker, ticker]).is_empty());
            let before = used(&[ticker, (600, single(6))]);
            assert_eq!(before.is_empty(), number != Some(7), "{number:?}");
            assert_eq!(
                used(&[ticker, (600, single(6)), (600, single(8))]).last(),
                Some(&600)
            );
        }
        // The numbers of these trades are not those of tickers.
        for id in [
            TradeId::Aggregate(6),
            TradeId::Sparse(6),
            TradeId::Range { first: 5, last: 8 },
        ] {
            let told = [(600, Witness::Ticker(Some(7))), (600, Witness::Trade(id))];
            assert!(used(&told).is_empty(), "{id:?}");
        }
        let range = Witness::Trade(TradeId::Range { first: 8, last: 9 });
        assert_eq!(
            used(&[(600, Witness::Ticker(Some(7))), (600, range)]),
            [600]
        );
        // A ticker with the price from before does not acquit the suspect.
        let told = [
            (600, single(6)),
            (100, Witness::Ticker(None)),
            (600, single(7)),
        ];
        assert_eq!(used(&told), [100, 600]);
    }

    #[test]
    fn without_trades_another_publication_confirms() {
        let lone = |price, number| (price, Witness::LoneTicker(number));
        assert!(used(&[lone(600, Some(1)), lone(600, Some(1))]).is_empty());
        assert_eq!(used(&[lone(600, Some(1)), lone(600, Some(2))]), [600]);
        assert!(used(&[lone(600, None), lone(600, None)]).is_empty());
        assert_eq!(used(&[lone(600, None), lone(601, None)]), [601]);
        assert!(used(&[lone(600, None), lone(601, Some(1))]).is_empty());
        assert!(used(&[(600, single(6)), lone(601, Some(6))]).is_empty());
        assert_eq!(used(&[(600, single(6)), lone(601, Some(7))]), [601]);
        assert_eq!(
            used(&[(600, single(6)), lone(601, None), lone(602, None)]),
            [602]
        );
        assert_eq!(
            used(&[lone(600, None), lone(100, None), lone(601, None)]),
            [100]
        );
    }

    #[test]
    fn a_price_is_absurd_beyond_five_times_or_below_a_fifth() {
        for plausible in [500, 20] {
            assert_eq!(used(&[(plausible, single(1))]), [plausible]);
        }
        for absurd in [501, 19] {
            assert!(used(&[(absurd, single(1))]).is_empty());
        }
        // Two suspects that are far from each other confirm nothing.
        assert!(used(&[(600, single(1)), (10, single(2)), (601, single(3))]).is_empty());
    }
}
