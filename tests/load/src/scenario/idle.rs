//! Many connections that nothing happens on: how fast they are taken, and what
//! memory each of them takes.

use crate::{
    cli::Idle,
    client::Transport,
    lab::Lab,
    report::Row,
    rig::{Shape, Source, Subject},
};

/// Measures the binary under test, and who stands beside it.
///
/// # Errors
/// A server could not be measured.
pub(crate) fn run(lab: &Lab, asked: &Idle, name: &str) -> anyhow::Result<()> {
    let shape = shape(asked.connections, !asked.no_channel);
    let subjects = lab.subjects(&[Transport::WsJson]);
    lab.interleave(&subjects, |subject| measure(lab, subject, &shape, name))
}

/// So many connections that follow one channel each, or none.
pub(crate) fn shape(connections: usize, has_channel: bool) -> Shape {
    Shape {
        source: Source::Nothing,
        per_connection: usize::from(has_channel),
        ..Shape::fanout(connections)
    }
}

/// The row of one server.
///
/// # Errors
/// It could not be measured.
pub(crate) fn measure(
    lab: &Lab,
    subject: Subject,
    shape: &Shape,
    name: &str,
) -> anyhow::Result<Row> {
    let rig = lab.rig(subject, shape)?;
    Ok(rig.connections_row(name))
}
