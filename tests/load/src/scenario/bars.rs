//! Bars: the whole set of scenarios in rotation, and the required figures.

use std::{collections::HashMap, io::Write as _};

use super::{idle, ramp};
use crate::{
    cli::Bars,
    client::{Order, Transport},
    clock,
    lab::Lab,
    report::{self, Row},
    rig::{Rig, Shape, Source, Subject},
};

const WS: Subject = Subject::Tidewire(Transport::WsJson);
const SSE: Subject = Subject::Tidewire(Transport::Sse);
const GRPC: Subject = Subject::Tidewire(Transport::Grpc);
const SUBSCRIBERS: usize = 1_000;
/// First rate of a ramp, in messages per second.
const RAMP_FROM: f64 = 400.0;
const RAMP_SECONDS: f64 = 1.2;
/// Repetitions of the long scenarios.
const LONG_REPS: usize = 2;

/// Rows by scenario and subject.
#[derive(Default)]
struct Results(HashMap<(&'static str, &'static str), Vec<Row>>);

impl Results {
    fn add(
        &mut self,
        lab: &Lab,
        scenario: &'static str,
        who: &'static str,
        row: Row,
    ) -> anyhow::Result<()> {
        lab.note(&row)?;
        self.0.entry((scenario, who)).or_default().push(row);
        Ok(())
    }

    fn median(&self, scenario: &'static str, who: &'static str) -> Option<Row> {
        self.0
            .get(&(scenario, who))
            .and_then(|rows| Row::median(rows))
    }
}

/// Measures everything, and prints the table of bars.
///
/// # Errors
/// A server could not be started.
pub(crate) fn run(lab: &Lab, options: &Bars) -> anyhow::Result<()> {
    let start = clock::now();
    let mut results = Results::default();
    let tls = lab.over_tls()?;
    for rep in 0..lab.reps {
        let is_long = rep < LONG_REPS;
        // With `--tls`, only the bars over TLS are measured.
        if !lab.has_tls() {
            fanout(lab, options, &mut results)?;
            board(lab, options, &mut results)?;
            transports(lab, options, &mut results)?;
            if is_long {
                saturation(lab, &mut results)?;
                connections(lab, options, &mut results)?;
            }
        }
        over_tls(&tls, options, &mut results, is_long)?;
    }
    print_rows(&results)?;
    let lines: Vec<_> = bars().iter().map(|bar| bar.line(&results)).collect();
    let titles = ["bar", "Tidewire", "beside", "ratio", "required", "met"].map(str::to_owned);
    let mut out = std::io::stdout();
    writeln!(out)?;
    report::print_table(&titles, &lines)?;
    writeln!(
        out,
        "\n{} s, load average {:.1}, server on CPU {:?}, tool on CPU {:?}",
        (clock::now() - start) / clock::SECOND,
        crate::machine::load_average(),
        lab.programs.server_cpus,
        lab.programs.own_cpus,
    )?;
    Ok(())
}

/// Returns the subjects with their names.
fn beside(lab: &Lab) -> Vec<(&'static str, Subject)> {
    let mut subjects = vec![("tidewire", WS)];
    subjects.extend(lab.has_bun().then_some(("bun", Subject::Bun)));
    subjects
}

fn fanout(lab: &Lab, options: &Bars, results: &mut Results) -> anyhow::Result<()> {
    let mut subjects = beside(lab);
    subjects.extend([("bare", Subject::Bare), ("gather", Subject::Gather)]);
    for (who, subject) in subjects {
        let mut rig = lab.rig(subject, &Shape::fanout(SUBSCRIBERS))?;
        for (scenario, rate) in [("50k", 50.0), ("100k", 100.0), ("1M", 1_000.0)] {
            if who == "bare" && scenario == "1M" {
                continue;
            }
            let row = overrun(&mut rig, scenario, rate, options.seconds);
            results.add(lab, scenario, who, row)?;
        }
    }
    Ok(())
}

/// Measures one window. A server that exits during it did not keep up.
fn overrun(rig: &mut Rig, scenario: &str, rate: f64, seconds: f64) -> Row {
    rig.window(scenario, rate, seconds)
        .unwrap_or_else(|error| Row {
            rate: Some(rate),
            kept_up: Some(false),
            note: error.to_string(),
            ..rig.row(scenario)
        })
}

fn board(lab: &Lab, options: &Bars, results: &mut Results) -> anyhow::Result<()> {
    let board = Shape {
        channels: 200,
        per_connection: 50,
        order: Order::Random,
        ..Shape::fanout(SUBSCRIBERS)
    };
    for (who, subject) in beside(lab) {
        let mut rig = lab.rig(subject, &board)?;
        let row = overrun(&mut rig, "board", 200.0, options.seconds);
        results.add(lab, "board", who, row)?;
    }
    let prices = Shape {
        source: Source::Prices,
        order: Order::Rotation,
        ..board
    };
    let mut rig = lab.rig(WS, &prices)?;
    let row = overrun(&mut rig, "prices", 200.0, options.seconds);
    results.add(lab, "prices", "tidewire", row)
}

fn transports(lab: &Lab, options: &Bars, results: &mut Results) -> anyhow::Result<()> {
    for (who, subject) in [("sse", SSE), ("grpc", GRPC)] {
        let mut rig = lab.rig(subject, &Shape::fanout(SUBSCRIBERS))?;
        let row = overrun(&mut rig, "50k", 50.0, options.seconds);
        results.add(lab, "50k", who, row)?;
    }
    if lab.programs.server_cpus.is_empty() {
        return Ok(());
    }
    let mut programs = lab.programs.clone();
    programs
        .server_cpus
        .extend_from_slice(&lab.programs.own_cpus);
    let mut rig = Rig::set_up(&programs, WS, &Shape::fanout(SUBSCRIBERS))?;
    let row = overrun(&mut rig, "50k, 2 CPUs", 50.0, options.seconds);
    results.add(lab, "50k, 2 CPUs", "tidewire", row)
}

fn saturation(lab: &Lab, results: &mut Results) -> anyhow::Result<()> {
    let mut subjects = beside(lab);
    subjects.push(("gather", Subject::Gather));
    for (who, subject) in subjects {
        let shape = Shape::fanout(SUBSCRIBERS);
        let row = ramp::saturate(lab, subject, &shape, RAMP_FROM, RAMP_SECONDS)?;
        results.add(lab, "ramp", who, row)?;
    }
    Ok(())
}

fn connections(lab: &Lab, options: &Bars, results: &mut Results) -> anyhow::Result<()> {
    for (who, subject) in beside(lab) {
        let row = idle::measure(lab, subject, &idle::shape(options.idle, true), "idle")?;
        results.add(lab, "idle", who, row)?;
    }
    Ok(())
}

fn over_tls(lab: &Lab, options: &Bars, results: &mut Results, is_long: bool) -> anyhow::Result<()> {
    let shape = Shape::fanout(SUBSCRIBERS);
    for (who, subject) in beside(lab) {
        let mut rig = lab.rig(subject, &shape)?;
        let row = overrun(&mut rig, "50k, TLS", 50.0, options.seconds);
        results.add(lab, "50k, TLS", who, row)?;
    }
    if !is_long {
        return Ok(());
    }
    for (who, subject) in beside(lab) {
        let row = ramp::saturate(lab, subject, &shape, RAMP_FROM, RAMP_SECONDS)?;
        results.add(lab, "ramp, TLS", who, row)?;
        let row = idle::measure(lab, subject, &idle::shape(options.idle, true), "idle, TLS")?;
        results.add(lab, "idle, TLS", who, row)?;
    }
    Ok(())
}

fn print_rows(results: &Results) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for scenario in [
        "50k",
        "50k, 2 CPUs",
        "100k",
        "1M",
        "ramp",
        "board",
        "prices",
        "idle",
        "50k, TLS",
        "ramp, TLS",
        "idle, TLS",
    ] {
        let all = ["tidewire", "sse", "grpc", "bun", "bare", "gather"];
        rows.extend(all.iter().filter_map(|who| results.median(scenario, who)));
    }
    report::print(&rows)?;
    Ok(())
}

/// The condition of a bar.
enum Requirement {
    AtMost(f64),
    AtLeast(f64),
}

/// A bar: a figure, or its ratio to another one.
struct Bar {
    name: &'static str,
    of: (&'static str, &'static str),
    to: Option<(&'static str, &'static str)>,
    figure: fn(&Row) -> Option<f64>,
    requirement: Requirement,
}

impl Bar {
    fn line(&self, results: &Results) -> Vec<String> {
        let row = results.median(self.of.0, self.of.1);
        let other = self
            .to
            .and_then(|(scenario, who)| results.median(scenario, who));
        let value = row.as_ref().and_then(self.figure);
        let beside = other.as_ref().and_then(self.figure);
        let ratio = value.zip(beside).map(|(value, beside)| value / beside);
        let judged = if self.to.is_some() { ratio } else { value };
        let (required, holds): (String, fn(f64, f64) -> bool) = match self.requirement {
            Requirement::AtMost(most) => (format!("<= {most}"), |judged, most| judged <= most),
            Requirement::AtLeast(least) => (format!(">= {least}"), |judged, least| judged >= least),
        };
        let (Requirement::AtMost(limit) | Requirement::AtLeast(limit)) = self.requirement;
        let kept_up = row.as_ref().is_none_or(|row| row.kept_up != Some(false));
        let met = match judged {
            None => "not measured",
            Some(_) if !kept_up => "NO, not kept up",
            Some(judged) if holds(judged, limit) => "yes",
            Some(_) => "NO",
        };
        let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
        vec![
            self.name.to_owned(),
            show(value),
            show(beside),
            show(ratio),
            if self.to.is_some() {
                format!("ratio {required}")
            } else {
                required
            },
            met.to_owned(),
        ]
    }
}

fn number(value: f64) -> String {
    if value >= 1_000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

fn cpu(row: &Row) -> Option<f64> {
    row.cpu_us
}

fn p99(row: &Row) -> Option<f64> {
    row.p99_ms
}

fn bars() -> Vec<Bar> {
    use Requirement::{AtLeast, AtMost};
    let bar = |name, of, to, figure, requirement| Bar {
        name,
        of,
        to,
        figure,
        requirement,
    };
    vec![
        bar(
            "CPU us/delivery, 50,000/s",
            ("50k", "tidewire"),
            Some(("50k", "bun")),
            cpu,
            AtMost(1.10),
        ),
        bar(
            "user us of it",
            ("50k", "tidewire"),
            None,
            |row| row.user_us,
            AtMost(1.5),
        ),
        bar(
            "p99 ms, 50,000/s",
            ("50k", "tidewire"),
            Some(("50k", "bun")),
            p99,
            AtMost(1.2),
        ),
        bar(
            "CPU us/delivery, 100,000/s",
            ("100k", "tidewire"),
            Some(("100k", "bun")),
            cpu,
            AtMost(0.75),
        ),
        bar(
            "p99 ms, 100,000/s",
            ("100k", "tidewire"),
            None,
            p99,
            AtMost(40.0),
        ),
        bar(
            "CPU us/delivery, 1,000,000/s",
            ("1M", "tidewire"),
            None,
            cpu,
            AtMost(0.75),
        ),
        bar(
            "p99 ms, 1,000,000/s",
            ("1M", "tidewire"),
            None,
            p99,
            AtMost(40.0),
        ),
        bar(
            "saturation, deliveries/s",
            ("ramp", "tidewire"),
            Some(("ramp", "bun")),
            |row| row.deliveries,
            AtLeast(1.3),
        ),
        bar(
            "board on plain channels, CPU us/update",
            ("board", "tidewire"),
            Some(("board", "bun")),
            cpu,
            AtMost(1.0),
        ),
        bar(
            "board of prices, CPU us/update",
            ("prices", "tidewire"),
            Some(("board", "bun")),
            cpu,
            AtMost(0.5),
        ),
        bar(
            "board of prices, p99 ms",
            ("prices", "tidewire"),
            None,
            p99,
            AtMost(100.0),
        ),
        bar(
            "idle WebSocket, bytes",
            ("idle", "tidewire"),
            None,
            |row| row.rss_per_connection,
            AtMost(3_072.0),
        ),
        bar(
            "connects/s",
            ("idle", "tidewire"),
            Some(("idle", "bun")),
            |row| row.connects,
            AtLeast(0.7),
        ),
        bar(
            "SSE to WebSocket, CPU us/delivery",
            ("50k", "sse"),
            Some(("50k", "tidewire")),
            cpu,
            AtMost(2.0),
        ),
        bar(
            "gRPC to WebSocket, CPU us/delivery",
            ("50k", "grpc"),
            Some(("50k", "tidewire")),
            cpu,
            AtMost(2.0),
        ),
        bar(
            "two CPUs to one, CPU us/delivery",
            ("50k, 2 CPUs", "tidewire"),
            Some(("50k", "tidewire")),
            cpu,
            AtMost(1.15),
        ),
        bar(
            "TLS: CPU us/delivery, 50,000/s",
            ("50k, TLS", "tidewire"),
            Some(("50k, TLS", "bun")),
            cpu,
            AtMost(1.10),
        ),
        bar(
            "TLS: saturation, deliveries/s",
            ("ramp, TLS", "tidewire"),
            Some(("ramp, TLS", "bun")),
            |row| row.deliveries,
            AtLeast(1.0),
        ),
        bar(
            "TLS: idle WebSocket, bytes",
            ("idle, TLS", "tidewire"),
            None,
            |row| row.rss_per_connection,
            AtMost(6_144.0),
        ),
        bar(
            "TLS: handshakes/s",
            ("idle, TLS", "tidewire"),
            Some(("idle, TLS", "bun")),
            |row| row.connects,
            AtLeast(0.8),
        ),
    ]
}
