//! The system calls that a running instance may make (seccomp). All others fail with EPERM, and the kernel's log has a
//! line for each (`audit: type=1326`), so that a call that was forgotten costs one operation and not the switch.

use std::io;

use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};

type Call = libc::c_long;

/// Files, descriptors, memory, threads, signals, time.
const ORDINARY: &[Call] = &[
    libc::SYS_brk,
    libc::SYS_capget,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getpriority,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mkdirat,
    libc::SYS_mlock,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_prctl,
    libc::SYS_pread64,
    libc::SYS_prlimit64,
    libc::SYS_pselect6,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getattr,
    libc::SYS_sched_setattr,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_tgkill,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_umask,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Names that only older architectures have.
#[cfg(target_arch = "x86_64")]
const OLD: &[Call] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[Call] = &[];

/// The network, and BPF.
const NETWORK: &[Call] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_bpf,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_ioctl,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

/// Sockets of these families may be opened.
const FAMILIES: [libc::c_int; 6] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
    libc::AF_PACKET,
    libc::AF_XDP,
];

/// What the start of an instance takes in addition.
const START: &[Call] = &[
    libc::SYS_capset,
    libc::SYS_chdir,
    libc::SYS_execve,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_getgroups,
    libc::SYS_kill,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_seccomp,
    libc::SYS_set_tid_address,
    libc::SYS_setxattr,
    libc::SYS_umount2,
    libc::SYS_wait4,
    libc::SYS_waitid,
];

/// Whether this process will start another instance in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    Never,
    /// The filter outlives exec(2), so it must allow what the start takes.
    Again,
}

/// Why the system calls are not restricted.
#[derive(Debug, thiserror::Error)]
pub enum NotRestricted {
    #[error("cannot make the filter of system calls: {0}")]
    Filter(#[from] seccompiler::BackendError),
    #[error("the kernel does not take the filter of system calls: {0}")]
    Kernel(#[from] io::Error),
}

/// Restricts all threads of this process. A filter that outlived exec(2) stays as it is: one more for each upgrade would
/// reach the kernel's limit.
pub fn restrict_calls(start: Start) -> Result<(), NotRestricted> {
    if is_restricted() {
        return Ok(());
    }
    install(start, libc::SECCOMP_FILTER_FLAG_TSYNC)
}

fn install(start: Start, flags: libc::c_ulong) -> Result<(), NotRestricted> {
    // Without SPEC_ALLOW, kernels before 5.16 would slow the process down: its own code is not what the filter is about.
    let flags = flags | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    for (program, flags) in [
        (without_clone3()?, flags),
        (allowed(start)?, flags | libc::SECCOMP_FILTER_FLAG_LOG),
    ] {
        let program_of = libc::sock_fprog {
            len: program.len().try_into().map_err(io::Error::other)?,
            filter: program.as_ptr().cast_mut().cast(),
        };
        // SAFETY: the kernel reads the program, which lives until then and has the layout of `struct sock_filter`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const program_of,
            )
        };
        match result {
            0 => {}
            -1 => return Err(io::Error::last_os_error().into()),
            thread => return Err(io::Error::other(format!("thread {thread} has a filter of its own")).into()),
        }
    }
    Ok(())
}

/// With this argument, which the kernel ignores, getppid(2) fails under a filter of this module, and so tells that there
/// is one.
const MARK: u64 = u64::from_be_bytes(*b"mplsxdp\0");

fn is_restricted() -> bool {
    // SAFETY: it has no arguments.
    unsafe { libc::syscall(libc::SYS_getppid, MARK) == -1 }
}

/// The calls of an instance; others get EPERM.
fn allowed(start: Start) -> Result<BpfProgram, seccompiler::BackendError> {
    let always = |call: &Call| (*call, Vec::new());
    let mut rules: Vec<(Call, Vec<SeccompRule>)> = [ORDINARY, OLD, NETWORK].concat().iter().map(always).collect();
    // The other filter refuses them: of two results, the stricter one counts.
    rules.extend([libc::SYS_clone3, libc::SYS_getppid].iter().map(always));
    let rule = |argument, length, operator, value| {
        SeccompRule::new(vec![SeccompCondition::new(argument, length, operator, value)?])
    };
    let families = |families: &[libc::c_int]| {
        let families = families.iter().map(|&family| rule(0, Dword, Eq, family as u64));
        families.collect::<Result<Vec<_>, _>>()
    };
    rules.push((libc::SYS_socket, families(&FAMILIES)?));
    rules.push((libc::SYS_socketpair, families(&[libc::AF_UNIX])?));
    // For the network namespaces of veth peers.
    rules.push((libc::SYS_setns, vec![rule(1, Dword, Eq, libc::CLONE_NEWNET as u64)?]));
    // Threads and processes, but no namespaces.
    let namespaces = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    let namespaces = namespaces.iter().fold(0, |all, &flag| all | u64::from(flag as u32));
    rules.push((libc::SYS_clone, vec![rule(0, Qword, MaskedEq(namespaces), 0)?]));
    match start {
        Start::Never => {
            let not_executable = |length| rule(2, length, MaskedEq(libc::PROT_EXEC as u64), 0);
            rules.push((libc::SYS_mmap, vec![not_executable(Dword)?]));
            rules.push((libc::SYS_mprotect, vec![not_executable(Dword)?]));
        }
        Start::Again => {
            rules.extend(START.iter().map(always));
            rules.extend([libc::SYS_mmap, libc::SYS_mprotect].iter().map(always));
        }
    }
    let others = SeccompAction::Errno(libc::EPERM as u32);
    compile(rules, others, SeccompAction::Allow)
}

/// A filter cannot read the flags of clone3(2). If it seems not to exist, the C library calls clone(2).
fn without_clone3() -> Result<BpfProgram, seccompiler::BackendError> {
    let mark = SeccompRule::new(vec![SeccompCondition::new(0, Qword, Eq, MARK)?])?;
    let rules = vec![(libc::SYS_clone3, Vec::new()), (libc::SYS_getppid, vec![mark])];
    compile(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))
}

fn compile(
    rules: Vec<(Call, Vec<SeccompRule>)>,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules.into_iter().collect(), others, these, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Calls a system call with these arguments on a restricted thread, and returns its errno, 0 for success.
    fn errno_of(start: Start, call: Call, arguments: [libc::c_ulong; 4]) -> i32 {
        let restricted = move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            // For this thread only.
            install(start, 0).unwrap();
            let [one, two, three, four] = arguments;
            // SAFETY: the arguments are numbers and null pointers, with which the calls below do nothing or fail.
            match unsafe { libc::syscall(call, one, two, three, four, -1, 0) } {
                -1 => io::Error::last_os_error().raw_os_error().unwrap(),
                _ => 0,
            }
        };
        thread::spawn(restricted).join().unwrap()
    }

    #[test]
    fn calls_that_an_instance_does_not_make_are_refused() {
        let number = |number: i32| libc::c_ulong::from(number.cast_unsigned());
        let anonymous = number(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let executable = [0, 4096, number(libc::PROT_READ | libc::PROT_EXEC), anonymous];
        // Those that a namespace or a start needs, with arguments with which the kernel itself would say something else.
        for (call, arguments, never, again) in [
            (libc::SYS_ptrace, [99, 0, 0, 0], libc::EPERM, libc::EPERM),
            (libc::SYS_unshare, [0; 4], libc::EPERM, libc::EPERM),
            (libc::SYS_kexec_load, [0; 4], libc::EPERM, libc::EPERM),
            (libc::SYS_init_module, [0; 4], libc::EPERM, libc::EPERM),
            (libc::SYS_process_vm_writev, [0; 4], libc::EPERM, libc::EPERM),
            (libc::SYS_personality, [0xffff_ffff, 0, 0, 0], libc::EPERM, libc::EPERM),
            (
                libc::SYS_socket,
                [number(libc::AF_VSOCK), number(libc::SOCK_STREAM), 0, 0],
                libc::EPERM,
                libc::EPERM,
            ),
            (
                libc::SYS_setns,
                [9999, number(libc::CLONE_NEWNS), 0, 0],
                libc::EPERM,
                libc::EPERM,
            ),
            (
                libc::SYS_setns,
                [9999, number(libc::CLONE_NEWNET), 0, 0],
                libc::EBADF,
                libc::EBADF,
            ),
            (
                libc::SYS_clone,
                [number(libc::CLONE_NEWNS), 0, 0, 0],
                libc::EPERM,
                libc::EPERM,
            ),
            (libc::SYS_clone3, [0; 4], libc::ENOSYS, libc::ENOSYS),
            (libc::SYS_execve, [0; 4], libc::EPERM, libc::EFAULT),
            (libc::SYS_mmap, executable, libc::EPERM, 0),
            (libc::SYS_getpid, [0; 4], 0, 0),
        ] {
            assert_eq!(errno_of(Start::Never, call, arguments), never, "{call} {arguments:?}");
            assert_eq!(errno_of(Start::Again, call, arguments), again, "{call} {arguments:?}");
        }
    }

    #[test]
    fn a_restricted_thread_can_start_threads() {
        let restricted = || {
            rustix::thread::set_no_new_privs(true).unwrap();
            assert!(!is_restricted());
            install(Start::Never, 0).unwrap();
            assert!(is_restricted() && std::os::unix::process::parent_id() > 0);
            thread::spawn(|| 7).join().unwrap()
        };
        assert_eq!(thread::spawn(restricted).join().unwrap(), 7);
    }
}
