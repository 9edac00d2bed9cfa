//! Bytes on the wire for a price update, by encoding.

use crate::{
    cli::Bytes,
    client::Transport,
    lab::Lab,
    report::{self, Row},
    rig::{Shape, Source, Subject},
};

/// Few connections: bytes do not depend on how many there are.
const CONNECTIONS: usize = 20;

/// Prints a row for each encoding.
///
/// # Errors
/// The server could not be measured.
pub(crate) fn run(lab: &Lab, asked: &Bytes) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (transport, is_deflated) in [
        (Transport::WsJson, false),
        (Transport::WsJson, true),
        (Transport::WsProto, false),
        (Transport::WsProto, true),
        (Transport::Sse, false),
        (Transport::Grpc, false),
    ] {
        let row = measure(lab, asked, transport, is_deflated)?;
        lab.note(&row)?;
        rows.push(row);
    }
    report::print(&rows)?;
    Ok(())
}

fn measure(
    lab: &Lab,
    asked: &Bytes,
    transport: Transport,
    is_deflated: bool,
) -> anyhow::Result<Row> {
    let shape = Shape {
        channels: asked.symbols,
        per_connection: asked.per_conn,
        source: Source::Prices,
        is_deflated,
        ..Shape::fanout(CONNECTIONS)
    };
    let mut rig = lab.rig(Subject::Tidewire(transport), &shape)?;
    let mut row = rig.window("bytes", asked.rate, asked.seconds)?;
    if rig.engine.is_deflated() {
        row.note = "compressed".to_owned();
    } else if is_deflated {
        row.note = "compression was not agreed to".to_owned();
    }
    Ok(row)
}
