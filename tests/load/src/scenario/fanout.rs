//! A fixed rate of messages to many subscribers.

use crate::{
    cli::Fanout,
    lab::Lab,
    rig::{Shape, Source, Subject},
};

/// Measures the binary under test, and who stands beside it.
///
/// # Errors
/// A server could not be measured.
pub(crate) fn run(lab: &Lab, asked: &Fanout) -> anyhow::Result<()> {
    let shape = asked.subscribers.shape()?;
    let subjects = lab.subjects(&asked.subscribers.transport);
    lab.interleave(&subjects, |subject| {
        let shape = beside(subject, &shape);
        let mut rig = lab.rig(subject, &shape)?;
        rig.window(name(&shape), asked.rate, asked.seconds)
    })
}

/// The shape for one subject: only the binary under test makes prices of trades, the
/// others send as many messages on as many channels.
pub(crate) fn beside(subject: Subject, shape: &Shape) -> Shape {
    let mut shape = shape.clone();
    if shape.source == Source::Prices && !matches!(subject, Subject::Tidewire(_)) {
        shape.source = Source::Messages;
    }
    shape
}

fn name(shape: &Shape) -> &'static str {
    match (shape.source, shape.channels) {
        (Source::Prices, _) => "prices",
        (_, 1) => "fanout",
        _ => "board",
    }
}
