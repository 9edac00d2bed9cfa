//! Bytes scenario: bytes on the wire per price update, by encoding.

use crate::{
    cli::Bytes,
    client::Transport,
    lab::Lab,
    report::{self, Row},
    rig::{Shape, Source, Subject},
};

/// A small number, because bytes per update do not depend on it.
const CONNECTIONS: usize = 20;

/// Prints a row for each encoding.
///
/// # Errors
/// The server could not be measured.
pub(crate) fn run(lab: &Lab, options: &Bytes) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (transport, is_deflated) in [
        (Transport::WsJson, false),
        (Transport::WsJson, true),
        (Transport::WsProto, false),
        (Transport::WsProto, true),
        (Transport::Sse, false),
        (Transport::Grpc, false),
    ] {
        let row = measure(lab, options, transport, is_deflated)?;
        lab.note(&row)?;
        rows.push(row);
    }
    report::print(&rows)?;
    Ok(())
}

fn measure(
    lab: &Lab,
    options: &Bytes,
    transport: Transport,
    is_deflated: bool,
) -> anyhow::Result<Row> {
    let shape = Shape {
        channels: options.symbols,
        per_connection: options.per_conn,
        source: Source::Prices,
        is_deflated,
        ..Shape::fanout(CONNECTIONS)
    };
    let mut rig = lab.rig(Subject::Tidewire(transport), &shape)?;
    let mut row = rig.window("bytes", options.rate, options.seconds)?;
    if rig.engine.is_deflated() {
        row.note = "compressed".to_owned();
    } else if is_deflated {
        row.note = "compression was not agreed to".to_owned();
    }
    Ok(row)
}
