//! Answers: the replies to commands, and the work that they leave.
//!
//! An answer is sent once everything that it says is stored. The caller may have stopped waiting by then.

use tidewire_proto::v1::{AlertEvent, AlertRule};
use tidewire_store::Batch;
use tokio::sync::oneshot;

use super::{commands::Command, id::Id};
use crate::AlertError;

/// A reply that the caller waits for.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, AlertError>>;

/// Refuses a command that stays. The caller may have stopped waiting.
pub(super) fn refuse<T>(reply: &mut Reply<T>, error: &AlertError) {
    let (nobody, _) = oneshot::channel();
    let _ = std::mem::replace(reply, nobody).send(Err(error.clone()));
}

/// The work that applied commands leave.
#[derive(Default)]
pub(super) struct Applied {
    /// Rows of changes that the judge refused, as they were before.
    pub(super) undone: Batch,
    /// The rules of these rows.
    pub(super) rules: Vec<Id>,
    /// Rows that nothing needs any more.
    pub(super) forgotten: Batch,
    pub(super) answers: Vec<Answer>,
}

impl Applied {
    pub(super) fn show(&mut self, reply: Reply<AlertRule>, rule: AlertRule) {
        self.answers.push(Answer::Rule(reply, Box::new(rule)));
    }

    pub(super) fn refuse(&mut self, reply: Reply<AlertRule>, error: AlertError) {
        self.answers.push(Answer::Refused(reply, error));
    }
}

/// An answer, and who waits for it.
pub(super) enum Answer {
    Rule(Reply<AlertRule>, Box<AlertRule>),
    Refused(Reply<AlertRule>, AlertError),
    Deleted(Reply<()>),
    Triggered(Reply<AlertEvent>, Box<AlertEvent>),
}

impl Answer {
    pub(super) fn send(self) {
        match self {
            Self::Rule(reply, rule) => answer::<_, ()>(reply, Ok(*rule)),
            Self::Refused(reply, error) => answer(reply, Err(error)),
            Self::Deleted(reply) => answer(reply, Ok(())),
            Self::Triggered(reply, event) => answer(reply, Ok(*event)),
        };
    }
}

/// Answers a command. The caller may have stopped waiting.
pub(super) fn answer<T, U>(reply: Reply<T>, result: Result<T, AlertError>) -> Option<U> {
    let _ = reply.send(result);
    None
}

/// Refuses commands that are not run.
pub(crate) fn refuse_all(commands: Vec<Command>, error: &AlertError) {
    for command in commands {
        match command {
            Command::Register { reply, .. } | Command::Update { reply, .. } => {
                drop(reply.send(Err(error.clone())));
            }
            Command::Delete { reply, .. } => drop(reply.send(Err(error.clone()))),
            Command::Trigger { reply, .. } => drop(reply.send(Err(error.clone()))),
            Command::Evaluate(evaluation) => drop(evaluation.reply.send(Err(error.clone()))),
        }
    }
}
