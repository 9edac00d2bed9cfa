use super::*;

/// A gatherer, and what it pushed.
struct Rig {
    gatherer: NotificationGatherer,
    start: Instant,
    /// The wall clock at the start.
    wall_ms: i64,
    out: Vec<Push>,
}

impl Rig {
    fn new(limits: GatheringLimits) -> Self {
        Self {
            gatherer: NotificationGatherer::new(limits),
            start: Instant::now(),
            wall_ms: 0,
            out: Vec::new(),
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn add(&mut self, user: &str, id: &str, priority: Priority, count: u64, ms: u64) {
        self.add_note(user, note(id, priority), count, Audience::Users, ms);
    }

    fn add_note(&mut self, user: &str, one: Notification, count: u64, audience: Audience, ms: u64) {
        let user = UserId::new(user);
        let now = PushTime {
            instant: self.at(ms),
            wall_ms: self.wall_ms + i64::try_from(ms).unwrap(),
        };
        self.gatherer
            .notification(&user, Arc::new(one), count, audience, now, &mut self.out);
    }

    fn read(&mut self, ids: &[&str], count: u64) {
        let receipt = ReadReceipt {
            ids: ids.iter().map(ToString::to_string).collect(),
            unread_count: count,
            ..ReadReceipt::default()
        };
        self.gatherer
            .read(&UserId::new("ada"), receipt, &mut self.out);
    }

    fn dismiss(&mut self, ids: &[&str], count: u64) {
        let dismissed = Dismissed {
            ids: ids.iter().map(ToString::to_string).collect(),
            unread_count: count,
        };
        self.gatherer
            .dismissed(&UserId::new("ada"), dismissed, &mut self.out);
    }

    fn prefer(&mut self, preferences: &Preferences) {
        self.gatherer
            .preferences(&UserId::new("ada"), preferences, &mut self.out);
    }

    fn due(&mut self, ms: u64) {
        let (now, before) = (self.at(ms), self.out.len());
        loop {
            let spent = self.out.len() - before;
            self.gatherer.due(now, spent, &mut self.out);
            if self.out.len() - before == spent {
                return;
            }
        }
    }

    /// The pushes since the last call, in short.
    fn pushed(&mut self) -> Vec<String> {
        let pushes = std::mem::take(&mut self.out);
        pushes.iter().map(short).collect()
    }
}

fn note(id: &str, priority: Priority) -> Notification {
    Notification {
        id: id.to_owned(),
        priority: priority.into(),
        ..Notification::default()
    }
}

fn short(push: &Push) -> String {
    let count = |count: Option<u64>| count.map_or("?".to_owned(), |count| count.to_string());
    let mark = |one: &Notification| if one.read { "*" } else { "" };
    let event = match &push.content {
        PushContent::Event(event) => event,
        PushContent::Broadcast(one, unread_count) => &Data::Notification(Notification {
            unread_count: Some(*unread_count),
            ..Notification::clone(one)
        }),
    };
    let text = match event {
        Data::Notification(one) => {
            let replaces = one.replaces.iter().map(|id| format!("<{id}"));
            let replaces = replaces.collect::<String>();
            let count = count(one.unread_count);
            format!("{}{replaces}{}={count}", one.id, mark(one))
        }
        Data::NotificationBatch(batch) => {
            let items = batch
                .items
                .iter()
                .map(|one| format!("{}{}", one.id, mark(one)));
            let items: Vec<_> = items.collect();
            format!("[{}]={}", items.join(" "), batch.unread_count)
        }
        Data::Read(receipt) => format!("read={}", receipt.unread_count),
        Data::Dismissed(dismissed) => {
            format!(
                "dismissed {}={}",
                dismissed.ids.join(" "),
                dismissed.unread_count
            )
        }
        Data::UnreadCount(count) => format!("count={}", count.unread_count),
        other => format!("{other:?}"),
    };
    match push.urgency {
        Urgency::Urgent => format!("urgent {text}"),
        Urgency::Ordinary => text,
    }
}

/// A notification that replaced another in the inbox.
fn in_place_of(old: &str, id: &str, priority: Priority) -> Notification {
    Notification {
        replaces: vec![old.to_owned()],
        ..note(id, priority)
    }
}

use Priority::{High, Low, Medium, Urgent};

#[test]
fn a_high_one_overtakes_and_a_batch_has_the_newest_count() {
    let mut rig = Rig::new(GatheringLimits::default());
    rig.add("ada", "a", Medium, 5, 0);
    rig.add("ada", "b", High, 6, 50);
    rig.dismiss(&["0"], 5);
    assert_eq!(rig.pushed(), ["b=6", "dismissed 0=5"]);
    rig.due(199);
    assert_eq!(rig.pushed(), [""; 0]);
    rig.due(200);
    assert_eq!(rig.pushed(), ["a=5"], "one alone is a notification");
    assert!(rig.gatherer.is_empty());
    assert_eq!(rig.gatherer.bytes(), 0);
    rig.add("ada", "c", Urgent, 7, 300);
    assert_eq!(rig.pushed(), ["urgent c=7"]);
}

#[test]
fn what_is_pending_of_a_user_leaves_together() {
    let mut rig = Rig::new(GatheringLimits::default());
    rig.add("ada", "a", Low, 1, 0);
    rig.add("bob", "b", Low, 1, 0);
    rig.add("ada", "c", Medium, 2, 100);
    rig.add("ada", "d", Low, 3, 200);
    rig.due(299);
    assert_eq!(rig.pushed(), [""; 0]);
    rig.due(300);
    assert_eq!(rig.pushed(), ["[a c d]=3"]);
    rig.due(999);
    assert_eq!(rig.pushed(), [""; 0]);
    rig.due(1_000);
    assert_eq!(rig.pushed(), ["b=1"]);
}

#[test]
fn a_pending_one_is_read_removed_and_replaced() {
    let mut rig = Rig::new(GatheringLimits::default());
    for (id, count) in [("a", 1), ("b", 2), ("c", 3)] {
        rig.add("ada", id, Low, count, 0);
    }
    rig.read(&["a"], 2);
    rig.dismiss(&["b"], 1);
    assert_eq!(rig.pushed(), ["read=2", "dismissed b=1"]);
    rig.add_note("ada", note("d", Low), 2, Audience::Users, 0);
    rig.add_note("ada", in_place_of("d", "e", Low), 2, Audience::Users, 0);
    rig.due(1_000);
    assert_eq!(rig.pushed(), ["[a* c e]=2"]);
    rig.add("ada", "f", Low, 3, 2_000);
    rig.dismiss(&["f"], 2);
    rig.due(9_000);
    assert_eq!(rig.pushed(), ["dismissed f=2"], "nothing is left");
    assert_eq!(rig.gatherer.bytes(), 0);
}

#[test]
fn a_count_comes_with_what_is_pending() {
    let mut rig = Rig::new(GatheringLimits::default());
    let ada = UserId::new("ada");
    rig.gatherer.unread_count(&ada, 4, &mut rig.out);
    assert_eq!(rig.pushed(), ["count=4"]);
    rig.add("ada", "a", Medium, 5, 0);
    rig.gatherer.unread_count(&ada, 3, &mut rig.out);
    assert_eq!(rig.pushed(), [""; 0]);
    rig.due(200);
    assert_eq!(rig.pushed(), ["a=3"]);
}

#[test]
fn a_recalled_broadcast_is_not_pushed() {
    let mut rig = Rig::new(GatheringLimits::default());
    let id = NotificationId::parse("06c9d4f1x00003m5q8r2t7w9y1").unwrap();
    let one = note(&id.to_string(), Low);
    rig.add_note("ada", one, 1, Audience::Everyone, 0);
    rig.gatherer.retract(&[id], &mut rig.out);
    rig.due(5_000);
    assert_eq!(rig.pushed(), [""; 0]);
}

#[test]
fn low_ones_wait_under_pressure_and_no_longer_than_their_time() {
    let mut rig = Rig::new(GatheringLimits {
        budget: 10,
        ..GatheringLimits::default()
    });
    for number in 0..15 {
        rig.add(&format!("low-{number}"), "l", Low, 1, 0);
        rig.add(&format!("medium-{number}"), "m", Medium, 1, 800);
    }
    rig.due(1_000);
    assert_eq!(
        rig.pushed(),
        vec!["m=1"; 15],
        "more than the budget, and no low one"
    );
    rig.due(1_020);
    assert_eq!(rig.pushed().len(), 10);
    for number in 0..15 {
        rig.add(&format!("medium-{number}"), "m", Medium, 1, 1_600);
    }
    rig.due(1_800);
    let pushed = rig.pushed();
    assert_eq!(pushed.len(), 20, "{pushed:?}");
    assert_eq!(pushed[15..], ["l=1"; 5], "their time is over");
}

#[test]
fn low_broadcasts_are_spread() {
    let mut rig = Rig::new(GatheringLimits::default());
    for number in 0..1_000 {
        let user = format!("user-{number}");
        rig.add_note(&user, note("b", Low), 1, Audience::Everyone, 0);
    }
    rig.due(500);
    let half = rig.pushed().len();
    assert!((300..700).contains(&half), "{half}");
    rig.due(1_000);
    let mut rest = rig.pushed().len();
    // Beyond the budget of one turn, low ones wait until their time is over.
    rig.due(1_800);
    rest += rig.pushed().len();
    assert_eq!(rest, 1_000 - half);
}

#[test]
fn bounds_push_and_lose_nothing() {
    let mut rig = Rig::new(GatheringLimits {
        user_items: 3,
        ..GatheringLimits::default()
    });
    for number in 1..=7 {
        rig.add("ada", &format!("{number}"), Low, number, 0);
    }
    assert_eq!(rig.pushed(), ["[1 2 3]=3", "[4 5 6]=6"]);
    let mut rig = Rig::new(GatheringLimits {
        bytes: 3 * (ENTRY_BYTES + 20),
        ..GatheringLimits::default()
    });
    for (user, ms) in [("b", 0), ("a", 1), ("c", 2), ("d", 3)] {
        rig.add(user, user, Low, 1, ms);
    }
    assert_eq!(rig.pushed(), ["b=1"], "the one that is due first");
    assert!(rig.gatherer.bytes() <= 3 * (ENTRY_BYTES + 20));
    let now = rig.at(4);
    rig.gatherer.flush_all(now, &mut rig.out);
    assert_eq!(rig.pushed().len(), 3);
    assert!(rig.gatherer.is_empty());
}

#[test]
fn what_expires_while_it_waits_is_not_pushed() {
    let mut rig = Rig::new(GatheringLimits::default());
    let expiring = |id: &str, expires_at_ms: i64| Notification {
        expires_at: Some(expires_at_ms),
        ..note(id, Low)
    };
    rig.add_note("ada", expiring("a", 999), 1, Audience::Users, 0);
    rig.add_note("ada", expiring("b", 1_001), 2, Audience::Users, 0);
    rig.due(1_000);
    assert_eq!(rig.pushed(), ["b=2"]);
    // The count is pushed, because it may have been gathered too.
    rig.add_note("ada", expiring("c", 2_300), 3, Audience::Users, 2_000);
    let ada = UserId::new("ada");
    rig.gatherer.unread_count(&ada, 2, &mut rig.out);
    rig.due(3_000);
    assert_eq!(rig.pushed(), ["count=2"]);
    rig.add_note("bob", expiring("d", 4_300), 1, Audience::Everyone, 4_000);
    let now = rig.at(4_400);
    rig.gatherer.flush_all(now, &mut rig.out);
    assert_eq!(rig.pushed(), ["count=1"]);
    assert!(rig.gatherer.is_empty());
    assert_eq!(rig.gatherer.bytes(), 0);
}

#[test]
fn what_has_a_time_ahead_of_the_clock_expires_by_the_clock() {
    let mut rig = Rig::new(GatheringLimits::default());
    rig.wall_ms = 1_000_000;
    // Ids and times go on from those of a clock that was 12 hours ahead.
    let ahead_ms = 12 * 60 * 60 * 1_000;
    let expiring = |id: &str, priority, ttl_ms: i64| Notification {
        timestamp: 1_000_000 + ahead_ms,
        expires_at: Some(1_000_000 + ttl_ms),
        ..note(id, priority)
    };
    rig.add_note("ada", expiring("a", Medium, 500), 1, Audience::Users, 0);
    rig.add_note("ada", expiring("b", Low, 500), 2, Audience::Users, 0);
    rig.due(200);
    assert_eq!(rig.pushed(), ["[a b]=2"]);
    rig.add_note("ada", expiring("c", Low, 1_500), 3, Audience::Users, 1_000);
    rig.due(2_000);
    assert_eq!(rig.pushed(), ["count=3"]);
}

#[test]
fn what_new_preferences_hide_while_it_waits_is_not_pushed() {
    let mut rig = Rig::new(GatheringLimits::default());
    let high_only = Preferences {
        min_priority: Some(High.into()),
        ..Preferences::default()
    };
    let medium_too = Preferences {
        min_priority: Some(Medium.into()),
        ..Preferences::default()
    };
    rig.add("ada", "a", Low, 1, 0);
    rig.add("ada", "b", Medium, 2, 0);
    rig.add("bob", "c", Low, 1, 0);
    rig.prefer(&medium_too);
    rig.due(1_000);
    assert_eq!(rig.pushed(), ["b=2", "c=1"]);
    rig.add("ada", "d", Low, 3, 2_000);
    let ada = UserId::new("ada");
    rig.gatherer.unread_count(&ada, 2, &mut rig.out);
    assert_eq!(rig.pushed(), [""; 0]);
    rig.prefer(&high_only);
    assert_eq!(rig.pushed(), ["count=2"]);
    rig.due(4_000);
    assert_eq!(rig.pushed(), [""; 0]);
    assert_eq!(rig.gatherer.bytes(), 0);
}

#[test]
fn what_a_pending_one_replaced_leaves_the_clients_with_it() {
    let id = NotificationId::parse("06c9d4f1x00003m5q8r2t7w9y1").unwrap();
    let text = id.to_string();
    let rig = |audience, expires_at| {
        let mut rig = Rig::new(GatheringLimits::default());
        let one = Notification {
            expires_at,
            ..in_place_of("a", &text, Low)
        };
        rig.add("ada", "a", High, 1, 0);
        rig.add_note("ada", one, 1, audience, 0);
        assert_eq!(rig.pushed(), ["a=1"]);
        rig
    };
    let ada = UserId::new("ada");
    // It is pushed, dismissed, expires, is hidden, is recalled.
    let mut one = rig(Audience::Users, None);
    one.due(1_000);
    assert_eq!(one.pushed(), [format!("{text}<a=1")]);
    let mut one = rig(Audience::Users, None);
    one.dismiss(&[&text], 0);
    assert_eq!(one.pushed(), [format!("dismissed {text} a=0")]);
    let mut one = rig(Audience::Users, Some(300));
    one.gatherer.unread_count(&ada, 0, &mut one.out);
    one.due(1_000);
    assert_eq!(one.pushed(), ["dismissed a=0"]);
    let mut one = rig(Audience::Users, Some(300));
    one.add("ada", "z", Low, 2, 0);
    one.due(1_000);
    assert_eq!(one.pushed(), ["dismissed a=2", "z=2"]);
    let mut one = rig(Audience::Users, None);
    one.gatherer.unread_count(&ada, 0, &mut one.out);
    one.prefer(&Preferences {
        min_priority: Some(High.into()),
        ..Preferences::default()
    });
    assert_eq!(one.pushed(), ["dismissed a=0"]);
    let mut one = rig(Audience::Everyone, None);
    one.gatherer.retract(&[id], &mut one.out);
    assert_eq!(one.pushed(), ["dismissed a=1"]);
    // It is replaced itself: the newer one names all that clients may have, of pushes and of lists.
    for priority in [Low, High] {
        let mut one = rig(Audience::Users, None);
        for (old, new) in [(text.as_str(), "x"), ("x", "y"), ("y", "z")] {
            one.add_note("ada", in_place_of(old, new, Low), 1, Audience::Users, 0);
        }
        one.add_note(
            "ada",
            in_place_of("z", "end", priority),
            1,
            Audience::Users,
            0,
        );
        one.due(1_000);
        assert_eq!(one.pushed(), [format!("end<z<y<x<{text}<a=1")]);
        assert!(one.gatherer.is_empty());
        assert_eq!(one.gatherer.bytes(), 0);
    }
    let mut one = Rig::new(GatheringLimits {
        user_items: 3,
        ..GatheringLimits::default()
    });
    for (old, new) in [("0", "1"), ("1", "2"), ("2", "3")] {
        one.add_note("ada", in_place_of(old, new, Low), 1, Audience::Users, 0);
    }
    assert_eq!(one.pushed(), ["3<2<1<0=1"], "the list gets no longer");
}

#[test]
fn one_that_is_replaced_again_and_again_is_pushed_in_time() {
    let mut rig = Rig::new(GatheringLimits::default());
    rig.add("ada", "000", Low, 1, 0);
    for number in 1..=20_u64 {
        let (old, new) = (format!("{:03}", number - 1), format!("{number:03}"));
        rig.due(number * 100);
        let one = in_place_of(&old, &new, Low);
        rig.add_note("ada", one, 1, Audience::Users, number * 100);
    }
    // A second of waiting from the first one on, and again from the next.
    let replaced = |numbers: std::ops::Range<u64>| {
        let ids = numbers.rev().map(|number| format!("<{number:03}"));
        ids.collect::<String>()
    };
    let first = format!("009{}=1", replaced(0..9));
    let second = format!("019{}=1", replaced(9..19));
    assert_eq!(rig.pushed(), [first, second]);
}

#[test]
fn a_broadcast_takes_no_place_of_a_users_own() {
    let mut rig = Rig::new(GatheringLimits::default());
    rig.add("ada", "a", Medium, 1, 0);
    rig.add_note("ada", note("b", Medium), 2, Audience::Everyone, 10);
    rig.add_note("ada", in_place_of("a", "c", Medium), 2, Audience::Users, 20);
    rig.due(200);
    assert_eq!(rig.pushed(), ["[b c]=2"]);
}
