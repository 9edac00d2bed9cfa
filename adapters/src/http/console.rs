//! Console page, embedded in the binary.

use std::{
    io::{self, Write as _},
    sync::LazyLock,
};

use axum::{body::Bytes, response::Response};
use base64::Engine as _;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, header};
use sha2::{Digest as _, Sha256};

/// Built by `npm run build` in `clients/typescript`.
const PAGE: &str = include_str!("../../../clients/typescript/packages/console/dist/index.html");

/// The icon that browsers ask for beside pages without one, such as `/metrics`: that of the page.
const ICON: &str = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'><rect width='32' height='32' rx='8' fill='#0b7285'/><path d='M5 19c4 0 4-6 8-6s4 6 8 6 4-6 6-6' fill='none' stroke='#fff' stroke-width='3' stroke-linecap='round'/></svg>";

/// The page for browsers that accept gzip, a quarter of its size. Absent if it could not be
/// compressed.
static GZIPPED: LazyLock<Option<Bytes>> = LazyLock::new(|| gzip(PAGE).ok());

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

/// Answers `GET /favicon.ico`.
pub(crate) async fn icon() -> Response {
    let mut response = Response::new(ICON.into());
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "image/svg+xml"),
        (header::CACHE_CONTROL, "max-age=86400"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Answers `GET /`.
pub(crate) async fn page(request: HeaderMap) -> Response {
    let gzipped = GZIPPED.as_ref().filter(|_| accepts_gzip(&request));
    let mut response = Response::new(match gzipped {
        Some(page) => page.clone().into(),
        None => PAGE.into(),
    });
    let headers = response.headers_mut();
    if gzipped.is_some() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
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

fn gzip(text: &str) -> io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes())?;
    Ok(encoder.finish()?.into())
}

/// Whether `Accept-Encoding` names gzip, with a weight above zero.
fn accepts_gzip(request: &HeaderMap) -> bool {
    request
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
            let weight = parameters.trim().strip_prefix("q=");
            name.trim().eq_ignore_ascii_case("gzip")
                && weight.is_none_or(|weight| weight.parse().is_ok_and(|weight: f32| weight > 0.0))
        })
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
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    /// Largest compressed page in bytes: a phone on a slow network has it in a second.
    const MAX_BYTES: usize = 120_000;

    fn accepting(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_browser_names_gzip_to_receive_it() {
        assert!(accepts_gzip(&accepting("gzip, deflate, br")));
        assert!(accepts_gzip(&accepting("br;q=1.0, GZIP;q=0.5")));
        assert!(!accepts_gzip(&accepting("gzip;q=0, identity")));
        assert!(!accepts_gzip(&accepting("br")));
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn the_page_comes_compressed_and_small() {
        let response = page(accepting("gzip")).await;
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        let body = axum::body::to_bytes(response.into_body(), MAX_BYTES)
            .await
            .unwrap();
        let mut text = String::new();
        GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, PAGE);
        let plain = page(HeaderMap::new()).await;
        assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
        assert_eq!(plain.headers()[header::VARY], "accept-encoding");
    }

    #[test]
    fn the_policy_names_every_script() {
        assert_eq!(script_hashes("<p>"), "'none'");
        let two = script_hashes("<script type=module>1</script><script>2</script>");
        assert_eq!(two.matches("'sha256-").count(), 2);
    }
}
