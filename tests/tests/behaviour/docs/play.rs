//! Scene player: sends the client messages of a scene, and compares the responses.

use serde_json::{Value, json};
use tidewire_tests::{
    Client, HttpResponse, Message, Server, Token, Transport, VenueKind, VenueStandIn,
    client::SseStream,
    venue::{Ticker, Trade},
};

use super::{
    comparison::Names,
    page::{Example, Kind, Scene},
};
use crate::prices::server_of;

/// Servers and connections of a scene.
struct Stage {
    server: Server,
    /// Held, so that the price does not become stale.
    _venue: VenueStandIn,
    names: Names,
    client: Option<Client>,
    stream: Option<SseStream>,
    answer: Option<HttpResponse>,
}

/// Plays a scene on its own server.
pub(super) async fn play(scene: &Scene) {
    let (server, venue) = server_with_a_price().await;
    let mut stage = Stage {
        server,
        _venue: venue,
        names: Names::default(),
        client: None,
        stream: None,
        answer: None,
    };
    for example in &scene.examples {
        stage.act(example).await;
    }
    stage.end().await;
}

/// Starts a server with two symbols, of which one has a price.
async fn server_with_a_price() -> (Server, VenueStandIn) {
    let venue = VenueStandIn::start(VenueKind::Coinbase).await;
    let server = server_of(std::slice::from_ref(&venue), &["BTC-USD", "ETH-USD"])
        .start()
        .await;
    venue.wait_subscribed(1).await;
    let (symbol, last) = ("BTC-USD", "61838.01");
    venue.ticker(&Ticker {
        symbol,
        last,
        open: "60000",
        volume: "10",
    });
    venue.trade(&Trade {
        symbol,
        id: 7,
        price: last,
    });
    // The server has sent everything, so nothing arrives later by surprise.
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client.subscribe("market:overview").await;
    while client.next().await.data["recentTrades"] == json!([]) {}
    (server, venue)
}

impl Stage {
    async fn act(&mut self, example: &Example) {
        let place = &example.place;
        match &example.kind {
            Kind::Example => {}
            Kind::Client => {
                for text in &example.messages {
                    let message = self.message(place, text);
                    self.client().await.send(&message).await;
                }
            }
            Kind::Server => self.hear(example).await,
            Kind::Call(method) => {
                let body = self.names.real(place, &example.messages.join("\n"));
                self.answer = Some(self.server.call(method, None, &body).await);
            }
            Kind::Post => {
                let url = self.post_url();
                let request = self.server.http().post(url);
                let body = self.message(place, &example.messages.join("\n"));
                self.answer = Some(self.server.send(request.json(&body)).await);
            }
            Kind::Answer(status) => {
                let answer = self.answer.take();
                let answer = answer.unwrap_or_else(|| panic!("{place} answers nothing"));
                assert_eq!(answer.status, *status, "{place}: {}", answer.body);
                let shown = example.messages.join("\n");
                self.names.compare(place, &shown, &answer.body);
            }
            Kind::Open(query) => {
                let stream = SseStream::open(&self.server, query, &[]).await;
                self.stream = Some(stream.unwrap());
            }
            Kind::Events => self.receive_events(example).await,
        }
    }

    /// Builds a documented message, with real names and a valid token.
    fn message(&self, place: &str, shown: &str) -> Value {
        let mut message = self.names.real(place, shown);
        let token = message["data"]["token"].as_str();
        if token.is_some_and(|token| token.starts_with("eyJ")) {
            message["data"]["token"] = json!(Token::of("ada").sign());
        }
        message
    }

    async fn client(&mut self) -> &mut Client {
        if self.client.is_none() {
            self.client = Some(Client::connect(Transport::WebSocketJson, &self.server).await);
        }
        self.client.as_mut().unwrap()
    }

    /// Receives as many messages as the documentation shows. Replies and pushes have no common
    /// order except for `subscribed`; each kind is ordered.
    async fn hear(&mut self, example: &Example) {
        let place = &example.place;
        let mut shown: Vec<&str> = example.messages.iter().map(String::as_str).collect();
        let mut real: Vec<Message> = Vec::new();
        let client = self.client().await;
        for message in &shown {
            if Message::parse(message).kind == "welcome" {
                real.push(client.welcome().clone());
            } else {
                real.push(client.next().await);
            }
        }
        shown.sort_by_key(|message| Message::parse(message).id);
        real.sort_by(|a, b| a.id.cmp(&b.id));
        for (shown, real) in shown.iter().zip(&real) {
            self.names.compare(place, shown, &real.text);
        }
    }

    async fn receive_events(&mut self, example: &Example) {
        let place = &example.place;
        let stream = self.stream.as_mut().expect("a connection");
        for event in &example.messages {
            let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            let real = stream.next().await.unwrap();
            assert_eq!(line("event: "), Some(real.kind.as_str()), "{place}");
            assert_eq!(line("id: ").is_some(), real.has_id, "{place}: an id");
            let data = line("data: ").expect("data");
            self.names.compare(place, data, &real.data);
        }
    }

    /// Returns the POST URL of the scene's SSE connection, from its `welcome`.
    fn post_url(&self) -> String {
        let name = |shown: &str| self.names.get(shown).expect("`welcome` was shown before");
        let path = format!("/v1/sse/{}?key={}", name(CONNECTION), name(KEY));
        self.server.url(&path)
    }

    /// Checks that no undocumented message arrived.
    async fn end(mut self) {
        if let Some(client) = &mut self.client {
            client.settle().await;
            let unread: Vec<_> = client
                .unread()
                .iter()
                .map(|message| &message.text)
                .collect();
            assert!(unread.is_empty(), "not shown: {unread:?}");
        }
    }
}

/// The documentation's name for an SSE connection.
const CONNECTION: &str = "5e0c9f8b3a7d4c21";
const KEY: &str = "2b7e151628aed2a6";
