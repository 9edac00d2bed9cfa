//! Engine slot: an engine while it is open, and where it is or why it is not while it is closed.
//!
//! An engine opens after its service is made. If one node owns it for all, it closes when another
//! node takes it over, and may open again later.

use std::{borrow::Cow, sync::Arc};

use tidewire_proto::v1::ErrorCode;
use tidewire_store::{EngineTerm, SharedStore};
use tidewire_stream::StreamError;
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep},
};

/// An engine that opens and closes. Cheap to clone.
pub(crate) struct EngineSlot<E> {
    /// Its name in errors, in the plural.
    subject: Cow<'static, str>,
    /// The name in errors of what a node has to own for it.
    property: Cow<'static, str>,
    /// How long it may be without a known owner before requests do not wait for one any more. None: each
    /// of them waits.
    patience: Option<Duration>,
    state: Arc<watch::Sender<Result<OpenEngine<E>, Absence>>>,
}

struct OpenEngine<E> {
    engine: E,
    title: Title,
}

/// The right of a node to an engine.
pub(crate) enum Title {
    /// The store that the engine is open on.
    Store(SharedStore),
    /// The term of the engine's lease.
    Term(EngineTerm),
}

impl Title {
    /// Whether no other node can have taken over.
    fn is_current(&self) -> bool {
        match self {
            Self::Store(store) => store.is_current(),
            Self::Term(term) => term.is_valid(),
        }
    }

    /// Whether it is over for good.
    fn has_ended(&self) -> bool {
        match self {
            Self::Store(store) => store.has_ended(),
            Self::Term(term) => term.has_ended(),
        }
    }
}

impl From<SharedStore> for Title {
    fn from(store: SharedStore) -> Self {
        Self::Store(store)
    }
}

impl From<EngineTerm> for Title {
    fn from(term: EngineTerm) -> Self {
        Self::Term(term)
    }
}

/// Why there is no engine, and where to look for it.
struct Absence {
    reason: String,
    home: Home,
}

/// Where an engine is that is not open here.
enum Home {
    /// Nowhere else.
    None,
    /// On the node that owns it, which has not been known since then.
    Unknown(Instant),
    /// On this node.
    Node(Arc<str>),
}

/// Where an engine is.
pub(crate) enum Location<E> {
    /// Here, with answers that are up to date.
    Here(E),
    /// On this node.
    Elsewhere(Arc<str>),
    /// It will soon be here or on another node. The text says why it is not yet.
    Later(String),
    /// Nowhere. The text says why.
    Nowhere(String),
}

impl<E> Clone for EngineSlot<E> {
    fn clone(&self) -> Self {
        Self {
            subject: self.subject.clone(),
            property: self.property.clone(),
            patience: self.patience,
            state: self.state.clone(),
        }
    }
}

impl<E> std::fmt::Debug for EngineSlot<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineSlot").finish_non_exhaustive()
    }
}

impl<E: Clone> EngineSlot<E> {
    /// A slot without an engine, with the reason.
    pub(crate) fn new(subject: &'static str, reason: &str) -> Self {
        let absence = Absence {
            reason: reason.to_owned(),
            home: Home::None,
        };
        Self {
            subject: subject.into(),
            property: "the shared store".into(),
            patience: None,
            state: Arc::new(watch::Sender::new(Err(absence))),
        }
    }

    /// The slot of an engine that some node will open, which owns `property`. `subject` needs it.
    pub(crate) fn of_owner(subject: String, property: String, reason: &str) -> Self {
        let slot = Self {
            subject: subject.into(),
            property: property.into(),
            ..Self::new("", reason)
        };
        slot.clear_for(None, reason.to_owned());
        slot
    }

    /// The same slot, whose requests do not wait for an owner that has not been known for so long.
    pub(crate) fn with_patience(self, patience: Duration) -> Self {
        Self {
            patience: Some(patience),
            ..self
        }
    }

    /// Requests that need the engine, for errors.
    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    /// The property that a node has to own to have the engine, for errors.
    pub(crate) fn property(&self) -> &str {
        &self.property
    }

    pub(crate) fn set(&self, engine: E, title: impl Into<Title>) {
        let title = title.into();
        self.replace(Ok(OpenEngine { engine, title }));
    }

    fn replace(&self, next: Result<OpenEngine<E>, Absence>) {
        // Dropped without the lock: an engine may be large.
        drop(self.state.send_replace(next));
    }

    /// Takes the engine out, which is nowhere else. `reason` says why.
    pub(crate) fn clear(&self, reason: String) {
        let home = Home::None;
        self.replace(Err(Absence { reason, home }));
    }

    /// Takes the engine out, because another node has it or will have it. `reason` says why.
    pub(crate) fn clear_for(&self, node: Option<&str>, reason: String) {
        let home = match (node, &*self.state.borrow()) {
            (Some(node), _) => Home::Node(node.into()),
            (
                None,
                Err(Absence {
                    home: Home::Unknown(since),
                    ..
                }),
            ) => Home::Unknown(*since),
            (None, _) => Home::Unknown(Instant::now()),
        };
        self.replace(Err(Absence { reason, home }));
    }

    /// The same if this node is about to open it.
    pub(crate) fn clear_to_open(&self, reason: String) {
        let home = Home::Unknown(Instant::now());
        self.replace(Err(Absence { reason, home }));
    }

    /// Until when requests wait for an owner that is not known. None if it is known, or each of them
    /// waits.
    pub(crate) fn waits_until(&self) -> Option<Instant> {
        match &*self.state.borrow() {
            Err(Absence {
                home: Home::Unknown(since),
                ..
            }) => Some(*since + self.patience?),
            _ => None,
        }
    }

    /// Waits until requests do not wait for an owner any more. Returns why there is none.
    pub(crate) async fn given_up(&self) -> StreamError {
        let mut changes = self.changes();
        loop {
            match (self.waits_until(), self.locate()) {
                (Some(until), Location::Later(reason)) if until <= Instant::now() => {
                    return self.absence(&reason);
                }
                (Some(until), _) => {
                    tokio::select! {
                        () = changes.next() => {}
                        () = sleep(until.saturating_duration_since(Instant::now())) => {}
                    }
                }
                (None, _) => changes.next().await,
            }
        }
    }

    /// The engine, also while another node may have taken its store over.
    pub(crate) fn opened(&self) -> Option<E> {
        let state = self.state.borrow();
        state.as_ref().ok().map(|open| open.engine.clone())
    }

    /// Whether the engine is here, and this node's right to it has not ended.
    pub(crate) fn is_open(&self) -> bool {
        let state = self.state.borrow();
        state.as_ref().is_ok_and(|open| !open.title.has_ended())
    }

    /// Where the engine is.
    pub(crate) fn locate(&self) -> Location<E> {
        match &*self.state.borrow() {
            Ok(open) if open.title.is_current() => Location::Here(open.engine.clone()),
            Ok(_) => Location::Later(format!(
                "this node has not confirmed its lease of {}",
                self.property
            )),
            Err(Absence { reason, home }) => match home {
                Home::None => Location::Nowhere(reason.clone()),
                Home::Unknown(_) => Location::Later(reason.clone()),
                Home::Node(node) => Location::Elsewhere(node.clone()),
            },
        }
    }

    /// Whether there is no engine, here or on another node.
    pub(crate) fn is_nowhere(&self) -> bool {
        matches!(self.locate(), Location::Nowhere(_))
    }

    /// The engine, if it is here and its answers are up to date.
    ///
    /// # Errors
    /// `unavailable`, with the reason for which it is not.
    pub(crate) fn get(&self) -> Result<E, StreamError> {
        Err(self.absence(&match self.locate() {
            Location::Here(engine) => return Ok(engine),
            Location::Elsewhere(node) => format!("node {node} has {}", self.property),
            Location::Later(reason) | Location::Nowhere(reason) => reason,
        }))
    }

    /// The error of a request that needs the engine. A reason that is such an error of another node is
    /// returned as it is.
    pub(crate) fn absence(&self, reason: &str) -> StreamError {
        let beginning = format!("{} are unavailable: ", self.subject);
        let reason = reason.strip_prefix(&beginning).unwrap_or(reason);
        let text = format!("{beginning}{reason}");
        StreamError::new(ErrorCode::Unavailable, text)
    }

    /// Waits until the engine is open here, or on another node than this one.
    pub(crate) async fn moved_from(&self, node: &str) {
        let mut changes = self.changes();
        loop {
            match self.locate() {
                Location::Here(_) => return,
                Location::Elsewhere(other) if *other != *node => return,
                _ => changes.next().await,
            }
        }
    }

    /// Changes of the slot from now on.
    pub(crate) fn changes(&self) -> Changes<E> {
        Changes(self.state.subscribe())
    }
}

/// Changes of a slot.
pub(crate) struct Changes<E>(watch::Receiver<Result<OpenEngine<E>, Absence>>);

impl<E> Changes<E> {
    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // There is none any more.
            std::future::pending::<()>().await;
        }
    }
}
