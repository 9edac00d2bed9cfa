//! Edits that arrive while fires of their rule are not stored.

use std::collections::BTreeSet;

use tidewire_proto::v1::{AlertRule, AlertState, ListAlertsRequest};

use crate::support::{Run, World, above, recurring};

/// More rules than one batch stores.
const MANY: usize = 600;

#[derive(Debug, Clone, Copy)]
enum Edit {
    Condition,
    Deletion,
}

/// Rules fire, one of the last is changed before its fire is stored, and the process is killed.
async fn history(edit: Edit, writes: i64, is_after: bool) {
    let world = World::new();
    let run = world.start().await;
    let mut ids = Vec::new();
    for number in 0..MANY {
        let rule = above("BTC-USD", &format!("100.{number:03}"));
        ids.push(run.register("ada", rule).await.id);
    }
    run.evaluate("BTC-USD", "99").await;
    run.stop().await;
    let run = world.start().await;
    run.killer.hold_commits();
    run.feed("BTC-USD", "110");
    run.until("the judgement of all", |run| {
        run.engine.stats().touched >= MANY as u64
    })
    .await;
    let (engine, id) = (run.engine.clone(), ids[MANY - 1].clone());
    let edited = tokio::spawn(async move {
        let change = AlertRule {
            id: id.clone(),
            ..above("BTC-USD", "200")
        };
        match edit {
            Edit::Condition => engine.update("ada", change).await.map(drop),
            Edit::Deletion => engine.delete("ada", &id).await,
        }
    });
    // It is in the queue now.
    tokio::task::yield_now().await;
    run.killer.arm(writes, is_after);
    run.killer.open();
    tokio::select! {
        () = run.killer.killed() => {}
        edited = edited => edited.unwrap().unwrap(),
    }
    run.kill().await;
    let run = world.start().await;
    run.feed("BTC-USD", "110");
    let at = format!("{edit:?}, killed {writes} {is_after}");
    let mut fired = Vec::new();
    for _ in 0..2_000 {
        fired = world.fired().await;
        if fired.len() >= MANY {
            break;
        }
        run.feed("ETH-USD", "1");
        tokio::task::yield_now().await;
    }
    run.stop().await;
    let all = world.fired().await;
    assert_eq!(all.len(), MANY, "{at}: {}", fired.len());
    let once: BTreeSet<_> = all.into_iter().collect();
    assert_eq!(once, ids.into_iter().collect(), "{at}");
}

#[tokio::test]
async fn an_edit_before_the_commit_of_a_fire_does_not_lose_it_in_a_kill() {
    for edit in [Edit::Condition, Edit::Deletion] {
        for writes in 1..=4 {
            for is_after in [false, true] {
                history(edit, writes, is_after).await;
            }
        }
    }
}

async fn rule(run: &Run) -> AlertRule {
    let request = ListAlertsRequest::default();
    let listed = run.engine.list("ada", &request, false).await.unwrap();
    listed.items.into_iter().next().unwrap()
}

/// Fires a recurring rule until it is stopped.
async fn fire_too_often(run: &Run) {
    for number in 0..16 {
        for price in ["99", "101"] {
            let before = run.engine.stats().evaluated;
            run.feed("BTC-USD", price);
            run.until(&format!("value {number}"), |run| {
                run.engine.stats().evaluated > before
            })
            .await;
        }
    }
}

async fn check_stopped(world: &World, run: Run, name: &str) {
    run.until("the notice", |_| {
        let titles = world.titles();
        titles
            .iter()
            .any(|title| title.starts_with("Alert stopped"))
    })
    .await;
    let stopped = rule(&run).await;
    assert_eq!(stopped.state(), AlertState::Stopped);
    assert_eq!((stopped.name(), stopped.version), (name, Some(2)));
    assert!(stopped.stopped_reason.is_some() && stopped.enabled == Some(false));
    for price in ["99", "102"] {
        assert_eq!(run.evaluate("BTC-USD", price).await.total, Some(0));
    }
    assert_eq!(world.fired().await.len(), 15);
    run.stop().await;
    let run = world.start().await;
    assert_eq!(rule(&run).await.state(), AlertState::Stopped);
    run.stop().await;
}

fn named(id: &str) -> AlertRule {
    AlertRule {
        id: id.to_owned(),
        name: Some("new".to_owned()),
        ..AlertRule::default()
    }
}

#[tokio::test]
async fn an_edit_after_the_automatic_stop_does_not_enable_the_rule() {
    let world = World::new();
    let run = world.start().await;
    let id = run
        .register("ada", recurring(above("BTC-USD", "100")))
        .await
        .id;
    run.killer.hold_commits();
    fire_too_often(&run).await;
    let engine = run.engine.clone();
    let edited = tokio::spawn(async move { engine.update("ada", named(&id)).await });
    tokio::task::yield_now().await;
    run.killer.open();
    assert_eq!(edited.await.unwrap().unwrap().state(), AlertState::Stopped);
    check_stopped(&world, run, "new").await;
}

#[tokio::test]
async fn an_automatic_stop_while_an_edit_is_stored_holds() {
    let world = World::new();
    let run = world.start().await;
    let id = run
        .register("ada", recurring(above("BTC-USD", "100")))
        .await
        .id;
    run.killer.hold_commits();
    let engine = run.engine.clone();
    let edited = tokio::spawn(async move { engine.update("ada", named(&id)).await });
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    fire_too_often(&run).await;
    run.killer.open();
    assert_eq!(edited.await.unwrap().unwrap().state(), AlertState::Stopped);
    check_stopped(&world, run, "new").await;
}

#[tokio::test]
async fn an_owner_who_enables_a_stopped_rule_has_it_again() {
    let world = World::new();
    let run = world.start().await;
    let id = run
        .register("ada", recurring(above("BTC-USD", "100")))
        .await
        .id;
    run.killer.hold_commits();
    fire_too_often(&run).await;
    let engine = run.engine.clone();
    let enabled = AlertRule {
        enabled: Some(true),
        ..named(&id)
    };
    let edited = tokio::spawn(async move { engine.update("ada", enabled).await });
    tokio::task::yield_now().await;
    run.killer.open();
    edited.await.unwrap().unwrap();
    run.evaluate("BTC-USD", "99").await;
    assert_eq!(run.evaluate("BTC-USD", "102").await.total, Some(1));
    run.stop().await;
}
