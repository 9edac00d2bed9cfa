//! Soak scenario: a steady load for minutes, under which memory must stay flat.

use std::io::Write as _;

use crate::{
    cli::Soak,
    client::Transport,
    lab::Lab,
    report::{self, Row},
    rig::Subject,
};

/// Highest ratio of the last third's memory to the first third's.
const FLAT: f64 = 1.05;

/// Loads the binary under test. Prints a row per sample and a verdict.
///
/// # Errors
/// The server could not be measured, or its memory grew.
pub(crate) fn run(lab: &Lab, options: &Soak) -> anyhow::Result<()> {
    let shape = options.subscribers.shape()?;
    let transport = options
        .subscribers
        .transport
        .first()
        .copied()
        .unwrap_or(Transport::WsJson);
    let mut rig = lab.rig(Subject::Tidewire(transport), &shape)?;
    let samples = (options.minutes * 60.0 / options.sample).ceil().max(3.0) as usize;
    let mut rows = Vec::new();
    for _ in 0..samples {
        let row = rig.window("soak", options.rate, options.sample)?;
        lab.note(&row)?;
        rows.push(row);
    }
    report::print(&rows)?;
    let growth = growth(&rows);
    let kept_up = rows.iter().filter(|row| row.kept_up == Some(true)).count();
    let mut out = std::io::stdout();
    writeln!(
        out,
        "memory of the last third is {growth:.3} of the first's; {kept_up} of {samples} windows kept up"
    )?;
    anyhow::ensure!(
        growth <= FLAT,
        "the memory grew to {growth:.3}, expected at most {FLAT}"
    );
    Ok(())
}

/// Returns the median memory of the last third divided by that of the first third.
fn growth(rows: &[Row]) -> f64 {
    let third = rows.len() / 3;
    let of = |rows: &[Row]| report::median(rows.iter().filter_map(|row| row.rss_mib).collect());
    match (of(&rows[..third]), of(&rows[rows.len() - third..])) {
        (Some(first), Some(last)) if first > 0.0 => last / first,
        _ => 1.0,
    }
}
