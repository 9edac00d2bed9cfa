//! Metrics of requests to notify: `tidewire_notifications_total{target, priority}` and
//! `tidewire_notification_refusals_total{code}`.
//!
//! The labels are bounded: fields of the request, priorities and codes of the protocol.

use tidewire_proto::v1::{ErrorCode, NotifyRequest, Priority};

use crate::router::code_name;

/// Labels of a request to notify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestLabels {
    target: &'static str,
    priority: &'static str,
}

impl RequestLabels {
    /// The labels of a request. They are right for a request that is accepted.
    pub(super) fn of(request: &NotifyRequest) -> Self {
        let target = if request.everyone {
            "everyone"
        } else if request.channel.is_some() {
            "channel"
        } else if request.user.is_some() {
            "user"
        } else {
            "users"
        };
        let priority = request.notification.as_ref().map(|one| one.priority());
        let priority = match priority.unwrap_or_default() {
            Priority::Low => "low",
            Priority::Unspecified | Priority::Medium => "medium",
            Priority::High => "high",
            Priority::Urgent => "urgent",
        };
        Self { target, priority }
    }

    /// Counts an accepted request.
    pub(super) fn count_accepted(self) {
        metrics::counter!(
            "tidewire_notifications_total",
            "target" => self.target,
            "priority" => self.priority
        )
        .increment(1);
    }
}

/// Counts a request that was refused or failed.
pub(super) fn count_refused(code: ErrorCode) {
    metrics::counter!("tidewire_notification_refusals_total", "code" => code_name(Some(code)))
        .increment(1);
}

#[cfg(test)]
mod tests {
    use tidewire_proto::v1::Notification;

    use super::*;

    #[test]
    fn labels_follow_the_request() {
        let of = |request: NotifyRequest| {
            let RequestLabels { target, priority } = RequestLabels::of(&request);
            (target, priority)
        };
        let everyone = NotifyRequest {
            everyone: true,
            notification: Some(Notification {
                priority: Priority::Urgent.into(),
                ..Notification::default()
            }),
            ..NotifyRequest::default()
        };
        assert_eq!(of(everyone), ("everyone", "urgent"));
        let user = NotifyRequest {
            user: Some("ada".to_owned()),
            notification: Some(Notification::default()),
            ..NotifyRequest::default()
        };
        assert_eq!(of(user), ("user", "medium"));
    }
}
