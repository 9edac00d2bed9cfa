//! Words of 32 bytes, as the ABI writes values.

use alloy::primitives::{Address, B256, U256};

/// The number of word `place` of `data`.
pub(crate) fn word_at(data: &[u8], place: usize) -> Option<U256> {
    let start = place.checked_mul(32)?;
    let word = data.get(start..start.checked_add(32)?)?;
    Some(U256::from_be_slice(word))
}

/// The address that a word holds; none if there is more than an address.
pub(crate) fn address_word(word: &B256) -> Option<Address> {
    let (padding, address) = word.split_at(12);
    padding
        .iter()
        .all(|byte| *byte == 0)
        .then(|| Address::from_slice(address))
}

/// The address in word `place` of `data`.
pub(super) fn address_at(data: &[u8], place: usize) -> Option<Address> {
    word_at(data, place).and_then(|word| address_word(&word.into()))
}

/// The list of numbers whose offset is word `place` of `data`.
///
/// The length is held against what is there before anything is reserved.
pub(super) fn list_at(data: &[u8], place: usize) -> Option<Vec<U256>> {
    let offset = usize::try_from(word_at(data, place)?).ok()?;
    let list = data.get(offset..)?;
    let length = usize::try_from(word_at(list, 0)?).ok()?;
    let items = list.get(32..)?.get(..length.checked_mul(32)?)?;
    Some(items.chunks_exact(32).map(U256::from_be_slice).collect())
}
