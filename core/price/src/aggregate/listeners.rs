//! Listeners: callbacks in this process for published prices and for gaps in trades.

use rust_decimal::Decimal;

use crate::Symbol;

/// A price of `prices:{SYMBOL}`, as it is published.
#[derive(Debug, Clone, Copy)]
pub struct PriceTick<'a> {
    /// The symbol.
    pub symbol: &'a Symbol,
    /// The exact price.
    pub price: Decimal,
    /// Whether no source counts any more, so that this is the last known price.
    pub stale: bool,
    /// Sources that count.
    pub sources: u32,
    /// When the price was formed, in microseconds since the Unix epoch.
    pub formed_us: i64,
    /// The names of the sources that count.
    pub names: &'a [&'a str],
    /// The volume of 24 hours, in the quote currency.
    pub volume_24h: Option<f64>,
    /// The volume traded since the tick before, in the quote currency, as far as sizes are known.
    pub traded: Option<Decimal>,
}

/// A live aggregate as it is computed, also if it is the same as before and is not published.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PriceObservation<'a> {
    pub(crate) symbol: &'a Symbol,
    /// The exact price.
    pub(crate) price: Decimal,
    /// Sources that count.
    pub(crate) sources: u32,
    /// When the price was formed, in microseconds since the Unix epoch.
    pub(crate) formed_us: i64,
    /// The volume traded since the observation before, in the quote currency.
    pub(crate) traded: Option<Decimal>,
}

/// Trades that a venue numbered and did not send.
#[derive(Debug, Clone, Copy)]
pub struct PriceGap<'a> {
    /// The symbol.
    pub symbol: &'a Symbol,
    /// The source's name.
    pub source: &'a str,
    /// Missing trades between two that arrived. Some may still arrive late.
    pub missing: u64,
    /// When the gap was found, in microseconds since the Unix epoch.
    pub found_us: i64,
}

/// A callback for published prices, until it is removed.
pub(crate) struct Listener {
    id: ListenerId,
    callback: Callback,
}

/// The function that a listener calls.
pub(crate) type Callback = Box<dyn Fn(&PriceTick<'_>) + Send + Sync>;

/// A listener's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListenerId(u64);

impl Listener {
    pub(super) fn id(&self) -> ListenerId {
        self.id
    }

    pub(super) fn call(&self, tick: &PriceTick<'_>) {
        (self.callback)(tick);
    }
}

/// The listeners for published prices.
#[derive(Default)]
pub(super) struct Listeners {
    all: Vec<Listener>,
    created: u64,
}

impl Listeners {
    pub(super) fn as_slice(&self) -> &[Listener] {
        &self.all
    }

    /// A listener that is not called before it is added.
    pub(super) fn new_listener(&mut self, callback: Callback) -> Listener {
        self.created += 1;
        let id = ListenerId(self.created);
        Listener { id, callback }
    }

    pub(super) fn add(&mut self, listener: Listener) {
        self.all.push(listener);
    }

    pub(super) fn remove(&mut self, id: ListenerId) -> Option<Listener> {
        let index = self.all.iter().position(|listener| listener.id == id)?;
        Some(self.all.remove(index))
    }
}

/// A callback for computed prices.
pub(crate) type Observer = Box<dyn Fn(&PriceObservation<'_>) + Send + Sync>;

/// A callback for gaps.
pub(crate) type GapListener = Box<dyn Fn(&PriceGap<'_>) + Send + Sync>;
