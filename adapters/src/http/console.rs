//! Console page, embedded in the binary.

use std::sync::LazyLock;

use axum::response::Response;
use base64::Engine as _;
use http::{HeaderValue, header};
use sha2::{Digest as _, Sha256};

/// Built by `npm run build` in `clients/typescript`.
const PAGE: &str = include_str!("../../../clients/typescript/packages/console/dist/index.html");

/// The page may run its own scripts and connect to its own server. All else is blocked.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let scripts = script_hashes(PAGE);
    let policy = format!(
        "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; \
         connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy)
        .unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
});

/// Answers `GET /`.
pub(crate) async fn page() -> Response {
    let mut response = Response::new(PAGE.into());
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    response
}

/// The hashes of the inline scripts, in the form of the policy.
fn script_hashes(page: &str) -> String {
    let mut hashes = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("<script") {
        let Some((_, body)) = after.split_once('>') else {
            break;
        };
        let Some((script, after)) = body.split_once("</script>") else {
            break;
        };
        let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(script));
        hashes.push(format!("'sha256-{hash}'"));
        rest = after;
    }
    if hashes.is_empty() {
        "'none'".to_owned()
    } else {
        hashes.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_every_script() {
        assert_eq!(script_hashes("<p>"), "'none'");
        let two = script_hashes("<script type=module>1</script><script>2</script>");
        assert_eq!(two.matches("'sha256-").count(), 2);
    }
}
