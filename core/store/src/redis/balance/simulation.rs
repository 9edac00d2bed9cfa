//! Simulation: nodes that come, stop, are killed, hang, have different shards, and cannot use some of
//! them, at first or for a time, with a model of the leases, of their keepers and of those who check whether a
//! shard can be used. Time is a number.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;

use super::{
    super::{
        clock::LeaseInstant,
        preference::{Preference, TenureChange},
    },
    decisions::Decisions,
    plan::{Candidate, plan},
};

const LIFETIME: u64 = 2_500;
const EXTENSION: u64 = 1_000;
const LOOK: u64 = 250;
const LATER: u64 = 250;
const GIVEN_UP: u64 = 30_000;
const LAST_RESORT: u64 = 5_000;
const SOON: u64 = 1_000;

/// How long a check takes that succeeds, and one that fails.
const CHECK: (u64, u64) = (100, 3_000);

/// How long a check counts.
const CHECKED: u64 = 30_000;

/// How long a shard has stood still before its owner notices.
const NOTICED: u64 = 4_000;

/// Time between two looks of an owner at what it has.
const WATCH: u64 = 1_000;

/// Something that happens to the nodes.
#[derive(Debug, Clone)]
enum Event {
    /// A node starts with these shards, and cannot use some of them.
    Join(BTreeSet<usize>, BTreeSet<usize>),
    /// A node stops, and ends its leases.
    Stop(usize),
    Kill(usize),
    /// A node hangs for some milliseconds.
    Hang(usize, u64),
    /// A node cannot use a shard from now on.
    Fail(usize, usize, Fault),
    /// It can use it again.
    Mend(usize, usize),
}

/// Why a node cannot use a shard for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Checks fail.
    Dead,
    /// Checks succeed, and yet the shard stands still.
    Deaf,
}

/// A lease as in Redis.
#[derive(Debug, Default)]
struct Lease {
    term: u64,
    until: u64,
    wish: Option<(usize, u64)>,
    /// How long nobody has had it, although some node could use it.
    free_for: u64,
    handovers: usize,
}

/// A node's part in the lease of a shard.
#[derive(Debug, Default)]
struct Keeper {
    own: Option<u64>,
    next: u64,
    free_since: Option<u64>,
    /// When the check under way ends.
    check: Option<u64>,
    /// Since when the shard has stood still here, and when that is looked at.
    still_since: Option<u64>,
    watch: u64,
}

#[derive(Debug)]
struct Node {
    name: Arc<str>,
    decisions: Decisions,
    keepers: BTreeMap<usize, Keeper>,
    unusable: BTreeSet<usize>,
    /// Each with the time of its beginning.
    faults: BTreeMap<usize, (Fault, u64)>,
    extended: u64,
    hangs_until: u64,
    /// Until when it is among the candidates.
    candidate: Option<(u64, BTreeSet<Arc<str>>)>,
    is_alive: bool,
}

#[derive(Debug, Default)]
struct World {
    now: u64,
    nodes: Vec<Node>,
    leases: BTreeMap<usize, Lease>,
    /// The longest of these times.
    longest_free: u64,
    /// How often a node took a shard that it had long been unable to use, before others had their turn.
    taken_blindly: usize,
    /// The nodes and the shards that they took and could not use.
    tried: BTreeSet<(usize, usize)>,
}

fn shard(number: usize) -> Arc<str> {
    format!("chain-{number}").into()
}

fn instant(ms: u64) -> LeaseInstant {
    LeaseInstant::at(Duration::from_millis(ms))
}

impl World {
    fn apply(&mut self, event: &Event) {
        let alive: Vec<usize> = (0..self.nodes.len())
            .filter(|node| self.nodes[*node].is_alive)
            .collect();
        let pick = |which: &usize| alive.get(which % alive.len().max(1)).copied();
        match event {
            Event::Join(shards, unusable) => {
                let name: Arc<str> =
                    format!("{:08x}", 0x9e37_79b9_u64 * (self.nodes.len() as u64 + 1)).into();
                let mut node = Node {
                    decisions: Decisions::new(name.clone()),
                    name,
                    keepers: BTreeMap::new(),
                    unusable: unusable.clone(),
                    faults: BTreeMap::new(),
                    extended: 0,
                    hangs_until: 0,
                    candidate: None,
                    is_alive: true,
                };
                for number in shards {
                    node.decisions.add(instant(self.now), &shard(*number));
                    let next = self.now + 7 * *number as u64;
                    let keeper = Keeper {
                        next,
                        ..Keeper::default()
                    };
                    node.keepers.insert(*number, keeper);
                    self.leases.entry(*number).or_default();
                }
                self.nodes.push(node);
            }
            Event::Stop(which) => {
                let Some(index) = pick(which) else { return };
                let node = &mut self.nodes[index];
                node.is_alive = false;
                node.candidate = None;
                for (number, keeper) in &node.keepers {
                    let lease = self.leases.entry(*number).or_default();
                    if keeper.own == Some(lease.term) {
                        lease.until = lease.until.min(self.now);
                    }
                }
            }
            Event::Kill(which) => {
                if let Some(index) = pick(which) {
                    self.nodes[index].is_alive = false;
                }
            }
            Event::Hang(which, time) => {
                if let Some(index) = pick(which) {
                    self.nodes[index].hangs_until = self.now + time;
                }
            }
            Event::Fail(which, number, fault) => {
                if let Some(index) = pick(which) {
                    let begun = self.now;
                    let faults = &mut self.nodes[index].faults;
                    faults.entry(*number).or_insert((*fault, begun)).0 = *fault;
                }
            }
            Event::Mend(which, number) => {
                if let Some(index) = pick(which) {
                    self.nodes[index].faults.remove(number);
                }
            }
        }
    }

    fn run_until(&mut self, end: u64) {
        while self.now < end {
            self.now += 10;
            for index in 0..self.nodes.len() {
                if self.nodes[index].is_alive && self.nodes[index].hangs_until <= self.now {
                    self.extend(index);
                    let numbers: Vec<_> = self.nodes[index].keepers.keys().copied().collect();
                    for number in numbers {
                        self.check(index, number);
                        self.step(index, number);
                    }
                }
            }
            let now = self.now;
            for (number, lease) in &mut self.leases {
                let can_use = |node: &Node| {
                    let keeper = node.keepers.get(number);
                    let is_there = node.is_alive
                        && node.hangs_until <= now
                        && !node.faults.contains_key(number);
                    is_there && keeper.is_some_and(|keeper| keeper.next <= now + LOOK + LATER)
                };
                let is_free = lease.until < now && self.nodes.iter().any(can_use);
                lease.free_for = if is_free { lease.free_for + 10 } else { 0 };
                self.longest_free = self.longest_free.max(lease.free_for);
            }
        }
    }

    /// Does as the task of the balance.
    fn extend(&mut self, index: usize) {
        let now = self.now;
        if now < self.nodes[index].extended + EXTENSION {
            return;
        }
        let node = &mut self.nodes[index];
        node.extended = now;
        let shards: BTreeSet<_> = node.decisions.candidacies(instant(now)).cloned().collect();
        node.candidate = (!shards.is_empty()).then_some((now + LIFETIME, shards));
        let candidates = self.candidates();
        self.nodes[index]
            .decisions
            .observe(instant(now), candidates);
    }

    fn candidates(&self) -> Vec<Candidate> {
        let candidates = self.nodes.iter().filter_map(|node| {
            let (until, shards) = node.candidate.as_ref()?;
            (*until > self.now).then(|| Candidate {
                node: node.name.clone(),
                shards: shards.clone(),
            })
        });
        candidates.collect()
    }

    /// Does as the tasks that check a shard, and that look at one that this node has.
    fn check(&mut self, index: usize, number: usize) {
        let (now, node) = (self.now, &mut self.nodes[index]);
        let fault = node.faults.get(&number).map(|(fault, _)| *fault);
        let Some(keeper) = node.keepers.get_mut(&number) else {
            return;
        };
        let (name, at) = (shard(number), instant(now));
        let is_dead = fault == Some(Fault::Dead);
        match keeper.check {
            Some(until) if until <= now => {
                keeper.check = None;
                if node.decisions.report(at, &name, !is_dead) {
                    node.extended = 0;
                }
            }
            Some(_) => {}
            None if node.decisions.is_check_due(at, &name) => {
                keeper.check = Some(now + if is_dead { CHECK.1 } else { CHECK.0 });
            }
            None => {}
        }
        if keeper.own.is_none() || fault.is_none() {
            keeper.still_since = None;
        }
        if keeper.own.is_none() {
            keeper.watch = now + 2 * NOTICED;
            return;
        }
        if fault.is_some() {
            keeper.still_since.get_or_insert(now);
        }
        let stands_still = keeper
            .still_since
            .is_some_and(|since| since + NOTICED <= now);
        // A shard that was taken without a check works after a while only.
        if now >= keeper.watch || stands_still {
            keeper.watch = now + WATCH;
            if node.decisions.report(at, &name, !stands_still) {
                node.extended = 0;
            }
        }
    }

    /// Does as a keeper, with the script.
    fn step(&mut self, index: usize, number: usize) {
        let (now, node) = (self.now, &mut self.nodes[index]);
        let (Some(lease), Some(keeper)) =
            (self.leases.get_mut(&number), node.keepers.get_mut(&number))
        else {
            return;
        };
        if now < keeper.next {
            return;
        }
        let (name, at) = (shard(number), instant(now));
        if keeper.own.is_none() {
            let is_free = lease.until <= now;
            keeper.free_since = keeper.free_since.filter(|_| is_free);
            if is_free {
                keeper.free_since.get_or_insert(now);
            }
            if lease.until <= now + SOON {
                node.decisions.expect_free(at, &name);
            }
        } else {
            keeper.free_since = None;
        }
        let preference = node.decisions.preference(at, &name);
        let hands_over = matches!(preference, Preference::HandOver | Preference::Unusable);
        let leaves_to_others = preference == Preference::Unusable
            && keeper
                .free_since
                .is_none_or(|since| now < since + LAST_RESORT);
        let asked = lease
            .wish
            .is_some_and(|(who, until)| until > now && who != index);
        match keeper.own {
            Some(term) if term != lease.term => {
                keeper.own = None;
                node.decisions.note(at, &name, TenureChange::Ended);
                keeper.next = now + LOOK;
            }
            Some(_) if node.unusable.contains(&number) => {
                (keeper.own, lease.until) = (None, now);
                self.tried.insert((index, number));
                node.decisions.note(at, &name, TenureChange::GivenUp);
                keeper.next = now + GIVEN_UP;
            }
            Some(_) if asked && hands_over => {
                (keeper.own, lease.until) = (None, now);
                lease.handovers += 1;
                node.decisions.note(at, &name, TenureChange::HandedOver);
                keeper.next = now + LOOK;
            }
            Some(_) => {
                lease.until = now + LIFETIME;
                keeper.next = now + EXTENSION;
            }
            None => {
                if preference == Preference::Wanted {
                    lease.wish = Some((index, now + 1_000));
                }
                let delay = match preference {
                    Preference::Wanted | Preference::Equal => 0,
                    Preference::Allowed | Preference::HandOver | Preference::Unusable => LATER,
                };
                let may_take = preference == Preference::Wanted || !asked;
                if may_take && !leaves_to_others && (lease.until + delay <= now || lease.term == 0)
                {
                    let fault = node.faults.get(&number);
                    let is_dead = fault.is_some_and(|(fault, begun)| {
                        *fault == Fault::Dead && now > begun + CHECKED + CHECK.1
                    });
                    let is_last = keeper
                        .free_since
                        .is_some_and(|since| now >= since + LAST_RESORT);
                    self.taken_blindly += usize::from(is_dead && !is_last);
                    lease.term += 1;
                    lease.until = now + LIFETIME;
                    keeper.own = Some(lease.term);
                    node.decisions.note(at, &name, TenureChange::Began);
                    // It finds out soon that it cannot use it.
                    let opening = if node.unusable.contains(&number) {
                        LOOK
                    } else {
                        EXTENSION
                    };
                    keeper.next = now + opening;
                } else {
                    let remaining = lease.until.saturating_sub(now);
                    let is_soon = remaining > 0 && remaining <= LOOK;
                    keeper.next = now + if is_soon { remaining + delay + 1 } else { LOOK };
                }
            }
        }
    }

    /// The owner of each shard that has one.
    fn owners(&self) -> BTreeMap<usize, Arc<str>> {
        let mut owners = BTreeMap::new();
        for node in self.nodes.iter().filter(|node| node.is_alive) {
            for (number, keeper) in &node.keepers {
                let lease = &self.leases[number];
                if keeper.own == Some(lease.term) && lease.until > self.now {
                    owners.insert(*number, node.name.clone());
                }
            }
        }
        owners
    }

    /// The shards that some node can use.
    fn usable(&self) -> BTreeSet<usize> {
        let alive = self.nodes.iter().filter(|node| node.is_alive);
        let numbers = alive.flat_map(|node| {
            let numbers = node.keepers.keys();
            numbers.filter(|number| !node.faults.contains_key(number))
        });
        numbers.copied().collect()
    }

    /// The shards that some node may own.
    fn held(&self) -> BTreeSet<usize> {
        let alive = self.nodes.iter().filter(|node| node.is_alive);
        alive
            .flat_map(|node| node.keepers.keys().copied())
            .collect()
    }

    fn handovers(&self) -> BTreeMap<usize, usize> {
        let leases = self.leases.iter();
        leases
            .map(|(number, lease)| (*number, lease.handovers))
            .collect()
    }

    fn terms(&self) -> Vec<u64> {
        self.leases.values().map(|lease| lease.term).collect()
    }
}

fn shards() -> impl Strategy<Value = BTreeSet<usize>> {
    prop_oneof![
        2 => Just((0..8).collect::<BTreeSet<_>>()),
        1 => prop::collection::btree_set(0_usize..8, 1..8),
    ]
}

fn event(unusable: usize) -> impl Strategy<Value = Event> {
    let bad = prop::collection::btree_set(0_usize..8, 0..=unusable);
    prop_oneof![
        3 => (shards(), bad).prop_map(|(shards, bad)| Event::Join(shards, bad)),
        1 => any::<usize>().prop_map(Event::Stop),
        1 => any::<usize>().prop_map(Event::Kill),
        1 => (any::<usize>(), 100_u64..20_000).prop_map(|(which, time)| Event::Hang(which, time)),
    ]
}

fn events(unusable: usize) -> impl Strategy<Value = Vec<(u64, Event)>> {
    prop::collection::vec((0_u64..15_000, event(unusable)), 1..14)
}

/// The same, with shards that cannot be used for a time.
fn faults(fault: impl Strategy<Value = Fault> + Clone) -> impl Strategy<Value = Vec<(u64, Event)>> {
    let event = prop_oneof![
        4 => event(0),
        4 => (any::<usize>(), 0_usize..8, fault)
            .prop_map(|(which, number, fault)| Event::Fail(which, number, fault)),
        2 => (any::<usize>(), 0_usize..8).prop_map(|(which, number)| Event::Mend(which, number)),
    ];
    prop::collection::vec((0_u64..30_000, event), 1..24)
}

/// Runs the events, and until nothing should move any more.
fn settled(events: &[(u64, Event)]) -> (World, BTreeMap<usize, usize>) {
    let mut world = World::default();
    for (pause, event) in events {
        world.run_until(world.now + pause);
        world.apply(event);
    }
    let hung = world.nodes.iter().map(|node| node.hangs_until).max();
    // All nodes know of each other, and what was killed is gone.
    world.run_until(world.now.max(hung.unwrap_or(0)) + LIFETIME + 2 * EXTENSION);
    let before = world.handovers();
    world.run_until(world.now + 90_000);
    let after = world.handovers();
    let counts = after
        .into_iter()
        .map(|(number, count)| (number, count - before[&number]));
    let counts = counts.collect();
    (world, counts)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn each_shard_comes_to_its_planned_node_and_stays(events in events(0)) {
        let (mut world, handovers) = settled(&events);
        prop_assert!(handovers.values().all(|count| *count <= 1), "{:?}", handovers);
        prop_assert!(world.longest_free <= 1_300, "free for {} ms", world.longest_free);
        let planned = plan(world.candidates().iter());
        let owners = world.owners();
        let names = owners.iter().map(|(number, node)| (shard(*number), node.clone()));
        prop_assert_eq!(names.collect::<BTreeMap<_, _>>(), planned);
        let terms = world.terms();
        world.run_until(world.now + 60_000);
        prop_assert_eq!(world.terms(), terms);
    }

    #[test]
    fn a_shard_that_some_nodes_cannot_use_does_not_go_back_and_forth(events in events(5)) {
        let (mut world, handovers) = settled(&events);
        prop_assert!(handovers.values().all(|count| *count <= 5), "{:?}", handovers);
        let usable: BTreeSet<usize> = world.nodes.iter()
            .filter(|node| node.is_alive)
            .flat_map(|node| node.keepers.keys().filter(|number| !node.unusable.contains(number)))
            .copied()
            .collect();
        let (terms, tried) = (world.terms(), world.tried.clone());
        world.run_until(world.now + 60_000);
        let owners = world.owners();
        for (at, number) in world.leases.keys().enumerate() {
            // It moves only if another node finds out that it cannot use it: it waits longer for each one.
            let is_new = world.tried.difference(&tried).any(|(_, shard)| shard == number);
            if usable.contains(number) && !is_new {
                prop_assert!(owners.contains_key(number));
                prop_assert_eq!(world.terms()[at], terms[at], "shard {}", number);
            }
        }
    }

    #[test]
    fn a_shard_comes_to_a_node_that_can_use_it_and_stays(events in faults(Just(Fault::Dead))) {
        let (mut world, _) = settled(&events);
        prop_assert!(world.longest_free <= 1_700, "free for {} ms", world.longest_free);
        prop_assert_eq!(world.taken_blindly, 0);
        let terms = world.terms();
        for _ in 0..60 {
            world.run_until(world.now + 1_000);
            let owners = world.owners();
            for number in world.usable() {
                let owner = world.nodes.iter().find(|node| Some(&node.name) == owners.get(&number));
                let works = owner.is_some_and(|owner| !owner.faults.contains_key(&number));
                prop_assert!(works, "shard {} has {:?}", number, owners.get(&number));
            }
            // One that no node can use has an owner too, which keeps it.
            let kept: BTreeSet<usize> = owners.keys().copied().collect();
            prop_assert_eq!(kept, world.held());
        }
        prop_assert_eq!(world.terms(), terms);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_shard_whose_checks_mislead_moves_less_and_less(
        events in faults(prop_oneof![Just(Fault::Dead), Just(Fault::Deaf)]),
    ) {
        let (mut world, _) = settled(&events);
        let before = world.handovers();
        let mut served = BTreeMap::new();
        for _ in 0..900 {
            world.run_until(world.now + 1_000);
            let owners = world.owners();
            for number in world.usable() {
                let owner = world.nodes.iter().find(|node| Some(&node.name) == owners.get(&number));
                if owner.is_some_and(|owner| !owner.faults.contains_key(&number)) {
                    *served.entry(number).or_insert(0) += 1;
                }
            }
        }
        let alive = world.nodes.iter().filter(|node| node.is_alive).count();
        for (number, after) in world.handovers() {
            let moves = after - before[&number];
            prop_assert!(moves <= 6 * alive, "shard {} moved {} times in 15 minutes", number, moves);
        }
        for number in world.usable() {
            let served = served.get(&number).copied().unwrap_or(0);
            prop_assert!(served > 600, "shard {} worked {} s of 15 minutes", number, served);
        }
    }
}
