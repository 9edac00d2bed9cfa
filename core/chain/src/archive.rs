//! What the store keeps of a chain: the canonical blocks that can still be taken back,
//! whole.

use crate::{BlockData, BlockRef};

/// Reads the blocks of one chain back.
#[derive(Clone, Default)]
pub(crate) struct Archive;

impl Archive {
    /// A block, if it is kept.
    pub(crate) async fn block(&self, _block: BlockRef) -> Option<BlockData> {
        None
    }
}
