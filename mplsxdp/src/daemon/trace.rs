//! Traces a frame: runs the forwarding core on it, rehearses the slow path, and has the switch explain both.

use std::time::Instant;

use mplsxdp_common::fib::FibLookup;
use mplsxdp_common::forward::Verdict;

use super::exceptions::{Exceptions, View, tag};
use crate::control::api::Trace;
use crate::dataplane::kernel::KernelTables;
use crate::dataplane::recorder::{FibAnswer, Recorded};
use crate::slowpath::rehearsal::Rehearsed;
use crate::switch::Switch;

/// What would happen to a frame.
pub struct Traced {
    /// The port whose program gets the frame.
    program: u16,
    /// The frame as the program gets it.
    frame: Vec<u8>,
    recorded: Recorded,
    rehearsed: Vec<Rehearsed>,
}

impl Traced {
    /// Of a frame that arrives at this port; at a sub-interface, without its tags. `fib` is the kernel's answer, if it is
    /// known already.
    pub fn of(frame: &[u8], port: u16, fib: Option<FibAnswer>, exceptions: &Exceptions, view: &View<'_>) -> Self {
        let (program, tags) = view.ports.way_out(port).unwrap_or_default();
        let mut tagged = Vec::new();
        let frame = tag(frame, tags, &mut tagged).to_vec();
        let settings = view.ports.settings(program);
        let recorded = Recorded::of(&frame, &view.tables.at_wire(settings), fib);
        let rehearsed = match recorded.verdict {
            Verdict::Exception(reason) if settings.punts(reason) => {
                exceptions.rehearse(&frame, program, view, Instant::now())
            }
            _ => Vec::new(),
        };
        Self {
            program,
            frame,
            recorded,
            rehearsed,
        }
    }

    /// The question to the kernel's FIB that has no answer yet.
    pub fn unanswered(&self) -> Option<FibLookup> {
        self.recorded.unanswered()
    }

    pub fn explain(&self, switch: &Switch<KernelTables>) -> Trace {
        switch.explain(self.program, &self.frame, &self.recorded, &self.rehearsed)
    }
}
