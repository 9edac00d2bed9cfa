use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_EXTENSIONS};
use proptest::prelude::*;

use super::*;

/// The server's response to these header lines, or `None` if it declines.
fn response_to(lines: &[&str]) -> Option<String> {
    let agreement = negotiate(&headers(lines)).unwrap_or_else(|error| panic!("{lines:?}: {error}"));
    agreement.map(|agreement| agreement.response().to_str().unwrap().to_owned())
}

fn headers(lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(
            SEC_WEBSOCKET_EXTENSIONS,
            HeaderValue::from_bytes(line.as_bytes()).unwrap(),
        );
    }
    headers
}

const ACCEPTED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

#[test]
fn offers_are_accepted() {
    for offer in [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=8",
        "permessage-deflate;client_max_window_bits=\"15\"",
        "permessage-deflate ; client_max_window_bits = \"1\\0\"",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        " , permessage-deflate, ",
        "x-webkit-deflate-frame, permessage-deflate",
        "permessage-deflate; unknown, permessage-deflate; client_no_context_takeover",
    ] {
        assert_eq!(response_to(&[offer]).as_deref(), Some(ACCEPTED), "{offer}");
    }
    assert_eq!(
        response_to(&["x-a; b=c", "permessage-deflate"]).as_deref(),
        Some(ACCEPTED)
    );
}

#[test]
fn a_requested_window_is_accepted_and_limits_frames() {
    for bits in 8..=15_usize {
        let agreement = negotiate(&headers(&[&format!(
            "permessage-deflate; server_max_window_bits={bits}; client_max_window_bits={bits}"
        )]));
        let agreement = agreement.unwrap().unwrap();
        assert_eq!(
            agreement.response(),
            format!("{ACCEPTED}; server_max_window_bits={bits}")
        );
        assert!(agreement.fits(1 << bits));
        assert!(!agreement.fits((1 << bits) + 1));
    }
    let any = negotiate(&headers(&["permessage-deflate"]))
        .unwrap()
        .unwrap();
    assert!(any.fits(usize::MAX));
}

#[test]
fn the_first_supported_offer_wins() {
    let lines = [
        "permessage-deflate; server_max_window_bits=7, permessage-deflate; server_max_window_bits=10",
        "permessage-deflate",
    ];
    assert_eq!(
        response_to(&lines),
        Some(format!("{ACCEPTED}; server_max_window_bits=10"))
    );
}

#[test]
fn offers_are_declined() {
    for offer in [
        "",
        "x-webkit-deflate-frame",
        "permessage-bzip2",
        "permessage-deflate; unknown",
        "permessage-deflate; unknown=1",
        "permessage-deflate; server_no_context_takeover=true",
        "permessage-deflate; client_no_context_takeover=\"1\"",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=08",
        "permessage-deflate; client_max_window_bits=+9",
        "permessage-deflate; client_max_window_bits=99999999999999999999",
        "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
    ] {
        assert_eq!(response_to(&[offer]), None, "{offer}");
    }
}

#[test]
fn malformed_headers_are_refused() {
    for line in [
        "permessage-deflate;",
        "permessage-deflate; =1",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; client_max_window_bits=\"\"",
        "permessage-deflate; client_max_window_bits=\"9",
        "permessage-deflate; client_max_window_bits=\"9\\",
        "permessage-deflate; client_max_window_bits=\"9 \"",
        "permessage-deflate client_max_window_bits",
        "permessage-deflate, ;",
        "(permessage-deflate)",
        "permessage-deflate; a; b; c; d; e; f; g; h; i; j; k; l; m; n; o; p; q",
        "perm\u{e9}ssage",
    ] {
        negotiate(&headers(&[line])).expect_err(line);
    }
}

/// The examples of RFC 7692, section 7.2.3. Each inflates to "Hello".
#[test]
fn the_examples_of_the_rfc_are_inflated() {
    let examples: [&[u8]; 4] = [
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
        // Not compressed.
        &[
            0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
        ],
        // A block that is marked as the last one.
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
        // Two blocks.
        &[
            0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
        ],
    ];
    for example in examples {
        assert_eq!(inflate(example, 5), Ok(b"Hello".to_vec()), "{example:02x?}");
        assert_eq!(inflate(example, 4), Err(InflateError::TooBig(4)));
    }
    // An empty message, and a message of one empty block.
    assert_eq!(inflate(&[0x00], 0), Ok(Vec::new()));
    assert_eq!(inflate(&[0x02, 0x00], 0), Ok(Vec::new()));
}

#[test]
fn truncated_and_invalid_data_is_refused() {
    let whole = deflate(&b"over and over and over again".repeat(20), eager()).unwrap();
    assert!(inflate(&whole, 10_000).is_ok());
    for end in 0..whole.len() {
        let inflated = inflate(&whole[..end], 10_000);
        assert_eq!(inflated, Err(InflateError::Invalid), "cut at {end}");
    }
    for bytes in [
        &b"hello"[..],
        &[0xff; 20],
        &[0x07],
        b"\xf3\x48\xcd\xc9\xc9\x07\x00",
    ] {
        assert_eq!(
            inflate(bytes, 10_000),
            Err(InflateError::Invalid),
            "{bytes:02x?}"
        );
    }
}

#[test]
fn a_decompression_bomb_is_refused_at_the_limit() {
    let bomb = raw_deflate(&vec![0; 100 << 20], 9);
    assert!(bomb.len() < 200_000, "{}", bomb.len());
    assert_eq!(
        inflate(&bomb, 64 << 10),
        Err(InflateError::TooBig(64 << 10))
    );
    // A thousand empty blocks are within the limit.
    let empty = [0x00, 0x00, 0x00, 0xff, 0xff].repeat(1_000);
    let empty = [&empty[..], &[0x00]].concat();
    assert_eq!(inflate(&empty, 0), Ok(Vec::new()));
}

#[test]
fn the_limit_is_exact() {
    for length in [1, 63, 64, 65, 1_000, 65_535, 65_536] {
        let payload = vec![b'x'; length];
        let deflated = raw_deflate(&payload, 6);
        assert_eq!(inflate(&deflated, length).as_deref(), Ok(&payload[..]));
        assert_eq!(
            inflate(&deflated, length - 1),
            Err(InflateError::TooBig(length - 1))
        );
    }
}

#[test]
fn small_and_random_payloads_are_not_compressed() {
    let options = CompressionOptions::default();
    assert_eq!(deflate(&vec![b'x'; options.threshold - 1], options), None);
    assert!(deflate(&vec![b'x'; options.threshold], options).is_some());
    assert_eq!(deflate(b"", eager()), None);
    assert_eq!(deflate(b"abc", eager()), None);
    let mut state = 1_u64;
    let random: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    })
    .take(5_000)
    .collect();
    assert_eq!(deflate(&random, eager()), None);
}

/// Compresses everything that gets shorter.
fn eager() -> CompressionOptions {
    CompressionOptions {
        level: CompressionLevel::new(6).unwrap(),
        threshold: 0,
    }
}

/// Compresses like another sender, without the flush tail.
fn raw_deflate(payload: &[u8], level: u32) -> Vec<u8> {
    let mut stream = Compress::new(Compression::new(level), false);
    let mut out = Vec::with_capacity(payload.len() + payload.len() / 100 + 100);
    stream
        .compress_vec(payload, &mut out, FlushCompress::Sync)
        .unwrap();
    assert_eq!(stream.total_in(), payload.len() as u64);
    assert!(out.ends_with(&FLUSH_TAIL));
    out.truncate(out.len() - 4);
    out
}

/// Inflates like another receiver.
fn raw_inflate(payload: &[u8], length: usize) -> Vec<u8> {
    let mut stream = Decompress::new(false);
    let mut out = Vec::with_capacity(length + 1);
    let whole = [payload, &FLUSH_TAIL].concat();
    stream
        .decompress_vec(&whole, &mut out, FlushDecompress::Sync)
        .unwrap();
    assert_eq!(stream.total_in(), whole.len() as u64);
    out
}

/// Payloads that compress well, badly and not at all.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let random = prop::collection::vec(any::<u8>(), 0..2_000);
    let words = prop::collection::vec(
        prop::sample::select(vec!["\"price\":", "{", "}", ",", "1.25", "BTC-USD", "null"]),
        0..2_000,
    )
    .prop_map(|words| words.concat().into_bytes());
    let run = (any::<u8>(), 0_usize..100_000).prop_map(|(byte, length)| vec![byte; length]);
    prop_oneof![random, words, run]
}

proptest! {
    #[test]
    fn messages_of_other_senders_are_inflated(payload in payload(), level in 0_u32..=9) {
        let deflated = raw_deflate(&payload, level);
        prop_assert_eq!(inflate(&deflated, payload.len()), Ok(payload));
    }

    #[test]
    fn other_receivers_inflate_our_messages(payload in payload(), level in 1_u8..=9) {
        let options = CompressionOptions { level: CompressionLevel::new(level).unwrap(), threshold: 0 };
        if let Some(deflated) = deflate(&payload, options) {
            prop_assert!(deflated.len() < payload.len());
            prop_assert_eq!(&raw_inflate(&deflated, payload.len()), &payload);
            prop_assert_eq!(inflate(&deflated, payload.len()), Ok(payload.clone()));
            // Without context, the same payload compresses to the same bytes.
            prop_assert_eq!(deflate(&payload, options), Some(deflated));
        }
    }

    #[test]
    fn any_bytes_are_inflated_within_the_limit(
        bytes in prop::collection::vec(any::<u8>(), 0..500),
        limit in 0_usize..1_000,
    ) {
        if let Ok(inflated) = inflate(&bytes, limit) {
            prop_assert!(inflated.len() <= limit);
        }
    }

    #[test]
    fn arbitrary_headers_do_not_panic(text in "[a-z\\\\\";=, \t0-9_-]{0,80}") {
        let _ = negotiate(&headers(&[&format!("permessage-deflate;{text}")]));
        let _ = negotiate(&headers(&[&text]));
    }
}
