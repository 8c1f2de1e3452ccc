//! The offsets of fields in the running kernel's structures, from its type information (BTF,
//! Documentation/bpf/btf.rst).

use std::io;

/// Offsets in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offsets {
    /// `net_device.ifindex`.
    pub ifindex: u32,
    /// `net_device.nd_net`, which is a pointer to `struct net`.
    pub netns: u32,
    /// `net.net_cookie`.
    pub netns_cookie: u32,
}

impl Offsets {
    pub fn of_running_kernel() -> io::Result<Self> {
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux")?;
        Self::read(&bytes)
            .ok_or_else(|| io::Error::other("/sys/kernel/btf/vmlinux does not have `net_device` as expected"))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let types = Types::new(bytes)?;
        Some(Self {
            ifindex: types.offset("net_device", "ifindex")?,
            netns: types.offset("net_device", "nd_net")?,
            netns_cookie: types.offset("net", "net_cookie")?,
        })
    }
}

/// The sections of `struct btf_header`.
struct Types<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Types<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        const MAGIC: u16 = 0xeb9f;
        // magic u16, version u8, flags u8, then hdr_len, type_off, type_len, str_off, str_len, offsets from behind the
        // header.
        if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let field = |index: usize| word(bytes, 4 + 4 * index);
        let section = |offset: u32, length: u32| {
            let first = (field(0)? as usize).checked_add(offset as usize)?;
            bytes.get(first..first.checked_add(length as usize)?)
        };
        Some(Self {
            types: section(field(1)?, field(2)?)?,
            strings: section(field(3)?, field(4)?)?,
        })
    }

    /// The offset in bytes of a member of a structure.
    fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        const STRUCT: u32 = 4;
        // struct btf_type: name_off, info (kind in bits 24-28, kind_flag in bit 31, vlen in bits 0-15), size or type.
        const HEADER: usize = 12;
        // struct btf_member: name_off, type, offset: in bits, of which kind_flag leaves the lowest 24.
        const MEMBER: usize = 12;
        let mut at = 0;
        while at < self.types.len() {
            let info = word(self.types, at + 4)?;
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            if kind == STRUCT && self.name(word(self.types, at)?)? == structure.as_bytes() {
                let mut members = (0..count).map(|index| at + HEADER + index * MEMBER);
                let found = members
                    .find(|&at| word(self.types, at).and_then(|name| self.name(name)) == Some(member.as_bytes()))?;
                return Some((word(self.types, found + 8)? & 0xff_ffff) / 8);
            }
            at += HEADER + trailing_bytes(kind, count)?;
        }
        None
    }

    fn name(&self, offset: u32) -> Option<&'a [u8]> {
        self.strings.get(offset as usize..)?.split(|&byte| byte == 0).next()
    }
}

/// The number of bytes after `struct btf_type` for each kind; `None` for an unknown kind.
fn trailing_bytes(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
        2 | 7..=12 | 16 | 18 => 0,
        // INT, VAR, DECL_TAG
        1 | 14 | 17 => 4,
        // ARRAY
        3 => 12,
        // STRUCT, UNION, DATASEC, ENUM64
        4 | 5 | 15 | 19 => 12 * count,
        // ENUM, FUNC_PROTO
        6 | 13 => 8 * count,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A type section with an int, a pointer and two structures.
    fn btf(members: [&str; 3]) -> Vec<u8> {
        let mut strings = vec![0];
        let mut name = |text: &str| {
            let at = strings.len() as u32;
            strings.extend(text.bytes().chain([0]));
            at
        };
        let info = |kind: u32, count: u32| kind << 24 | count;
        let mut types = vec![name("int"), info(1, 0), 4, 0x0100_0020];
        types.extend([0, info(2, 0), 1]);
        types.extend([name("net_device"), info(4, 2), 64]);
        types.extend([name(members[0]), 1, 32 * 8, name(members[1]), 2, 40 * 8]);
        types.extend([
            name("net"),
            info(4, 1) | 1 << 31,
            128,
            name(members[2]),
            1,
            0x0100_0000 | (96 * 8),
        ]);
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let (type_bytes, string_bytes) = (types.len() as u32, strings.len() as u32);
        let header = [24, 0, type_bytes, type_bytes, string_bytes]
            .into_iter()
            .flat_map(u32::to_ne_bytes);
        let magic = 0xeb9f_u16.to_ne_bytes().into_iter().chain([1, 0]);
        magic.chain(header).chain(types).chain(strings).collect()
    }

    #[test]
    fn offsets_are_those_of_the_members() {
        let expected = Offsets {
            ifindex: 32,
            netns: 40,
            netns_cookie: 96,
        };
        assert_eq!(Offsets::read(&btf(["ifindex", "nd_net", "net_cookie"])), Some(expected));
        assert_eq!(Offsets::read(&btf(["ifindex", "nd_net", "cookie"])), None);
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_refused() {
        let whole = btf(["ifindex", "nd_net", "net_cookie"]);
        for length in 0..whole.len() - 1 {
            assert_eq!(Offsets::read(&whole[..length]), None, "{length}");
        }
        assert_eq!(Offsets::read(&[0; 64]), None);
    }
}
