//! The latest exceptions of one label, by a connection of its own that watches while somebody looks.

use std::io::{self, PipeReader};
use std::os::fd::AsFd as _;
use std::sync::mpsc;
use std::thread;

use mplsxdp_common::wire::Label;

use crate::cli::monitor::exception_line;
use crate::control::Instance;
use crate::control::api::{EventKind, Monitor};
use crate::control::client::{Client, ClientError};

/// How many are kept.
const LATEST: usize = 8;

pub struct Exceptions {
    lines: mpsc::Receiver<String>,
    pub latest: Vec<String>,
    /// As long as this is open, events are wanted.
    _wanted: PipeReader,
}

impl Exceptions {
    /// Of the frames that have this label in their stack.
    pub fn of(label: Label, instance: Instance) -> io::Result<Self> {
        let (wanted, output) = io::pipe()?;
        let (sender, lines) = mpsc::sync_channel(LATEST);
        thread::spawn(move || {
            let chosen = Monitor {
                kinds: Some(vec![EventKind::Exception]),
                ..Monitor::default()
            };
            let mut client = Client::connect(&instance)?;
            client.monitor(&chosen, output.as_fd(), |events| {
                let exceptions = events.events.into_iter().filter_map(|event| event.exception);
                let of_label = exceptions.filter(|seen| seen.labels.iter().any(|entry| entry.label == label.get()));
                for exception in of_label {
                    // What is too fast to be drawn is too fast to be read.
                    let _ = sender.try_send(exception_line(&exception));
                }
                Ok::<_, ClientError>(())
            })
        });
        Ok(Self {
            lines,
            latest: Vec::new(),
            _wanted: wanted,
        })
    }

    /// Takes what has come. Returns whether anything has.
    pub fn take(&mut self) -> bool {
        let before = self.latest.len();
        self.latest.extend(self.lines.try_iter());
        let has_new = self.latest.len() > before;
        self.latest.drain(..self.latest.len().saturating_sub(LATEST));
        has_new
    }
}
