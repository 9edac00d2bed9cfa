//! Account addresses as clients write them: in one case throughout, or with their checksum.

use alloy::primitives::Address;

/// Why an address is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountAddressError {
    /// Not 20 bytes of hexadecimal after `0x`.
    #[error("address {0:?} is not 20 bytes of hex that begin with 0x")]
    Malformed(String),
    /// Mixed case that is not the address's checksum (EIP-55).
    #[error("address {given} has a wrong checksum, expected {expected} or lower case throughout")]
    Checksum {
        /// The address as it was given.
        given: String,
        /// The address with its checksum.
        expected: String,
    },
}

/// Reads an address.
///
/// # Errors
/// The text is not 20 bytes of hexadecimal after `0x`, or it is in mixed case and the checksum
/// is wrong.
pub(crate) fn parse_address(text: &str) -> Result<Address, AccountAddressError> {
    let malformed = || AccountAddressError::Malformed(text.to_owned());
    let digits = text.strip_prefix("0x").ok_or_else(malformed)?;
    let address: Address = text.parse().map_err(|_| malformed())?;
    let has_upper = digits.bytes().any(|byte| byte.is_ascii_uppercase());
    let has_lower = digits.bytes().any(|byte| byte.is_ascii_lowercase());
    let expected = address.to_checksum(None);
    if has_upper && has_lower && expected != text {
        return Err(AccountAddressError::Checksum {
            given: text.to_owned(),
            expected,
        });
    }
    Ok(address)
}
