//! The board: what each endpoint says is its head.

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::BlockRef;

/// The newest head of each endpoint.
#[derive(Debug)]
pub(crate) struct Board {
    heads: Mutex<Vec<Option<BlockRef>>>,
    changed: Notify,
}

impl Board {
    /// A board for so many endpoints.
    pub(crate) fn new(endpoints: usize) -> Self {
        Self {
            heads: Mutex::new(vec![None; endpoints]),
            changed: Notify::new(),
        }
    }

    /// An endpoint says that this is its head.
    pub(crate) fn put(&self, endpoint: usize, head: BlockRef) {
        if let Some(place) = self.heads.lock().get_mut(endpoint) {
            *place = Some(head);
        }
        self.changed.notify_one();
    }

    /// All heads, by endpoint.
    pub(crate) fn heads(&self) -> Vec<Option<BlockRef>> {
        self.heads.lock().clone()
    }

    /// Waits for the next word of any endpoint. A word that came since the last wait is
    /// not missed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}
