//! Grace periods end only after the programs that began before them have ended.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use mplsxdp::dataplane::grace::GracePeriods;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::unistd::Pid;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_MMAPABLE: u32 = 0x400;
const XDP_PASS: u32 = 2;
/// How often the program copies [`BYTES`]: it takes a tenth of a second or more, and is still within the verifier's
/// limit.
const TURNS: i32 = 4000;
const BYTES: u32 = 1 << 20;

/// # Safety
/// Everything that the attributes point to must live until the call returns.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> libc::c_long {
    // SAFETY: as the caller says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    assert!(result >= 0, "bpf command {command}: {}", io::Error::last_os_error());
    result
}

fn array(value_size: u32, entries: u32, flags: u32) -> OwnedFd {
    // map_type, key_size, value_size, max_entries, map_flags of `union bpf_attr`.
    let mut attributes = [BPF_MAP_TYPE_ARRAY, 4, value_size, entries, flags, 0];
    // SAFETY: no pointers, and a new descriptor.
    unsafe { OwnedFd::from_raw_fd(bpf(BPF_MAP_CREATE, &mut attributes) as i32) }
}

/// `struct bpf_insn`.
fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    u64::from(code)
        | u64::from(src << 4 | dst) << 8
        | u64::from(off.cast_unsigned()) << 16
        | u64::from(imm.cast_unsigned()) << 32
}

fn load_map(dst: u8, map: &OwnedFd) -> [u64; 2] {
    const BPF_PSEUDO_MAP_FD: u8 = 1;
    [
        insn(0x18, dst, BPF_PSEUDO_MAP_FD, 0, map.as_raw_fd()),
        insn(0, 0, 0, 0, 0),
    ]
}

/// An XDP program that writes to `marks` that it began, copies one value of `values` to the other for a while, and
/// writes that it has ended.
fn slow_program(marks: &OwnedFd, values: &OwnedFd) -> OwnedFd {
    const LOOKUP: i32 = 1;
    const UPDATE: i32 = 2;
    let code: Vec<u64> = [
        // Keys 0 and 1 on the stack.
        vec![
            insn(0x62, 10, 0, -4, 0),
            insn(0x62, 10, 0, -8, 1),
            insn(0xb7, 6, 0, 0, 0),
        ],
        load_map(1, marks).to_vec(),
        vec![
            insn(0xbf, 2, 10, 0, 0),
            insn(0x07, 2, 0, 0, -4),
            insn(0x85, 0, 0, 0, LOOKUP),
            // No value: jump to the end.
            insn(0x15, 0, 0, 19, 0),
            insn(0xbf, 7, 0, 0, 0),
        ],
        load_map(1, values).to_vec(),
        vec![
            insn(0xbf, 2, 10, 0, 0),
            insn(0x07, 2, 0, 0, -4),
            insn(0x85, 0, 0, 0, LOOKUP),
            insn(0x15, 0, 0, 12, 0),
            insn(0xbf, 8, 0, 0, 0),
            insn(0x7a, 7, 0, 0, 1),
        ],
        // The loop.
        load_map(1, values).to_vec(),
        vec![
            insn(0xbf, 2, 10, 0, 0),
            insn(0x07, 2, 0, 0, -8),
            insn(0xbf, 3, 8, 0, 0),
            insn(0xb7, 4, 0, 0, 0),
            insn(0x85, 0, 0, 0, UPDATE),
            insn(0x07, 6, 0, 0, 1),
            insn(0xa5, 6, 0, -9, TURNS),
            insn(0x7a, 7, 0, 8, 1),
            insn(0xb7, 0, 0, 0, XDP_PASS.cast_signed()),
            insn(0x95, 0, 0, 0, 0),
        ],
    ]
    .concat();

    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
    }
    let license = c"GPL";
    let mut attributes = Load {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr().addr() as u64,
        license: license.as_ptr().addr() as u64,
    };
    // SAFETY: code and license live on; a new descriptor.
    unsafe { OwnedFd::from_raw_fd(bpf(BPF_PROG_LOAD, &mut attributes) as i32) }
}

/// Returns when the program has run once.
fn run(program: &OwnedFd) -> u32 {
    #[repr(C)]
    struct Run {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
    }
    let frame = [0_u8; 64];
    let mut attributes = Run {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        retval: 0,
        data_size_in: frame.len() as u32,
        data_size_out: 0,
        data_in: frame.as_ptr().addr() as u64,
        data_out: 0,
        repeat: 1,
        duration: 0,
    };
    // SAFETY: the frame lives on.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) };
    attributes.retval
}

/// On every kernel, whatever its membarrier(2) does: a program that runs much longer than any fixed wait is waited for.
/// It runs on the last CPU: that of the guest with `nohz_full` has it.
#[test]
fn a_grace_period_ends_after_the_programs_that_began_before_it() {
    /// On a busy machine, a program may have ended before this thread continues.
    const ATTEMPTS: usize = 100;

    let nohz_full = std::fs::read_to_string("/sys/devices/system/cpu/nohz_full").unwrap_or_default();
    println!(
        "CPUs: {}; with nohz_full: {}; membarrier(2): {}",
        thread::available_parallelism().unwrap(),
        nohz_full.trim(),
        membarrier().map_or_else(|error| error.to_string(), |()| "0".to_owned())
    );
    let mut periods = GracePeriods::new().unwrap();
    assert!((0..ATTEMPTS).any(|_| is_waited_for(&mut periods)));
}

/// What the system call returns, which is not used for grace periods.
fn membarrier() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: no memory is passed.
    match unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn move_to_last_cpu() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).unwrap();
    let last = (0..CpuSet::count()).rfind(|&cpu| allowed.is_set(cpu).unwrap());
    let mut set = CpuSet::new();
    set.set(last.unwrap()).unwrap();
    sched_setaffinity(this, &set).unwrap();
}

/// Runs the program and waits for a grace period that began meanwhile. `false` means that it began too late to prove
/// anything.
fn is_waited_for(periods: &mut GracePeriods) -> bool {
    let (marks, values) = (array(16, 1, BPF_F_MMAPABLE), array(BYTES, 2, 0));
    let program = slow_program(&marks, &values);
    let page = std::num::NonZeroUsize::new(4096).unwrap();
    // SAFETY: a new mapping of a map that lives on.
    let marked = unsafe { mmap(None, page, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &marks, 0) }.unwrap();
    // SAFETY: within the mapping, which is never undone.
    let [begun, ended] = [0, 1].map(|index| unsafe { marked.cast::<AtomicU64>().add(index).as_ref() });
    thread::scope(|scope| {
        let runs = scope.spawn(|| {
            move_to_last_cpu();
            run(&program)
        });
        while begun.load(Ordering::Acquire) == 0 {
            thread::yield_now();
        }
        let first = periods.begin();
        let in_time = ended.load(Ordering::Acquire) == 0;
        let second = periods.begin();
        assert!(first < second);
        while !periods.is_over(second) {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(periods.is_over(first));
        assert_eq!(ended.load(Ordering::Acquire), 1);
        assert_eq!(runs.join().unwrap(), XDP_PASS);
        in_time
    })
}
