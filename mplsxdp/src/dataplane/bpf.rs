//! The commands of bpf(2) for XDP links and for programs of others, which aya does not offer: whether a link is still attached,
//! detaching one that somebody else holds as well, and the name of a program by its id.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use crate::config::XdpMode;

/// From linux/bpf.h.
#[derive(Clone, Copy)]
#[repr(i64)]
enum Command {
    ProgGetFdById = 13,
    ObjGetInfoByFd = 15,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

/// The attach type of XDP programs on interfaces. The kernel updates only links that were made with one.
const BPF_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// A bpf_link that holds an XDP program on an interface until it is detached, or nobody has a descriptor of it any more.
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
        let link = bpf(Command::LinkCreate, [descriptor(program), ifindex, BPF_XDP, flags])?;
        // SAFETY: the kernel has just made this descriptor for its caller.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(link) }))
    }

    /// Puts `program` in the place of the one that is attached: every frame meets one of them. ENOLINK: the link is detached.
    pub fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        bpf(Command::LinkUpdate, [self.descriptor(), descriptor(program), 0, 0]).map(drop)
    }

    /// Takes the program off the interface, whoever else has a descriptor of the link.
    pub fn detach(&self) -> io::Result<()> {
        bpf(Command::LinkDetach, [self.descriptor()]).map(drop)
    }

    /// May wait for the kernel's RTNL lock.
    pub fn state(&self) -> io::Result<LinkState> {
        // struct bpf_link_info: type, id, prog_id, padding, xdp.ifindex.
        let mut info = [0; 5];
        object_info(self.descriptor(), &mut info)?;
        let [_, link_id, program_id, _, ifindex] = info;
        Ok(LinkState {
            link_id,
            program_id,
            ifindex,
        })
    }

    fn descriptor(&self) -> u32 {
        self.0.as_raw_fd().cast_unsigned()
    }
}

/// The name of a loaded program, as bpftool shows it; of at most 15 bytes, and it may be empty.
pub fn program_name(id: u32) -> io::Result<String> {
    /// Where `name` is in struct bpf_prog_info, in words.
    const NAME: usize = 16;
    const NAME_WORDS: usize = 4;
    let program = bpf(Command::ProgGetFdById, [id, 0, 0])?;
    // SAFETY: the kernel has just made this descriptor for its caller.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let mut info = [0_u32; NAME + NAME_WORDS];
    object_info(program.as_raw_fd().cast_unsigned(), &mut info)?;
    let name = info.iter().skip(NAME).flat_map(|word| word.to_ne_bytes());
    let name: Vec<u8> = name.take_while(|&byte| byte != 0).collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// BPF_OBJ_GET_INFO_BY_FD: the first words of what the kernel tells of a link or a program.
fn object_info<const WORDS: usize>(descriptor: u32, info: &mut [u32; WORDS]) -> io::Result<()> {
    let length = size_of_val(info) as u32;
    let [low, high] = halves((&raw mut *info).addr() as u64);
    bpf(Command::ObjGetInfoByFd, [descriptor, length, low, high]).map(drop)
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

/// bpf(2) with the beginning of `union bpf_attr`; the rest is taken for zero. Returns the new descriptor, if the command makes one.
fn bpf<const WORDS: usize>(command: Command, attributes: [u32; WORDS]) -> io::Result<i32> {
    // Pointers in the attributes lie at multiples of 8.
    #[repr(C, align(8))]
    struct Aligned<const WORDS: usize>([u32; WORDS]);
    let mut aligned = Aligned(attributes);
    // SAFETY: what the attributes of these commands point to is `info` of `object_info`, which lives until the call returns and
    // is as long as they say.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as i64,
            &raw mut aligned,
            size_of_val(&attributes),
        )
    };
    match i32::try_from(result) {
        Ok(result @ 0..) => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
