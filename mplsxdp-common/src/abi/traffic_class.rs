//! `TRAFFIC_CLASSES`: how a port's TCs and DSCPs translate (RFC 3270, RFC 5462).

/// Words of one port: one for its TCs, and four for its DSCPs.
pub const TRAFFIC_CLASS_WORDS: usize = 5;

/// The DSCP that each TC becomes when the last label is popped: byte N is for TC N. Bit 7 says that there is one.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcToDscp(u64);

impl TcToDscp {
    const MAPPED: u8 = 0x80;

    /// The same with a DSCP for a TC.
    pub const fn with(self, tc: u8, dscp: u8) -> Self {
        let at = (tc & 7) as u32 * 8;
        Self(self.0 & !(0xff << at) | ((Self::MAPPED | dscp & 0x3f) as u64) << at)
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Which bits of the DSCP change for a TC, and to what: all or none. Without a branch, so that the verifier does not
    /// process what follows once for each case.
    #[inline(always)]
    pub const fn change(self, tc: u8) -> (u8, u8) {
        let byte = (self.0 >> ((tc & 7) as u32 * 8)) as u8;
        let bits = (byte >> 7) * 0x3f;
        (bits, byte & bits)
    }

    pub const fn get(self, tc: u8) -> Option<u8> {
        match (self.0 >> ((tc & 7) as u32 * 8)) as u8 {
            byte if byte & Self::MAPPED != 0 => Some(byte & 0x3f),
            _ => None,
        }
    }
}

/// The TC of labels imposed on packets with each DSCP: nibble N of the four words is for DSCP N. Bit 3 says that there is
/// one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DscpToTc([u64; 4]);

impl DscpToTc {
    const MAPPED: u8 = 8;

    /// The same with a TC for a DSCP.
    pub const fn with(self, dscp: u8, tc: u8) -> Self {
        let mut words = self.0;
        let (word, at) = (Self::word(dscp), Self::shift(dscp));
        words[word] = words[word] & !(0xf << at) | ((Self::MAPPED | tc & 7) as u64) << at;
        Self(words)
    }

    pub const fn to_words(self) -> [u64; 4] {
        self.0
    }

    pub fn get(self, dscp: u8) -> Option<u8> {
        match (self.0[Self::word(dscp)] >> Self::shift(dscp)) as u8 & 0xf {
            nibble if nibble & Self::MAPPED != 0 => Some(nibble & 7),
            _ => None,
        }
    }

    /// The word with the nibble of `dscp`.
    pub const fn word(dscp: u8) -> usize {
        (dscp >> 4 & 3) as usize
    }

    /// The TC for `dscp` in its word: by default the IP precedence. Without a branch, too.
    #[inline(always)]
    pub const fn of(word: u64, dscp: u8) -> u8 {
        let nibble = (word >> Self::shift(dscp)) as u8;
        let mapped = (nibble >> 3 & 1).wrapping_neg();
        (nibble & mapped | dscp >> 3 & !mapped) & 7
    }

    const fn shift(dscp: u8) -> u32 {
        (dscp & 0xf) as u32 * 4
    }
}

/// Both maps of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TrafficClasses {
    pub tc: TcToDscp,
    pub dscp: DscpToTc,
}

impl TrafficClasses {
    pub const fn to_words(self) -> [u64; TRAFFIC_CLASS_WORDS] {
        let [a, b, c, d] = self.dscp.to_words();
        [self.tc.to_bits(), a, b, c, d]
    }

    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_a_place_of_its_own() {
        let (mut tc, mut dscp) = (TcToDscp::default(), DscpToTc::default());
        for number in 0..64 {
            assert_eq!(dscp.get(number), None);
            assert_eq!(DscpToTc::of(0, number), number >> 3);
            dscp = dscp.with(number, 7).with(number, number % 8);
            if number < 8 {
                assert_eq!(tc.get(number), None);
                tc = tc.with(number, 63).with(number, number * 9);
            }
        }
        assert!((0..64).all(|number| dscp.get(number) == Some(number % 8)));
        assert!((0..64).all(|number| DscpToTc::of(dscp.to_words()[DscpToTc::word(number)], number) == number % 8));
        assert!((0..8).all(|number| tc.get(number) == Some(number * 9) && tc.change(number) == (63, number * 9)));
        assert_eq!(TcToDscp::default().with(4, 63).change(5), (0, 0));
    }
}
