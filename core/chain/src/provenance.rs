//! Provenance: whether a chain exists or is made up, which each message about it says.

use tidewire_proto::v1::TransactionStatus;
use tidewire_stream::Event;

/// Where the blocks of a chain come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provenance {
    /// Nodes of a chain.
    #[default]
    Nodes,
    /// The built-in sample.
    Sample,
}

impl Provenance {
    /// Whether the chain is made up.
    #[must_use]
    pub fn is_sample(self) -> bool {
        self == Self::Sample
    }

    /// Marks a publication of a made-up chain.
    pub(crate) fn mark(self, event: &mut Event) {
        let mark = match event {
            Event::Block(block) => &mut block.sample,
            Event::EventLog(log) => &mut log.sample,
            Event::Transaction(status) => &mut status.sample,
            Event::WalletUpdate(update) => &mut update.sample,
            _ => return,
        };
        *mark = self.is_sample();
    }

    /// The status of a transaction, marked if its chain is made up.
    pub(crate) fn marked(self, status: TransactionStatus) -> TransactionStatus {
        TransactionStatus {
            sample: self.is_sample(),
            ..status
        }
    }
}
