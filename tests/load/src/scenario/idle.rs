//! Idle scenario: connections per second, and memory per idle connection.

use crate::{
    cli::Idle,
    client::Transport,
    lab::Lab,
    report::Row,
    rig::{Shape, Source, Subject},
};

/// Measures the binary under test and the reference servers.
///
/// # Errors
/// A server could not be measured.
pub(crate) fn run(lab: &Lab, options: &Idle, name: &str) -> anyhow::Result<()> {
    let shape = shape(options.connections, !options.no_channel);
    let subjects = lab.subjects(&[Transport::WsJson]);
    lab.interleave(&subjects, |subject| measure(lab, subject, &shape, name))
}

/// A shape of idle connections with one channel each, or none.
pub(crate) fn shape(connections: usize, has_channel: bool) -> Shape {
    Shape {
        source: Source::Nothing,
        per_connection: usize::from(has_channel),
        ..Shape::fanout(connections)
    }
}

/// Measures one server.
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
