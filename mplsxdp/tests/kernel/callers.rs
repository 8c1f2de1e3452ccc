//! The classes of callers of the control socket, with the kernel's users and groups. Threads of this process take other
//! users and groups, which no other thread notices, so nothing depends on which users this machine has.

use std::fs::Permissions;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use mplsxdp::control::access::{Access, Groups};
use mplsxdp::control::api::{Method, Reply};
use mplsxdp::control::server::{self, Limits};
use mplsxdp::control::{Instance, socket};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const CHANGE: u32 = 70_001;
const VIEW: u32 = 70_002;
const GROUPS: Groups = Groups {
    change: Some(CHANGE),
    view: Some(VIEW),
};
/// A user that no machine has.
const USER: u32 = 70_010;

/// A server that answers each request with `Done`, in a file system with access control lists. Ends when dropped.
struct Server {
    /// As this thread, which is in another mount namespace, sees it.
    socket: PathBuf,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<()>>,
    _folder: TempDir,
}

impl Server {
    fn start(groups: Groups, limits: Limits) -> Self {
        let folder = TempDir::new().unwrap();
        // Other users pass through it.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        // Not every file system for temporary files has access control lists. Nobody else sees this one.
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).unwrap();
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        mount(
            Some("tmpfs"),
            folder.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=755"),
        )
        .unwrap();
        let instance = Instance::in_dir(folder.path().join("run"), "default").unwrap();
        let socket = instance.socket();
        let shutdown = CancellationToken::new();
        let until = shutdown.clone();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (listener, _guard) = socket::bind(&instance, &groups).unwrap();
                ready.send(()).unwrap();
                let (sender, mut calls) = mpsc::channel::<mplsxdp::control::Call>(16);
                let answer = async {
                    while let Some(call) = calls.recv().await {
                        let _ = call.reply.send(Ok(Reply::Done));
                    }
                };
                tokio::join!(
                    server::serve(listener, sender, groups, limits, Arc::default(), until),
                    answer
                );
            });
        });
        is_ready.recv().unwrap();
        Self {
            socket,
            shutdown,
            thread: Some(thread),
            _folder: folder,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        nix::mount::umount(self._folder.path()).unwrap();
        if !thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

/// Does something as this user with these groups, of which the first is the primary one. The system calls concern only the
/// calling thread, unlike the functions of the C library.
fn within<T: Send>(uid: u32, gids: &[u32], work: impl FnOnce() -> T + Send) -> T {
    let become_user = || {
        let check = |result: libc::c_long| assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        let (&primary, rest) = gids.split_first().unwrap();
        // SAFETY: `rest` has as many ids.
        check(unsafe { libc::syscall(libc::SYS_setgroups, rest.len(), rest.as_ptr()) });
        // SAFETY: numbers only.
        check(unsafe { libc::syscall(libc::SYS_setresgid, primary, primary, primary) });
        // SAFETY: numbers only.
        check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) });
    };
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            become_user();
            work()
        });
        thread.join().unwrap()
    })
}

fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    UnixStream::connect(socket)
}

fn receive(stream: &mut UnixStream) -> Option<Value> {
    let mut message = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() > 0 {
        if byte == [0] {
            return Some(serde_json::from_slice(&message).unwrap());
        }
        message.extend(byte);
    }
    None
}

fn call(stream: &mut UnixStream, method: &str, parameters: Value) -> Value {
    let call = json!({ "method": format!("io.mplsxdp.{method}"), "parameters": parameters });
    stream.write_all(format!("{call}\0").as_bytes()).unwrap();
    receive(stream).unwrap()
}

/// The methods that this caller may not use.
fn refused(stream: &mut UnixStream) -> Vec<&'static str> {
    let refused = Method::ALL.iter().map(|method| method.name()).filter(|method| {
        let reply = call(stream, method, json!({}));
        reply["error"] == "io.mplsxdp.PermissionDenied"
    });
    refused.collect()
}

#[test]
fn each_class_gets_the_calls_that_are_declared_for_it() {
    let server = Server::start(GROUPS, Limits::default());
    let changing: Vec<_> = Method::ALL
        .iter()
        .filter(|method| method.access() == Access::Change)
        .collect();
    let changing: Vec<_> = changing.into_iter().map(|method| method.name()).collect();
    for (uid, gids, expected) in [
        (0, &[0][..], &[][..]),
        // By the primary group, by another one, by one of very many, and in both groups.
        (USER, &[CHANGE], &[]),
        (USER, &[USER, 1, CHANGE], &[]),
        (
            USER,
            &[&(80_000..82_000).collect::<Vec<_>>()[..], &[CHANGE]].concat(),
            &[],
        ),
        (USER, &[VIEW, CHANGE], &[]),
        (USER, &[VIEW], &changing),
        (USER, &[USER, 0, VIEW], &changing),
    ] {
        let refused = within(uid, gids, || refused(&mut connect(&server.socket).unwrap()));
        assert_eq!(refused, expected, "{uid} {gids:?}");
    }
    within(USER, &[VIEW], || {
        let mut stream = connect(&server.socket).unwrap();
        let reply = call(&mut stream, "Unload", json!({}));
        let reason = format!(
            "Unload changes the instance, and the caller (uid {USER}) may only read, as a member of the group mplsxdp-view: call \
             it as root, or as a member of the group mplsxdp"
        );
        let parameters = json!({ "group": "mplsxdp", "reason": reason });
        assert_eq!(
            reply,
            json!({ "error": "io.mplsxdp.PermissionDenied", "parameters": parameters })
        );
        // One method does both.
        let repair =
            |stream: &mut _, repair: bool| call(stream, "CheckSync", json!({ "repair": repair }))["error"].clone();
        assert_eq!(repair(&mut stream, true), "io.mplsxdp.PermissionDenied");
        assert_eq!(repair(&mut stream, false), Value::Null);
        // What only reads is short.
        let long = json!({ "name": "x".repeat(64 << 10) });
        assert_eq!(call(&mut stream, "GetVrf", long)["error"], "io.mplsxdp.MessageTooLarge");
    });
}

#[test]
fn the_kernel_keeps_everybody_else_out() {
    let denied = |socket: &Path, gids: &[u32]| {
        let error = within(USER, gids, || connect(socket).err());
        error.map(|error| error.kind())
    };
    let none = Some(ErrorKind::PermissionDenied);
    for (change, view, expected) in [
        (Some(CHANGE), Some(VIEW), [None, None, none]),
        (Some(CHANGE), None, [None, none, none]),
        (None, Some(VIEW), [none, None, none]),
        (None, None, [none, none, none]),
    ] {
        let server = Server::start(Groups { change, view }, Limits::default());
        assert_eq!(denied(&server.socket, &[0]), none, "{change:?} {view:?}");
        let found = [CHANGE, VIEW, USER].map(|gid| denied(&server.socket, &[USER, gid]));
        assert_eq!(found, expected, "{change:?} {view:?}");
        let file = server.socket.metadata().unwrap();
        let is_shared = change.or(view).is_some();
        assert_eq!(file.mode() & 0o777, if is_shared { 0o660 } else { 0o600 });
        assert_eq!((file.uid(), file.gid()), (0, change.or(view).unwrap_or(0)));
    }
}

/// An administrator may have opened the socket to everybody.
#[test]
fn a_client_of_no_class_is_turned_away_even_if_it_can_connect() {
    let server = Server::start(GROUPS, Limits::default());
    std::fs::set_permissions(&server.socket, Permissions::from_mode(0o666)).unwrap();
    within(USER, &[USER, 0], || {
        let mut stream = connect(&server.socket).unwrap();
        let reply = receive(&mut stream).unwrap();
        assert_eq!(reply["error"], "io.mplsxdp.PermissionDenied");
        assert_eq!(reply["parameters"]["group"], "mplsxdp-view");
        assert_eq!(receive(&mut stream), None);
    });
}

#[test]
fn clients_are_bounded_for_each_class() {
    let limits = Limits {
        clients: 3,
        root_clients: 1,
        view_clients: 2,
        ..Limits::default()
    };
    let server = Server::start(GROUPS, limits);
    let answers = |stream: &mut UnixStream| call(stream, "GetVrf", json!({ "name": "red" }))["error"] == Value::Null;
    let fill = |gids: &[u32], limit: usize| {
        within(USER, gids, || {
            let mut streams: Vec<_> = (0..limit).map(|_| connect(&server.socket).unwrap()).collect();
            assert!(streams.iter_mut().all(answers));
            let mut next = connect(&server.socket).unwrap();
            let refused = json!({ "error": "io.mplsxdp.TooManyClients", "parameters": { "limit": limit } });
            assert_eq!(receive(&mut next), Some(refused));
            assert_eq!(receive(&mut next), None);
            streams
        })
    };
    let mut viewers = fill(&[VIEW], 2);
    let mut changers = fill(&[CHANGE], 3);
    // Root takes its own place, and then that of its own client.
    let mut root: Vec<_> = (0..100).map(|_| connect(&server.socket).unwrap()).collect();
    assert!(root.last_mut().is_some_and(answers));
    assert!(
        viewers.iter_mut().chain(&mut changers).all(answers),
        "they keep their places"
    );
    let reply = call(root.last_mut().unwrap(), "Unload", json!({}));
    assert_eq!(reply, json!({ "parameters": {} }));
}
