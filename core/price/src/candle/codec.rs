//! Stored form of minutes: an hour of them in one record, about 25 bytes each.
//!
//! ```text
//! minute   u8       the minute of the hour
//! head     u8       bits 0–4 decimal places of the prices, 5 volume is known, 6 each price alone
//! open     varint   zigzag, in units of the last place
//! high, low, close  varint, as differences: high − open, open − low, zigzag close − open
//! volume   u8, varint   decimal places and digits, if known
//! sources  varint
//! ```
//!
//! Prices whose digits do not fit one scale (more than 38 digits together) are stored alone, each
//! with its places. Numbers lose nothing; only trailing zeros are dropped.

use rust_decimal::Decimal;

use super::{Candle, HOUR_MS, MINUTE_MS};

/// Version of the records.
const VERSION: u8 = 1;

/// Bit of the head: the volume is known.
const HAS_VOLUME: u8 = 1 << 5;

/// Bit of the head: each price has places of its own.
const SEPARATE: u8 = 1 << 6;

/// Bits of the head for decimal places.
const PLACES: u8 = 0b1_1111;

/// Encodes minutes of one hour, or one minute.
pub(super) fn encode(minutes: &[Candle]) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    for minute in minutes {
        append(&mut bytes, minute);
    }
    bytes
}

/// Decodes the minutes of the hour that begins at `hour_ms`. `None` if the record is damaged.
pub(super) fn decode(bytes: &[u8], hour_ms: i64) -> Option<Vec<Candle>> {
    let mut bytes = match bytes.split_first()? {
        (&VERSION, rest) => rest,
        _ => return None,
    };
    let mut minutes = Vec::new();
    while !bytes.is_empty() {
        minutes.push(take_minute(&mut bytes, hour_ms)?);
    }
    Some(minutes)
}

fn append(bytes: &mut Vec<u8>, minute: &Candle) {
    let of_hour = minute.start_ms.rem_euclid(HOUR_MS) / MINUTE_MS;
    bytes.push(u8::try_from(of_hour).unwrap_or(0));
    let prices =
        [minute.open, minute.high, minute.low, minute.close].map(|price| price.normalize());
    let volume = minute.volume.map(|volume| volume.normalize());
    let known = if volume.is_some() { HAS_VOLUME } else { 0 };
    let places = prices.iter().map(Decimal::scale).max().unwrap_or(0);
    match prices.map(|price| units(price, places)) {
        [Some(open), Some(high), Some(low), Some(close)] => {
            bytes.push(u8::try_from(places).unwrap_or(PLACES) | known);
            put_varint(bytes, zigzag(open));
            put_varint(bytes, (high - open).unsigned_abs());
            put_varint(bytes, (open - low).unsigned_abs());
            put_varint(bytes, zigzag(close - open));
        }
        _ => {
            bytes.push(SEPARATE | known);
            prices.iter().for_each(|price| put_decimal(bytes, *price));
        }
    }
    if let Some(volume) = volume {
        put_decimal(bytes, volume);
    }
    put_varint(bytes, minute.sources.into());
}

fn take_minute(bytes: &mut &[u8], hour_ms: i64) -> Option<Candle> {
    let of_hour = take_byte(bytes)?;
    let head = take_byte(bytes)?;
    let [open, high, low, close] = if head & SEPARATE == 0 {
        let places = u32::from(head & PLACES);
        let open = unzigzag(take_varint(bytes)?);
        let high = open.checked_add_unsigned(take_varint(bytes)?)?;
        let low = open.checked_sub_unsigned(take_varint(bytes)?)?;
        let close = open.checked_add(unzigzag(take_varint(bytes)?))?;
        let price = |units| Decimal::try_from_i128_with_scale(units, places).ok();
        [price(open)?, price(high)?, price(low)?, price(close)?]
    } else {
        let mut price = || take_decimal(bytes);
        [price()?, price()?, price()?, price()?]
    };
    let volume = match head & HAS_VOLUME {
        0 => None,
        _ => Some(take_decimal(bytes)?),
    };
    Some(Candle {
        start_ms: hour_ms + i64::from(of_hour) * MINUTE_MS,
        open: open.normalize(),
        high: high.normalize(),
        low: low.normalize(),
        close: close.normalize(),
        volume,
        sources: u32::try_from(take_varint(bytes)?).ok()?,
    })
}

/// A price in units of the last of these places. `None` if it has too many digits.
fn units(price: Decimal, places: u32) -> Option<i128> {
    let factor = 10_i128.checked_pow(places.checked_sub(price.scale())?)?;
    let units = price.mantissa().checked_mul(factor)?;
    // Differences of two fit as well, and the reader's decimals have 96 bits.
    (units.unsigned_abs() < 1 << 95).then_some(units)
}

fn put_decimal(bytes: &mut Vec<u8>, value: Decimal) {
    bytes.push(u8::try_from(value.scale()).unwrap_or(PLACES));
    put_varint(bytes, zigzag(value.mantissa()));
}

fn take_decimal(bytes: &mut &[u8]) -> Option<Decimal> {
    let places = take_byte(bytes)?;
    let units = unzigzag(take_varint(bytes)?);
    Decimal::try_from_i128_with_scale(units, places.into()).ok()
}

fn zigzag(value: i128) -> u128 {
    ((value << 1) ^ (value >> 127)).cast_unsigned()
}

fn unzigzag(value: u128) -> i128 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// Seven bits a byte, the lowest first. The highest bit of a byte says that more follow.
fn put_varint(bytes: &mut Vec<u8>, mut value: u128) {
    while value > 0x7f {
        bytes.push(0x80 | u8::try_from(value & 0x7f).unwrap_or(0));
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap_or(0));
}

fn take_varint(bytes: &mut &[u8]) -> Option<u128> {
    let mut value = 0_u128;
    for shift in (0..128).step_by(7) {
        let byte = take_byte(bytes)?;
        value |= u128::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (byte, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal() -> impl Strategy<Value = Decimal> {
        let wide = -(1_i128 << 95)..(1_i128 << 95);
        let usual = 0..10_i128.pow(12);
        (prop_oneof![usual, wide], 0..=28_u32)
            .prop_map(|(digits, places)| Decimal::from_i128_with_scale(digits, places).normalize())
    }

    fn candle(minute: i64) -> impl Strategy<Value = Candle> {
        let prices = [decimal(), decimal(), decimal(), decimal()];
        (prices, prop::option::of(decimal()), any::<u32>()).prop_map(
            move |(mut prices, volume, sources)| {
                let [open, _, _, close] = prices;
                prices.sort();
                Candle {
                    start_ms: 7 * HOUR_MS + minute * MINUTE_MS,
                    open,
                    high: prices[3],
                    low: prices[0],
                    close,
                    volume: volume.map(|volume| volume.abs()),
                    sources,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn minutes_are_read_as_they_were_written(
            minutes in (0..60_i64, 0..60_i64).prop_flat_map(|(a, b)| (candle(a), candle(b))),
        ) {
            let minutes = [minutes.0, minutes.1];
            let bytes = encode(&minutes);
            prop_assert_eq!(decode(&bytes, 7 * HOUR_MS), Some(minutes.to_vec()));
            // Cut off anywhere, it is damaged or shorter.
            for length in 0..bytes.len() {
                let part = decode(&bytes[..length], 7 * HOUR_MS);
                prop_assert!(part.is_none_or(|part| part.len() < 2));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&bytes, 0);
        }
    }

    #[test]
    fn a_usual_minute_takes_less_than_half_of_its_room() {
        let minute = Candle {
            start_ms: 59 * MINUTE_MS,
            open: Decimal::new(6_183_801, 2),
            high: Decimal::new(61_899_123_456, 6),
            low: Decimal::new(6_170_000, 2),
            close: Decimal::new(61_838_015, 3),
            volume: Some(Decimal::new(1_234_567_890_123_456, 8)),
            sources: 7,
        };
        assert!(encode(&[minute]).len() <= 30, "{}", encode(&[minute]).len());
        // Eighteen digits, all different, and a volume of twenty-eight.
        let longest = Candle {
            high: Decimal::new(999_999_999_999_999_999, 18),
            open: Decimal::new(123_456_789_012_345_678, 18),
            low: Decimal::new(100_000_000_000_000_001, 18),
            close: Decimal::new(987_654_321_098_765_432, 18),
            volume: Some(Decimal::MAX),
            ..minute
        };
        assert!(
            encode(&[longest]).len() <= 64,
            "{}",
            encode(&[longest]).len()
        );
    }
}
