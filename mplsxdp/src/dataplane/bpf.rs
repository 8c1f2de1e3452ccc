//! The commands of bpf(2) that aya does not offer. For XDP links: whether one is still attached, detaching one to which
//! others have descriptors, and pinning. For programs of others: the name by the id. For maps: batches, deleting, and
//! maps of maps.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::dataplane::XdpMode;

/// From linux/bpf.h.
#[derive(Clone, Copy)]
#[repr(i64)]
enum Command {
    MapCreate = 0,
    MapUpdateElem = 2,
    MapDeleteElem = 3,
    ObjPin = 6,
    ObjGet = 7,
    ProgGetFdById = 13,
    ObjGetInfoByFd = 15,
    MapLookupBatch = 24,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

/// The attach type of XDP programs on interfaces. The kernel updates only links that were made with one.
const BPF_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `bpf_link_info.type` of an XDP link.
const BPF_LINK_TYPE_XDP: u32 = 6;

/// A bpf_link that holds an XDP program on an interface until it is detached, or until its last descriptor is closed and
/// it is not pinned.
pub struct XdpLink(OwnedFd);

/// The kernel's view of an [`XdpLink`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkState {
    pub link_id: u32,
    pub program_id: u32,
    /// 0: the link is detached.
    pub ifindex: u32,
}

impl XdpLink {
    /// Attaches a program. EBUSY or EEXIST: the interface has another one.
    pub fn create(program: BorrowedFd<'_>, ifindex: u32, mode: XdpMode) -> io::Result<Self> {
        let flags = match mode {
            XdpMode::Native => XDP_FLAGS_DRV_MODE,
            XdpMode::Generic => XDP_FLAGS_SKB_MODE,
        };
        let link = bpf(Command::LinkCreate, &mut [descriptor(program), ifindex, BPF_XDP, flags])?;
        // SAFETY: the kernel has just made this descriptor for its caller.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(link) }))
    }

    /// Opens a pinned link. EINVAL: it is not an XDP link.
    pub fn open(pin: &Path) -> io::Result<Self> {
        let path = CString::new(pin.as_os_str().as_bytes())?;
        let [low, high] = halves(path.as_ptr().addr() as u64);
        let link = bpf(Command::ObjGet, &mut [low, high, 0, 0])?;
        // SAFETY: the kernel has just made this descriptor for its caller.
        let link = Self(unsafe { OwnedFd::from_raw_fd(link) });
        match link.info()? {
            [BPF_LINK_TYPE_XDP, ..] => Ok(link),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Keeps the link, and with it the program and its maps, until the pin is removed. EEXIST: there is such a file.
    pub fn pin(&self, pin: &Path) -> io::Result<()> {
        let path = CString::new(pin.as_os_str().as_bytes())?;
        let [low, high] = halves(path.as_ptr().addr() as u64);
        bpf(Command::ObjPin, &mut [low, high, self.descriptor(), 0]).map(drop)
    }

    /// Replaces the attached program by `program`: every frame meets one of them. ENOLINK: the link is detached.
    pub fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        bpf(Command::LinkUpdate, &mut [self.descriptor(), descriptor(program), 0, 0]).map(drop)
    }

    /// Takes the program off the interface, even if others have descriptors of the link.
    pub fn detach(&self) -> io::Result<()> {
        bpf(Command::LinkDetach, &mut [self.descriptor()]).map(drop)
    }

    /// May wait for the kernel's RTNL lock.
    pub fn state(&self) -> io::Result<LinkState> {
        let [_, link_id, program_id, _, ifindex] = self.info()?;
        Ok(LinkState {
            link_id,
            program_id,
            ifindex,
        })
    }

    /// struct bpf_link_info: type, id, prog_id, padding, xdp.ifindex.
    fn info(&self) -> io::Result<[u32; 5]> {
        let mut info = [0; 5];
        object_info(self.descriptor(), &mut info)?;
        Ok(info)
    }

    fn descriptor(&self) -> u32 {
        self.0.as_raw_fd().cast_unsigned()
    }
}

/// The name of a loaded program, as bpftool shows it: at most 15 bytes, possibly none.
pub fn program_name(id: u32) -> io::Result<String> {
    /// The offset of `name` in struct bpf_prog_info, in words.
    const NAME: usize = 16;
    const NAME_WORDS: usize = 4;
    let program = bpf(Command::ProgGetFdById, &mut [id, 0, 0])?;
    // SAFETY: the kernel has just made this descriptor for its caller.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let mut info = [0_u32; NAME + NAME_WORDS];
    object_info(program.as_raw_fd().cast_unsigned(), &mut info)?;
    let name = info.iter().skip(NAME).flat_map(|word| word.to_ne_bytes());
    let name: Vec<u8> = name.take_while(|&byte| byte != 0).collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// BPF_OBJ_GET_INFO_BY_FD: the first words of what the kernel returns for a link or a program.
fn object_info<const WORDS: usize>(descriptor: u32, info: &mut [u32; WORDS]) -> io::Result<()> {
    let length = size_of_val(info) as u32;
    let [low, high] = halves((&raw mut *info).addr() as u64);
    bpf(Command::ObjGetInfoByFd, &mut [descriptor, length, low, high]).map(drop)
}

/// A 64-bit field of `union bpf_attr`.
fn halves(value: u64) -> [u32; 2] {
    let bytes = value.to_ne_bytes();
    let word = |index: usize| u32::from_ne_bytes([bytes[index], bytes[index + 1], bytes[index + 2], bytes[index + 3]]);
    [word(0), word(4)]
}

fn descriptor(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

/// BPF_MAP_CREATE: an array with one element of 32 bits; with `inner`, an array of one map like that one.
pub fn create_array(name: &str, inner: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
    let map_type = inner.map_or(BPF_MAP_TYPE_ARRAY, |_| BPF_MAP_TYPE_ARRAY_OF_MAPS);
    create_map(name, map_type, 4, 0, inner)
}

/// BPF_MAP_CREATE: an array with one element of so many bytes, which can be mapped.
pub fn create_mapped_array(name: &str, size: u32) -> io::Result<OwnedFd> {
    const BPF_F_MMAPABLE: u32 = 1 << 10;
    create_map(name, BPF_MAP_TYPE_ARRAY, size, BPF_F_MMAPABLE, None)
}

const BPF_MAP_TYPE_ARRAY: u32 = 2;

/// An array map with one element.
fn create_map(
    name: &str,
    map_type: u32,
    value_size: u32,
    flags: u32,
    inner: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    const NAME_WORDS: usize = 4;
    const KEY_SIZE: u32 = 4;

    let mut attributes = [0; 7 + NAME_WORDS];
    // map_type, key_size, value_size, max_entries, map_flags, inner_map_fd, numa_node, map_name.
    attributes[..6].copy_from_slice(&[map_type, KEY_SIZE, value_size, 1, flags, inner.map_or(0, descriptor)]);
    // The last byte stays zero.
    for (index, &byte) in name.as_bytes().iter().take(4 * NAME_WORDS - 1).enumerate() {
        attributes[7 + index / 4] |=
            u32::from_ne_bytes(std::array::from_fn(|at| if at == index % 4 { byte } else { 0 }));
    }
    let map = bpf(Command::MapCreate, &mut attributes)?;
    // SAFETY: the kernel has just made this descriptor for its caller.
    Ok(unsafe { OwnedFd::from_raw_fd(map) })
}

/// The entries of a map, and the memory that the kernel reports for it (`memlock` in its fdinfo), in bytes.
pub fn size_and_memory(map: BorrowedFd<'_>) -> io::Result<(u32, u64)> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let field = |key: &str| {
        let mut values = info
            .lines()
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let value = values.next().and_then(|value| value.trim().parse::<u64>().ok());
        value.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no {key} in fdinfo")))
    };
    let entries = field("max_entries")?;
    let entries = entries.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
    Ok((entries, field("memlock")?))
}

/// BPF_MAP_UPDATE_ELEM of 32 bits.
pub fn update_element(map: BorrowedFd<'_>, key: u32, value: u32) -> io::Result<()> {
    element(Command::MapUpdateElem, map, &key, Some(&value))
}

/// BPF_MAP_DELETE_ELEM of a 32-bit key.
pub fn delete_element(map: BorrowedFd<'_>, key: u32) -> io::Result<()> {
    element(Command::MapDeleteElem, map, &key, None)
}

fn element(command: Command, map: BorrowedFd<'_>, key: &u32, value: Option<&u32>) -> io::Result<()> {
    let [key_low, key_high] = halves(std::ptr::from_ref(key).addr() as u64);
    let [value_low, value_high] = halves(value.map_or(0, |value| std::ptr::from_ref(value).addr() as u64));
    // map_fd, padding, key, value, flags.
    let mut attributes = [descriptor(map), 0, key_low, key_high, value_low, value_high, 0, 0];
    bpf(command, &mut attributes).map(drop)
}

/// BPF_MAP_LOOKUP_BATCH (Linux 5.13 for per-CPU arrays): the values of consecutive slots of a per-CPU array from
/// `first` on, those of all possible CPUs for each, as two words. `values` has room for `keys.len()` slots. Returns the
/// number of slots read.
pub fn lookup_batch(map: BorrowedFd<'_>, first: u32, keys: &mut [u32], values: &mut [[u64; 2]]) -> io::Result<usize> {
    /// The offset of `count` in the attributes.
    const COUNT: usize = 8;
    // The kernel begins after the key that it is given, or at the beginning if it gets none.
    let before = first.checked_sub(1);
    let mut last = 0_u32;
    let pointers = [
        before.as_ref().map_or(0, |before| std::ptr::from_ref(before).addr()),
        (&raw mut last).addr(),
        keys.as_mut_ptr().addr(),
        values.as_mut_ptr().addr(),
    ];
    // in_batch, out_batch, keys, values, count, map_fd, elem_flags, flags.
    let mut attributes = [0; COUNT + 6];
    for (words, pointer) in attributes.chunks_exact_mut(2).zip(pointers) {
        words.copy_from_slice(&halves(pointer as u64));
    }
    attributes[COUNT] = keys.len() as u32;
    attributes[COUNT + 1] = descriptor(map);
    match bpf(Command::MapLookupBatch, &mut attributes) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        // All were read, or the table ended first.
        _ => Ok(attributes[COUNT] as usize),
    }
}

/// bpf(2) with the beginning of `union bpf_attr`, into which the kernel may write; the rest counts as zero. Returns the
/// new descriptor, if the command makes one.
fn bpf<const WORDS: usize>(command: Command, attributes: &mut [u32; WORDS]) -> io::Result<i32> {
    // Pointers in the attributes lie at multiples of 8.
    #[repr(C, align(8))]
    struct Aligned<const WORDS: usize>([u32; WORDS]);
    let mut aligned = Aligned(*attributes);
    // SAFETY: what the attributes point to lives until the call returns, and is as long as they say: the callers, all
    // of them in this file, hold references to it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as i64, &raw mut aligned, size_of_val(attributes)) };
    let error = io::Error::last_os_error();
    *attributes = aligned.0;
    match i32::try_from(result) {
        Ok(result @ 0..) => Ok(result),
        _ => Err(error),
    }
}
