//! `mplsxdp top`: what the switch does now, on the whole terminal. One thread asks the switch, the other one draws and
//! takes keys, so neither waits for the other.

mod exceptions;
mod sample;
mod screen;
mod state;
mod tables;

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::crossterm::event::{self, Event};
use signal_hook::consts::SIGTERM;

use super::{Failure, Session};
use crate::control::client::Client;
use sample::{Sample, Wanted};
use state::{State, Step};

/// How long to wait for a key before it is looked whether there is a new sample, in milliseconds.
const POLL: u8 = 50;

/// Runs until it is left with `q`, by a signal, or because the instance ends. `interval`: the time between two samples.
pub fn top(interval: Duration, session: &mut Session) -> Result<(), Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "`top` needs a terminal; for scripts there are `-j -s route show`, `-j -s link show` and `-j stats`".into(),
        ));
    }
    session.client()?;
    let Some(client) = session.client.take() else {
        return Ok(());
    };
    let ended = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTERM, Arc::clone(&ended))?;
    let state = State::new(client.instance().clone(), interval);
    let mut terminal = ratatui::try_init()?;
    let left = run(&mut terminal, state, client, &ended);
    // Also after an error, which is printed on the terminal as it was.
    ratatui::try_restore()?;
    left
}

fn run(
    terminal: &mut ratatui::DefaultTerminal,
    mut state: State,
    client: Client,
    ended: &AtomicBool,
) -> Result<(), Failure> {
    let wanted = Arc::new(Mutex::new(state.wanted()));
    let samples = sample_on_thread(client, Arc::clone(&wanted));
    let mut is_changed = true;
    while !ended.load(Ordering::Relaxed) {
        if is_changed {
            terminal.draw(|frame| screen::draw(frame, &mut state))?;
        }
        is_changed = false;
        loop {
            match samples.try_recv() {
                Ok(sample) => state.take(sample?),
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
            }
            is_changed = true;
        }
        is_changed |= state.take_exceptions();
        if !wait_for_key()? {
            return Ok(());
        }
        if event::poll(Duration::ZERO)? {
            match event::read()? {
                Event::Key(key) => match state.key(key) {
                    Step::Leave => return Ok(()),
                    Step::Stay => *wanted.lock().unwrap_or_else(PoisonError::into_inner) = state.wanted(),
                },
                Event::Resize(..) => {}
                _ => continue,
            }
            is_changed = true;
        }
    }
    Ok(())
}

/// Waits a moment. Returns whether the terminal is still there: crossterm would wait for ever for a key of one that is
/// closed.
fn wait_for_key() -> io::Result<bool> {
    let stdin = io::stdin();
    let mut terminal = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    match poll(&mut terminal, PollTimeout::from(POLL)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let is_closed = |flags: PollFlags| flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL);
    Ok(!terminal[0].revents().is_some_and(is_closed))
}

/// Takes samples until one fails or nobody wants them.
fn sample_on_thread(mut client: Client, wanted: Arc<Mutex<Wanted>>) -> mpsc::Receiver<Result<Sample, Failure>> {
    let (sender, samples) = mpsc::sync_channel(1);
    thread::spawn(move || {
        loop {
            let wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let sample = Sample::take(&mut client, &wanted).map_err(Failure::from);
            let has_failed = sample.is_err();
            if sender.send(sample).is_err() || has_failed {
                return;
            }
        }
    });
    samples
}
