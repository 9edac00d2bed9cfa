//! Requests about prices, on servers that do not own the price engine.

use serde_json::{Value, json};
use tidewire_proto::v1::{
    GetCandlesRequest, RemoveSourceRequest, price_service_client::PriceServiceClient,
};
use tidewire_tests::{
    Client, HttpResponse, RedisServer, Server, ServerBuilder, Token, Transport, VenueKind,
    VenueStandIn,
    client::grpc::{channel, request},
    eventually, on_every_transport, within,
};
use tonic::Code;

use crate::prices::{CHANNEL, SYMBOL, builder, owner_and_others, owns, price_of, trade};

on_every_transport!(a_session_reads_prices_on_another_server);

/// Servers that follow the venue, of which the first is the owner, and a gateway.
struct Cluster {
    redis: RedisServer,
    venue: VenueStandIn,
    owner: Server,
    other: Server,
    gateway: Server,
}

impl Cluster {
    /// Starts the servers, and waits until all that follow the venue know the price of a trade.
    async fn start() -> Self {
        let redis = RedisServer::start().await;
        let venue = VenueStandIn::start(VenueKind::Kraken).await;
        let (owner, [other]) = owner_and_others(&redis, &venue).await;
        let gateway = gateway(&redis, &venue).start().await;
        trade(&venue, 7);
        for server in [&owner, &other] {
            server
                .metric_until("tidewire_venue_trades_total", "", |count| count > 0.5)
                .await;
        }
        let cluster = Self {
            redis,
            venue,
            owner,
            other,
            gateway,
        };
        eventually("the price of the owner", async || {
            let price = call(&cluster.gateway, "GetPrice", price_body()).await;
            (price.status == 200 && price.json()["price"] == price_of(7)).then_some(())
        })
        .await;
        cluster
    }

    fn servers(&self) -> [&Server; 3] {
        [&self.owner, &self.other, &self.gateway]
    }
}

fn gateway(redis: &RedisServer, venue: &VenueStandIn) -> ServerBuilder {
    builder(redis, venue)
        .set("store", "kind = \"redis\"")
        .set("server", "roles = [\"gateway\"]")
}

fn price_body() -> Value {
    json!({"symbol": SYMBOL})
}

fn source(name: &str, venue: &VenueStandIn) -> Value {
    json!({"kind": "kraken", "name": name, "url": venue.url()})
}

async fn call(server: &Server, method: &str, body: Value) -> HttpResponse {
    let method = format!("PriceService/{method}");
    let token = Token::service();
    let called = server.call(&method, Some(&token), &body);
    within(&method, called).await
}

/// The names of the sources of the owner, as a server tells.
async fn sources(server: &Server) -> Vec<String> {
    let listed = call(server, "ListSources", json!({})).await;
    assert_eq!(listed.status, 200, "{}", listed.body);
    let listed = listed.json();
    let sources = listed["sources"].as_array().expect("sources").iter();
    let names = sources.map(|one| one["name"].as_str().expect("a name").to_owned());
    names.collect()
}

/// Requests in which `?` is the name of a source.
const REQUESTS: &str = r#"
GetPrice {"symbol": "BTC-USD"}
GetPrice {"symbol": "X-Y"}
GetPrice {"symbol": "nonsense"}
GetPrice {}
GetMarketOverview {}
GetCandles {"symbol": "BTC-USD", "interval": "1m"}
GetCandles {"symbol": "BTC-USD", "interval": "1h", "limit": 5}
GetCandles {"symbol": "BTC-USD", "interval": "1d", "since": 0, "limit": 1000}
GetCandles {"symbol": "BTC-USD", "interval": "1m", "limit": 0}
GetCandles {"symbol": "BTC-USD", "interval": "2m"}
GetCandles {"symbol": "X-Y", "interval": "1m"}
GetCandles {"interval": "1m"}
GetCandles {}
ListSources {}
AddSource {"kind": "kraken", "name": "?", "url": "VENUE"}
AddSource {"kind": "kraken", "name": "?", "url": "VENUE"}
AddSource {"kind": "kraken", "name": "", "url": "VENUE"}
AddSource {"kind": "kraken", "name": "x", "url": "http://nowhere"}
AddSource {"kind": "none"}
AddSource {}
ListSources {}
RemoveSource {"name": "?"}
RemoveSource {"name": "?"}
RemoveSource {}
ListSources {}
"#;

/// The status and the body of a response, without what changes by itself.
fn comparable(response: &HttpResponse) -> (u16, Value) {
    (response.status, lasting(json_of(&response.body)))
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(json!(text))
}

fn lasting(mut value: Value) -> Value {
    const CHANGING: [&str; 9] = [
        "ageMs",
        // A minute may end between two answers.
        "closed",
        "coveredMs",
        "dayCoveredMs",
        "frames",
        "connects",
        "offsetMs",
        "state",
        "twap",
    ];
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, _| !CHANGING.contains(&&**name));
                if fields.contains_key("topMovers") {
                    fields.remove("timestamp");
                }
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut value);
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_gets_the_answer_of_the_owner() {
    let cluster = Cluster::start().await;
    let extra = VenueStandIn::start(VenueKind::Kraken).await;
    let (service, mallory) = (Token::service(), Token::of("mallory").sign());
    for line in REQUESTS.trim().lines() {
        let line = line.replace("VENUE", &extra.url());
        let (method, body) = line.split_once(' ').expect("a method and a body");
        let mut answers = Vec::new();
        for (server, name) in cluster
            .servers()
            .into_iter()
            .zip(["venue-a", "venue-b", "venue-c"])
        {
            let body = json_of(&body.replace('?', name));
            let answer = call(server, method, body).await;
            assert_ne!(answer.status, 503, "{line} {}", answer.body);
            let (status, answer) = comparable(&answer);
            answers.push((status, answer.to_string().replace(name, "?")));
        }
        if method != "ListSources" {
            assert_eq!(answers[1], answers[0], "{line}");
            assert_eq!(answers[2], answers[0], "{line}");
        }
        let all = sources(&cluster.owner).await;
        for server in cluster.servers() {
            assert_eq!(sources(server).await, all, "{line}");
        }
        // Refusals are equal too: of another user, and of a client without a token.
        if ["AddSource", "RemoveSource"].contains(&method) {
            continue;
        }
        let method = format!("PriceService/{method}");
        for token in [Some(&*service), Some(&*mallory), None] {
            let mut answers = Vec::new();
            for server in cluster.servers() {
                let answer = server.call(&method, token, &json_of(body)).await;
                answers.push(comparable(&answer));
            }
            assert_eq!(answers[1], answers[0], "{line}");
            assert_eq!(answers[2], answers[0], "{line}");
        }
    }
    // A source that was added on any server is one of the owner, and its prices are published.
    let extra = VenueStandIn::start(VenueKind::Kraken).await;
    let added = call(&cluster.gateway, "AddSource", source("extra", &extra)).await;
    assert_eq!(added.status, 200, "{}", added.body);
    extra.wait_subscribed(1).await;
    let mut client = Client::connect(Transport::WebSocketJson, &cluster.gateway).await;
    client.subscribe(CHANNEL).await;
    trade(&extra, 8);
    while client.next_on(CHANNEL).await.data["sources"] != 2 {}
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_are_those_of_the_caller() {
    let redis = RedisServer::start().await;
    let (venue, extra) = (
        VenueStandIn::start(VenueKind::Kraken).await,
        VenueStandIn::start(VenueKind::Kraken).await,
    );
    let open = |builder: ServerBuilder| builder.set("server", "listen = \"0.0.0.0:0\"");
    let owner = open(builder(&redis, &venue)).start().await;
    eventually("an owner", async || {
        let node = ["HGET", "test:{prices}:lease", "node"];
        let answer = redis.command(&node).await;
        answer.starts_with("$8").then_some(())
    })
    .await;
    let far = open(gateway(&redis, &venue)).start().await;
    let near = gateway(&redis, &venue).start().await;
    let (operator, mallory) = (
        Token::of("operator").scope("admin").sign(),
        Token::of("mallory").sign(),
    );
    // Without a token, a client on the machine of a server on loopback is an operator.
    for (server, token, expected) in [
        (&owner, Some(&mallory), 403),
        (&far, Some(&mallory), 403),
        (&owner, None, 403),
        (&far, None, 403),
        (&owner, Some(&operator), 200),
        (&far, Some(&operator), 200),
        (&near, None, 200),
    ] {
        let token = token.map(|token| &**token);
        let body = source("extra", &extra);
        let added = server.call("PriceService/AddSource", token, &body).await;
        assert_eq!(added.status, expected, "{}", added.body);
        let body = json!({"name": "extra"});
        let removed = server.call("PriceService/RemoveSource", token, &body).await;
        assert_eq!(removed.status, expected, "{}", removed.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_has_the_status_of_the_owner() {
    let cluster = Cluster::start().await;
    let mut answers = Vec::new();
    for server in cluster.servers() {
        let mut client = PriceServiceClient::new(channel(server).await);
        let ask = |interval: &str| {
            let message = GetCandlesRequest {
                symbol: SYMBOL.to_owned(),
                interval: interval.to_owned(),
                ..GetCandlesRequest::default()
            };
            request(message, Some(&Token::of("ann").sign()))
        };
        let listed = client.get_candles(ask("1m")).await.expect("candles");
        let refused = client.get_candles(ask("2m")).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let remove = RemoveSourceRequest {
            name: "none".to_owned(),
        };
        let remove = request(remove, Some(&Token::service()));
        let missing = client.remove_source(remove).await.unwrap_err();
        assert_eq!(missing.code(), Code::NotFound);
        answers.push((
            listed.into_inner(),
            [refused, missing].map(|status| status.message().to_owned()),
        ));
    }
    assert_eq!(answers[0].0.items.len(), 1);
    assert_eq!(answers[1], answers[0]);
    assert_eq!(answers[2], answers[0]);
}

async fn a_session_reads_prices_on_another_server(transport: Transport) {
    let cluster = Cluster::start().await;
    let mut clients = Vec::new();
    for server in cluster.servers() {
        clients.push(Client::connect(transport, server).await);
    }
    for (kind, body) in [
        ("get_price", price_body()),
        ("get_price", json!({"symbol": "X-Y"})),
        ("get_candles", json!({"symbol": SYMBOL, "interval": "1m"})),
        ("get_candles", json!({"symbol": SYMBOL, "interval": "2m"})),
        ("get_candles", json!({"symbol": "X-Y", "interval": "1m"})),
    ] {
        let mut answers = Vec::new();
        for client in &mut clients {
            let reply = client.request(kind, body.clone()).await;
            answers.push((reply.kind, lasting(reply.data)));
        }
        assert_eq!(answers[1], answers[0], "{kind} {body}");
        assert_eq!(answers[2], answers[0], "{kind} {body}");
    }
    let price = clients[2].request("get_price", price_body()).await.data;
    assert_eq!(price["sourceDetails"][0]["state"], "live", "{price}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_the_next_owner_of_prices() {
    let mut cluster = Cluster::start().await;
    let extra = VenueStandIn::start(VenueKind::Kraken).await;
    let added = call(&cluster.gateway, "AddSource", source("extra", &extra)).await;
    assert_eq!(added.status, 200, "{}", added.body);
    cluster.owner.kill().await;
    let gateway = &cluster.gateway;
    // The newest price is there without an owner.
    let price = call(gateway, "GetPrice", price_body()).await;
    assert_eq!(price.status, 200, "{}", price.body);
    assert_eq!(price.json()["price"], price_of(7), "{}", price.body);
    let body = json!({"symbol": SYMBOL, "interval": "1m"});
    let (candles, late) = tokio::join!(
        call(gateway, "GetCandles", body),
        call(gateway, "AddSource", source("late", &extra)),
    );
    assert_eq!(candles.status, 200, "{}", candles.body);
    assert_eq!(candles.json()["items"][0]["close"], price_of(7));
    assert_eq!(late.status, 200, "{}", late.body);
    owns(&cluster.other, true).await;
    // The next owner has sources of its own.
    for server in [&cluster.other, gateway] {
        assert_eq!(sources(server).await, ["kraken", "late"]);
    }
    trade(&cluster.venue, 9);
    eventually("a price of the next owner", async || {
        let price = call(gateway, "GetPrice", price_body()).await.json();
        let is_detailed = price["sourceDetails"].is_array();
        (price["price"] == price_of(9) && is_detailed).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_an_owner_of_prices_does_not_answer_is_in_doubt() {
    let cluster = Cluster::start().await;
    let extra = VenueStandIn::start(VenueKind::Kraken).await;
    cluster.owner.pause();
    let (changed, removed, by_gateway, by_other) = tokio::join!(
        call(&cluster.gateway, "AddSource", source("extra", &extra)),
        call(&cluster.other, "RemoveSource", json!({"name": "kraken"})),
        call(&cluster.gateway, "GetPrice", price_body()),
        call(&cluster.other, "GetPrice", price_body()),
    );
    for changed in [changed, removed] {
        assert_eq!(changed.status, 503, "{}", changed.body);
        assert!(
            changed.body.contains("it is not known whether")
                && changed.body.contains("retryAfterMs"),
            "{}",
            changed.body
        );
    }
    for price in [by_gateway, by_other] {
        assert_eq!(price.status, 200, "{}", price.body);
        assert_eq!(price.json()["price"], price_of(7), "{}", price.body);
    }
    owns(&cluster.other, true).await;
    // It finds the requests when it goes on, and may not carry them out.
    cluster.owner.resume();
    owns(&cluster.owner, false).await;
    for server in cluster.servers() {
        assert_eq!(sources(server).await, ["kraken"]);
    }
    assert_eq!(extra.accepted(), 0);
    assert_eq!(cluster.venue.accepted(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_owner_of_prices_a_gateway_says_so() {
    let redis = RedisServer::start().await;
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let gateway = gateway(&redis, &venue).start().await;
    let candles = json!({"symbol": SYMBOL, "interval": "1m"});
    let requests = [
        ("ListSources", json!({})),
        ("GetCandles", candles),
        ("AddSource", source("extra", &venue)),
        ("RemoveSource", json!({"name": "kraken"})),
    ];
    for (method, body) in &requests {
        let refused = call(&gateway, method, body.clone()).await;
        assert_eq!(refused.status, 503, "{}", refused.body);
        let text = "requests about prices are unavailable: no owner of the price engine is known";
        assert!(
            refused.body.contains(text) && refused.body.contains("retryAfterMs"),
            "{}",
            refused.body
        );
    }
    for (method, body) in [("GetPrice", price_body()), ("GetMarketOverview", json!({}))] {
        let refused = call(&gateway, method, body).await;
        assert_eq!(refused.status, 503, "{}", refused.body);
        assert!(
            refused.body.contains("was published yet"),
            "{}",
            refused.body
        );
    }
    let owner = builder(&redis, &venue).start().await;
    owns(&owner, true).await;
    for (method, body) in requests {
        let answer = call(&gateway, method, body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_answers_what_it_knows_while_redis_is_away() {
    let mut cluster = Cluster::start().await;
    cluster.redis.kill();
    let candles = json!({"symbol": SYMBOL, "interval": "1m"});
    for server in [&cluster.owner, &cluster.other] {
        for (method, body) in [
            ("GetPrice", price_body()),
            ("GetMarketOverview", json!({})),
            ("GetCandles", candles.clone()),
            ("ListSources", json!({})),
        ] {
            let answer = call(server, method, body).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
        let refused = eventually("a refusal", async || {
            let removed = call(server, "RemoveSource", json!({"name": "none"})).await;
            (removed.status != 404).then_some(removed)
        });
        let refused = refused.await;
        assert_eq!(refused.status, 503, "{}", refused.body);
    }
    trade(&cluster.venue, 8);
    for server in [&cluster.owner, &cluster.other] {
        eventually("the price of its engine", async || {
            let price = call(server, "GetPrice", price_body()).await;
            (price.json()["price"] == price_of(8)).then_some(())
        })
        .await;
    }
}
