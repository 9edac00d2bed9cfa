//! Engine slot: an engine while it is open, and the reason while it is not.
//!
//! An engine opens after its service is made. On a shared store it closes when another node
//! takes the store over, and may open again later.

use std::sync::Arc;

use parking_lot::RwLock;
use tidewire_store::SharedStore;

/// An engine that opens and closes. Cheap to clone.
pub(crate) struct EngineSlot<E>(Arc<RwLock<Result<OpenEngine<E>, String>>>);

struct OpenEngine<E> {
    engine: E,
    /// The store that the engine is open on.
    store: SharedStore,
}

impl<E> Clone for EngineSlot<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E> std::fmt::Debug for EngineSlot<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineSlot").finish_non_exhaustive()
    }
}

impl<E: Clone> EngineSlot<E> {
    /// A slot without an engine, with the reason.
    pub(crate) fn new(absence: &str) -> Self {
        Self(Arc::new(RwLock::new(Err(absence.to_owned()))))
    }

    pub(crate) fn set(&self, engine: E, store: SharedStore) {
        *self.0.write() = Ok(OpenEngine { engine, store });
    }

    /// Takes the engine out. `absence` says why there is none.
    pub(crate) fn clear(&self, absence: String) {
        let before = std::mem::replace(&mut *self.0.write(), Err(absence));
        // Without the lock: it may be large.
        drop(before);
    }

    /// The engine, also while another node may have taken its store over.
    pub(crate) fn opened(&self) -> Option<E> {
        let slot = self.0.read();
        slot.as_ref().ok().map(|open| open.engine.clone())
    }

    /// The engine, if its answers are up to date.
    ///
    /// # Errors
    /// The reason for which there is none.
    pub(crate) fn get(&self) -> Result<E, String> {
        match &*self.0.read() {
            Ok(open) if open.store.is_current() => Ok(open.engine.clone()),
            Ok(_) => Err("this node has not confirmed its lease of the shared store".to_owned()),
            Err(absence) => Err(absence.clone()),
        }
    }
}
