//! A steady load for minutes: the memory must stay flat.

use std::io::Write as _;

use crate::{
    cli::Soak,
    client::Transport,
    lab::Lab,
    report::{self, Row},
    rig::Subject,
};

/// The memory of the last third may be so much above that of the first.
const FLAT: f64 = 1.05;

/// Loads the binary under test, and prints a row for each sample and a verdict.
///
/// # Errors
/// The server could not be measured, or its memory grew.
pub(crate) fn run(lab: &Lab, asked: &Soak) -> anyhow::Result<()> {
    let shape = asked.subscribers.shape()?;
    let transport = asked
        .subscribers
        .transport
        .first()
        .copied()
        .unwrap_or(Transport::WsJson);
    let mut rig = lab.rig(Subject::Tidewire(transport), &shape)?;
    let samples = (asked.minutes * 60.0 / asked.sample).ceil().max(3.0) as usize;
    let mut rows = Vec::new();
    for _ in 0..samples {
        let row = rig.window("soak", asked.rate, asked.sample)?;
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

/// The median memory of the last third, by that of the first.
fn growth(rows: &[Row]) -> f64 {
    let third = rows.len() / 3;
    let of = |rows: &[Row]| report::median(rows.iter().filter_map(|row| row.rss_mib).collect());
    match (of(&rows[..third]), of(&rows[rows.len() - third..])) {
        (Some(first), Some(last)) if first > 0.0 => last / first,
        _ => 1.0,
    }
}
