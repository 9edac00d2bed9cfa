//! Ramp scenario: the highest sustained rate. Doubles the rate until a server falls behind, or
//! halves it until the server keeps up, then bisects.

use super::fanout::beside;
use crate::{
    cli::Ramp,
    lab::Lab,
    report::Row,
    rig::{Shape, Subject},
};

/// Maximum doublings or halvings before the bisection.
const DOUBLINGS: usize = 12;
/// Steps of the bisection.
const HALVINGS: usize = 3;

/// Measures the binary under test and the reference servers.
///
/// # Errors
/// A server could not be measured.
pub(crate) fn run(lab: &Lab, options: &Ramp) -> anyhow::Result<()> {
    let shape = options.subscribers.shape()?;
    let subjects = lab.subjects(&options.subscribers.transport);
    lab.interleave(&subjects, |subject| {
        saturate(
            lab,
            subject,
            &beside(subject, &shape),
            options.from,
            options.seconds,
        )
    })
}

/// Returns the row of the highest sustained rate.
///
/// # Errors
/// The server could not be measured, or did not keep up with the first rate.
pub(crate) fn saturate(
    lab: &Lab,
    subject: Subject,
    shape: &Shape,
    from: f64,
    seconds: f64,
) -> anyhow::Result<Row> {
    let mut search = Search {
        lab,
        subject,
        shape,
        seconds,
        rig: None,
        best: None,
    };
    let (mut good, mut bad) = (from, from);
    if search.keeps_up(from)? {
        for _ in 0..DOUBLINGS {
            bad *= 2.0;
            if !search.keeps_up(bad)? {
                break;
            }
            good = bad;
        }
    } else {
        for _ in 0..DOUBLINGS {
            good /= 2.0;
            if search.keeps_up(good)? {
                break;
            }
            bad = good;
        }
    }
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(good, bad);
        if search.keeps_up(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    search.best.ok_or_else(|| {
        anyhow::anyhow!(
            "{} does not even keep up with {bad:.0} messages a second",
            subject.name()
        )
    })
}

struct Search<'a> {
    lab: &'a Lab,
    subject: Subject,
    shape: &'a Shape,
    seconds: f64,
    rig: Option<crate::rig::Rig>,
    best: Option<Row>,
}

impl Search<'_> {
    /// Tries a failed rate a second time, because one hiccup of the machine is no limit.
    fn keeps_up(&mut self, rate: f64) -> anyhow::Result<bool> {
        for _ in 0..2 {
            let mut rig = match self.rig.take() {
                Some(rig) => rig,
                None => self.lab.rig(self.subject, self.shape)?,
            };
            // An overrun server is restarted, so that its backlog does not count against the
            // next rate.
            let row = rig.window("ramp", rate, self.seconds);
            if let Ok(row) = row
                && row.kept_up == Some(true)
            {
                self.rig = Some(rig);
                self.best = Some(row);
                return Ok(true);
            }
        }
        Ok(false)
    }
}
