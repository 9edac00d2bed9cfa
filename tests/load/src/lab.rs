//! Lab: the CPUs of the servers, the subjects to measure, and the output of rows.

use std::{env, path::PathBuf};

use anyhow::Context as _;

use crate::{
    cli::{Common, Subscribers},
    client::{Order, Transport},
    clock::SECOND,
    machine,
    report::{self, Row},
    rig::{Rig, Shape, Source, Subject},
    server::{Certificate, Programs},
};

/// Files that this tool opens besides its connections.
const OTHER_FILES: u64 = 64;

/// CPUs of the servers, subjects to measure, and output of rows.
#[derive(Clone)]
pub(crate) struct Lab {
    pub(crate) programs: Programs,
    pub(crate) reps: usize,
    is_alone: bool,
    out: Option<PathBuf>,
    open_files: u64,
}

impl Lab {
    /// Prepares this process.
    ///
    /// # Errors
    /// There is no binary to test, or the CPUs cannot be used.
    pub(crate) fn new(common: &Common) -> anyhow::Result<Self> {
        let tidewire = match &common.server {
            Some(path) => path.clone(),
            None => env::current_exe()?.with_file_name("tidewire"),
        };
        anyhow::ensure!(
            tidewire.is_file(),
            "{} is missing: build it, or name the binary under test with --server",
            tidewire.display()
        );
        let can_pin = machine::own_cpus().len() > 1 && !common.no_pin;
        let own_cpus = if can_pin {
            vec![common.own_cpu]
        } else {
            Vec::new()
        };
        if can_pin {
            machine::keep_to(&own_cpus)?;
        }
        let programs = Programs {
            tidewire: tidewire.canonicalize()?,
            bun: common
                .bun
                .as_ref()
                .map(|path| path.canonicalize())
                .transpose()
                .context("no such bun")?,
            server_cpus: if can_pin {
                common.server_cpus.clone()
            } else {
                Vec::new()
            },
            own_cpus,
            grace: (common.grace * SECOND as f64) as u64,
            environment: common.environment.clone(),
            certificate: common.tls.then(Certificate::new).transpose()?,
        };
        Ok(Self {
            programs,
            reps: common.reps.max(1),
            is_alone: common.alone,
            out: common.out.clone(),
            open_files: machine::raise_open_files(),
        })
    }

    /// Returns the binary under test on these transports, and the reference servers.
    pub(crate) fn subjects(&self, transports: &[Transport]) -> Vec<Subject> {
        let own = transports
            .iter()
            .map(|&transport| Subject::Tidewire(transport));
        own.chain(self.beside()).collect()
    }

    fn beside(&self) -> Vec<Subject> {
        if self.is_alone {
            return Vec::new();
        }
        let mut beside = Vec::new();
        if !self.has_tls() {
            beside.extend([Subject::Bare, Subject::Gather]);
        }
        beside.extend(self.programs.bun.is_some().then_some(Subject::Bun));
        beside
    }

    /// Whether uWebSockets is measured too.
    pub(crate) fn has_bun(&self) -> bool {
        self.programs.bun.is_some() && !self.is_alone
    }

    /// Whether the servers are measured over TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.programs.certificate.is_some()
    }

    /// Returns the same lab, whose servers are measured over TLS.
    ///
    /// # Errors
    /// No certificate can be issued.
    pub(crate) fn over_tls(&self) -> anyhow::Result<Self> {
        let mut lab = self.clone();
        if !lab.has_tls() {
            lab.programs.certificate = Some(Certificate::new()?);
        }
        Ok(lab)
    }

    /// Checks that the open-file limit allows this many connections.
    ///
    /// # Errors
    /// The limit is too low.
    pub(crate) fn check_files(&self, connections: usize) -> anyhow::Result<()> {
        let needed = connections as u64 + OTHER_FILES;
        anyhow::ensure!(
            needed <= self.open_files,
            "{connections} connections need {needed} open files, and {} are allowed",
            self.open_files
        );
        Ok(())
    }

    /// Starts a server with its subscribers.
    ///
    /// # Errors
    /// The server does not start, or refuses a connection.
    pub(crate) fn rig(&self, subject: Subject, shape: &Shape) -> anyhow::Result<Rig> {
        self.check_files(shape.connections)?;
        Rig::set_up(&self.programs, subject, shape)
    }

    /// Appends a row to the output file, if there is one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn note(&self, row: &Row) -> anyhow::Result<()> {
        self.out.as_ref().map_or(Ok(()), |out| row.append(out))
    }

    /// Measures each subject in rotation for the set number of repetitions, and prints
    /// medians.
    ///
    /// # Errors
    /// A subject could not be measured.
    pub(crate) fn interleave(
        &self,
        subjects: &[Subject],
        measure: impl Fn(Subject) -> anyhow::Result<Row>,
    ) -> anyhow::Result<()> {
        let mut rows: Vec<Vec<Row>> = vec![Vec::new(); subjects.len()];
        for _ in 0..self.reps {
            for (subject, rows) in subjects.iter().zip(&mut rows) {
                let row = measure(*subject)?;
                self.note(&row)?;
                rows.push(row);
            }
        }
        let medians: Vec<_> = rows.iter().filter_map(|rows| Row::median(rows)).collect();
        report::print(&medians)?;
        Ok(())
    }
}

impl Subscribers {
    /// Builds the shape given on the command line.
    pub(crate) fn shape(&self) -> anyhow::Result<Shape> {
        anyhow::ensure!(
            self.per_conn <= self.channels,
            "--per-conn is {}, expected at most --channels, {}",
            self.per_conn,
            self.channels
        );
        Ok(Shape {
            channels: self.channels,
            per_connection: self.per_conn,
            order: if self.random {
                Order::Random
            } else {
                Order::Rotation
            },
            size: self.size,
            source: if self.prices {
                Source::Prices
            } else {
                Source::Messages
            },
            ..Shape::fanout(self.connections)
        })
    }
}
