//! Health and metrics: `/healthz`, `/readyz` and `/metrics`.

use axum::{
    body::Body,
    extract::{RawQuery, Request, State},
    response::Response,
};
use http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{HealthFault, PartHealth, StreamError};

use crate::{
    Gateway, client,
    gateway::{DataCount, DataState},
    reply::{HttpError, json_response},
};

/// Liveness: the process runs.
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Reader of the state of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// Anybody, such as a load balancer.
    Public,
    /// An operator, who reads the texts of all faults.
    Operator,
}

impl Reader {
    /// The reader that sends a request. A token that is not valid makes nobody an operator, and is
    /// no error: the state of the server does not depend on it.
    async fn of(gateway: &Gateway, headers: &HeaderMap, extensions: &Extensions) -> Self {
        let caller = client::caller(gateway, headers, extensions, None).await;
        match caller.is_ok_and(|caller| caller.require_operator().is_ok()) {
            true => Self::Operator,
            false => Self::Public,
        }
    }

    fn text(self, fault: &HealthFault) -> &str {
        match self {
            Self::Public => fault.summary(),
            Self::Operator => &fault.text,
        }
    }
}

/// Readiness: the server accepts clients. A degraded server does, and says what does not work.
/// `?verbose` lists all parts as JSON.
pub(crate) async fn readyz(
    State(gateway): State<Gateway>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, HttpError> {
    let reader = Reader::of(&gateway, request.headers(), request.extensions()).await;
    let (ready, parts) = (gateway.probes.ready(), gateway.stream.health());
    let mut parameters = query.as_deref().unwrap_or_default().split('&');
    if parameters.any(|one| one == "verbose" || one.starts_with("verbose=")) {
        return Ok(list(reader, &ready, &parts, &gateway.probes.data()));
    }
    ready.map_err(|fault| {
        HttpError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            StreamError::new(ErrorCode::Unavailable, reader.text(&fault)),
        )
    })?;
    let faults = parts
        .iter()
        .filter_map(|one| Some((&one.part, reader.text(one.fault.as_ref()?))));
    let faults: String = faults
        .map(|(part, fault)| format!("degraded: {part}: {fault}\n"))
        .collect();
    let missing = missing_data(&gateway.probes.data());
    Ok(Response::new(Body::from(format!(
        "ready\n{missing}{faults}"
    ))))
}

/// A line about data that is not there, or that is made up. Empty if nothing is missing: the first
/// line is about the server alone.
fn missing_data(data: &DataState) -> String {
    let DataState {
        venues,
        chains,
        sample,
        tried,
    } = data;
    if *sample {
        return match tried {
            Some(tried) => format!("data: sample, as none of {tried} venues answers\n"),
            None => "data: sample\n".to_owned(),
        };
    }
    let has_none = |count: &DataCount| count.live == 0 && count.all > 0;
    if !has_none(venues) && chains.live == chains.all {
        return String::new();
    }
    let count = |count: &DataCount, name: &str| {
        (count.all > 0).then(|| format!("{} of {} {name}", count.live, count.all))
    };
    let counts = [count(venues, "venues"), count(chains, "chains")];
    let counts: Vec<_> = counts.into_iter().flatten().collect();
    format!("data: {}\n", counts.join(", "))
}

/// The parts of the server and their state, as JSON.
fn list(
    reader: Reader,
    ready: &Result<(), HealthFault>,
    parts: &[PartHealth],
    data: &DataState,
) -> Response {
    let is_degraded = parts.iter().any(|one| one.fault.is_some());
    let parts: Vec<_> = parts
        .iter()
        .map(|part| PartView::new(part, reader))
        .collect();
    let (status, state, reason) = match ready {
        Err(fault) => {
            let reason = Some(reader.text(fault));
            (StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason)
        }
        Ok(()) if is_degraded => (StatusCode::OK, "degraded", None),
        Ok(()) => (StatusCode::OK, "ok", None),
    };
    let view = serde_json::json!({"state": state, "reason": reason, "parts": parts, "data": data});
    json_response(status, view.to_string().into_bytes())
}

/// One part of the server in `/readyz?verbose`.
#[derive(serde::Serialize)]
struct PartView<'a> {
    part: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// Milliseconds since the Unix epoch.
    since: i64,
}

impl<'a> PartView<'a> {
    fn new(health: &'a PartHealth, reader: Reader) -> Self {
        Self {
            part: &health.part,
            state: if health.fault.is_some() {
                "degraded"
            } else {
                "ok"
            },
            reason: health.fault.as_ref().map(|fault| reader.text(fault)),
            since: health.since_ms,
        }
    }
}

/// The metrics in the text format of Prometheus, for operators.
pub(crate) async fn metrics(
    State(gateway): State<Gateway>,
    request: Request,
) -> Result<Response, HttpError> {
    let (headers, extensions) = (request.headers(), request.extensions());
    let caller = client::caller(&gateway, headers, extensions, None).await?;
    caller.require_operator()?;
    let mut response = Response::new(gateway.probes.metrics().into());
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
