//! ABI words: reads numbers, addresses and lists from words of 32 bytes.

use alloy::primitives::{Address, B256, U256};

/// The number in the word at `index`.
pub(crate) fn word_at(data: &[u8], index: usize) -> Option<U256> {
    let start = index.checked_mul(32)?;
    let word = data.get(start..start.checked_add(32)?)?;
    Some(U256::from_be_slice(word))
}

/// The address in a word. None if the 12 bytes before it are not zero.
pub(crate) fn address_word(word: &B256) -> Option<Address> {
    let (padding, address) = word.split_at(12);
    padding
        .iter()
        .all(|byte| *byte == 0)
        .then(|| Address::from_slice(address))
}

/// The address in the word at `index`.
pub(crate) fn address_at(data: &[u8], index: usize) -> Option<Address> {
    word_at(data, index).and_then(|word| address_word(&word.into()))
}

/// The list of numbers whose offset is the word at `index`.
///
/// The claimed length is checked against the data before memory is allocated.
pub(crate) fn list_at(data: &[u8], index: usize) -> Option<Vec<U256>> {
    let offset = usize::try_from(word_at(data, index)?).ok()?;
    let list = data.get(offset..)?;
    let length = usize::try_from(word_at(list, 0)?).ok()?;
    let items = list.get(32..)?.get(..length.checked_mul(32)?)?;
    Some(items.chunks_exact(32).map(U256::from_be_slice).collect())
}
