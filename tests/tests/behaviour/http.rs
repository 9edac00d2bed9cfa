//! Plain HTTP: unary RPCs as JSON, health, metrics, the console page.

use serde_json::{Value, json};
use tidewire_tests::{Client, Server, Transport};

#[tokio::test]
async fn unary_rpcs_accept_and_return_json() {
    let server = Server::start().await;
    let publish = json!({"channel": "demo:a", "data": {"n": 1}});
    let published = server.call("StreamService/Publish", None, &publish).await;
    assert_eq!(
        (published.status, published.content_type.as_str()),
        (200, "application/json")
    );
    assert_eq!(published.json()["seq"], 1);
    // A service may be named with its package.
    let published = server
        .call("tidewire.v1.StreamService/Publish", None, &publish)
        .await;
    assert_eq!(published.json()["seq"], 2);
    let batch = json!({"publications": [publish, {"channel": "nope:a", "data": 1}]});
    let batch = server
        .call("StreamService/PublishBatch", None, &batch)
        .await
        .json();
    assert_eq!(batch["results"][0]["published"]["seq"], 3);
    assert_eq!(batch["results"][1]["error"]["code"], "not_found");
    let history = json!({"channel": "demo:a", "limit": 1});
    let history = server
        .call("StreamService/GetHistory", None, &history)
        .await
        .json();
    assert_eq!(history["messages"][0]["data"], json!({"n": 1}));
    assert_eq!(history["messages"][0]["seq"], 3);
    let overview = server
        .call("PriceService/GetMarketOverview", None, &json!({}))
        .await
        .json();
    assert_eq!(overview["totalMarketCap"], Value::Null);
    let sources = server
        .call("PriceService/ListSources", None, &json!({}))
        .await;
    assert!(sources.json()["sources"].is_array());
    // An empty body means all defaults.
    let empty = server
        .http()
        .post(server.url("/v1/rpc/PriceService/ListSources"));
    assert_eq!(server.send(empty).await.status, 200);
}

#[tokio::test]
async fn errors_map_to_http_statuses() {
    let server = Server::builder()
        .namespace("orders", "publish = \"service\"")
        .start()
        .await;
    let cases = [
        (
            "StreamService/Publish",
            json!({"channel": "nope", "data": 1}),
            400,
            "invalid_argument",
        ),
        (
            "StreamService/Publish",
            json!({"channel": 1}),
            400,
            "invalid_argument",
        ),
        (
            "StreamService/Publish",
            json!({"channel": "nope:a", "data": 1}),
            404,
            "not_found",
        ),
        (
            "StreamService/Publish",
            json!({"channel": "orders:1", "data": 1}),
            403,
            "permission_denied",
        ),
        (
            "StreamService/GetHistory",
            json!({"channel": "demo:a", "limit": 1_000_000}),
            400,
            "invalid_argument",
        ),
        (
            "PriceService/GetPrice",
            json!({"symbol": "NO-SUCH"}),
            404,
            "not_found",
        ),
        (
            "StreamService/NoSuchMethod",
            json!({}),
            501,
            "unimplemented",
        ),
        ("StreamService/Subscribe", json!({}), 501, "unimplemented"),
        ("NoSuchService/Method", json!({}), 404, "not_found"),
    ];
    for (method, body, status, code) in cases {
        let answer = server.call(method, None, &body).await;
        assert_eq!(answer.status, status, "{method} {body}: {}", answer.body);
        assert_eq!(answer.content_type, "application/json");
        assert_eq!(answer.json()["code"], code, "{method} {body}");
        assert!(!answer.json()["message"].as_str().unwrap().is_empty());
    }
    let epoch = json!({"channel": "demo:a", "since": {"epoch": "another", "seq": 1}});
    let lost = server.call("StreamService/GetHistory", None, &epoch).await;
    assert_eq!(
        (lost.status, &lost.json()["code"]),
        (400, &json!("failed_precondition"))
    );

    let malformed = server
        .http()
        .post(server.url("/v1/rpc/StreamService/Publish"))
        .body("{");
    assert_eq!(server.send(malformed).await.status, 400);
    let nowhere = server.get("/nowhere").await;
    assert_eq!(
        (nowhere.status, &nowhere.json()["code"]),
        (404, &json!("not_found"))
    );
    assert_eq!(
        server.get("/v1/rpc/StreamService/Publish").await.status,
        405
    );
    assert_eq!(server.get("/v1/ws").await.status, 426);
}

#[tokio::test]
async fn an_oversized_body_is_refused() {
    let server = Server::builder()
        .set("limits", "frame_bytes = 2048")
        .start()
        .await;
    let publish = json!({"channel": "demo:a", "data": "x".repeat(3_000)});
    let answer = server.call("StreamService/Publish", None, &publish).await;
    assert_eq!(
        (answer.status, &answer.json()["code"]),
        (413, &json!("invalid_argument"))
    );
    let expected = "too long, expected at most 2048 bytes (`limits.frame_bytes`)";
    assert!(answer.body.contains(expected), "{}", answer.body);
}

#[tokio::test]
async fn health_endpoints_report_readiness() {
    let server = Server::start().await;
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn metrics_count_what_happens() {
    let server = Server::start().await;
    let mut first = Client::connect(Transport::WebSocketJson, &server).await;
    let mut second = Client::connect(Transport::Sse, &server).await;
    let _third = Client::connect(Transport::Grpc, &server).await;
    for client in [&mut first, &mut second] {
        client.subscribe("demo:a").await;
    }
    for number in 1..=5 {
        server.publish("demo:a", json!(number)).await;
    }
    first.take("demo:a", 5).await;
    second.take("demo:a", 5).await;

    let metrics = server.get("/metrics").await;
    assert!(
        metrics.content_type.starts_with("text/plain"),
        "{}",
        metrics.content_type
    );
    for line in metrics
        .body
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        assert!(line.starts_with("tidewire_"), "{line}");
        let value = line.rsplit(' ').next().unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    for transport in ["websocket", "sse", "grpc"] {
        assert_eq!(
            server.metric("tidewire_connections", transport).await,
            1.0,
            "{transport}"
        );
    }
    assert_eq!(server.metric("tidewire_subscriptions", "").await, 2.0);
    assert_eq!(server.metric("tidewire_publications_total", "").await, 5.0);
    // The five messages, besides `welcome` and replies.
    assert!(
        server
            .metric("tidewire_deliveries_total", "websocket")
            .await
            >= 5.0
    );
}

#[tokio::test]
async fn the_console_page_runs_its_own_scripts_only() {
    let server = Server::start().await;
    let page = server.get("/").await;
    assert_eq!(page.status, 200);
    assert!(
        page.content_type.starts_with("text/html"),
        "{}",
        page.content_type
    );
    assert!(page.body.contains("Tidewire"));
    let response = server.http().get(server.url("/")).send().await.unwrap();
    let policy = response.headers()["content-security-policy"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert!(!policy.contains("script-src 'unsafe-inline'"), "{policy}");
}

#[tokio::test]
async fn allowed_origins_may_call() {
    let server = Server::builder()
        .set("server", "allowed_origins = [\"https://app.example.com\"]")
        .start()
        .await;
    let preflight = async |origin: &str| {
        let url = server.url("/v1/rpc/StreamService/Publish");
        let request = server.http().request(http::Method::OPTIONS, url);
        let request = request
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "content-type,authorization",
            );
        let response = request.send().await.unwrap();
        let allowed = response.headers().get("access-control-allow-origin");
        allowed.map(|value| value.to_str().unwrap().to_owned())
    };
    let app = "https://app.example.com";
    assert_eq!(preflight(app).await.as_deref(), Some(app));
    assert_eq!(
        preflight("http://localhost:5173").await.as_deref(),
        Some("http://localhost:5173")
    );
    assert_eq!(preflight("https://evil.example.com").await, None);
    // What polyfills of `EventSource`, gRPC-Web, Connect and tracing send.
    let url = server.url("/v1/sse");
    let request = server.http().request(http::Method::OPTIONS, url);
    let request = request
        .header("origin", app)
        .header("access-control-request-method", "GET");
    let response = request.send().await.unwrap();
    let allowed = &response.headers()["access-control-allow-headers"];
    let allowed: Vec<_> = allowed
        .to_str()
        .unwrap()
        .split(',')
        .map(str::trim)
        .collect();
    for header in [
        "authorization",
        "cache-control",
        "connect-protocol-version",
        "connect-timeout-ms",
        "content-type",
        "grpc-timeout",
        "last-event-id",
        "traceparent",
        "tracestate",
        "x-grpc-web",
        "x-user-agent",
    ] {
        assert!(allowed.contains(&header), "{header} is not in {allowed:?}");
    }
    let call = async |path: &str| {
        let request = server
            .http()
            .post(server.url(path))
            .header("origin", "https://evil.example.com");
        server
            .send(request.json(&json!({"channel": "demo:a", "data": 1})))
            .await
            .status
    };
    assert_eq!(call("/v1/rpc/StreamService/Publish").await, 403);
    assert_eq!(call("/v1/sse/x?key=y").await, 403);
}

#[tokio::test]
async fn browsers_find_an_icon_beside_every_path() {
    let server = Server::start().await;
    let icon = server.http().get(server.url("/favicon.ico"));
    let icon = server.send(icon).await;
    assert_eq!(icon.status, 200);
    assert!(icon.body.starts_with("<svg "), "{}", icon.body);
}
