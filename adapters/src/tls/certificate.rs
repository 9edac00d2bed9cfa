//! Client certificate: the name and the end of its validity.
//!
//! rustls has verified the certificate. rustls-webpki reads its names, and keeps its dates to
//! itself, so they are read here.

use rustls::pki_types::CertificateDer;
use tidewire_stream::ChannelName;

/// The tags of the parts that lead to the dates (RFC 5280, section 4.1).
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The first URI or DNS name that can be a user id.
pub(super) fn name_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut names = certificate
        .valid_uri_names()
        .chain(certificate.valid_dns_names());
    names
        .find(|name| ChannelName::user(name).is_ok())
        .map(str::to_owned)
}

/// When a certificate expires, in milliseconds since the Unix epoch. None if it cannot be read.
pub(super) fn expires_at_ms(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate, _) = part(certificate).filter(is_sequence)?;
    let (_, mut rest, _) = part(certificate).filter(is_sequence)?;
    if rest.first() == Some(&VERSION) {
        rest = part(rest)?.2;
    }
    // The serial number, the algorithm of the signature, and the issuer.
    for _ in 0..3 {
        rest = part(rest)?.2;
    }
    let (_, validity, _) = part(rest).filter(is_sequence)?;
    let (_, _, rest) = part(validity)?;
    let (tag, not_after, _) = part(rest)?;
    // The last second counts.
    Some((seconds(tag, not_after)? + 1) * 1_000)
}

/// A part in DER: its tag, its content, and what follows it.
type Part<'a> = (u8, &'a [u8], &'a [u8]);

fn is_sequence((tag, ..): &Part<'_>) -> bool {
    *tag == SEQUENCE
}

/// Reads the first part.
fn part(bytes: &[u8]) -> Option<Part<'_>> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // The length has as many bytes as the lower bits tell. Four are enough for 4 GiB.
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = length
                .iter()
                .fold(0_usize, |length, byte| (length << 8) | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Reads a time in seconds since the Unix epoch: `YYMMDDHHMMSSZ`, or with all digits of the
/// year.
fn seconds(tag: u8, text: &[u8]) -> Option<i64> {
    let digits = text.strip_suffix(b"Z")?;
    let year_digits = match tag {
        UTC_TIME => 2,
        GENERALIZED_TIME => 4,
        _ => return None,
    };
    let (year, rest) = digits.split_at_checked(year_digits)?;
    let year = match number(year)? {
        // RFC 5280, section 4.1.2.5.1.
        short @ 50..100 if tag == UTC_TIME => 1_900 + short,
        short if tag == UTC_TIME => 2_000 + short,
        year => year,
    };
    if rest.len() != 10 {
        return None;
    }
    let mut fields = rest.chunks(2).map(number);
    let mut next = || fields.next().flatten();
    let (month, day, hour, minute, second) = (next()?, next()?, next()?, next()?, next()?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

fn number(digits: &[u8]) -> Option<i64> {
    let text = str::from_utf8(digits).ok()?;
    let is_number = text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. A year begins in March here, so
/// that the leap day is its last one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    year * 365 + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// A certificate whose last day begins on this date.
    fn certificate(year: i32, month: u8, day: u8) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["billing.internal".to_owned()]).unwrap();
        params.not_before = date_time_ymd(1960, 1, 1);
        params.not_after = date_time_ymd(year, month, day);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_has_a_name_and_an_end() {
        // Both forms of a date, leap years and their exceptions.
        for (date, seconds) in [
            ((1970, 1, 1), 0),
            ((1999, 12, 31), 946_598_400),
            ((2000, 2, 29), 951_782_400),
            ((2024, 2, 29), 1_709_164_800),
            ((2026, 3, 1), 1_772_323_200),
            ((2049, 12, 31), 2_524_521_600),
            ((2050, 1, 1), 2_524_608_000),
            ((2100, 3, 1), 4_107_542_400),
            ((9999, 12, 31), 253_402_214_400),
        ] {
            let certificate = certificate(date.0, date.1, date.2);
            let expected = (seconds + 1) * 1_000;
            assert_eq!(expires_at_ms(&certificate), Some(expected), "{date:?}");
            assert_eq!(name_of(&certificate).unwrap(), "billing.internal");
        }
    }

    #[test]
    fn consecutive_days_are_a_day_apart() {
        let mut last = days(1949, 12, 31);
        for year in 1950..2_450 {
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            for month in 1..=12 {
                let length = match month {
                    2 => 28 + i64::from(is_leap),
                    4 | 6 | 9 | 11 => 30,
                    _ => 31,
                };
                for day in 1..=length {
                    let this = days(year, month, day);
                    assert_eq!(this, last + 1, "{year}-{month}-{day}");
                    last = this;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn damaged_certificates_are_no_trouble(
            cut in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            noise in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut damaged = certificate(2030, 1, 1).to_vec();
            let index = at.index(damaged.len());
            damaged[index] = byte;
            let _ = expires_at_ms(&CertificateDer::from(damaged.clone()));
            damaged.truncate(cut.index(damaged.len()));
            let _ = expires_at_ms(&CertificateDer::from(damaged));
            let _ = expires_at_ms(&CertificateDer::from(noise));
        }
    }
}
