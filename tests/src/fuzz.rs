//! What the fuzz targets have in common.

use std::env;

/// How often a target runs: `TIDEWIRE_FUZZ_ITERATIONS`, or 2,000 times.
#[must_use]
pub fn iterations() -> usize {
    let set = env::var("TIDEWIRE_FUZZ_ITERATIONS").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

/// A masked frame with this first byte, as a client sends it.
///
/// # Panics
/// The payload is longer than 65,535 bytes.
#[must_use]
pub fn masked_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [7_u8, 77, 177, 251];
    let mut frame = vec![first];
    match u8::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.push(0x80 | length),
        _ => {
            frame.push(0x80 | 126);
            let length = u16::try_from(payload.len()).expect("a payload of 65,535 bytes at most");
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(masked(mask, payload));
    frame
}

/// Masks a payload, or takes the mask off again.
pub fn masked(mask: [u8; 4], payload: &[u8]) -> impl Iterator<Item = u8> {
    let mask = mask.into_iter().cycle();
    payload.iter().zip(mask).map(|(byte, mask)| byte ^ mask)
}
