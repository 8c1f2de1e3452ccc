//! Directories that only root and this user can change, so that nobody else can put files into them, or others in
//! their place.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use nix::unistd::geteuid;

/// As many symbolic links as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Why a directory cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    #[error(
        "others than root and user {user} can change {path} (owner {owner}, mode {mode:o}): `chown {user} {path} && chmod \
         go-w {path}`",
        path = path.display()
    )]
    Changeable {
        path: PathBuf,
        owner: u32,
        mode: u32,
        user: u32,
    },
    #[error("{path} is a symbolic link of user {owner}: `rm {path}`", path = path.display())]
    Link { path: PathBuf, owner: u32 },
    #[error("{path} is not a directory: `rm {path}`", path = path.display())]
    NotADirectory { path: PathBuf },
    #[error("cannot look at {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Checks a directory and all above it, and symbolic links on the way. Others may create files in one with the sticky
/// bit above it, as in /tmp. What does not exist is not checked: check it again when it has been made.
pub fn check(directory: &Path) -> Result<(), Untrusted> {
    check_for(geteuid().as_raw(), directory)
}

fn check_for(user: u32, directory: &Path) -> Result<(), Untrusted> {
    let io = |source| Untrusted::Io {
        path: directory.to_owned(),
        source,
    };
    let directory = std::path::absolute(directory).map_err(io)?;
    let mut links = MAX_LINKS;
    walk(user, &directory, true, &mut links)
}

/// `is_end`: nothing follows, so nobody else may create files there.
fn walk(user: u32, path: &Path, is_end: bool, links: &mut usize) -> Result<(), Untrusted> {
    const STICKY: u32 = 0o1000;
    const OTHERS_WRITE: u32 = 0o022;
    let mut at = PathBuf::new();
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        if component == Component::CurDir {
            continue;
        }
        at.push(component);
        let is_end = is_end && components.peek().is_none();
        let found = match at.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.map_err(|source| Untrusted::Io {
                path: at.clone(),
                source,
            })?,
        };
        let (owner, mode) = (found.uid(), found.mode() & 0o7777);
        let is_ours = owner == 0 || owner == user;
        if found.is_symlink() {
            if !is_ours || *links == 0 {
                return Err(Untrusted::Link { path: at, owner });
            }
            *links -= 1;
            let target = at.read_link().map_err(|source| Untrusted::Io {
                path: at.clone(),
                source,
            })?;
            let above = at.parent().unwrap_or(Path::new("/"));
            walk(user, &above.join(target), is_end, links)?;
        } else if !found.is_dir() {
            return Err(Untrusted::NotADirectory { path: at });
        } else if !is_ours || (mode & OTHERS_WRITE != 0 && (is_end || mode & STICKY == 0)) {
            return Err(Untrusted::Changeable {
                path: at,
                owner,
                mode,
                user,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use tempfile::TempDir;

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn nobody_else_may_change_a_directory_or_one_above_it() {
        let dir = TempDir::new().unwrap();
        let (above, end) = (dir.path().join("a"), dir.path().join("a/b"));
        fs::create_dir_all(&end).unwrap();
        for (path, mode, is_good) in [
            (&end, 0o755, true),
            (&end, 0o700, true),
            (&end, 0o775, false),
            (&end, 0o757, false),
            (&end, 0o1777, false),
            (&above, 0o777, false),
            (&above, 0o770, false),
            (&above, 0o1777, true),
        ] {
            chmod(path, mode);
            let checked = check(&end);
            assert_eq!(checked.is_ok(), is_good, "{} {mode:o}: {checked:?}", path.display());
            if let Err(error) = checked {
                let error = error.to_string();
                let command = format!("chmod go-w {}`", path.display());
                assert!(
                    error.contains(&command) && error.contains(&format!("mode {mode:o}")),
                    "{error}"
                );
            }
            chmod(path, 0o755);
        }
        // What is not there yet.
        assert!(check(&end.join("c/d")).is_ok());
        fs::write(end.join("c"), "").unwrap();
        let error = check(&end.join("c")).unwrap_err().to_string();
        assert!(error.contains("is not a directory"), "{error}");
    }

    #[test]
    fn a_link_leads_to_a_directory_that_is_checked_as_well() {
        let dir = TempDir::new().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::create_dir_all(real.join("end")).unwrap();
        symlink("real/end", &link).unwrap();
        assert!(check(&link).is_ok());
        for (path, mode) in [(real.clone(), 0o777), (real.join("end"), 0o1777)] {
            chmod(&path, mode);
            assert!(matches!(check(&link), Err(Untrusted::Changeable { path: at, .. }) if at.ends_with(&path)));
            chmod(&path, 0o755);
        }
        let circle = dir.path().join("circle");
        symlink("circle", &circle).unwrap();
        assert!(matches!(check(&circle), Err(Untrusted::Link { .. })));
    }

    #[test]
    fn what_another_user_has_put_there_is_refused() {
        /// `nobody`.
        const OTHER: u32 = 65534;
        let link = tempfile::Builder::new()
            .make_in("/tmp", |path| symlink("/", path))
            .unwrap();
        let dir = TempDir::new_in("/tmp").unwrap();
        let (link, dir) = (link.path(), dir.path());
        assert!(check(link).is_ok() && check(dir).is_ok());
        // Only root can give files away. Those of anybody else are another user's for a third one.
        let (user, owner) = match geteuid() {
            root if root.is_root() => {
                for path in [link, dir] {
                    std::os::unix::fs::lchown(path, Some(OTHER), None).unwrap();
                }
                (0, OTHER)
            }
            own => (OTHER, own.as_raw()),
        };
        for path in [dir.to_owned(), dir.join("x"), link.to_owned(), link.join("x")] {
            let found = match check_for(user, &path) {
                Err(Untrusted::Changeable { path, owner, .. } | Untrusted::Link { path, owner }) => Some((path, owner)),
                _ => None,
            };
            let put = if path.starts_with(dir) { dir } else { link };
            assert_eq!(found, Some((put.to_owned(), owner)), "{}", path.display());
        }
    }
}
