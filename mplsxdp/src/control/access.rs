//! Who may use the control socket. The kernel keeps everybody else from connecting, by the socket's owner, mode and
//! access control list. The class of a client is decided by what the kernel recorded when it connected (SO_PEERCRED,
//! SO_PEERGROUPS), so it does not change while the connection lasts.

use std::fmt;
use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Group, geteuid};
use rustix::fs::{XattrFlags, setxattr};

use super::Peer;
use super::api::Error;

/// Members may use all calls.
pub const GROUP: &str = "mplsxdp";
/// Members may use the calls that change nothing.
pub const VIEW_GROUP: &str = "mplsxdp-view";

/// The mode of the socket: connecting takes the permission to write.
const SOCKET_MODE: u32 = 0o660;
/// Its mode without groups. A member of root's group is not root.
const PRIVATE_MODE: u32 = 0o600;

/// What a call does, and so what its caller must be allowed to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    Change,
}

/// A class of caller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// A member of group `mplsxdp-view`.
    View,
    /// A member of group `mplsxdp`.
    Change,
    /// Root, or the user that the instance runs as.
    Root,
}

impl Class {
    pub fn may(self, access: Access) -> bool {
        access == Access::Read || self >= Self::Change
    }
}

/// The ids of the two groups; `None` for a group that does not exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Groups {
    pub change: Option<u32>,
    pub view: Option<u32>,
}

impl Groups {
    /// The groups of this machine. This reads files.
    pub fn look_up() -> Self {
        let id = |name| match Group::from_name(name) {
            Ok(group) => group.map(|group| group.gid.as_raw()),
            // There is no /etc/group.
            Err(Errno::ENOENT) => None,
            Err(error) => {
                tracing::warn!("cannot look up the group {name}: {error}; its members cannot use the control socket");
                None
            }
        };
        Self {
            change: id(GROUP),
            view: id(VIEW_GROUP),
        }
    }

    /// The class of a user with these groups; `None`: no caller at all.
    pub fn class(&self, uid: u32, gids: &[u32]) -> Option<Class> {
        let is_in = |group: Option<u32>| group.is_some_and(|group| gids.contains(&group));
        if uid == 0 || uid == geteuid().as_raw() {
            Some(Class::Root)
        } else if is_in(self.change) {
            Some(Class::Change)
        } else if is_in(self.view) {
            Some(Class::View)
        } else {
            None
        }
    }

    /// Lets the members of these groups connect to a socket that nobody can connect to yet. A file has only one group: a
    /// second one needs an access control list.
    pub fn admit(&self, socket: &Path) -> io::Result<()> {
        let group = self.change.or(self.view);
        if group.is_some() {
            std::os::unix::fs::chown(socket, None, group)?;
        }
        let mode = group.map_or(PRIVATE_MODE, |_| SOCKET_MODE);
        std::fs::set_permissions(socket, Permissions::from_mode(mode))?;
        if let (Some(_), Some(view)) = (self.change, self.view)
            && let Err(error) = setxattr(socket, ACL, &acl_with(view), XattrFlags::empty())
        {
            tracing::warn!(
                "members of the group {VIEW_GROUP} cannot connect to {}, whose file system does not take an access control \
                 list: {error}",
                socket.display()
            );
        }
        Ok(())
    }
}

/// The extended attribute with a file's access control list (acl(5)).
const ACL: &str = "system.posix_acl_access";

/// A list that gives the owner, the owning group and this group what [`SOCKET_MODE`] gives, in the layout of
/// linux/posix_acl_xattr.h: a version, then entries of tag, permissions and id.
fn acl_with(group: u32) -> Vec<u8> {
    const VERSION: u32 = 2;
    const USER_OBJ: u16 = 0x01;
    const GROUP_OBJ: u16 = 0x04;
    const NAMED_GROUP: u16 = 0x08;
    const MASK: u16 = 0x10;
    const OTHER: u16 = 0x20;
    const NO_ID: u32 = u32::MAX;
    const READ_WRITE: u16 = 6;
    let entries = [
        (USER_OBJ, READ_WRITE, NO_ID),
        (GROUP_OBJ, READ_WRITE, NO_ID),
        (NAMED_GROUP, READ_WRITE, group),
        (MASK, READ_WRITE, NO_ID),
        (OTHER, 0, NO_ID),
    ];
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Who is at the other end of a connection, with all of its groups.
pub fn peer_of(socket: &impl AsFd) -> (Peer, Vec<u32>) {
    match getsockopt(socket, sockopt::PeerCredentials) {
        Ok(credentials) => {
            let peer = Peer {
                pid: credentials.pid(),
                uid: credentials.uid(),
            };
            let mut gids = supplementary_groups(socket).unwrap_or_else(|error| {
                tracing::warn!(peer.pid, peer.uid, "cannot find out the groups of a client: {error}");
                Vec::new()
            });
            gids.push(credentials.gid());
            (peer, gids)
        }
        // -1 is no user: the kernel's own "invalid user".
        Err(_) => {
            let (pid, uid) = (0, u32::MAX);
            (Peer { pid, uid }, Vec::new())
        }
    }
}

fn supplementary_groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut gids: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(size_of_val(&*gids)).map_err(io::Error::other)?;
        // SAFETY: it writes at most `bytes` bytes to `gids`, which has that many, and the length to `bytes`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                gids.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<libc::gid_t>();
        match Errno::result(result) {
            Ok(_) => {
                gids.truncate(count);
                return Ok(gids);
            }
            // `bytes` is how many it takes: at most NGROUPS_MAX, 65536 groups.
            Err(Errno::ERANGE) if count > gids.len() => gids.resize(count, 0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The error of a call that its caller may not make.
pub fn refuse(peer: Peer, method: impl fmt::Display) -> Error {
    Error::PermissionDenied {
        group: GROUP.into(),
        reason: format!(
            "{method} changes the instance, and the caller (uid {}) may only read, as a member of the group {VIEW_GROUP}: call \
             it as root, or as a member of the group {GROUP}",
            peer.uid
        ),
    }
}

/// The error for a client that may not call anything.
pub fn turn_away(peer: Peer) -> Error {
    Error::PermissionDenied {
        group: VIEW_GROUP.into(),
        reason: format!(
            "the caller (uid {}) is neither root nor a member of the group {GROUP}, which may use all calls, or of \
             {VIEW_GROUP}, which may use those that only read; {HINT}",
            peer.uid
        ),
    }
}

/// When a membership counts.
pub const HINT: &str =
    "a group counts if it existed when the instance started, and a membership from the next login on";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_follows_from_the_user_and_all_groups() {
        let groups = Groups {
            change: Some(900),
            view: Some(901),
        };
        let other = geteuid().as_raw() + 1000;
        for (uid, gids, class) in [
            (0, &[][..], Some(Class::Root)),
            (geteuid().as_raw(), &[], Some(Class::Root)),
            (other, &[1, 900], Some(Class::Change)),
            (other, &[901, 900], Some(Class::Change)),
            (other, &[901], Some(Class::View)),
            (other, &[0, 1, 902], None),
            (u32::MAX, &[], None),
        ] {
            assert_eq!(groups.class(uid, gids), class, "{uid} {gids:?}");
        }
        // Nobody is in a group that does not exist.
        assert_eq!(Groups::default().class(other, &[0, 900, 901]), None);
        let may = |class: Class| [class.may(Access::Read), class.may(Access::Change)];
        assert_eq!(may(Class::View), [true, false]);
        assert_eq!((may(Class::Change), may(Class::Root)), ([true; 2], [true; 2]));
    }
}
