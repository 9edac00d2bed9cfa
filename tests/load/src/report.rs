//! Report rows: printed as a table and appended as JSON.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::Path,
};

use anyhow::Context as _;
use serde::Serialize;

/// Figures of one server in one scenario. `None` means not measured.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) scenario: String,
    pub(crate) subject: String,
    pub(crate) connections: usize,
    /// Messages sent per second.
    pub(crate) rate: Option<f64>,
    /// Deliveries per second.
    pub(crate) deliveries: Option<f64>,
    /// Processor time of the server per delivery, in microseconds.
    pub(crate) cpu_us: Option<f64>,
    pub(crate) user_us: Option<f64>,
    pub(crate) system_us: Option<f64>,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) max_ms: Option<f64>,
    /// Processor shares of the server and of this tool.
    pub(crate) server_share: Option<f64>,
    pub(crate) own_share: Option<f64>,
    /// Lateness of the sender.
    pub(crate) lag_p99_ms: Option<f64>,
    /// Bytes on the wire per delivery, with frames.
    pub(crate) bytes: Option<f64>,
    /// Deliveries per read of a subscriber.
    pub(crate) per_read: Option<f64>,
    /// Server memory per connection, in bytes.
    pub(crate) rss_per_connection: Option<f64>,
    pub(crate) pss_per_connection: Option<f64>,
    /// Server memory, in MiB.
    pub(crate) rss_mib: Option<f64>,
    pub(crate) connects: Option<f64>,
    pub(crate) delivered: u64,
    pub(crate) expected: u64,
    pub(crate) disorder: u64,
    /// Connections that ended unexpectedly.
    pub(crate) ended: usize,
    pub(crate) kept_up: Option<bool>,
    /// Number of windows in which the server kept up.
    pub(crate) kept_up_in: usize,
    /// Number of windows behind this median.
    pub(crate) windows: usize,
    pub(crate) load_average: f64,
    /// Further remarks.
    pub(crate) note: String,
}

impl Row {
    /// Returns the median of each figure. `kept_up` means in most windows.
    pub(crate) fn median(rows: &[Self]) -> Option<Self> {
        let first = rows.first()?.clone();
        let of = |field: fn(&Self) -> Option<f64>| median(rows.iter().filter_map(field).collect());
        let kept_up_in = rows.iter().filter(|row| row.kept_up == Some(true)).count();
        Some(Self {
            deliveries: of(|row| row.deliveries),
            cpu_us: of(|row| row.cpu_us),
            user_us: of(|row| row.user_us),
            system_us: of(|row| row.system_us),
            p50_ms: of(|row| row.p50_ms),
            p99_ms: of(|row| row.p99_ms),
            max_ms: of(|row| row.max_ms),
            server_share: of(|row| row.server_share),
            own_share: of(|row| row.own_share),
            lag_p99_ms: of(|row| row.lag_p99_ms),
            bytes: of(|row| row.bytes),
            per_read: of(|row| row.per_read),
            rss_per_connection: of(|row| row.rss_per_connection),
            pss_per_connection: of(|row| row.pss_per_connection),
            rss_mib: of(|row| row.rss_mib),
            connects: of(|row| row.connects),
            load_average: median(rows.iter().map(|row| row.load_average).collect()).unwrap_or(0.0),
            delivered: rows.iter().map(|row| row.delivered).sum(),
            expected: rows.iter().map(|row| row.expected).sum(),
            disorder: rows.iter().map(|row| row.disorder).sum(),
            ended: rows.iter().map(|row| row.ended).sum(),
            kept_up: first.kept_up.map(|_| kept_up_in * 2 > rows.len()),
            kept_up_in,
            windows: rows.len(),
            ..first
        })
    }

    /// Appends the row to a file, as a line of JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn append(&self, path: &Path) -> anyhow::Result<()> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let mut file = file.with_context(|| format!("{} cannot be written", path.display()))?;
        let line = serde_json::to_string(self)?;
        writeln!(file, "{line}").with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// The value in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// A column: its title, and its text for a row.
type Column = (&'static str, fn(&Row) -> String);

const COLUMNS: [Column; 19] = [
    ("scenario", |row| row.scenario.clone()),
    ("server", |row| row.subject.clone()),
    ("conns", |row| row.connections.to_string()),
    ("msg/s", |row| figure(row.rate, 0)),
    ("deliv/s", |row| figure(row.deliveries, 0)),
    ("CPU us", |row| figure(row.cpu_us, 2)),
    ("user us", |row| figure(row.user_us, 2)),
    ("sys us", |row| figure(row.system_us, 2)),
    ("p50 ms", |row| figure(row.p50_ms, 2)),
    ("p99 ms", |row| figure(row.p99_ms, 2)),
    ("server %", |row| {
        figure(row.server_share.map(|share| share * 100.0), 0)
    }),
    ("tool %", |row| {
        figure(row.own_share.map(|share| share * 100.0), 0)
    }),
    ("B/deliv", |row| figure(row.bytes, 0)),
    ("per read", |row| figure(row.per_read, 1)),
    ("RSS B/conn", |row| figure(row.rss_per_connection, 0)),
    ("RSS MiB", |row| figure(row.rss_mib, 1)),
    ("conns/s", |row| figure(row.connects, 0)),
    ("kept up", |row| match row.kept_up {
        Some(_) if (1..row.windows).contains(&row.kept_up_in) => {
            format!("{} of {}", row.kept_up_in, row.windows)
        }
        Some(true) => "yes".to_owned(),
        Some(false) => "NO".to_owned(),
        None => String::new(),
    }),
    ("note", |row| row.note.clone()),
];

fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(String::new, |value| format!("{value:.digits$}"))
}

/// Prints rows as a table. Columns without any value are left out.
///
/// # Errors
/// The output is closed.
pub(crate) fn print(rows: &[Row]) -> io::Result<()> {
    let cells = |column: &Column| rows.iter().map(column.1).collect::<Vec<_>>();
    let columns = COLUMNS.iter().map(|column| (column.0, cells(column)));
    let columns: Vec<_> = columns
        .filter(|(_, cells)| cells.iter().any(|cell| !cell.is_empty()))
        .collect();
    let titles: Vec<_> = columns
        .iter()
        .map(|(title, _)| (*title).to_owned())
        .collect();
    let lines = (0..rows.len()).map(|row| {
        columns
            .iter()
            .map(|(_, cells)| cells[row].clone())
            .collect()
    });
    print_table(&titles, &lines.collect::<Vec<_>>())
}

/// Prints lines under titles, in columns.
///
/// # Errors
/// The output is closed.
pub(crate) fn print_table(titles: &[String], lines: &[Vec<String>]) -> io::Result<()> {
    let all = || std::iter::once(titles).chain(lines.iter().map(Vec::as_slice));
    let width = |column: usize| all().map(|line| line[column].chars().count()).max();
    let widths: Vec<_> = (0..titles.len())
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut out = io::stdout().lock();
    for (number, line) in all().enumerate() {
        let cells: Vec<_> = line
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        writeln!(out, "| {} |", cells.join(" | "))?;
        if number == 0 {
            let rules: Vec<_> = widths.iter().map(|&width| "-".repeat(width)).collect();
            writeln!(out, "|-{}-|", rules.join("-|-"))?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn most_windows_decide() {
        let row = |kept_up, cpu_us| Row {
            kept_up: Some(kept_up),
            cpu_us: Some(cpu_us),
            ..Row::default()
        };
        let rows = [row(true, 1.0), row(false, 9.0), row(true, 2.0)];
        let median = Row::median(&rows).unwrap();
        assert_eq!((median.kept_up, median.kept_up_in), (Some(true), 2));
        assert_eq!((median.cpu_us, median.windows), (Some(2.0), 3));
        assert_eq!(Row::median(&rows[..2]).unwrap().kept_up, Some(false));
    }
}
