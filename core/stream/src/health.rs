//! Health of the server: the state of each of its parts, for clients and operators.
//!
//! The composition root looks at all parts about once a second, and reports what it found
//! ([`StreamCore::report_health`](crate::StreamCore::report_health)). When the first part fails
//! and when the last one works again, every client is sent `status` once. A client that
//! connects meanwhile is sent it after `welcome`.

use parking_lot::Mutex;
use tidewire_proto::v1::{ServerState, ServerStatus};

/// A fault, with what clients may read of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthFault {
    /// The fault in words, for operators.
    pub text: String,
    /// Its text for everybody else.
    pub disclosure: Disclosure,
}

/// Text of a fault for those who are no operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disclosure {
    /// The text.
    Full,
    /// This summary alone: the text has details of a server behind this one.
    Summary(&'static str),
    /// This summary, if they ask. Clients are not sent `status`: nothing that they use is
    /// missing.
    Operators(&'static str),
}

impl HealthFault {
    /// A fault of which everybody may read that its part cannot be used.
    #[must_use]
    pub fn unusable(text: String) -> Self {
        Self {
            text,
            disclosure: Disclosure::Summary("it cannot be used"),
        }
    }

    /// The text that everybody may read.
    #[must_use]
    pub fn summary(&self) -> &str {
        match self.disclosure {
            Disclosure::Full => &self.text,
            Disclosure::Summary(summary) | Disclosure::Operators(summary) => summary,
        }
    }

    fn concerns_clients(&self) -> bool {
        !matches!(self.disclosure, Disclosure::Operators(_))
    }
}

impl From<String> for HealthFault {
    fn from(text: String) -> Self {
        Self {
            text,
            disclosure: Disclosure::Full,
        }
    }
}

/// Health of one part of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartHealth {
    /// Name of the part, such as `store` or `chain 1`.
    pub part: String,
    /// The fault, or none while the part works.
    pub fault: Option<HealthFault>,
    /// Since when it works or does not, in milliseconds since the Unix epoch.
    pub since_ms: i64,
}

/// The finding about one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartReport {
    /// Name of the part.
    pub part: String,
    /// The fault, or none while the part works.
    pub fault: Option<HealthFault>,
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

/// Whether something is missing for clients.
fn is_degraded(parts: &[PartHealth]) -> bool {
    faults_of_clients(parts).next().is_some()
}

fn faults_of_clients(parts: &[PartHealth]) -> impl Iterator<Item = (&str, &HealthFault)> {
    let faults = parts
        .iter()
        .filter_map(|one| Some((&*one.part, one.fault.as_ref()?)));
    faults.filter(|(_, fault)| fault.concerns_clients())
}

/// All faults in one text, each with its part.
fn reason(parts: &[PartHealth]) -> String {
    let faults =
        faults_of_clients(parts).map(|(part, fault)| format!("{part}: {}", fault.summary()));
    faults.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(part: &str, fault: Option<&str>) -> PartReport {
        PartReport {
            part: part.to_owned(),
            fault: fault.map(|text| text.to_owned().into()),
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

    #[test]
    fn clients_read_summaries_and_nothing_of_what_concerns_operators_alone() {
        let health = Health::default();
        let mut of_broker = report("broker", None);
        of_broker.fault = Some(HealthFault::unusable("WRONGPASS of 10.0.0.1".to_owned()));
        let mut of_settings = report("settings", None);
        of_settings.fault = Some(HealthFault {
            text: "another secret".to_owned(),
            disclosure: Disclosure::Operators("other nodes have other settings"),
        });
        let change = health.update(vec![of_settings.clone()], 1);
        assert_eq!(change, HealthChange::Unchanged);
        assert_eq!(health.news(StatusNotice::Ok), None);
        let change = health.update(vec![of_settings, of_broker], 2);
        assert_eq!(change, HealthChange::Changed);
        let (_, status) = health.news(StatusNotice::Ok).unwrap();
        assert_eq!(status.reason.as_deref(), Some("broker: it cannot be used"));
        let texts = health.parts().into_iter().filter_map(|part| part.fault);
        let texts: Vec<_> = texts.map(|fault| fault.text).collect();
        assert_eq!(texts, ["another secret", "WRONGPASS of 10.0.0.1"]);
    }
}
