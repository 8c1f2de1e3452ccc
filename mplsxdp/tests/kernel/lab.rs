//! Network namespaces without names, for tests that need root: each belongs to a thread, and is gone with it.
//!
//! ```text
//!   router (the test's own)          peer
//!     eth1 192.0.2.1/24  ---- veth ----  eth1 192.0.2.2/24
//!          2001:db8:1::1/64                   2001:db8:1::2/64
//!     eth2 198.51.100.1/24 -- veth ----  eth2 198.51.100.2/24
//! ```

use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{geteuid, gettid};

type Job = Box<dyn FnOnce() + Send>;

/// A thread in its own network namespace.
struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// The thread's id, which names its namespace to `ip`.
    tid: i32,
}

impl Namespace {
    fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (tid, ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            tid.send(gettid().as_raw()).unwrap();
            for job in queue {
                job();
            }
        });
        Self {
            tid: ready.recv().expect("the namespace's thread"),
            jobs: Some(jobs),
            thread: Some(thread),
        }
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = Box::new(move || done.send(job()).unwrap());
        self.jobs.as_ref().unwrap().send(job).unwrap();
        result.recv().expect("what ran in the namespace panicked")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Both namespaces, from the router's point of view.
pub struct Lab {
    peer: Namespace,
}

impl Lab {
    /// Runs a test in the router's namespace, with a tokio runtime.
    pub fn run(test: impl AsyncFnOnce(Lab) + Send + 'static) {
        assert!(
            geteuid().is_root(),
            "this test makes network namespaces and needs root: `sudo -E cargo test -p mplsxdp --test kernel`"
        );
        let router = Namespace::new();
        router.run(move || {
            let peer = Namespace::new();
            let lab = Lab { peer };
            ip("link set dev lo up");
            lab.peer_ip("link set dev lo up");
            for (name, number) in [("eth1", 1), ("eth2", 2)] {
                ip(&format!(
                    "link add {name} type veth peer name {name} netns {}",
                    lab.peer.tid
                ));
                let prefix = ["192.0.2", "198.51.100"][number - 1];
                for end in [1, 2] {
                    for command in [
                        format!("addr add {prefix}.{end}/24 dev {name}"),
                        format!("addr add 2001:db8:{number}::{end}/64 dev {name} nodad"),
                        format!("link set dev {name} address 52:54:00:00:0{number}:0{end} up"),
                    ] {
                        match end {
                            1 => ip(&command),
                            _ => lab.peer_ip(&command),
                        };
                    }
                }
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(test(lab));
        });
    }

    /// `ip COMMAND` in the peer's namespace.
    pub fn peer_ip(&self, command: &str) -> String {
        let command = command.to_owned();
        self.peer.run(move || ip(&command))
    }

    pub fn peer_sysctl(&self, path: &str, value: &str) {
        let (path, value) = (path.to_owned(), value.to_owned());
        self.peer.run(move || sysctl(&path, &value));
    }

    /// Any command in the peer's namespace.
    pub fn peer_run(&self, program: &str, arguments: &str) -> String {
        let (program, arguments) = (program.to_owned(), arguments.to_owned());
        self.peer.run(move || run(&program, &arguments))
    }

    pub fn peer_tid(&self) -> i32 {
        self.peer.tid
    }
}

/// `ip COMMAND` in the router's namespace; returns what it prints.
pub fn ip(command: &str) -> String {
    run("ip", command)
}

/// A command in the router's namespace, which must succeed.
pub fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Writes /proc/sys/net/PATH, which belongs to the namespace of the thread that writes it.
pub fn sysctl(path: &str, value: &str) {
    let path = Path::new("/proc/sys/net").join(path);
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
