//! Clients that read responses slowly or not at all, over HTTP/1.1 and HTTP/2.

use std::{convert::Infallible, net::IpAddr, sync::atomic::AtomicUsize};

use axum::body::{Body, HttpBody as _};
use futures::{StreamExt as _, future::join_all, stream};
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http2::SendRequest,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use proptest::prelude::*;
use tidewire_stream::{ManualClock, limit::LimitOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::*;
use crate::{
    Admission, AdmissionOptions, ProxyHeader, TrustedProxies,
    http::response_body::{ResponseBody, ResponseKind},
};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a response.
const SIZE: usize = 50_000;

/// Bytes after which requests wait.
const LIMIT: usize = 120_000;

/// A server of one connection.
struct Server {
    io: DuplexStream,
    guard: Arc<ConnectionGuard>,
    total: Arc<AtomicUsize>,
    connection: JoinHandle<()>,
}

impl Server {
    /// Answers each request: `/stream` in parts of 1,000 bytes, and others at once.
    fn start() -> Self {
        let options = AdmissionOptions {
            limits: LimitOptions::default(),
            concurrent_handshakes: 0,
            handshake_timeout: TIMEOUT,
            idle_timeout: TIMEOUT,
            body_timeout: TIMEOUT,
            response_timeout: TIMEOUT,
            response_bytes: LIMIT,
        };
        let none: [&str; 0] = [];
        let proxies = TrustedProxies::parse(&none, ProxyHeader::XForwardedFor).unwrap();
        let admission = Admission::new(options, proxies, ManualClock::at(0));
        let guard = admission.admit(IpAddr::from([1, 1, 1, 1])).unwrap();
        let total = admission.unsent_total();
        let unsent = UnsentResponses::new(LIMIT, TIMEOUT, total.clone());
        let executor = StreamExecutor::new(unsent.clone(), TIMEOUT);
        let served = guard.clone();
        let activity = WriteActivity::new(guard.clone());
        let writes = activity.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (unsent, request_guard) = (unsent.clone(), served.begin_request());
            if request.version() < Version::HTTP_2 {
                writes.begin_http1();
            }
            async move {
                let progress = current_progress(&unsent);
                if unsent.wait_for_room().await.is_err() {
                    return Err("no room");
                }
                let part = || Ok::<_, Infallible>(Bytes::from(vec![0; 1_000]));
                let (body, kind) = match request.uri().path() {
                    "/stream" => {
                        let parts = stream::iter(0..SIZE / 1_000).map(move |_| part());
                        let body = Body::from_stream(parts.chain(stream::pending()));
                        (body, ResponseKind::SessionStream)
                    }
                    _ => (Body::from(vec![0; SIZE]), ResponseKind::Reply),
                };
                let is_http2 = request.version() == Version::HTTP_2;
                let body = ResponseBody::new(body, kind, progress, is_http2, request_guard);
                Ok(Response::new(body))
            }
        });
        let (io, peer) = tokio::io::duplex(4_096);
        let peer = TokioIo::new(ResponseIo::new(peer, activity, TIMEOUT));
        let connection = tokio::spawn(async move {
            let mut builder = auto::Builder::new(executor);
            builder
                .http2()
                .timer(TokioTimer::new())
                .keep_alive_interval(TIMEOUT / 2);
            let _ = builder.serve_connection(peer, service).await;
        });
        Self {
            io,
            guard,
            total,
            connection,
        }
    }

    /// A client of HTTP/2 whose streams have windows of `window` bytes.
    async fn client(self, window: u32) -> Client {
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(window)
            .initial_connection_window_size(1 << 20);
        let io = TokioIo::new(self.io);
        let (requests, connection) = builder.handshake(io).await.unwrap();
        tokio::spawn(connection);
        Client {
            requests,
            total: self.total,
        }
    }
}

#[derive(Clone)]
struct Client {
    requests: SendRequest<Empty<Bytes>>,
    total: Arc<AtomicUsize>,
}

impl Client {
    async fn get(&mut self, path: &str) -> hyper::Result<Incoming> {
        let request = Request::get(format!("http://a{path}")).body(Empty::new());
        let sent = self.requests.send_request(request.unwrap());
        Ok(sent.await?.into_body())
    }

    /// Bytes that count as unsent.
    fn unsent(&self) -> usize {
        self.total.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Reads a body with a pause before each part. Returns the bytes, and whether it failed.
async fn read(mut body: Incoming, pause: Duration) -> (usize, bool) {
    let mut bytes = 0;
    loop {
        sleep(pause).await;
        match timeout(TIMEOUT * 2, body.frame()).await {
            Ok(Some(Ok(frame))) => bytes += frame.into_data().unwrap().len(),
            Ok(Some(Err(_))) => return (bytes, true),
            Ok(None) => return (bytes, false),
            Err(_) => panic!("the body neither goes on nor ends"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_unread_response_is_reset_and_others_go_on() {
    for (path, window) in [
        ("/", 0),
        ("/", 1),
        ("/", 20_000),
        ("/stream", 0),
        ("/stream", 1),
    ] {
        let mut client = Server::start().client(window).await;
        let unread = client.get(path).await.unwrap();
        sleep(TIMEOUT - Duration::from_secs(1)).await;
        let held = client.unsent();
        assert_eq!(held > 0, path == "/", "{path} {window}: {held}");
        sleep(Duration::from_secs(2)).await;
        assert_eq!(client.unsent(), 0, "{path} {window}");
        let (bytes, failed) = read(unread, Duration::ZERO).await;
        assert!(
            failed && bytes <= window as usize,
            "{path} {window}: {bytes}"
        );
        assert!(client.get("/").await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_all_of_a_response() {
    let mut client = Server::start().client(2_000).await;
    let slow = client.get("/").await.unwrap();
    let pause = TIMEOUT - Duration::from_secs(1);
    assert_eq!(read(slow, pause).await, (SIZE, false));
    assert_eq!(client.unsent(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_messages_is_not_cut() {
    let mut client = Server::start().client(1 << 20).await;
    let mut quiet = client.get("/stream").await.unwrap();
    let mut bytes = 0;
    while bytes < SIZE {
        bytes += quiet
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap()
            .len();
    }
    assert!(timeout(TIMEOUT * 10, quiet.frame()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn pings_do_not_keep_a_connection_without_requests_busy() {
    let server = Server::start();
    let guard = server.guard.clone();
    let mut client = server.client(1 << 20).await;
    let whole = client.get("/").await.unwrap();
    assert_eq!(read(whole, Duration::ZERO).await, (SIZE, false));
    assert!(guard.is_busy());
    sleep(TIMEOUT * 2).await;
    assert!(!guard.is_busy());
    // The connection is alive.
    assert!(client.get("/").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_room_and_are_refused_in_the_end() {
    // The first three responses exceed the limit.
    let mut client = Server::start().client(0).await;
    let mut unread = Vec::new();
    for _ in 0..3 {
        unread.push(client.get("/").await.unwrap());
    }
    let mut late = client.clone();
    let late = tokio::spawn(async move { late.get("/").await });
    sleep(TIMEOUT / 2).await;
    assert_eq!(client.unsent(), 3 * SIZE);
    assert!(!late.is_finished());
    // A client that gives up its responses has room again.
    unread.clear();
    let late = late.await.unwrap().unwrap();
    assert_eq!(client.unsent(), SIZE);
    drop(late);
    // A client that does not is refused further ones.
    for _ in 0..3 {
        unread.push(client.get("/").await.unwrap());
    }
    let all = join_all((0..20).map(|_| {
        let mut client = client.clone();
        async move { client.get("/").await.is_ok() }
    }));
    assert!(all.await.contains(&false));
}

/// Sends a request over HTTP/1.1.
async fn request(server: &mut Server, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    server.io.write_all(request.as_bytes()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unread_response_ends_its_http1_connection() {
    for path in ["/", "/stream"] {
        let mut server = Server::start();
        request(&mut server, path).await;
        sleep(TIMEOUT - Duration::from_secs(1)).await;
        assert!(!server.connection.is_finished());
        sleep(Duration::from_secs(2)).await;
        assert!(server.connection.is_finished(), "{path}");
        assert_eq!(server.total.load(std::sync::atomic::Ordering::Relaxed), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_all_of_a_response_over_http1() {
    let mut server = Server::start();
    request(&mut server, "/").await;
    let (mut bytes, mut buffer) = (0, [0; 1_000]);
    while bytes < SIZE {
        sleep(TIMEOUT - Duration::from_secs(1)).await;
        bytes += server.io.read(&mut buffer).await.unwrap();
        // hyper may have written the whole response to the pipe, and the client still reads.
        let is_in_pipe = bytes + 5_000 > SIZE;
        assert!(is_in_pipe || server.guard.is_busy(), "{bytes}");
    }
    assert!(!server.connection.is_finished());
}

/// The next action of a client.
#[derive(Debug, Clone)]
enum Action {
    Request,
    /// Reads a part of one of its responses.
    Read(prop::sample::Index),
    /// Gives one of its responses up.
    Drop(prop::sample::Index),
    Wait(u64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => Just(Action::Request),
        4 => any::<prop::sample::Index>().prop_map(Action::Read),
        1 => any::<prop::sample::Index>().prop_map(Action::Drop),
        1 => (1..20_u64).prop_map(Action::Wait),
    ]
}

/// Whatever a client reads, drops and leaves, its responses keep to the limit, and the bytes of
/// all of them are counted out in the end.
async fn check(window: u32, actions: Vec<Action>) {
    let mut client = Server::start().client(window).await;
    let (mut bodies, mut late) = (Vec::new(), Vec::new());
    for action in actions {
        match action {
            Action::Request => {
                let mut own = client.clone();
                late.push(tokio::spawn(async move { own.get("/").await }));
            }
            Action::Read(index) if !bodies.is_empty() => {
                let body: &mut Incoming = index.get_mut(&mut bodies);
                let _ = timeout(Duration::from_millis(1), body.frame()).await;
            }
            Action::Drop(index) if !bodies.is_empty() => {
                drop(bodies.swap_remove(index.index(bodies.len())));
            }
            Action::Read(_) | Action::Drop(_) => {}
            Action::Wait(seconds) => sleep(Duration::from_secs(seconds)).await,
        }
        // Everything that can run does.
        sleep(Duration::from_millis(1)).await;
        let mut open = Vec::new();
        for one in late.drain(..) {
            if one.is_finished() {
                bodies.extend(one.await.unwrap());
            } else {
                open.push(one);
            }
        }
        late = open;
        let unsent = client.unsent();
        assert!(unsent < LIMIT + SIZE, "{unsent}");
    }
    for one in late {
        one.abort();
    }
    drop(bodies);
    sleep(TIMEOUT * 3).await;
    assert_eq!(client.unsent(), 0);
    assert_eq!(
        client.get("/").await.unwrap().size_hint().exact(),
        Some(SIZE as u64)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn responses_keep_to_the_limit(
        window in prop::sample::select(vec![0, 1, 1_000, 30_000, 200_000]),
        actions in prop::collection::vec(action(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(check(window, actions));
    }
}
