//! Slow-subscriber scenario: the cost that non-reading subscribers impose on the others, and
//! the memory that the server holds for them.

use crate::{
    cli::Slow,
    client::Transport,
    lab::Lab,
    report::{self, Row},
    rig::{Shape, Subject},
};

/// Measures the others with and without slow subscribers, in rotation.
///
/// # Errors
/// The server could not be measured.
pub(crate) fn run(lab: &Lab, options: &Slow) -> anyhow::Result<()> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..lab.reps {
        without.push(measure(lab, options, None)?);
        with.push(measure(lab, options, Some(options.every))?);
    }
    let rows: Vec<_> = [without, with]
        .iter()
        .filter_map(|rows| Row::median(rows))
        .collect();
    report::print(&rows)?;
    Ok(())
}

/// Measures one window. The row's memory is the growth per slow subscriber, or per connection
/// if there are none.
///
/// # Errors
/// The server could not be measured.
pub(crate) fn measure(lab: &Lab, options: &Slow, slow_every: Option<usize>) -> anyhow::Result<Row> {
    let shape = Shape {
        size: options.size,
        slow_every,
        ..Shape::fanout(options.connections)
    };
    let mut rig = lab.rig(Subject::Tidewire(Transport::WsJson), &shape)?;
    let before = rig.server.memory();
    let mut row = rig.window("slow", options.rate, options.seconds)?;
    let grown = rig.server.memory().rss.saturating_sub(before.rss);
    row.note = match slow_every {
        None => format!("all read; grew by {} KiB", grown >> 10),
        Some(every) => format!("1 in {every} never reads; grew by {} KiB", grown >> 10),
    };
    lab.note(&row)?;
    Ok(row)
}
