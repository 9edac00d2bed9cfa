//! Subscribers that never read: what they cost the others, and what the server keeps
//! for them.

use crate::{
    cli::Slow,
    client::Transport,
    lab::Lab,
    report::{self, Row},
    rig::{Shape, Subject},
};

/// Measures the others with and without slow subscribers, in turns.
///
/// # Errors
/// The server could not be measured.
pub(crate) fn run(lab: &Lab, asked: &Slow) -> anyhow::Result<()> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..lab.reps {
        without.push(measure(lab, asked, None)?);
        with.push(measure(lab, asked, Some(asked.every))?);
    }
    let rows: Vec<_> = [without, with]
        .iter()
        .filter_map(|rows| Row::median(rows))
        .collect();
    report::print(&rows)?;
    Ok(())
}

/// One window. The row's memory is what the server grew by for each slow subscriber,
/// or for each connection where there are none.
///
/// # Errors
/// The server could not be measured.
pub(crate) fn measure(lab: &Lab, asked: &Slow, slow_every: Option<usize>) -> anyhow::Result<Row> {
    let shape = Shape {
        size: asked.size,
        slow_every,
        ..Shape::fanout(asked.connections)
    };
    let mut rig = lab.rig(Subject::Tidewire(Transport::WsJson), &shape)?;
    let before = rig.server.memory();
    let mut row = rig.window("slow", asked.rate, asked.seconds)?;
    let grown = rig.server.memory().rss.saturating_sub(before.rss);
    row.note = match slow_every {
        None => format!("all read; grew by {} KiB", grown >> 10),
        Some(every) => format!("1 in {every} never reads; grew by {} KiB", grown >> 10),
    };
    lab.note(&row)?;
    Ok(row)
}
