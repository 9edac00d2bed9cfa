//! Cluster: the servers of a Redis Cluster, and the newest map of their slots.
//!
//! Some servers are asked for the map each second, and at once when a connection is lost or a server
//! says that a slot has moved (`MOVED`). The view of the newest configuration epoch counts: a server
//! that was cut off, or stood still, has an older one.
//!
//! The epoch alone does not show it for long. A master that was replaced while it stood still hears of the
//! newest epoch from any other server, but only from its successor that its slots are gone. Each
//! server has slots in an epoch of its own, and takes further ones only in the newest. One whose own epoch is
//! older than the last change of the map is therefore not believed that it has slots of another.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    address::{RedisAddress, RedisOptions},
    connection::RedisConnection,
    error::RedisError,
    resp::Reply,
    slots::{Redirection, ServerAddress, Slot, SlotMap},
};

/// Longest wait for the answer of a server.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Time between two questions.
const QUESTIONS: Duration = Duration::from_secs(1);

/// Shortest time between two questions, so that a fault does not become a flood.
const PAUSE: Duration = Duration::from_millis(50);

/// Servers that are asked at once.
const ASKED: usize = 3;

/// Answers that are waited for. Afterwards, the others have a moment more.
const ENOUGH: usize = 2;

/// That moment.
const GRACE: Duration = Duration::from_millis(100);

/// Views of older epochs in a row after which they are believed: the cluster was set up anew.
const OLDER: u32 = 5;

/// A Redis Cluster. One without servers stands for a single Redis. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Cluster(Arc<State>);

#[derive(Debug, Default)]
struct State {
    seeds: Vec<ServerAddress>,
    map: watch::Sender<Arc<SlotMap>>,
    newest: Mutex<Newest>,
    /// Told when the map may be old.
    doubted: Notify,
    /// Held by the one that asks for the map, for all who use it.
    watching: tokio::sync::Mutex<()>,
}

/// The epochs of views so far.
#[derive(Debug, Default)]
struct Newest {
    epoch: u64,
    /// The epoch in which slots last had other masters.
    changed: u64,
    /// How many views in a row were older.
    older: u32,
    /// Rotates over the servers to ask.
    turn: usize,
}

/// The masters that this process has logged. Each user of a cluster has a map of its own, and one line is
/// enough.
static LOGGED: Mutex<BTreeSet<ServerAddress>> = Mutex::new(BTreeSet::new());

/// Logs the masters of another map, if they are others. Slots move a few at a time.
fn note_masters(before: &SlotMap, map: &SlotMap, epoch: u64) {
    let of = |map: &SlotMap| map.masters().iter().cloned().collect::<BTreeSet<_>>();
    let masters = of(map);
    let (count, slots) = (masters.len(), map.served());
    let is_known = masters == of(before) || {
        let mut logged = LOGGED.lock();
        std::mem::replace(&mut *logged, masters.clone()) == masters
    };
    if is_known {
        tracing::debug!(
            masters = count,
            slots,
            epoch,
            "slots of the cluster have moved"
        );
        return;
    }
    let names: Vec<_> = masters.iter().map(ToString::to_string).collect();
    let names = names.join(", ");
    tracing::info!(
        masters = count,
        names,
        slots,
        epoch,
        "the cluster has other masters"
    );
}

/// The map as one server sees it.
#[derive(Debug)]
struct View {
    /// The server.
    asked: ServerAddress,
    /// The newest epoch that it knows of.
    epoch: u64,
    /// The epoch in which it, or its master, got its slots.
    own_epoch: u64,
    map: SlotMap,
}

impl Newest {
    /// Whether a server was replaced and does not know of it yet.
    fn is_outdated(&self, view: &View, known: &SlotMap) -> bool {
        view.own_epoch < self.changed && view.map.is_claim_of(&view.asked, known)
    }
}

impl Cluster {
    /// The cluster with servers at these addresses, `HOST:PORT`. The others are found.
    ///
    /// # Errors
    /// The address that is wrong, and what was expected.
    pub fn new(addresses: &[String]) -> Result<Self, String> {
        let read = |text: &String| {
            let is_plain = !text.contains("://") && !text.contains('@') && !text.contains('/');
            let address = is_plain.then(|| RedisAddress::parse(&format!("redis://{text}")));
            match address {
                Some(Ok(address)) => Ok(ServerAddress::new(&address.host, address.port)),
                // What is there may be a password.
                _ => Err(
                    "has an address that cannot be read, expected HOST:PORT, without a user, a password or TLS, which the URL has"
                        .to_owned(),
                ),
            }
        };
        let seeds = addresses.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(State {
            seeds,
            ..State::default()
        })))
    }

    /// Whether there is none: Redis is a single server, or one that sentinels name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.seeds.is_empty()
    }

    /// The newest map. Empty until a server has answered.
    #[must_use]
    pub fn map(&self) -> Arc<SlotMap> {
        self.0.map.borrow().clone()
    }

    /// The map, now and later.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<SlotMap>> {
        self.0.map.subscribe()
    }

    /// The master of a slot. Asks for the map if there is none yet.
    ///
    /// # Errors
    /// No server answers, or none serves the slot.
    pub async fn master(
        &self,
        options: &RedisOptions,
        slot: Slot,
    ) -> Result<ServerAddress, RedisError> {
        if self.map().masters().is_empty() {
            self.refresh(options).await?;
        }
        let map = self.map();
        map.master(slot).cloned().ok_or_else(|| {
            self.doubt();
            RedisError::Connection(format!("no server of the cluster serves the slot {slot}"))
        })
    }

    /// Has the map be asked for soon.
    pub fn doubt(&self) {
        self.0.doubted.notify_one();
    }

    /// Takes note of an error of a server that may say where a slot is.
    pub(crate) fn note_error(&self, error: &str, asked: &ServerAddress) {
        match Redirection::read(error, asked) {
            Some(Redirection::Moved(slot, server)) => {
                self.note_moved(slot, &server);
                self.doubt();
            }
            Some(Redirection::Ask(..)) => {}
            None if error.starts_with("MOVED") || error.starts_with("CLUSTERDOWN") => self.doubt(),
            None => {}
        }
    }

    /// Takes note that a slot has moved to another server.
    pub fn note_moved(&self, slot: Slot, to: &ServerAddress) {
        self.0.map.send_if_modified(|map| {
            if map.master(slot) == Some(to) {
                return false;
            }
            *map = Arc::new(map.moved(slot, to));
            true
        });
    }

    /// Asks some servers for the map.
    ///
    /// # Errors
    /// No server answers, or those that do are in no cluster.
    pub async fn refresh(&self, options: &RedisOptions) -> Result<(), RedisError> {
        self.ask_others(options, None).await
    }

    /// Asks some servers for the map, but not the one that is in doubt.
    ///
    /// # Errors
    /// As those of [`refresh`](Self::refresh).
    pub(crate) async fn ask_others(
        &self,
        options: &RedisOptions,
        doubtful: Option<&ServerAddress>,
    ) -> Result<(), RedisError> {
        let mut fault = None;
        for servers in [self.known(doubtful), self.0.seeds.clone()] {
            if servers.is_empty() {
                continue;
            }
            match ask_all(options, servers).await {
                Ok(views) => {
                    self.note(views);
                    return Ok(());
                }
                Err(error) => fault = Some(error),
            }
        }
        let none = || RedisError::Connection("the cluster has no servers".to_owned());
        Err(fault.unwrap_or_else(none))
    }

    /// Some of the known servers, others each time.
    fn known(&self, doubtful: Option<&ServerAddress>) -> Vec<ServerAddress> {
        let map = self.map();
        let all = map.servers().filter(|server| Some(*server) != doubtful);
        let all: Vec<_> = all.collect();
        let mut newest = self.0.newest.lock();
        newest.turn = newest.turn.wrapping_add(1);
        let start = newest.turn;
        let some = (0..ASKED.min(all.len())).map(|step| (start + step) % all.len());
        some.map(|index| all[index].clone()).collect()
    }

    /// Takes the newest of some views over, unless a newer one is known.
    fn note(&self, views: Vec<View>) {
        let mut newest = self.0.newest.lock();
        let known = self.map();
        // Of several in one epoch, one that has heard of a change knows more.
        let rank = |view: &View| {
            let is_outdated = newest.is_outdated(view, &known);
            (!is_outdated, view.epoch, view.map != *known)
        };
        let Some(view) = views.into_iter().max_by_key(rank) else {
            return;
        };
        let is_older = view.epoch < newest.epoch || newest.is_outdated(&view, &known);
        if is_older && newest.older < OLDER {
            newest.older += 1;
            return;
        }
        (newest.epoch, newest.older) = (view.epoch, 0);
        if !view.map.has_owners_of(&known) {
            newest.changed = view.epoch;
        }
        // Under the lock, so that an older view does not follow.
        self.0.map.send_if_modified(|map| {
            let is_other = **map != view.map;
            if is_other {
                note_masters(map, &view.map, view.epoch);
                *map = Arc::new(view.map);
            }
            is_other
        });
    }

    /// Asks for the map until it is aborted. Of several that watch, one asks: the next one takes its place.
    pub async fn watch(self, options: RedisOptions) {
        let _only = self.0.watching.lock().await;
        loop {
            let _ = timeout(QUESTIONS, self.0.doubted.notified()).await;
            // Connections find out by themselves what is wrong.
            if let Err(error) = self.refresh(&options).await {
                tracing::debug!(%error, "the servers of the cluster cannot be asked");
            }
            sleep(PAUSE).await;
        }
    }
}

/// Asks servers at once, and returns the views of those that answer.
///
/// # Errors
/// None answers.
async fn ask_all(
    options: &RedisOptions,
    servers: Vec<ServerAddress>,
) -> Result<Vec<View>, RedisError> {
    let mut questions = JoinSet::new();
    let time = ANSWER_TIME.min(options.timeout);
    for server in servers {
        let options = options.clone();
        questions.spawn(async move {
            let asked = timeout(time, ask(&options, &server)).await;
            (
                asked.unwrap_or(Err(RedisError::TimedOut(time.as_millis()))),
                server,
            )
        });
    }
    let (mut views, mut fault) = (Vec::new(), None);
    let mut deadline = Instant::now() + time + GRACE;
    while let Ok(Some(answer)) = timeout_at(deadline, questions.join_next()).await {
        match answer {
            Ok((Ok(view), _)) => views.push(view),
            Ok((Err(error @ (RedisError::Refused(_) | RedisError::Tls(_))), _)) => {
                fault = Some(error);
            }
            Ok((Err(error), server)) => {
                // A refusal says more.
                fault.get_or_insert_with(|| {
                    let text = format!("no server of the cluster answers: {server}: {error}");
                    RedisError::Connection(text)
                });
            }
            Err(_) => {}
        }
        if views.len() == ENOUGH {
            deadline = Instant::now() + GRACE;
        }
    }
    let silent = || RedisError::Connection("no server of the cluster answers".to_owned());
    match views.is_empty() {
        true => Err(fault.unwrap_or_else(silent)),
        false => Ok(views),
    }
}

/// Asks one server.
async fn ask(options: &RedisOptions, server: &ServerAddress) -> Result<View, RedisError> {
    let mut connection = RedisConnection::open_server(options, server).await?;
    let map = connection.call(&["CLUSTER", "SLOTS"]).await?;
    let map = SlotMap::read(map, server)?;
    let info = connection.call(&["CLUSTER", "INFO"]).await?.text()?;
    Ok(View {
        asked: server.clone(),
        epoch: epoch(&info, "cluster_current_epoch:"),
        own_epoch: epoch(&info, "cluster_my_epoch:"),
        map,
    })
}

/// An epoch in the answer to `CLUSTER INFO`. The newest one grows with each failover and each slot that
/// moves.
fn epoch(info: &[u8], field: &str) -> u64 {
    let info = String::from_utf8_lossy(info);
    let mut lines = info.lines();
    let epoch = lines.find_map(|line| line.strip_prefix(field));
    epoch
        .and_then(|epoch| epoch.trim().parse().ok())
        .unwrap_or_default()
}

/// The way in which a server of Redis works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerMode {
    /// A server alone, or one that sentinels watch.
    Single,
    /// A server of a cluster.
    Cluster,
    /// A sentinel.
    Sentinel,
}

/// The mode of a server, by its answer to `HELLO`. None if it does not say so.
#[must_use]
pub fn mode(hello: Reply) -> Option<ServerMode> {
    let mut fields = hello.array().ok()?.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        if matches!(name, Reply::Text(name) if &*name == b"mode") {
            return Some(match value {
                Reply::Text(mode) if &*mode == b"cluster" => ServerMode::Cluster,
                Reply::Text(mode) if &*mode == b"sentinel" => ServerMode::Sentinel,
                _ => ServerMode::Single,
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        Cluster::new(&["a:1".to_owned()]).unwrap()
    }

    fn view(epoch: u64, port: i64) -> View {
        let text = |text: &'static str| Reply::Text(text.into());
        let server = Reply::Array(vec![text("a"), Reply::Integer(port)]);
        let range = Reply::Array(vec![Reply::Integer(0), Reply::Integer(16_383), server]);
        let asked = ServerAddress::new("a", 1);
        View {
            asked: asked.clone(),
            epoch,
            own_epoch: epoch,
            map: SlotMap::read(Reply::Array(vec![range]), &asked).unwrap(),
        }
    }

    fn port(cluster: &Cluster) -> u16 {
        cluster.map().masters()[0].port
    }

    #[test]
    fn the_newest_view_counts() {
        let cluster = cluster();
        cluster.note(vec![view(3, 1), view(5, 2), view(4, 3)]);
        assert_eq!(port(&cluster), 2);
        // A server that stood still is asked alone.
        for _ in 0..OLDER {
            cluster.note(vec![view(3, 1)]);
            assert_eq!(port(&cluster), 2);
        }
        // The cluster was set up anew.
        cluster.note(vec![view(3, 1)]);
        assert_eq!(port(&cluster), 1);
        cluster.note(vec![view(3, 4)]);
        assert_eq!(port(&cluster), 4);
    }

    #[test]
    fn of_views_in_one_epoch_the_one_with_a_change_counts() {
        for views in [
            [view(2, 2), view(2, 1), view(2, 1)],
            [view(2, 1), view(2, 1), view(2, 2)],
        ] {
            let cluster = cluster();
            cluster.note(vec![view(1, 1)]);
            cluster.note(views.into());
            assert_eq!(port(&cluster), 2);
        }
    }

    #[test]
    fn a_replaced_master_does_not_take_its_slots_back() {
        let cluster = cluster();
        cluster.note(vec![view(1, 1)]);
        cluster.note(vec![view(2, 2)]);
        // It has heard of the newest epoch, and not of the change.
        let stale = || View {
            own_epoch: 1,
            ..view(2, 1)
        };
        cluster.note(vec![stale()]);
        assert_eq!(port(&cluster), 2);
        cluster.note(vec![view(2, 2), stale()]);
        assert_eq!(port(&cluster), 2);
        // It was promoted again.
        cluster.note(vec![View {
            own_epoch: 3,
            ..view(3, 1)
        }]);
        assert_eq!(port(&cluster), 1);
    }

    #[test]
    fn a_slot_that_moved_is_noted_at_once() {
        let cluster = cluster();
        cluster.note(vec![view(1, 1)]);
        let (asked, slot) = (ServerAddress::new("a", 1), Slot::of(b"foo"));
        let changes = cluster.changes();
        for error in ["ASK 12182 a:2", "MOVED 12182 a:1", "TRYAGAIN later"] {
            cluster.note_error(error, &asked);
            assert!(!changes.has_changed().unwrap(), "{error}");
        }
        cluster.note_error("MOVED 12182 a:2", &asked);
        assert!(changes.has_changed().unwrap());
        assert_eq!(cluster.map().master(slot).unwrap().port, 2);
        assert_eq!(cluster.map().master(Slot::of(b"bar")).unwrap().port, 1);
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (address, expected) in [("a", "a:6379"), ("a:7", "a:7"), ("[::1]:7", "[::1]:7")] {
            let cluster = Cluster::new(&[address.to_owned()]).unwrap();
            assert_eq!(cluster.0.seeds[0].to_string(), expected);
        }
        for wrong in ["redis://a:7", ":secret@a:7", "a:secret", "", "a:7/0"] {
            let error = Cluster::new(&[wrong.to_owned()]).unwrap_err();
            assert!(error.contains("expected HOST:PORT"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_answers_of_a_server_are_read() {
        let info = b"cluster_state:ok\r\ncluster_current_epoch:17\r\ncluster_my_epoch:3\r\n";
        let newest = "cluster_current_epoch:";
        assert_eq!((epoch(info, newest), epoch(b"", newest)), (17, 0));
        assert_eq!(epoch(info, "cluster_my_epoch:"), 3);
        let text = |text: &'static str| Reply::Text(text.into());
        let hello = |mode| Reply::Array(vec![text("proto"), Reply::Integer(2), text("mode"), mode]);
        assert_eq!(mode(hello(text("cluster"))), Some(ServerMode::Cluster));
        assert_eq!(mode(hello(text("standalone"))), Some(ServerMode::Single));
        assert_eq!(mode(hello(text("sentinel"))), Some(ServerMode::Sentinel));
        assert_eq!(mode(text("OK")), None);
    }
}
