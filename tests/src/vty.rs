//! Stands in for zebra on the socket that vtysh uses: answers commands with what a test has said, or with garbage.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;

use crate::wait;

/// How often the threads look whether the test is over.
const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);

/// The sockets of an FRR, of which only zebra's exists.
pub struct Vty {
    directory: PathBuf,
    state: Arc<Mutex<State>>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    /// The answers by their commands, with everything behind the text.
    answers: BTreeMap<String, Vec<u8>>,
    /// Commands that came, in their order.
    asked: Vec<String>,
    ended: bool,
}

impl Vty {
    /// A zebra that has nothing.
    pub fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("mplsxdp-vty-{}-{number}", std::process::id()));
        fs::create_dir(&directory)?;
        let mut vty = Self {
            directory,
            state: Arc::default(),
            listening: None,
        };
        vty.start()?;
        Ok(vty)
    }

    /// The directory of the sockets.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn socket(&self) -> PathBuf {
        self.directory().join("zebra.vty")
    }

    /// Zebra starts; what it says is what it said before.
    pub fn start(&mut self) -> Result<()> {
        let listener = UnixListener::bind(self.socket())?;
        listener.set_nonblocking(true)?;
        self.lock().ended = false;
        let state = Arc::clone(&self.state);
        self.listening = Some(thread::spawn(move || listen(&listener, &state)));
        Ok(())
    }

    /// Zebra ends.
    pub fn stop(&mut self) -> Result<()> {
        self.end();
        Ok(fs::remove_file(self.socket())?)
    }

    fn end(&mut self) {
        self.lock().ended = true;
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to a command from now on.
    pub fn say(&self, command: &str, text: &str) {
        self.say_bytes(command, &[text.as_bytes(), &[0; 4]].concat());
    }

    /// The same with what ends it.
    pub fn say_bytes(&self, command: &str, bytes: &[u8]) {
        self.lock().answers.insert(command.into(), bytes.into());
    }

    /// How often this was asked.
    pub fn asked(&self, command: &str) -> usize {
        self.lock().asked.iter().filter(|asked| *asked == command).count()
    }

    /// Waits until this is asked so many times more.
    pub fn wait_asked(&self, command: &str, times: usize) -> Result<()> {
        let before = self.asked(command);
        wait::until(&format!("another `{command}`"), PATIENCE, || {
            Ok((self.asked(command) >= before + times).then_some(()))
        })
    }
}

impl Drop for Vty {
    fn drop(&mut self) {
        self.end();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn listen(listener: &UnixListener, state: &Arc<Mutex<State>>) {
    let mut serving = Vec::new();
    while !state.lock().unwrap_or_else(PoisonError::into_inner).ended {
        match listener.accept() {
            Ok((stream, _)) => {
                let state = Arc::clone(state);
                // A client that has gone is no failure of the test.
                serving.push(thread::spawn(move || drop(serve(stream, &state))));
            }
            Err(_) => thread::sleep(LOOK),
        }
    }
    for served in serving {
        let _ = served.join();
    }
}

fn serve(mut stream: UnixStream, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LOOK))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return Ok(()),
            Ok(_) if byte == [0] => {
                let command = String::from_utf8_lossy(&line).into_owned();
                line.clear();
                let answer = {
                    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.asked.push(command.clone());
                    match command.as_str() {
                        "enable" => Some(vec![0; 4]),
                        command => state.answers.get(command).cloned(),
                    }
                };
                stream.write_all(answer.as_deref().unwrap_or(b"{\n}\n\0\0\0\0"))?;
            }
            Ok(_) => line.extend(byte),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if state.lock().unwrap_or_else(PoisonError::into_inner).ended {
                    return Ok(());
                }
            }
            Err(error) => return Err(error),
        }
    }
}
