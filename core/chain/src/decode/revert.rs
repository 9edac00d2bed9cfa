//! Revert reasons: turns the data of a reverted call into one line of text.
//!
//! | data | reason |
//! |---|---|
//! | `Error(string)` | the string |
//! | `Panic(uint256)` | `panic 0x11: arithmetic overflow or underflow` |
//! | a known custom error | `ERC20InsufficientBalance(sender: 0x…, balance: 5, needed: 6)` |
//! | another custom error | `custom error 0x265a5514` |

use std::collections::HashMap;

use alloy::{hex, primitives::U256};

use super::visible::visible;
use crate::abi::{AbiError, ErrorAbi, word_at};

/// The selector of `Error(string)`.
const ERROR: [u8; 4] = [0x08, 0xc3, 0x79, 0xa0];
/// The selector of `Panic(uint256)`.
const PANIC: [u8; 4] = [0x4e, 0x48, 0x7b, 0x71];
/// The longest reason, in characters. Contracts can write texts of any length.
const MAX_REASON: usize = 500;

/// Errors of the token standards (ERC-6093), of ownership, and of common libraries.
const WELL_KNOWN: [&str; 20] = [
    "ERC20InsufficientBalance(address sender, uint256 balance, uint256 needed)",
    "ERC20InvalidSender(address sender)",
    "ERC20InvalidReceiver(address receiver)",
    "ERC20InsufficientAllowance(address spender, uint256 allowance, uint256 needed)",
    "ERC20InvalidApprover(address approver)",
    "ERC20InvalidSpender(address spender)",
    "ERC721NonexistentToken(uint256 tokenId)",
    "ERC721IncorrectOwner(address sender, uint256 tokenId, address owner)",
    "ERC721InvalidReceiver(address receiver)",
    "ERC721InsufficientApproval(address operator, uint256 tokenId)",
    "ERC1155InsufficientBalance(address sender, uint256 balance, uint256 needed, uint256 tokenId)",
    "ERC1155InvalidReceiver(address receiver)",
    "ERC1155MissingApprovalForAll(address operator, address owner)",
    "ERC1155InvalidArrayLength(uint256 idsLength, uint256 valuesLength)",
    "OwnableUnauthorizedAccount(address account)",
    "AccessControlUnauthorizedAccount(address account, bytes32 neededRole)",
    "SafeERC20FailedOperation(address token)",
    "ReentrancyGuardReentrantCall()",
    "EnforcedPause()",
    "FailedCall()",
];

/// Custom errors by selector, which is the first four bytes of the data.
#[derive(Debug, Clone, Default)]
pub struct CustomErrors(HashMap<[u8; 4], ErrorAbi>);

impl CustomErrors {
    /// The errors that are known without configuration.
    #[must_use]
    pub fn well_known() -> Self {
        let errors = WELL_KNOWN
            .iter()
            .filter_map(|text| ErrorAbi::parse(text).ok());
        Self(errors.map(|error| (error.selector(), error)).collect())
    }

    /// Adds an error by signature. It replaces one with the same selector.
    ///
    /// # Errors
    /// [`ErrorAbi::parse`] refuses the signature.
    pub fn add(&mut self, signature: &str) -> Result<(), AbiError> {
        let error = ErrorAbi::parse(signature)?;
        self.0.insert(error.selector(), error);
        Ok(())
    }

    fn decode(&self, data: &[u8]) -> Option<String> {
        let selector = data.first_chunk::<4>()?;
        self.0.get(selector)?.decode(data)
    }
}

/// The reason in revert data: one line of at most 500 characters.
///
/// ```
/// # use tidewire_chain::decode::{CustomErrors, revert_reason};
/// let errors = CustomErrors::well_known();
/// assert_eq!(revert_reason(&[0x26, 0x5a, 0x55, 0x14], &errors), "custom error 0x265a5514");
/// assert_eq!(revert_reason(&[], &errors), "reverted without a reason");
/// ```
#[must_use]
pub fn revert_reason(data: &[u8], errors: &CustomErrors) -> String {
    let reason = match data.split_first_chunk::<4>() {
        None if data.is_empty() => "reverted without a reason".to_owned(),
        None => format!("reverted with 0x{}", hex::encode(data)),
        Some((&ERROR, arguments)) => {
            text(arguments).unwrap_or_else(|| "reverted with a text that is cut off".to_owned())
        }
        Some((&PANIC, arguments)) => panic_reason(arguments),
        Some((selector, _)) => errors
            .decode(data)
            .unwrap_or_else(|| format!("custom error 0x{}", hex::encode(selector))),
    };
    shorten(&reason)
}

/// The string of `Error(string)`.
fn text(arguments: &[u8]) -> Option<String> {
    let offset = usize::try_from(word_at(arguments, 0)?).ok()?;
    let tail = arguments.get(offset..)?;
    let length = usize::try_from(word_at(tail, 0)?).ok()?;
    let bytes = tail.get(32..)?.get(..length)?;
    if bytes.is_empty() {
        return Some("reverted with an empty reason".to_owned());
    }
    Some(String::from_utf8_lossy(bytes).into_owned())
}

fn panic_reason(arguments: &[u8]) -> String {
    let Some(code) = word_at(arguments, 0) else {
        return "panic without a code".to_owned();
    };
    let meaning = match u8::try_from(code).unwrap_or(u8::MAX) {
        0x00 => "of the compiler",
        0x01 => "an assertion failed",
        0x11 => "arithmetic overflow or underflow",
        0x12 => "division by zero",
        0x21 => "a value that its enum does not have",
        0x22 => "storage bytes that are encoded wrongly",
        0x31 => "pop of an empty array",
        0x32 => "an index out of bounds",
        0x41 => "out of memory, or an array too large",
        0x51 => "a call of a function that was never set",
        _ => "of an unknown kind",
    };
    let code = if code < U256::from(256) {
        format!("{code:#04x}")
    } else {
        format!("{code:#x}")
    };
    format!("panic {code}: {meaning}")
}

/// Removes what cannot be seen, and cuts a long reason off.
fn shorten(reason: &str) -> String {
    let visible = visible(reason);
    if visible.is_empty() {
        return "reverted with an empty reason".to_owned();
    }
    let mut characters = visible.chars();
    let mut short: String = characters.by_ref().take(MAX_REASON).collect();
    if characters.next().is_some() {
        short.push('…');
    }
    short
}
