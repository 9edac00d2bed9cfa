//! Why a call reverted.

use std::collections::HashMap;

use alloy::{hex, primitives::U256};

use super::word::word_at;
use crate::abi::{AbiError, ErrorAbi};

/// `Error(string)`.
const ERROR: [u8; 4] = [0x08, 0xc3, 0x79, 0xa0];
/// `Panic(uint256)`.
const PANIC: [u8; 4] = [0x4e, 0x48, 0x7b, 0x71];
/// Contracts write reasons; this much of one is shown, in characters.
const MAX_REASON: usize = 500;

/// Errors of the token standards (ERC-6093), of ownership, and of routers and wallets that most
/// transactions go through.
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

/// Custom errors that can be told apart by their first four bytes.
#[derive(Debug, Clone, Default)]
pub struct CustomErrors(HashMap<[u8; 4], ErrorAbi>);

impl CustomErrors {
    /// Errors that need no ABI: those of the token standards and a few more.
    #[must_use]
    pub fn well_known() -> Self {
        let errors = WELL_KNOWN
            .iter()
            .filter_map(|text| ErrorAbi::parse(text).ok());
        Self(errors.map(|error| (error.selector(), error)).collect())
    }

    /// Adds an error by signature; it replaces one with the same first four bytes.
    ///
    /// # Errors
    /// The signature is refused by [`ErrorAbi::parse`].
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

/// Revert data as a reason for people.
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

/// The text of `Error(string)`.
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

/// Without control characters, and not endless.
fn shorten(reason: &str) -> String {
    let mut visible = reason.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = visible.by_ref().take(MAX_REASON).collect();
    if visible.next().is_some() {
        short.push('…');
    }
    short
}
