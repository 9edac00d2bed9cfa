//! Fan-out scenario: a fixed rate of messages to many subscribers.

use crate::{
    cli::Fanout,
    lab::Lab,
    rig::{Shape, Source, Subject},
};

/// Measures the binary under test and the reference servers.
///
/// # Errors
/// A server could not be measured.
pub(crate) fn run(lab: &Lab, options: &Fanout) -> anyhow::Result<()> {
    let shape = options.subscribers.shape()?;
    let subjects = lab.subjects(&options.subscribers.transport);
    lab.interleave(&subjects, |subject| {
        let shape = beside(subject, &shape);
        let mut rig = lab.rig(subject, &shape)?;
        rig.window(name(&shape), options.rate, options.seconds)
    })
}

/// The shape for one subject. Only the binary under test derives prices from trades; reference
/// servers send equally many messages on equally many channels.
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
