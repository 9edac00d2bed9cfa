//! `/v1/unsubscribe`: the link in each mail. A GET shows a page with a button, because scanners
//! of mail follow links; a POST ends the user's mails (RFC 8058).

use axum::{
    body::Body,
    extract::{RawQuery, State},
    response::Response,
};
use http::{Extensions, HeaderMap, HeaderValue, Method, header};

use crate::{Gateway, client, reply::HttpError};

/// Shows the page, or unsubscribes.
pub(crate) async fn handle(
    State(gateway): State<Gateway>,
    method: Method,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, HttpError> {
    let query = query.unwrap_or_default();
    let mut parameters = query.split('&');
    let token = parameters
        .find_map(|one| one.strip_prefix("token="))
        .unwrap_or_default();
    let address = client::address(&gateway, &headers, &extensions);
    let notify = &gateway.notify_rpc;
    let answer = notify.unsubscribe(&method, token, address).await?;
    let mut response = Response::new(Body::from(answer.page()));
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, html);
    Ok(response)
}
