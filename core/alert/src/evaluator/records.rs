//! Records: the compact state of each rule, by slot.
//!
//! Forty bytes for each rule. Whatever few rules have is in an [`Extra`].

use std::num::NonZeroU64;

use rust_decimal::Decimal;
use tidewire_proto::v1::TransactionState;

use crate::{Condition, Test, leaf::LeafState};

/// Stands for no index in a record.
pub(crate) const NONE: u32 = u32::MAX;

/// Fires left of a rule without limit.
pub(crate) const RECURRING: u32 = u32::MAX;

/// Flags of a record. The lower eight are stored.
pub(crate) mod flag {
    /// It became true while it was snoozed or cooled down.
    pub(crate) const MISSED: u16 = 1;
    /// Its first value fires nothing.
    pub(crate) const QUIET: u16 = 2;
    /// It fired since its condition became true.
    pub(crate) const FIRED: u16 = 4;
    /// It fired too often.
    pub(crate) const STOPPED: u16 = 8;
    /// It became true after its expiry.
    pub(crate) const EXPIRED: u16 = 16;
    /// The condition of several tests was known.
    pub(crate) const KNOWN: u16 = 32;
    /// It was true, without its crossings.
    pub(crate) const TRUE: u16 = 64;
    /// Its last fire needed a transaction, and is retracted if a reorg takes that back.
    pub(crate) const NEEDS: u16 = 128;
    /// All flags that are stored.
    pub(crate) const STORED: u16 = 255;
    /// Its owner disabled it.
    pub(crate) const DISABLED: u16 = 256;
    /// It is in no index.
    pub(crate) const DETACHED: u16 = 512;
    /// It fired since it was armed, and its subject knows with which value.
    pub(crate) const NOTED: u16 = 1024;
}

/// Kind of a record's test. Its decimals are in the record and in its extra.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TestKind {
    Vacant,
    Complex,
    Above,
    Below,
    StaysAbove,
    StaysBelow,
    CrossesUp,
    CrossesDown,
    CrossesEither,
    Enters,
    Exits,
    TurnsPositive,
    TurnsNegative,
    TurnsEither,
    Pending,
    Confirming,
    Confirmed,
    Finalized,
    Failed,
    Replaced,
    Cancelled,
    Dropped,
}

/// State of a rule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    /// The first decimal of the test.
    pub(crate) first: Decimal,
    /// The signal of a rule of one test; otherwise the complex rule.
    pub(crate) signal: u32,
    pub(crate) version: u32,
    pub(crate) left: u32,
    pub(crate) cooldown_ms: u32,
    pub(crate) extra: u32,
    pub(crate) kind: TestKind,
    pub(crate) leaf: LeafState,
    pub(crate) flags: u16,
}

// The bound of the index's memory: 40 bytes here and 12 to 17 in the index.
const _: () = assert!(size_of::<Record>() == 40);

impl Record {
    pub(crate) const VACANT: Self = Self {
        first: Decimal::ZERO,
        signal: NONE,
        version: 0,
        left: 0,
        cooldown_ms: 0,
        extra: NONE,
        kind: TestKind::Vacant,
        leaf: LeafState::UNKNOWN,
        flags: 0,
    };

    pub(crate) const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The test, with its second decimal.
    pub(crate) const fn test(&self, second: Decimal) -> Test {
        let first = self.first;
        match self.kind {
            TestKind::Above | TestKind::Vacant | TestKind::Complex => Test::Above(first),
            TestKind::Below => Test::Below(first),
            TestKind::StaysAbove => Test::StaysAbove {
                threshold: first,
                hysteresis: second,
            },
            TestKind::StaysBelow => Test::StaysBelow {
                threshold: first,
                hysteresis: second,
            },
            TestKind::CrossesUp => Test::CrossesUp {
                threshold: first,
                hysteresis: second,
            },
            TestKind::CrossesDown => Test::CrossesDown {
                threshold: first,
                hysteresis: second,
            },
            TestKind::CrossesEither => Test::CrossesEither {
                threshold: first,
                hysteresis: second,
            },
            TestKind::Enters => Test::Enters {
                low: first,
                high: second,
            },
            TestKind::Exits => Test::Exits {
                low: first,
                high: second,
            },
            TestKind::TurnsPositive => Test::TurnsPositive,
            TestKind::TurnsNegative => Test::TurnsNegative,
            TestKind::TurnsEither => Test::TurnsEither,
            TestKind::Pending => Test::Reaches(TransactionState::Pending),
            TestKind::Confirming => Test::Reaches(TransactionState::Confirming),
            TestKind::Confirmed => Test::Reaches(TransactionState::Confirmed),
            TestKind::Finalized => Test::Reaches(TransactionState::Finalized),
            TestKind::Failed => Test::Reaches(TransactionState::Failed),
            TestKind::Replaced => Test::Reaches(TransactionState::Replaced),
            TestKind::Cancelled => Test::Reaches(TransactionState::Cancelled),
            TestKind::Dropped => Test::Reaches(TransactionState::Dropped),
        }
    }
}

/// The kind of a test, and its decimals.
pub(crate) const fn compact(test: &Test) -> (TestKind, Decimal, Decimal) {
    const ZERO: Decimal = Decimal::ZERO;
    match *test {
        Test::Above(threshold) => (TestKind::Above, threshold, ZERO),
        Test::Below(threshold) => (TestKind::Below, threshold, ZERO),
        Test::StaysAbove {
            threshold,
            hysteresis,
        } => (TestKind::StaysAbove, threshold, hysteresis),
        Test::StaysBelow {
            threshold,
            hysteresis,
        } => (TestKind::StaysBelow, threshold, hysteresis),
        Test::CrossesUp {
            threshold,
            hysteresis,
        } => (TestKind::CrossesUp, threshold, hysteresis),
        Test::CrossesDown {
            threshold,
            hysteresis,
        } => (TestKind::CrossesDown, threshold, hysteresis),
        Test::CrossesEither {
            threshold,
            hysteresis,
        } => (TestKind::CrossesEither, threshold, hysteresis),
        Test::Enters { low, high } => (TestKind::Enters, low, high),
        Test::Exits { low, high } => (TestKind::Exits, low, high),
        Test::TurnsPositive => (TestKind::TurnsPositive, ZERO, ZERO),
        Test::TurnsNegative => (TestKind::TurnsNegative, ZERO, ZERO),
        Test::TurnsEither => (TestKind::TurnsEither, ZERO, ZERO),
        Test::Reaches(state) => {
            let kind = match state {
                // Rules never wait for the first two.
                TransactionState::Unspecified
                | TransactionState::Unknown
                | TransactionState::Pending => TestKind::Pending,
                TransactionState::Confirming => TestKind::Confirming,
                TransactionState::Confirmed => TestKind::Confirmed,
                TransactionState::Finalized => TestKind::Finalized,
                TransactionState::Failed => TestKind::Failed,
                TransactionState::Replaced => TestKind::Replaced,
                TransactionState::Cancelled => TestKind::Cancelled,
                TransactionState::Dropped => TestKind::Dropped,
            };
            (kind, ZERO, ZERO)
        }
    }
}

/// The end of a block that a rule waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// In monotonic milliseconds.
    Monotonic(u64),
    /// In milliseconds since the Unix epoch.
    Wall(i64),
}

/// Parts of a rule's state that not all rules have: the end of a cooldown, and what few rules have.
///
/// Half a million rules may begin to cool down at once, so that it is small.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    cooldown_ends_ms: Option<NonZeroU64>,
    rare: Option<Box<RareExtra>>,
}

// Half a million cooldowns take 8 MB.
const _: () = assert!(size_of::<Extra>() == 16);

impl Extra {
    /// End of the cooldown, in monotonic milliseconds.
    pub(crate) fn cooldown_ends_ms(&self) -> Option<u64> {
        self.cooldown_ends_ms.map(NonZeroU64::get)
    }

    /// Sets the end of the cooldown, which is after the start of the clock.
    pub(crate) fn set_cooldown_end(&mut self, ends_ms: Option<u64>) {
        self.cooldown_ends_ms = ends_ms.and_then(NonZeroU64::new);
    }

    /// The parts that few rules have.
    pub(crate) fn rare(&self) -> Option<&RareExtra> {
        self.rare.as_deref()
    }

    /// The same, if there are any.
    pub(crate) fn known_rare_mut(&mut self) -> Option<&mut RareExtra> {
        self.rare.as_deref_mut()
    }

    /// The same, made if there are none.
    pub(crate) fn rare_mut(&mut self) -> &mut RareExtra {
        self.rare.get_or_insert_default()
    }

    /// Whether it has no part but a cooldown that is over.
    pub(crate) fn is_idle(&self, now_ms: u64) -> bool {
        self.rare.is_none()
            && self
                .cooldown_ends_ms()
                .is_none_or(|ends_ms| ends_ms <= now_ms)
    }
}

/// Parts of a rule's state that few rules have.
#[derive(Debug, Default)]
pub(crate) struct RareExtra {
    /// The user, of rules that test a window.
    pub(crate) owner: Option<super::OwnerId>,
    /// The second decimal of the test.
    pub(crate) second: Decimal,
    pub(crate) expires_at_ms: Option<i64>,
    pub(crate) snoozed_until_ms: Option<i64>,
    /// Fires of the repeat, if it is neither once nor without limit.
    pub(crate) times: Option<u32>,
    pub(crate) timer: Option<Timer>,
    /// Times of recent fires, in monotonic milliseconds before or after the start.
    pub(crate) recent_ms: Vec<i64>,
}

/// A rule of several tests.
#[derive(Debug)]
pub(crate) struct Complex {
    pub(crate) condition: Condition,
    /// The tests from left to right.
    pub(crate) tests: Vec<ComplexTest>,
}

/// One test of a complex rule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ComplexTest {
    pub(crate) signal: u32,
    pub(crate) test: Test,
    pub(crate) state: LeafState,
}

/// Records of one page. Pages grow one at a time, without moving the others.
const PAGE: usize = 4_096;

/// The records, by slot.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pages: Vec<Vec<Record>>,
    extras: Vec<Vec<Extra>>,
    free: Vec<u32>,
}

impl Records {
    pub(crate) fn get(&self, slot: u32) -> Option<&Record> {
        let record = self
            .pages
            .get(slot as usize / PAGE)?
            .get(slot as usize % PAGE)?;
        (record.kind != TestKind::Vacant).then_some(record)
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Record> {
        let record = self
            .pages
            .get_mut(slot as usize / PAGE)?
            .get_mut(slot as usize % PAGE)?;
        (record.kind != TestKind::Vacant).then_some(record)
    }

    pub(crate) fn set(&mut self, slot: u32, record: Record) {
        let (page, at) = (slot as usize / PAGE, slot as usize % PAGE);
        while self.pages.len() <= page {
            self.pages.push(Vec::new());
        }
        let page = &mut self.pages[page];
        if page.is_empty() {
            page.resize(PAGE, Record::VACANT);
        }
        page[at] = record;
    }

    /// Vacates a slot and frees its extra.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Some(record) = self.get_mut(slot) else {
            return;
        };
        let extra = record.extra;
        *record = Record::VACANT;
        if extra != NONE {
            self.extras[extra as usize / PAGE][extra as usize % PAGE] = Extra::default();
            self.free.push(extra);
        }
    }

    pub(crate) fn extra(&self, record: &Record) -> Option<&Extra> {
        let page = self.extras.get(record.extra as usize / PAGE)?;
        page.get(record.extra as usize % PAGE)
    }

    /// The parts of a record that few rules have.
    pub(crate) fn rare(&self, record: &Record) -> Option<&RareExtra> {
        self.extra(record)?.rare()
    }

    /// The same, made if it has none. `None` if the slot is vacant.
    pub(crate) fn rare_mut(&mut self, slot: u32) -> Option<&mut RareExtra> {
        Some(self.extra_mut(slot)?.rare_mut())
    }

    /// The second decimal of a record's test.
    pub(crate) fn second(&self, record: &Record) -> Decimal {
        self.rare(record).map_or(Decimal::ZERO, |rare| rare.second)
    }

    /// A rule's extra, made if it has none. `None` if the slot is vacant.
    pub(crate) fn extra_mut(&mut self, slot: u32) -> Option<&mut Extra> {
        let mut number = self.get(slot)?.extra;
        if number == NONE {
            number = self.free.pop().unwrap_or_else(|| self.add_extra());
            self.get_mut(slot)?.extra = number;
        }
        let page = self.extras.get_mut(number as usize / PAGE)?;
        page.get_mut(number as usize % PAGE)
    }

    fn add_extra(&mut self) -> u32 {
        if self.extras.last().is_none_or(|page| page.len() == PAGE) {
            self.extras.push(Vec::with_capacity(PAGE));
        }
        let before = (self.extras.len() - 1) * PAGE;
        match self.extras.last_mut() {
            Some(page) => {
                page.push(Extra::default());
                // One for each slot at most, and slots have four bytes.
                (before + page.len() - 1) as u32
            }
            None => NONE,
        }
    }

    /// Copies the records of these slots to `block`. The reads do not wait for one another, so that
    /// slots far apart cost little more than near ones.
    pub(crate) fn copy(&self, slots: impl Iterator<Item = u32>, block: &mut Vec<Record>) {
        block.clear();
        block.extend(slots.map(|slot| self.get(slot).copied().unwrap_or(Record::VACANT)));
    }
}
