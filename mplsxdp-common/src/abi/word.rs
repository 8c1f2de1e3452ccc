//! 64-bit words that begin with a MAC address.

use crate::wire::Mac;

/// The bits of a word that hold a MAC address.
pub(super) const MAC_BITS: u64 = (1 << 48) - 1;

pub(super) const fn mac_word(mac: Mac, rest: u16) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    let [low, high] = rest.to_le_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, low, high])
}

pub(super) const fn word_mac(word: u64) -> Mac {
    let [a, b, c, d, e, f, _, _] = word.to_le_bytes();
    Mac([a, b, c, d, e, f])
}

pub(super) const fn word_rest(word: u64) -> u16 {
    (word >> 48) as u16
}
