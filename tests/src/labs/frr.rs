//! FRR on a router: its daemons, from the tree of Debian packages that the guest has, and vtysh.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mplsxdp_tests::tidy::{Reaped, spawn};
use mplsxdp_tests::wait;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;

use crate::net::{Node, text};
use crate::show;

/// The tree of packages, in which FRR runs.
pub const DEBIAN: &str = "/debian";
/// The users that FRR's own installation would create, with the numbers of Debian's first users, and `nobody`, which
/// ExaBGP looks up at its start.
const USERS: [(&str, &str); 4] = [
    (
        "etc/passwd",
        "root:x:0:0::/root:/bin/sh\nfrr:x:100:102::/nonexistent:/usr/sbin/nologin\n\
         nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n",
    ),
    (
        "etc/group",
        "root:x:0:\nfrrvty:x:101:frr\nfrr:x:102:\nnogroup:x:65534:\n",
    ),
    ("etc/pam.d/frr", PERMIT),
    ("etc/pam.d/other", PERMIT),
];
/// vtysh asks PAM.
const PERMIT: &str = "auth required pam_permit.so\naccount required pam_permit.so\n";
const USER: (u32, u32) = (100, 102);
const STOP: Duration = Duration::from_secs(30);
const START: Duration = Duration::from_secs(60);

/// The daemons of a router.
pub struct Frr<'a> {
    node: &'a Node,
    configuration: String,
    /// In the order in which they start.
    daemons: Vec<Daemon>,
}

struct Daemon {
    name: &'static str,
    options: String,
    process: Option<Reaped>,
}

impl<'a> Frr<'a> {
    /// Starts zebra, staticd and `daemons` with a configuration of the labs directory. `zebra` are options for zebra.
    pub fn start(node: &'a Node, configuration: &str, daemons: &[&'static str], zebra: &str) -> Result<Self> {
        prepare()?;
        let directory = Path::new(DEBIAN).join("etc/frr").join(node.name());
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("frr.conf"), text(configuration)?)?;
        fs::write(directory.join("vtysh.conf"), "service integrated-vtysh-config\n")?;
        let run = run_directory(node);
        fs::create_dir_all(&run)?;
        chown(&run, Some(USER.0), Some(USER.1))?;
        let names = ["zebra", "staticd"].into_iter().chain(daemons.iter().copied());
        let mut frr = Self {
            node,
            configuration: configuration.to_owned(),
            daemons: names
                .map(|name| Daemon {
                    name,
                    options: String::new(),
                    process: None,
                })
                .collect(),
        };
        frr.set_zebra_options(zebra);
        frr.start_all()?;
        Ok(frr)
    }

    /// Options that zebra gets when it starts next.
    pub fn set_zebra_options(&mut self, options: &str) {
        for daemon in self.daemons.iter_mut().filter(|daemon| daemon.name == "zebra") {
            options.clone_into(&mut daemon.options);
        }
    }

    /// Starts daemons that are not running, and makes all of them read the configuration.
    pub fn start_all(&mut self) -> Result<()> {
        for daemon in &mut self.daemons {
            if daemon.process.is_none() {
                daemon.start(self.node)?;
            }
        }
        self.read_configuration()
    }

    /// `vtysh -b`.
    fn read_configuration(&self) -> Result<()> {
        let output = self.vtysh_command().arg("-b").output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let wrong = said
            .lines()
            .find(|line| line.starts_with('%') || line.contains("line "));
        if let Some(wrong) = wrong {
            bail!("{}: {wrong}\n{said}", self.configuration);
        }
        ensure!(output.status.success(), "`vtysh -b` on {}: {said}", self.node.name());
        Ok(())
    }

    fn vtysh_command(&self) -> Command {
        let mut command = self.node.netns().command("chroot");
        command.args([DEBIAN, "/usr/bin/vtysh", "-N", self.node.name()]);
        command
    }

    /// The output of vtysh for a command.
    pub fn ask(&self, line: &str) -> Result<String> {
        let output = self.vtysh_command().args(["-c", line]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "`{line}` on {}: {text}{}",
            self.node.name(),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// The same, shown.
    pub fn show(&self, line: &str) -> Result<String> {
        show::command(self.node, &format!("vtysh -c '{line}'"));
        let text = self.ask(line)?;
        show::printed(&text);
        Ok(text)
    }

    /// Ends a daemon by a signal; `all` ends every one, zebra last.
    pub fn stop(&mut self, name: &str, signal: Signal) -> Result<()> {
        let ending = self.daemons.iter_mut().rev();
        for daemon in ending.filter(|daemon| name == "all" || daemon.name == name) {
            if let Some(mut process) = daemon.process.take() {
                process.signal(signal)?;
                process
                    .ended(STOP)
                    .with_context(|| format!("{} of {}", daemon.name, self.node.name()))?;
            }
        }
        Ok(())
    }

    /// Sends a signal to every daemon, such as SIGSTOP.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut running = self.daemons.iter().filter_map(|daemon| daemon.process.as_ref());
        running.try_for_each(|process| process.signal(signal))
    }

    pub fn node(&self) -> &'a Node {
        self.node
    }
}

impl Daemon {
    fn start(&mut self, node: &Node) -> Result<()> {
        let socket = run_directory(node).join(format!("{}.vty", self.name));
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let log = fs::File::create(format!("/tmp/{}-{}.log", node.name(), self.name))?;
        let mut command = node.netns().command("chroot");
        command
            .args([DEBIAN, &format!("/usr/lib/frr/{}", self.name), "-N", node.name()])
            .args(["--log", "stdout"])
            .args(self.options.split_whitespace())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut process = spawn(&mut command)?;
        wait::until(&format!("the start of {} on {}", self.name, node.name()), START, || {
            if let Some(status) = process.child().try_wait()? {
                bail!(
                    "{} on {} ended ({status}): {}",
                    self.name,
                    node.name(),
                    log_of(node, self.name)
                );
            }
            Ok(socket.exists().then_some(()))
        })?;
        self.process = Some(process);
        Ok(())
    }
}

/// The log of a daemon.
fn log_of(node: &Node, daemon: &str) -> String {
    fs::read_to_string(format!("/tmp/{}-{daemon}.log", node.name())).unwrap_or_default()
}

fn run_directory(node: &Node) -> PathBuf {
    Path::new("/run/frr").join(node.name())
}

/// Turns the tree of packages into a system, once.
pub fn prepare() -> Result<()> {
    static PREPARED: Once = Once::new();
    let mut prepared = Ok(());
    PREPARED.call_once(|| prepared = make_system());
    prepared
}

fn make_system() -> Result<()> {
    let root = Path::new(DEBIAN);
    ensure!(
        root.join("usr/lib/frr/zebra").exists(),
        "no FRR in {DEBIAN}: labs with FRR run by `cargo xtask guest lab NAME`"
    );
    for place in ["proc", "dev", "run", "tmp", "source"] {
        fs::create_dir_all(root.join(place))?;
        mount(
            Some(&*format!("/{place}")),
            &root.join(place),
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            None::<&str>,
        )
        .with_context(|| format!("cannot mount /{place} in {DEBIAN}"))?;
    }
    for (file, content) in USERS {
        fs::create_dir_all(root.join(file).parent().unwrap_or(root))?;
        fs::write(root.join(file), content)?;
    }
    for place in ["var/log/frr", "var/tmp/frr", "var/lib/frr", "/run/frr"] {
        let place = root.join(place);
        fs::create_dir_all(&place)?;
        chown(&place, Some(USER.0), Some(USER.1))?;
    }
    if !root.join("var/run").exists() {
        symlink("/run", root.join("var/run"))?;
    }
    Ok(())
}
