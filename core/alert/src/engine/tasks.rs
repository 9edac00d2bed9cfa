//! Tasks: the engine's own tasks, and what happens if one of them panics.
//!
//! A panic is logged at once, makes [`AlertEngine::fault`](super::AlertEngine::fault) say so, and
//! has all further requests refused. The other tasks go on: fires that are stored are delivered.

use std::{collections::HashMap, sync::Arc};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Shared, commands::Command, delivery, evaluations::Evaluations, judge, log, writer::Writer,
};

/// The tasks of an engine, to be run.
#[must_use = "nothing is judged until the tasks run"]
pub struct AlertTasks {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
}

impl std::fmt::Debug for AlertTasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlertTasks").finish_non_exhaustive()
    }
}

impl AlertTasks {
    pub(super) fn new(shared: Arc<Shared>, commands: mpsc::Receiver<Command>) -> Self {
        Self { shared, commands }
    }

    /// Runs the tasks until cancelled. Then stores what is judged, and last values.
    pub async fn run(self, cancel: CancellationToken) {
        let shared = self.shared;
        let writer = Writer {
            shared: shared.clone(),
            commands: self.commands,
            superseded: HashMap::new(),
            deleted: HashMap::new(),
            evaluations: Evaluations::default(),
            chunks: 0,
        };
        let mut tasks = JoinSet::new();
        let mut names = HashMap::new();
        let spawned = [
            (tasks.spawn(writer.run(cancel.clone())), "writer"),
            (
                tasks.spawn(judge::run(shared.clone(), cancel.clone())),
                "judge",
            ),
            (
                tasks.spawn(delivery::run(shared.clone(), cancel.clone())),
                "delivery",
            ),
            (tasks.spawn(log::run(shared.clone(), cancel.clone())), "log"),
        ];
        for (task, name) in spawned {
            names.insert(task.id(), name);
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                let name = names.get(&error.id()).copied().unwrap_or("unknown");
                tracing::error!(task = name, "a task of alerts panicked: restart the server");
                let fault = format!("the task {name:?} of alerts panicked");
                // The first one stays.
                let _ = shared.fault.set(fault);
            }
        }
    }
}
