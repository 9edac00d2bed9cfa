//! The load: publishers and probes that repeat what was not acknowledged, subscribers that resume on
//! another server, and back ends that notify users and register alert rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tidewire_tests::{
    Client, Endpoint, HttpResponse, Message, Token, Transport, VenueStandIn, eventually,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    cluster::{Cluster, NODES, Redis},
    fault::Fault,
    ledger::{Publication, Report, Track},
    market::{Fires, Market, Rule, SYMBOL},
};

/// Publishers on each server, and their channels, if these are spread over the masters of a cluster.
const SPREAD: usize = 3;

/// A kind of subscriber, of which each server has one.
#[derive(Debug, Clone, Copy)]
struct Kind {
    transport: Transport,
    /// Silence after which it sends a ping, and its wait for the pong.
    silence: (Duration, Duration),
}

impl Kind {
    /// A client that keeps to the times of the protocol.
    const fn client(transport: Transport) -> Self {
        let silence = (Duration::from_secs(2), Duration::from_millis(1_500));
        Self { transport, silence }
    }

    /// A back end, for which a ping costs no battery.
    const BACK_END: Self = Self {
        transport: Transport::Grpc,
        silence: (Duration::from_millis(300), Duration::from_millis(400)),
    };
}

/// The kinds. The last one is that of the back ends.
const KINDS: [Kind; 4] = [
    Kind::client(Transport::WebSocketJson),
    Kind::client(Transport::Sse),
    Kind::client(Transport::Grpc),
    Kind::BACK_END,
];

/// Time between two alert rules.
const RULES: Duration = Duration::from_millis(500);

/// Trades from now until a rule fires.
const TRADES_TO_FIRE: u64 = 30;

/// Time between two looks for the owners of the prices and the store.
const OWNERS: Duration = Duration::from_millis(500);

/// Time between two probes.
const PROBES: Duration = Duration::from_millis(20);

/// Time after an answer before a publisher or a back end goes on.
const PAUSE: Duration = Duration::from_millis(50);

/// Time after which a publisher repeats a publication on another server.
const PATIENCE: Duration = Duration::from_millis(400);

/// Time after which a subscriber tries another server.
const CONNECT: Duration = Duration::from_secs(1);

/// The titles that a server acknowledged, by the server and the user.
type Inboxes = BTreeMap<(usize, String), Vec<String>>;

struct Shared {
    endpoints: Vec<Endpoint>,
    token: String,
    /// The channel of the probes, and one of each publisher.
    channels: Vec<String>,
    publications: Mutex<Vec<Publication>>,
    /// The tracks of each subscriber, one for each channel.
    subscribers: Vec<Mutex<Vec<Track>>>,
    inboxes: Mutex<Inboxes>,
    rules: Mutex<Vec<Rule>>,
    /// How often another server was seen to own the prices, and the store.
    owners: Mutex<[usize; 2]>,
    /// Number of the round, from 1. None at the end.
    round: watch::Sender<Option<usize>>,
}

/// A running load.
pub(crate) struct Load {
    shared: Arc<Shared>,
    market: Arc<Market>,
    senders: JoinSet<()>,
    _subscribers: JoinSet<()>,
}

impl Load {
    /// Starts the subscribers, and then all others.
    pub(crate) async fn start(cluster: &Cluster, venue: VenueStandIn) -> Self {
        let endpoints = cluster.nodes.iter().map(|node| node.endpoint());
        let publishers = match cluster.redis {
            Redis::Pair(_) => NODES,
            Redis::Shards(_) => NODES * SPREAD,
        };
        let channels = (0..publishers).map(|number| format!("lane:{number}"));
        let channels: Vec<_> = ["lane:probes".to_owned()]
            .into_iter()
            .chain(channels)
            .collect();
        let tracks = || Mutex::new(channels.iter().map(|_| Track::default()).collect());
        let subscribers = (0..NODES * KINDS.len()).map(|_| tracks()).collect();
        let shared = Arc::new(Shared {
            endpoints: endpoints.collect(),
            token: Token::service(),
            publications: Mutex::default(),
            subscribers,
            channels,
            inboxes: Mutex::default(),
            rules: Mutex::default(),
            owners: Mutex::default(),
            round: watch::Sender::new(Some(0)),
        });
        let (mut senders, mut subscribers) = (JoinSet::new(), JoinSet::new());
        for index in 0..shared.subscribers.len() {
            subscribers.spawn(shared.clone().subscribe(index));
        }
        eventually("all subscriptions", async || {
            let mut tracks = shared.subscribers.iter();
            let all = tracks.all(|tracks| tracks.lock().iter().all(|one| !one.at.0.is_empty()));
            all.then_some(())
        })
        .await;
        let round = shared.round.subscribe();
        let market = Arc::new(Market::open(venue, &cluster.redis, round).await);
        senders.spawn(shared.clone().probe());
        senders.spawn(shared.clone().register(market.clone()));
        senders.spawn(shared.clone().watch_owners());
        for node in 0..NODES {
            senders.spawn(shared.clone().notify(node));
        }
        for channel in 1..=publishers {
            senders.spawn(shared.clone().publish_on(channel));
        }
        Self {
            shared,
            market,
            senders,
            _subscribers: subscribers,
        }
    }

    /// Begins a round. All subscribers go back to their first server.
    pub(crate) fn begin_round(&self, number: usize) {
        self.shared.round.send_replace(Some(number));
    }

    /// Waits until a publication of now reaches all subscribers, on each channel. One that an epoch
    /// ended with does not.
    pub(crate) async fn flows(&self) {
        let mut flowing = JoinSet::new();
        for (channel, name) in self.shared.channels.iter().enumerate() {
            let (shared, what) = (self.shared.clone(), format!("a publication on {name}"));
            flowing.spawn(eventually(what, async move || {
                let number = shared.publish(channel, channel % NODES).await;
                let delivered = shared.delivered(channel, number);
                timeout(CONNECT, delivered).await.ok()
            }));
        }
        while let Some(flows) = flowing.join_next().await {
            flows.expect("publications reach all subscribers");
        }
        let price = self.market.price();
        eventually("a price", async || {
            self.market.has_published(price).then_some(())
        })
        .await;
    }

    /// Ends the load, and compares.
    pub(crate) async fn end(mut self, rounds: &[Fault]) -> Report {
        self.shared.round.send_replace(None);
        while let Some(ended) = self.senders.join_next().await {
            ended.expect("a sender works to its end");
        }
        self.flows().await;
        let Shared {
            publications,
            subscribers,
            inboxes,
            rules,
            owners,
            endpoints,
            token,
            ..
        } = &*self.shared;
        let rules = std::mem::take(&mut *rules.lock());
        // Of the newest rule too.
        let last = rules.iter().map(|rule| rule.threshold).max();
        eventually("the price of the last rule", async || {
            self.market.has_published(last.unwrap_or(0)).then_some(())
        })
        .await;
        let take = |tracks: &Mutex<Vec<Track>>| std::mem::take(&mut *tracks.lock());
        let tracks: Vec<_> = subscribers.iter().map(take).collect();
        let mut report = Report::new(rounds, &publications.lock(), &tracks, NODES, PROBES);
        let inboxes = std::mem::take(&mut *inboxes.lock());
        for ((node, user), acknowledged) in &inboxes {
            let all = list(&endpoints[*node], token, INBOX, user).await;
            report.add_inbox(acknowledged, &texts(&all, "/title"));
        }
        let tape = self.market.tape();
        let fires = fires(&endpoints[0], token, &rules, tape.highest).await;
        report.add_market(rounds, tape, fires);
        report.owners = *owners.lock();
        report
    }
}

/// The methods that list an inbox, and what fired.
const INBOX: &str = "NotifyService/ListNotifications";
const FIRES: &str = "AlertService/ListFires";

/// The items that a method lists for a user, page by page.
async fn list(server: &Endpoint, token: &str, method: &str, user: &str) -> Vec<Value> {
    let (mut all, mut before) = (Vec::new(), Value::Null);
    loop {
        let mut question = json!({"user": user, "limit": 100});
        if !before.is_null() {
            question["before"] = before;
        }
        let page = server.call(method, Some(token), &question).await;
        assert_eq!(page.status, 200, "{}", page.body);
        let page = page.json();
        all.extend(page["items"].as_array().cloned().unwrap_or_default());
        before = page["next"].clone();
        if before.is_null() {
            return all;
        }
    }
}

/// A text of each item.
fn texts(items: &[Value], pointer: &str) -> Vec<String> {
    let texts = items
        .iter()
        .filter_map(|one| one.pointer(pointer)?.as_str());
    texts.map(str::to_owned).collect()
}

/// How often each rule fired, once all have that will.
async fn fires(server: &Endpoint, token: &str, rules: &[Rule], highest: u64) -> Fires {
    let users: BTreeSet<_> = rules.iter().map(|rule| &*rule.user).collect();
    for attempt in 0.. {
        let (mut fired, mut notified) = (Vec::new(), Vec::new());
        for user in &users {
            let all = list(server, token, FIRES, user).await;
            fired.extend(texts(&all, "/alertId"));
            let all = list(server, token, INBOX, user).await;
            notified.extend(texts(&all, "/data/alertId"));
        }
        let fires = Fires::new(rules, highest, &fired, &notified);
        if (fires.missed, fires.silent) == (0, 0) || attempt > 20 {
            return fires;
        }
        sleep(RULES).await;
    }
    unreachable!("the loop returns")
}

/// Whether a page of metrics has a series with the value 1.
fn is_one(page: &str, series: &str) -> bool {
    let mut lines = page.lines().filter_map(|line| line.split_once(' '));
    lines.any(|(name, value)| name == series && value.trim() == "1")
}

/// Whether a server did what it was asked for. If not, it is repeated.
fn is_acknowledged(answer: Option<&HttpResponse>) -> bool {
    let Some(answer) = answer else { return false };
    assert!([200, 503].contains(&answer.status), "{}", answer.body);
    answer.status == 200
}

impl Shared {
    fn is_over(&self) -> bool {
        self.round.borrow().is_none()
    }

    /// Calls one server. None unless it acknowledges in time.
    async fn call(&self, node: usize, method: &str, body: &Value, time: Duration) -> Option<Value> {
        let call = self.endpoints[node].try_call(method, &self.token, body);
        let answer = timeout(time, call).await.ok().flatten();
        is_acknowledged(answer.as_ref()).then(|| answer.map(|answer| answer.json()))?
    }

    /// Publishes, first on one server, until a server acknowledges it. Returns its number.
    async fn publish(&self, channel: usize, first: usize) -> u64 {
        let number = {
            let mut all = self.publications.lock();
            all.push(Publication {
                channel,
                round: self.round.borrow().unwrap_or(usize::MAX),
                sent: Instant::now(),
                place: None,
            });
            all.len() - 1
        };
        let key = format!("publication-{number}");
        let body =
            json!({"channel": self.channels[channel], "data": number, "idempotencyKey": key});
        for node in (0..NODES).cycle().skip(first) {
            let answer = self
                .call(node, "StreamService/Publish", &body, PATIENCE)
                .await;
            if let Some(answer) = answer {
                self.publications.lock()[number].place = Some(place(&answer));
                break;
            }
            sleep(PAUSE).await;
        }
        number as u64
    }

    /// Waits until all subscribers have a publication.
    async fn delivered(&self, channel: usize, number: u64) {
        for tracks in &self.subscribers {
            while !tracks.lock()[channel].has(number) {
                sleep(PROBES).await;
            }
        }
    }

    /// Publishes one after the other.
    async fn publish_on(self: Arc<Self>, channel: usize) {
        let pause = PAUSE * u32::try_from(self.channels.len() / NODES).expect("a few");
        while !self.is_over() {
            self.publish(channel, (channel - 1) % NODES).await;
            sleep(pause).await;
        }
    }

    /// Sends a probe in each interval, whether or not those before have arrived.
    async fn probe(self: Arc<Self>) {
        let (mut probes, mut ticks) = (JoinSet::new(), interval(PROBES));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for node in (0..NODES).cycle() {
            ticks.tick().await;
            if self.is_over() {
                break;
            }
            let shared = self.clone();
            probes.spawn(async move { shared.publish(0, node).await });
            while let Some(ended) = probes.try_join_next() {
                ended.expect("a probe is sent");
            }
        }
        probes.join_all().await;
    }

    /// Registers rules that fire a while later. Each round has another user.
    async fn register(self: Arc<Self>, market: Arc<Market>) {
        for (number, first) in (0_u64..).zip((0..NODES).cycle()) {
            let Some(round) = *self.round.borrow() else {
                return;
            };
            let (user, threshold) = (format!("trader-{round}"), market.price() + TRADES_TO_FIRE);
            let condition =
                json!({"kind": "price_above", "symbol": SYMBOL, "threshold": threshold});
            let key = format!("rule-{number}");
            let body =
                json!({"user": user, "rule": {"condition": condition}, "idempotencyKey": key});
            for node in (0..NODES).cycle().skip(first) {
                let registered = self
                    .call(node, "AlertService/RegisterAlert", &body, CONNECT)
                    .await;
                if let Some(rule) = registered {
                    let id = rule["id"].as_str().expect("an id").to_owned();
                    self.rules.lock().push(Rule {
                        user,
                        id,
                        threshold,
                    });
                    break;
                }
                sleep(PAUSE).await;
            }
            sleep(RULES).await;
        }
    }

    /// Counts how often another server owns the prices, and the store.
    async fn watch_owners(self: Arc<Self>) {
        let mut owners = [None; 2];
        let operator = Token::of("operator").scope("admin").sign();
        while !self.is_over() {
            for (node, endpoint) in self.endpoints.iter().enumerate() {
                let asked = endpoint.http().get(endpoint.url("/metrics"));
                let asked = asked.bearer_auth(&operator);
                let page = async { asked.send().await.ok()?.text().await.ok() };
                let Some(page) = timeout(OWNERS, page).await.ok().flatten() else {
                    continue;
                };
                for (index, series) in ["tidewire_price_owner", "tidewire_store_owner"]
                    .into_iter()
                    .enumerate()
                {
                    if is_one(&page, series) && owners[index] != Some(node) {
                        self.owners.lock()[index] += usize::from(owners[index].is_some());
                        owners[index] = Some(node);
                    }
                }
            }
            sleep(OWNERS).await;
        }
    }

    /// Notifies users whose inboxes are on this server, and of whom each round has another.
    async fn notify(self: Arc<Self>, node: usize) {
        for number in 0.. {
            let Some(round) = *self.round.borrow() else {
                return;
            };
            let (user, title) = (format!("user-{node}-{round}"), number.to_string());
            let notification = json!({"type": "system_announcement", "title": title});
            let key = format!("notification-{node}-{number}");
            let body = json!({"user": user, "notification": notification, "idempotencyKey": key});
            while self
                .call(node, "NotifyService/Notify", &body, CONNECT)
                .await
                .is_none()
            {
                sleep(PAUSE).await;
            }
            self.inboxes
                .lock()
                .entry((node, user))
                .or_default()
                .push(title);
            sleep(PAUSE).await;
        }
    }

    /// Subscribes, and resumes on the next server whenever the connection or its server is lost.
    async fn subscribe(self: Arc<Self>, index: usize) {
        let (home, kind) = (index % NODES, KINDS[index / NODES]);
        let (mut node, mut round) = (home, self.round.subscribe());
        loop {
            let resumed = timeout(CONNECT, self.resume(index, kind.transport, node)).await;
            let goes_home = match resumed.ok().flatten() {
                Some(client) => {
                    let listening = (client, kind.silence);
                    self.listen(index, listening, &mut round, node != home)
                        .await
                }
                None => {
                    sleep(PAUSE).await;
                    false
                }
            };
            // It was at home in this round.
            round.mark_unchanged();
            node = if goes_home { home } else { (node + 1) % NODES };
        }
    }

    async fn resume(&self, index: usize, transport: Transport, node: usize) -> Option<Client> {
        let mut client = Client::open(transport, &self.endpoints[node], None)
            .await
            .ok()?;
        let entry = |(track, channel): (&Track, &String)| match &track.at {
            (epoch, _) if epoch.is_empty() => json!(channel),
            (epoch, seq) => json!({"channel": channel, "since": {"epoch": epoch, "seq": seq}}),
        };
        let channels: Vec<_> = {
            let tracks = self.subscribers[index].lock();
            tracks.iter().zip(&self.channels).map(entry).collect()
        };
        let reply = client
            .try_request("subscribe", json!({"channels": channels}))
            .await?;
        let entries = reply.data["channels"].as_array()?;
        if entries.iter().any(|entry| entry.get("error").is_some()) {
            return None;
        }
        for (track, entry) in self.subscribers[index].lock().iter_mut().zip(entries) {
            if track.at.0.is_empty() {
                track.at = place(entry);
            } else if entry["recovered"] == true {
                assert_eq!(entry["epoch"], track.at.0, "a recovery is in one epoch");
            } else {
                track.jump(place(entry));
            }
        }
        Some(client)
    }

    /// Receives until the connection is lost. True if it was ended to go home.
    async fn listen(
        &self,
        index: usize,
        (mut client, silence): (Client, (Duration, Duration)),
        round: &mut watch::Receiver<Option<usize>>,
        is_away: bool,
    ) -> bool {
        loop {
            let next = tokio::select! {
                _ = round.changed(), if is_away => return true,
                next = timeout(silence.0, client.try_next()) => next,
            };
            match next {
                Ok(Some(message)) if self.take(index, &message) => {}
                Ok(_) => return false,
                Err(_) => {
                    let pong = timeout(silence.1, client.try_request("ping", json!({}))).await;
                    if pong.ok().flatten().is_none() {
                        return false;
                    }
                }
            }
        }
    }

    /// Notes a message. False if the client has to connect to another server.
    fn take(&self, index: usize, message: &Message) -> bool {
        let channel = message.channel.as_deref();
        let mut names = self.channels.iter();
        let channel = names.position(|name| Some(&**name) == channel);
        let mut tracks = self.subscribers[index].lock();
        match (&*message.kind, channel) {
            ("message", Some(channel)) => {
                let number = message.data.as_u64().expect("a number");
                tracks[channel].deliver(message.seq.expect("a seq"), number);
            }
            ("gap", Some(channel)) => tracks[channel].jump(place(&message.data)),
            ("reconnect" | "unsubscribed", _) => return false,
            _ => {}
        }
        true
    }
}

/// The position in an answer or a notice.
fn place(answer: &Value) -> (String, u64) {
    let epoch = answer["epoch"].as_str().expect("an epoch");
    (epoch.to_owned(), answer["seq"].as_u64().expect("a seq"))
}
