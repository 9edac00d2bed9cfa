//! Health of the server: the state of each of its parts, for clients and operators.
//!
//! The composition root looks at all parts about once a second, and reports what it found
//! ([`StreamCore::report_health`](crate::StreamCore::report_health)). When the first part fails
//! and when the last one works again, every client is sent `status` once. A client that
//! connects meanwhile is sent it after `welcome`.

use parking_lot::Mutex;
use tidewire_proto::v1::{ServerState, ServerStatus};

/// Health of one part of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartHealth {
    /// Name of the part, such as `store` or `chain 1`.
    pub part: String,
    /// The fault in words, or none while the part works.
    pub fault: Option<String>,
    /// Since when it works or does not, in milliseconds since the Unix epoch.
    pub since_ms: i64,
}

/// The finding about one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartReport {
    /// Name of the part.
    pub part: String,
    /// The fault in words, or none while the part works.
    pub fault: Option<String>,
}

/// The parts of the server, as they were last reported.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Vec<PartHealth>>);

/// The newest status of the server that a client was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum StatusNotice {
    /// None: the client has no `welcome` yet.
    #[default]
    None,
    /// The server is well. A client assumes it from `welcome` on.
    Ok,
    /// The server is degraded.
    Degraded,
}

/// Whether the server as a whole has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HealthChange {
    /// It was well and is degraded, or the other way round.
    Changed,
    /// It is as before.
    Unchanged,
}

impl Health {
    /// Replaces what is known by a report about all parts.
    pub(crate) fn update(&self, reports: Vec<PartReport>, now_ms: i64) -> HealthChange {
        let mut parts = self.0.lock();
        let was_degraded = is_degraded(&parts);
        let updated = reports.into_iter().map(|PartReport { part, fault }| {
            let known = parts.iter().find(|known| known.part == part);
            let known = known.filter(|known| known.fault.is_some() == fault.is_some());
            PartHealth {
                since_ms: known.map_or(now_ms, |known| known.since_ms),
                part,
                fault,
            }
        });
        *parts = updated.collect();
        match was_degraded == is_degraded(&parts) {
            true => HealthChange::Unchanged,
            false => HealthChange::Changed,
        }
    }

    /// All parts.
    pub(crate) fn parts(&self) -> Vec<PartHealth> {
        self.0.lock().clone()
    }

    /// The status message, if the newest notice of a client is not true any more.
    pub(crate) fn news(&self, notice: StatusNotice) -> Option<(StatusNotice, ServerStatus)> {
        let parts = self.0.lock();
        match (notice, is_degraded(&parts)) {
            (StatusNotice::Ok, true) => {
                let status = ServerStatus {
                    state: ServerState::Degraded.into(),
                    reason: Some(reason(&parts)),
                };
                Some((StatusNotice::Degraded, status))
            }
            (StatusNotice::Degraded, false) => {
                let status = ServerStatus {
                    state: ServerState::Ok.into(),
                    reason: None,
                };
                Some((StatusNotice::Ok, status))
            }
            _ => None,
        }
    }
}

fn is_degraded(parts: &[PartHealth]) -> bool {
    parts.iter().any(|part| part.fault.is_some())
}

/// All faults in one text, each with its part.
fn reason(parts: &[PartHealth]) -> String {
    let faults = parts.iter().filter_map(|one| {
        let fault = one.fault.as_ref()?;
        Some(format!("{}: {fault}", one.part))
    });
    faults.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(part: &str, fault: Option<&str>) -> PartReport {
        PartReport {
            part: part.to_owned(),
            fault: fault.map(str::to_owned),
        }
    }

    #[test]
    fn the_whole_changes_with_the_first_fault_and_the_last() {
        let health = Health::default();
        let update = |store, venues, now_ms| {
            health.update(
                vec![report("store", store), report("venues", venues)],
                now_ms,
            )
        };
        assert_eq!(update(None, None, 1), HealthChange::Unchanged);
        assert_eq!(update(Some("full"), None, 2), HealthChange::Changed);
        assert_eq!(
            update(Some("still full"), Some("away"), 3),
            HealthChange::Unchanged
        );
        let since: Vec<_> = health.parts().iter().map(|part| part.since_ms).collect();
        assert_eq!(since, [2, 3], "another text is no other state");
        let (notice, status) = health.news(StatusNotice::Ok).unwrap();
        assert_eq!(notice, StatusNotice::Degraded);
        assert_eq!(
            status.reason.as_deref(),
            Some("store: still full; venues: away")
        );
        assert_eq!(health.news(notice), None, "once");
        assert_eq!(
            health.news(StatusNotice::None),
            None,
            "after `welcome` alone"
        );
        assert_eq!(update(None, Some("away"), 4), HealthChange::Unchanged);
        assert_eq!(update(None, None, 5), HealthChange::Changed);
        let (notice, status) = health.news(notice).unwrap();
        assert_eq!(
            (notice, status.state()),
            (StatusNotice::Ok, ServerState::Ok)
        );
        assert_eq!(health.news(notice), None);
    }
}
