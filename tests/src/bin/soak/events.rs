//! What happens to the router.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mplsxdp::control::api::Status;
use mplsxdp_tests::random::Random;
use nix::sys::signal::Signal;

use crate::account::Account;
use crate::flood::{self, Flood};
use crate::net::{Net, ended};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Nothing, for a moment.
    Rest,
    /// The exposed link goes down and up.
    Flap,
    /// The host behind it is silent, so that the neighbour may fail.
    Silence,
    /// Its interface vanishes and returns.
    Unplug,
    /// The attacker sends as fast as it can.
    Flood(Flood),
    /// The controller is stopped for a while (SIGSTOP).
    Pause,
    /// The controller is killed, and loaded again.
    Kill,
    /// It ends by a signal that it handles, and is loaded again.
    Terminate,
    /// It is killed while it starts, once or several times.
    KillAtStart,
    /// It is killed, and the exposed link flaps before it is back.
    FlapUnattended,
    /// The program's file is replaced, and the running instance goes over to it.
    Upgrade,
}

/// What one process lives through.
pub const CALM: [Event; 10] = [
    Event::Rest,
    Event::Rest,
    Event::Flap,
    Event::Silence,
    Event::Unplug,
    Event::Pause,
    Event::Flood(Flood::Expired),
    Event::Flood(Flood::Unknown),
    Event::Flood(Flood::Arp),
    Event::Flood(Flood::Random),
];

/// What ends the process, or exchanges it.
pub const RESTARTS: [Event; 7] = [
    Event::Kill,
    Event::Terminate,
    Event::KillAtStart,
    Event::KillAtStart,
    Event::FlapUnattended,
    Event::Upgrade,
    Event::Upgrade,
];

impl Event {
    pub fn of(all: &[Self], random: &mut Random) -> Self {
        random.of(all)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Flap => "flap",
            Self::Silence => "silence",
            Self::Unplug => "unplug",
            Self::Flood(flood) => flood.name(),
            Self::Pause => "pause",
            Self::Kill => "kill",
            Self::Terminate => "terminate",
            Self::KillAtStart => "kill at start",
            Self::FlapUnattended => "flap unattended",
            Self::Upgrade => "upgrade",
        }
    }

    /// Makes it happen. Afterwards the router runs, and all its next hops have their MAC addresses.
    pub fn happen(self, net: &mut Net, random: &mut Random, account: &mut Account) -> Result<()> {
        let moment = Duration::from_millis(10 + random.below(990));
        match self {
            Self::Rest => sleep(moment),
            Self::Flap => account.fault("flap", || {
                flap(net, moment)?;
                net.recovered()
            })?,
            Self::Silence => account.fault("silence", || {
                net.far.ip("link set eth0 down")?;
                sleep(moment * 10);
                net.far.ip("link set eth0 up")?;
                net.recovered()
            })?,
            Self::Unplug => account.fault("unplug", || {
                net.unplug()?;
                sleep(moment);
                net.plug()?;
                net.recovered()
            })?,
            Self::Flood(flood) => flood::send(net, flood, moment * 2, random)?,
            Self::Pause => {
                net.running()?.signal(Signal::SIGSTOP)?;
                sleep(moment * 3);
                net.running()?.signal(Signal::SIGCONT)?;
            }
            Self::Kill => {
                net.end(Signal::SIGKILL)?;
                sleep(moment);
                net.load()?;
            }
            Self::Terminate => {
                net.end(Signal::SIGTERM)?;
                net.load()?;
            }
            Self::KillAtStart => {
                net.end(Signal::SIGKILL)?;
                for _ in 0..=random.below(4) {
                    let mut process = net.start()?;
                    sleep(Duration::from_millis(random.below(400)));
                    if let Some(status) = process.child().try_wait()? {
                        bail!("the process ended by itself ({status})");
                    }
                    process.signal(Signal::SIGKILL)?;
                    ended(&mut process)?;
                }
                net.load()?;
            }
            Self::FlapUnattended => {
                net.end(Signal::SIGKILL)?;
                account.fault("flap unattended", || {
                    flap(net, moment)?;
                    net.load()?;
                    net.recovered()
                })?;
            }
            Self::Upgrade => {
                net.replace_program()?;
                let router = net.running()?;
                let pid = router.json::<Status>("status")?.pid;
                let said = router.run("upgrade")?;
                ensure!(said.contains(&format!("in process {pid}\n")), "{said}");
            }
        }
        account.happened(self.name());
        Ok(())
    }
}

fn flap(net: &Net, moment: Duration) -> Result<()> {
    net.router().ip("link set eth4 down")?;
    sleep(moment);
    net.router().ip("link set eth4 up").map(drop)
}
