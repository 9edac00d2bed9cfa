//! Origin policy: the browser pages that may connect.
//!
//! Allowed are the server's own origin, the configured origins, and requests without
//! `Origin`, which do not come from a browser. A server that listens on loopback also allows
//! every page from loopback.

use std::{net::IpAddr, sync::Arc};

use ::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::StreamError;

use super::{BindScope, names_loopback};
use crate::reply::HttpError;

/// The allowed origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPolicy {
    allowed: Vec<String>,
    bind: BindScope,
}

impl OriginPolicy {
    /// Allows the origins in `allowed`, for example `https://app.example.com`. `*` allows
    /// all.
    #[must_use]
    pub fn new(allowed: Vec<String>, listen: IpAddr) -> Self {
        Self {
            allowed,
            bind: BindScope::of(listen),
        }
    }

    /// The fault of a text that no page's origin equals. None for an origin as browsers send it, for
    /// `*` and for `null`.
    #[must_use]
    pub fn fault(allowed: &str) -> Option<String> {
        let origin = allowed.trim_end_matches('/');
        let is_origin = origin.parse::<Uri>().is_ok_and(|uri| {
            let (scheme, host) = (uri.scheme_str(), uri.authority());
            let rest = uri.path_and_query().map_or("/", |rest| rest.as_str());
            let is_default = match scheme {
                Some("http") => uri.port_u16() == Some(80),
                Some("https") => uri.port_u16() == Some(443),
                _ => false,
            };
            scheme.is_some()
                && host.is_some_and(|host| !host.as_str().contains('@') && is_name(host.host()))
                && rest == "/"
                && !is_default
                && !origin.contains(|c: char| c.is_ascii_uppercase())
        });
        let is_known = is_origin || ["*", "null"].contains(&allowed);
        (!is_known).then(|| {
            format!(
                "has {allowed:?}, which no page's origin equals, expected one as browsers send it, such as \"https://app.example.com\" or \"http://10.0.0.1:3000\": in lower case, without a path, a wildcard and the usual port. `*` alone allows all"
            )
        })
    }

    /// Whether the policy allows a request with these headers.
    #[must_use]
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return true;
        };
        self.allows_origin(origin, headers.get(header::HOST))
    }

    /// Whether a page of `origin` may connect to the server under the name `host`.
    #[must_use]
    pub fn allows_origin(&self, origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        if self
            .allowed
            .iter()
            .any(|allowed| allowed == "*" || allowed.trim_end_matches('/') == origin)
        {
            return true;
        }
        let Ok(uri) = origin.parse::<Uri>() else {
            return false;
        };
        let Some(authority) = uri.authority() else {
            return false;
        };
        if host.is_some_and(|host| host.as_bytes() == authority.as_str().as_bytes()) {
            return true;
        }
        self.bind == BindScope::Loopback && names_loopback(authority.host())
    }

    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), HttpError> {
        if self.allows(headers) {
            return Ok(());
        }
        Err(HttpError::new(
            StatusCode::FORBIDDEN,
            StreamError::new(
                ErrorCode::PermissionDenied,
                "pages of this origin may not connect: name it in `server.allowed_origins`",
            ),
        ))
    }
}

/// Whether a text is a name or an address: none has a wildcard, such as `*.example.com`.
fn is_name(host: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    !host.is_empty() && host.chars().all(is_allowed)
}

/// Middleware that refuses the requests of pages that may not connect, on every path.
pub(crate) async fn check_origin(
    State(origins): State<Arc<OriginPolicy>>,
    request: Request,
    next: Next,
) -> Result<Response, HttpError> {
    origins.check(request.headers())?;
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(policy: &OriginPolicy, origin: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, origin.parse().unwrap());
        headers.insert(header::HOST, "example.com:8080".parse().unwrap());
        policy.allows(&headers)
    }

    #[test]
    fn texts_that_no_origin_equals_are_found() {
        for good in [
            "*",
            "null",
            "https://a.b",
            "https://a.b/",
            "http://[::1]:3000",
            "chrome-extension://abcd",
            "capacitor://localhost",
        ] {
            assert_eq!(OriginPolicy::fault(good), None);
        }
        for wrong in [
            "",
            "a.b",
            "https://a.b/c",
            "https://a.b?c",
            "HTTPS://A.B",
            "https://a.b:443",
            "http://a.b:80",
            "https://u@a.b",
            "https://*.b c",
            "https://",
        ] {
            let fault = OriginPolicy::fault(wrong).unwrap();
            assert!(fault.contains("expected"), "{fault}");
        }
    }

    #[test]
    fn origins_are_checked_against_the_policy() {
        let network =
            OriginPolicy::new(vec!["https://app.example.com".into()], [10, 0, 0, 1].into());
        assert!(network.allows(&HeaderMap::new()));
        assert!(allows(&network, "http://example.com:8080"));
        assert!(allows(&network, "https://app.example.com"));
        assert!(!allows(&network, "https://evil.example.com"));
        assert!(!allows(&network, "http://localhost:3000"));
        assert!(!allows(&network, "null"));
        let loopback = OriginPolicy::new(Vec::new(), [127, 0, 0, 1].into());
        assert!(allows(&loopback, "http://localhost:3000"));
        assert!(allows(&loopback, "http://[::1]:3000"));
        assert!(!allows(&loopback, "http://localhost.evil.com"));
    }
}
