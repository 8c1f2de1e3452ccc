//! What the process may do once it has started: it gives up the capabilities, and then the system calls, that it does
//! not need any more. So whoever gets hold of it can do less.

mod calls;

use nix::unistd::{Gid, getgroups};
use rustix::io;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
};

pub use calls::{NotRestricted, Start, restrict_calls};

/// What a running instance needs:
/// * NET_ADMIN: interfaces, neighbours, attaching programs, sysctls of the network.
/// * NET_RAW: AF_XDP and raw sockets of ports that come later.
/// * SYS_ADMIN: BPF maps and programs, and the network namespaces of veth peers.
/// * IPC_LOCK: the memory of AF_XDP sockets, whatever the limit of locked memory.
/// * SYS_PTRACE: finding the network namespaces of veth peers by the processes in them.
pub const RUNNING: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::IPC_LOCK)
    .union(CapabilitySet::SYS_PTRACE);
/// For a new program that goes on in this process: its socket belongs to a group.
pub const STARTING_AGAIN: CapabilitySet = CapabilitySet::CHOWN;
/// For the same, if it serves metrics at a port below 1024.
pub const LOW_PORT: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;
/// For reading the config file again, which may belong to another user.
pub const REREADING: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;

/// Gives up all capabilities but these, for good: the calling thread, threads that it starts later, and programs that they
/// start do not get others.
pub fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    for capability in CapabilitySet::all()
        .iter()
        .filter(|&capability| !kept.contains(capability))
    {
        // EINVAL: this kernel does not have it.
        if capability_is_in_bounding_set(capability).unwrap_or(false) {
            match remove_capability_from_bounding_set(capability) {
                // Without CAP_SETPCAP the set stays. It has no effect for a process that gets no new privileges and is not
                // root.
                Err(io::Errno::PERM) => break,
                result => result?,
            }
        }
    }
    clear_ambient_capability_set()?;
    let permitted = capabilities(None)?.permitted.intersection(kept);
    set_capabilities(
        None,
        CapabilitySets {
            effective: permitted,
            permitted,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    set_no_new_privs(true)
}

/// Joins these groups, for what only their members may do: the calling thread, and threads that it starts later. Those
/// that it is in already, as after an upgrade, take no capability.
pub fn join_groups(groups: &[Gid]) -> std::io::Result<()> {
    let mut all = getgroups()?;
    let new = groups.iter().filter(|group| !all.contains(group));
    let new: Vec<Gid> = new.copied().collect();
    if new.is_empty() {
        return Ok(());
    }
    all.extend(new);
    let all = all.iter().map(|group| rustix::thread::Gid::from_raw(group.as_raw()));
    Ok(set_thread_groups(&all.collect::<Vec<_>>())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread of its own: what is given up does not come back.
    #[test]
    fn what_is_not_kept_is_gone() {
        let kept = || {
            let before = capabilities(None).unwrap().permitted;
            keep_capabilities(CapabilitySet::NET_RAW).unwrap();
            let after = capabilities(None).unwrap();
            let expected = before.intersection(CapabilitySet::NET_RAW);
            assert_eq!((after.permitted, after.effective), (expected, expected));
            assert_eq!(after.inheritable, CapabilitySet::empty());
            assert!(rustix::thread::no_new_privs().unwrap());
            if before.contains(CapabilitySet::SETPCAP) {
                assert!(!capability_is_in_bounding_set(CapabilitySet::SYS_ADMIN).unwrap());
                assert!(capability_is_in_bounding_set(CapabilitySet::NET_RAW).unwrap());
            }
        };
        std::thread::spawn(kept).join().unwrap();
    }
}
