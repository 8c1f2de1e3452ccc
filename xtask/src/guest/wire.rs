//! The guest's messages to the host, line by line over a serial port, and the host's plan for the guest.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What `/init` does: a file of this name in the root of the initramfs, as JSON.
pub const PLAN: &str = "plan.json";
/// The port for the reports of `/init`. The kernel's own messages go elsewhere.
pub const PORT: &str = match cfg!(target_arch = "aarch64") {
    true => "/dev/ttyS0",
    false => "/dev/ttyS1",
};

#[derive(Serialize, Deserialize)]
pub struct Plan {
    /// Kernel modules that are not loaded automatically.
    pub modules: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// Whether systemd is the first process, and the plan is carried out by a service.
    pub by_systemd: bool,
    pub runs: Vec<Run>,
}

/// A test program, and its arguments.
#[derive(Clone, Serialize, Deserialize)]
pub struct Run {
    pub program: String,
    pub arguments: Vec<String>,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program)?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {argument}"))
    }
}

/// A line. The first byte says what kind it is, so that the output of a test cannot be mistaken for anything else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// The kernel that runs.
    Kernel(String),
    /// The run of this number in the plan has begun.
    Begin(usize),
    Stdout(String),
    Stderr(String),
    /// The run has ended, with exit status 0 or otherwise.
    End(usize, bool),
    /// Something went wrong outside the tests.
    Error(String),
    /// All of the plan has been done.
    Done,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(release) => write!(f, "K{release}"),
            Self::Begin(run) => write!(f, "B{run}"),
            Self::Stdout(text) => write!(f, "1{text}"),
            Self::Stderr(text) => write!(f, "2{text}"),
            Self::End(run, well) => write!(f, "E{run} {well}"),
            Self::Error(text) => write!(f, "!{text}"),
            Self::Done => f.write_str("D"),
        }
    }
}

impl Line {
    /// `None` for a line that no guest sends.
    pub fn parse(line: &str) -> Option<Self> {
        let mut rest = line.chars();
        let kind = rest.next()?;
        let rest = rest.as_str();
        Some(match kind {
            'K' => Self::Kernel(rest.to_owned()),
            'B' => Self::Begin(rest.parse().ok()?),
            '1' => Self::Stdout(rest.to_owned()),
            '2' => Self::Stderr(rest.to_owned()),
            'E' => {
                let (run, well) = rest.split_once(' ')?;
                Self::End(run.parse().ok()?, well.parse().ok()?)
            }
            '!' => Self::Error(rest.to_owned()),
            'D' if rest.is_empty() => Self::Done,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn lines_come_out_as_they_went_in() {
        for line in [
            Line::Kernel("6.1.0-50-cloud-amd64".into()),
            Line::Begin(3),
            Line::Stdout("test result: ok. 1 passed".into()),
            Line::Stdout(String::new()),
            Line::Stderr("D".into()),
            Line::End(3, false),
            Line::Error("no /dev".into()),
            Line::Done,
        ] {
            assert_eq!(Line::parse(&line.to_string()), Some(line));
        }
        for noise in ["", "Booting from ROM...", "Done", "E1", "B"] {
            assert_eq!(Line::parse(noise), None, "{noise}");
        }
    }
}
