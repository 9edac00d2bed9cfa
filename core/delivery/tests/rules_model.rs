//! Property: what is sent, and when, equals what the rules say, whatever happens in between.
//!
//! The model keeps a list of what is still to be sent, and looks at each entry whenever anything
//! happens and every ten minutes. It has no store, no index and no times at which it looks.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::time::Duration;

use proptest::prelude::*;
use support::{MINUTE_MS, NIGHT_MS, World, note};
use tidewire_delivery::durable::PlanOutcome;
use tidewire_proto::v1::{
    DeliveryFilter, DeliveryPreferences, NotificationType, NotifyRequest, Preferences, Priority,
    QuietHours,
};
use tidewire_store::Table;

const STEP_MS: i64 = 10 * MINUTE_MS;

const DAY_STEPS: i64 = 24 * 6;

/// Time from a notification to its mail, by default.
const DELAY_MS: i64 = 5 * MINUTE_MS;

#[derive(Debug, Clone)]
enum Operation {
    Notify {
        priority: Priority,
        is_warning: bool,
    },
    Read(usize),
    Dismiss(usize),
    Prefer(Rules),
    /// Steps of ten minutes.
    Pass(i64),
    Restart,
}

#[derive(Debug, Clone, Default)]
struct Rules {
    /// From and to, in steps from midnight in UTC.
    quiet: Option<(i64, i64)>,
    wants_digest: bool,
    min_priority: Option<Priority>,
    push_min_priority: Option<Priority>,
    mutes_email: bool,
}

impl Rules {
    fn preferences(&self) -> Preferences {
        let clock = |step: i64| format!("{:02}:{:02}", step / 6, step % 6 * 10);
        let filter = |min_priority: Option<Priority>, mutes: bool| DeliveryFilter {
            min_priority: min_priority.map(Into::into),
            muted_types: match mutes {
                true => vec![NotificationType::PriceAlert.into()],
                false => Vec::new(),
            },
            ..DeliveryFilter::default()
        };
        Preferences {
            min_priority: self.min_priority.map(Into::into),
            quiet_hours: self.quiet.map(|(start, end)| QuietHours {
                start: clock(start),
                end: clock(end),
                time_zone: "UTC".to_owned(),
            }),
            digest: Some(self.wants_digest),
            channels: Some(DeliveryPreferences {
                push: Some(filter(self.push_min_priority, false)),
                email: Some(filter(None, self.mutes_email)),
                webhook: None,
            }),
            ..Preferences::default()
        }
    }

    fn is_quiet(&self, now_ms: i64) -> bool {
        let step = now_ms / STEP_MS % DAY_STEPS;
        self.quiet.is_some_and(|(start, end)| match start < end {
            true => start <= step && step < end,
            false => start <= step || step < end,
        })
    }

    fn hides(&self, priority: Priority) -> bool {
        self.min_priority.is_some_and(|least| priority < least)
    }

    fn filters(&self, channel: &str, priority: Priority) -> bool {
        match channel {
            "push" => self.push_min_priority.is_some_and(|least| priority < least),
            _ => self.mutes_email,
        }
    }
}

/// Something to send on a channel.
struct Pending {
    channel: &'static str,
    number: usize,
    priority: Priority,
    is_exempt: bool,
    /// Not before this time.
    from_ms: i64,
    was_held: bool,
}

#[derive(Default)]
struct Model {
    rules: Rules,
    pending: Vec<Pending>,
}

impl Model {
    fn notify(&mut self, number: usize, priority: Priority, is_warning: bool, now_ms: i64) {
        let is_exempt = is_warning || priority == Priority::Urgent;
        if !is_exempt && self.rules.hides(priority) {
            return;
        }
        for (channel, delay_ms) in [("push", 0), ("email", DELAY_MS)] {
            self.pending.push(Pending {
                channel,
                number,
                priority,
                is_exempt,
                from_ms: now_ms + delay_ms,
                was_held: false,
            });
        }
    }

    fn remove(&mut self, number: usize) {
        self.pending.retain(|pending| pending.number != number);
    }

    /// The messages that are sent now.
    fn sent(&mut self, now_ms: i64) -> Vec<String> {
        let rules = &self.rules;
        self.pending.retain(|one| {
            one.is_exempt
                || !(rules.hides(one.priority) || rules.filters(one.channel, one.priority))
        });
        let (mut sent, mut digests) = (Vec::new(), [Vec::new(), Vec::new()]);
        self.pending.retain_mut(|one| {
            if !one.is_exempt && rules.is_quiet(now_ms) {
                one.was_held = true;
                return true;
            }
            if now_ms < one.from_ms {
                return true;
            }
            match rules.wants_digest && one.was_held {
                true => digests[usize::from(one.channel == "push")].push(one.number.to_string()),
                false => sent.push(format!("{}: {}", to(one.channel), one.number)),
            }
            false
        });
        for (place, channel) in ["email", "push"].into_iter().enumerate() {
            if !digests[place].is_empty() {
                sent.push(format!(
                    "{} digest: {}",
                    to(channel),
                    digests[place].join(", ")
                ));
            }
        }
        sent.sort();
        sent
    }
}

fn to(channel: &str) -> &'static str {
    match channel {
        "push" => "push phone",
        _ => "email ada@example.com",
    }
}

fn priority() -> impl Strategy<Value = Priority> + Clone {
    prop_oneof![
        Just(Priority::Low),
        Just(Priority::Medium),
        Just(Priority::High),
        Just(Priority::Urgent),
    ]
}

fn rules() -> impl Strategy<Value = Rules> {
    let quiet = (0..DAY_STEPS, 1..DAY_STEPS).prop_map(|(start, len)| {
        // Night more often than not, so that something is held.
        (start, (start + len) % DAY_STEPS)
    });
    let least = prop::option::weighted(0.3, priority());
    let quiet = prop::option::weighted(0.7, quiet);
    (
        quiet,
        any::<bool>(),
        least.clone(),
        least,
        prop::bool::weighted(0.2),
    )
        .prop_map(
            |(quiet, wants_digest, min_priority, push_min_priority, mutes_email)| Rules {
                quiet,
                wants_digest,
                min_priority,
                push_min_priority,
                mutes_email,
            },
        )
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (priority(), prop::bool::weighted(0.1))
            .prop_map(|(priority, is_warning)| Operation::Notify { priority, is_warning }),
        1 => any::<usize>().prop_map(Operation::Read),
        1 => any::<usize>().prop_map(Operation::Dismiss),
        2 => rules().prop_map(Operation::Prefer),
        3 => (1..50_i64).prop_map(Operation::Pass),
        1 => Just(Operation::Restart),
    ]
}

/// Sends what is due in the world, without the webhooks. Returns when the next row is due.
async fn sent(world: &World) -> (Vec<String>, Option<i64>) {
    let mut sent = world.sent().await;
    while world.store.len(Table("delivery.jobs")) > 0 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        sent.extend(world.sent().await);
    }
    sent.retain(|line| !line.starts_with("webhook"));
    sent.sort();
    match world.planner.step().await.unwrap() {
        PlanOutcome::Idle(due_ms) => (sent, due_ms),
        PlanOutcome::More => panic!("more is due"),
    }
}

async fn check(operations: Vec<Operation>) {
    let mut world = World::new().await;
    world.register("ada", "phone").await;
    world.set_email("ada").await;
    let (mut model, mut ids) = (Model::default(), Vec::new());
    // Steps begin with an hour.
    world.advance(STEP_MS - NIGHT_MS % STEP_MS);
    let mut due_ms = None;
    for (place, operation) in operations.iter().enumerate() {
        let mut steps = 0;
        match operation {
            Operation::Notify {
                priority,
                is_warning,
            } => {
                let mut one = note(&ids.len().to_string(), *priority);
                if *is_warning {
                    one.r#type = NotificationType::SecurityWarning.into();
                }
                model.notify(ids.len(), *priority, *is_warning, world.now_ms);
                let request = NotifyRequest {
                    user: Some("ada".to_owned()),
                    notification: Some(one),
                    ..NotifyRequest::default()
                };
                ids.push(world.send(request).await);
            }
            Operation::Read(number) | Operation::Dismiss(number) if !ids.is_empty() => {
                let number = number % ids.len();
                let id = [ids[number].clone()];
                match operation {
                    Operation::Read(_) => drop(world.hub.mark_read("ada", &id).await.unwrap()),
                    _ => drop(world.hub.dismiss("ada", &id).await.unwrap()),
                }
                model.remove(number);
            }
            Operation::Prefer(rules) => {
                world.prefer("ada", rules.preferences()).await;
                model.rules = rules.clone();
            }
            Operation::Pass(count) => steps = *count,
            Operation::Restart => world = world.restart().await,
            Operation::Read(_) | Operation::Dismiss(_) => {}
        }
        for step in 0..=steps {
            if step > 0 {
                world.advance(STEP_MS);
            }
            let expected = model.sent(world.now_ms);
            if step > 0 && !expected.is_empty() {
                assert!(
                    due_ms.is_some_and(|due_ms| due_ms <= world.now_ms),
                    "operation {place}, step {step}: {expected:?} is not known to be due"
                );
            }
            let (now, next_ms) = sent(&world).await;
            assert_eq!(
                now, expected,
                "operation {place}, step {step} of {operations:?}"
            );
            due_ms = next_ms;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn what_is_sent_equals_what_the_rules_say(
        operations in proptest::collection::vec(operation(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(check(operations));
    }
}
