//! Records what the forwarding core asks the tables about one frame, and what they answer. Nothing is counted.

use std::cell::{Cell, RefCell};

use mplsxdp_common::abi::{
    Adjacency, CrossConnect, Domain, Encapsulation, LabelStack, PortWord, Reason, RouteEntry, Settings,
    SubInterfaceKey, VrfWord,
};
use mplsxdp_common::fib::FibLookup;
use mplsxdp_common::forward::{self, Arrival, Frame, PortView, ServiceFrame, Verdict, forward};
use mplsxdp_common::wire::{Label, Mac};

use super::frame::MemoryFrame;

/// A question of the core, with the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// Whether a label is in the ranges of the port.
    Accepted {
        label: Label,
        accepted: bool,
    },
    CrossConnect {
        port: u32,
        to: CrossConnect,
    },
    Pseudowire {
        to: CrossConnect,
        encapsulation: Encapsulation,
    },
    Attachment {
        entry: RouteEntry,
        encapsulation: Encapsulation,
    },
    Ilm {
        label: Label,
        entry: RouteEntry,
    },
    /// Of an IPv4 address, the first four bytes.
    Ftn {
        domain: Domain,
        is_v4: bool,
        destination: [u8; 16],
        entry: RouteEntry,
    },
    Adjacency {
        index: u16,
        adjacency: Option<Adjacency>,
    },
    Stack(LabelStack),
    Bucket {
        group: u32,
        bucket: u8,
        entry: RouteEntry,
    },
    /// What a next hop does, and what its backup does; and whether the first is resolved.
    Protected {
        entries: [RouteEntry; 2],
        resolved: bool,
    },
    Vrf(VrfWord),
    /// A question to the kernel's FIB. `None`: nobody could ask it here.
    Fib {
        question: FibLookup,
        answer: Option<FibAnswer>,
    },
    WayOut {
        ifindex: u32,
        to: Option<CrossConnect>,
    },
}

/// The kernel's answer to a question about a packet of a VRF.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FibAnswer {
    /// Only the kernel can handle the packet.
    Kernel,
    Neighbour {
        ifindex: u32,
        source: Mac,
        destination: Mac,
    },
}

/// What the core decides about a frame, and how it came to that.
#[derive(Clone)]
pub struct Recorded {
    pub settings: Settings,
    /// Where the frame arrived; `None` if it is shorter than its Ethernet header.
    pub arrival: Option<Arrival>,
    /// The word of the port or sub-interface where it arrived, or of the port if it is no sub-interface's.
    pub port: PortWord,
    pub lookups: Vec<Lookup>,
    pub verdict: Verdict,
    /// The frame as it is after that.
    pub frame: MemoryFrame,
}

impl Recorded {
    /// Has the core decide about `frame`, as at the port of `tables`. `fib` is the kernel's answer, if it is known already.
    pub fn of<T: PortView>(frame: &[u8], tables: &T, fib: Option<FibAnswer>) -> Self {
        let mut frame = MemoryFrame::new(frame);
        let settings = tables.settings();
        let arrival = Arrival::of(&frame, tables);
        let number = arrival.and_then(|arrival| arrival.port).unwrap_or(settings.port());
        let recorder = Recorder {
            tables,
            fib,
            lookups: RefCell::default(),
            begun: Cell::new(false),
            served: Cell::new(false),
        };
        let verdict = forward(&mut frame, &recorder);
        Self {
            settings,
            arrival,
            port: tables.port(number),
            lookups: recorder.lookups.into_inner(),
            verdict,
            frame,
        }
    }

    /// The question to the kernel's FIB that has no answer yet.
    pub fn unanswered(&self) -> Option<FibLookup> {
        self.lookups.iter().find_map(|lookup| match lookup {
            Lookup::Fib { question, answer: None } => Some(*question),
            _ => None,
        })
    }
}

/// The tables, with a record of what was asked.
struct Recorder<'a, T> {
    tables: &'a T,
    fib: Option<FibAnswer>,
    lookups: RefCell<Vec<Lookup>>,
    /// The core has tried its shortest path. It begins again if that does not do, and asks the same once more.
    begun: Cell<bool>,
    /// The frame is that of a service, whose label is looked up again.
    served: Cell<bool>,
}

impl<T> Recorder<'_, T> {
    fn note(&self, lookup: Lookup) {
        let mut lookups = self.lookups.borrow_mut();
        if lookups.last() != Some(&lookup) {
            lookups.push(lookup);
        }
    }
}

impl<T: PortView> PortView for Recorder<'_, T> {
    fn settings(&self) -> Settings {
        self.tables.settings()
    }

    fn port(&self, number: u32) -> PortWord {
        if self.begun.get() && !self.served.get() {
            self.begun.set(false);
            self.lookups.borrow_mut().clear();
        }
        self.tables.port(number)
    }

    fn accepts_label(&self, port: PortWord, number: u32, label: Label) -> bool {
        let accepted = self.tables.accepts_label(port, number, label);
        self.note(Lookup::Accepted { label, accepted });
        accepted
    }

    fn cross_connect(&self, port: PortWord, number: u32) -> CrossConnect {
        let to = self.tables.cross_connect(port, number);
        self.note(Lookup::CrossConnect { port: number, to });
        to
    }

    fn pseudowire(&self, index: u32) -> (CrossConnect, Encapsulation) {
        let (to, encapsulation) = self.tables.pseudowire(index);
        self.note(Lookup::Pseudowire { to, encapsulation });
        (to, encapsulation)
    }

    fn attachment(&self, index: u32) -> (RouteEntry, Encapsulation) {
        let (entry, encapsulation) = self.tables.attachment(index);
        self.note(Lookup::Attachment { entry, encapsulation });
        (entry, encapsulation)
    }

    fn traffic_classes(&self, port: PortWord, number: u32, index: usize) -> u64 {
        self.tables.traffic_classes(port, number, index)
    }

    fn sub_interface(&self, key: SubInterfaceKey) -> Option<u32> {
        self.tables.sub_interface(key)
    }

    fn ilm(&self, label: Label) -> RouteEntry {
        let entry = self.tables.ilm(label);
        if !self.served.get() {
            // Not `note`: the same label may come twice, and is then looked up twice.
            self.lookups.borrow_mut().push(Lookup::Ilm { label, entry });
        }
        entry
    }

    fn ftn_v4(&self, domain: Domain, destination: [u8; 4]) -> RouteEntry {
        let entry = self.tables.ftn_v4(domain, destination);
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&destination);
        self.note(Lookup::Ftn {
            domain,
            is_v4: true,
            destination: bytes,
            entry,
        });
        entry
    }

    fn ftn_v6(&self, domain: Domain, destination: [u8; 16]) -> RouteEntry {
        let entry = self.tables.ftn_v6(domain, destination);
        self.note(Lookup::Ftn {
            domain,
            is_v4: false,
            destination,
            entry,
        });
        entry
    }

    fn adjacency(&self, index: u16) -> Option<Adjacency> {
        let adjacency = self.tables.adjacency(index);
        self.note(Lookup::Adjacency { index, adjacency });
        adjacency
    }

    fn label_stack(&self, index: u32) -> Option<&LabelStack> {
        let stack = self.tables.label_stack(index);
        if let Some(&stack) = stack {
            self.note(Lookup::Stack(stack));
        }
        stack
    }

    fn bucket(&self, group: u32, bucket: u8) -> RouteEntry {
        let entry = self.tables.bucket(group, bucket);
        self.note(Lookup::Bucket { group, bucket, entry });
        entry
    }

    fn protected(&self, pair: u32) -> [RouteEntry; 2] {
        let entries = self.tables.protected(pair);
        let resolved = self.tables.is_resolved(entries[0].next_hop());
        self.note(Lookup::Protected { entries, resolved });
        entries
    }

    fn is_resolved(&self, index: u16) -> bool {
        self.tables.is_resolved(index)
    }

    fn vrf(&self, index: u32) -> VrfWord {
        let vrf = self.tables.vrf(index);
        self.note(Lookup::Vrf(vrf));
        vrf
    }

    fn fib<F: Frame>(&self, frame: &F, lookup: &mut FibLookup) -> bool {
        let question = *lookup;
        let answer = self.fib.or_else(|| {
            // The tables of tests have answers.
            let found = self.tables.fib(frame, lookup).then_some(*lookup)?;
            Some(FibAnswer::Neighbour {
                ifindex: found.ifindex(),
                source: found.source_mac(),
                destination: found.destination_mac(),
            })
        });
        self.note(Lookup::Fib { question, answer });
        match answer {
            Some(FibAnswer::Neighbour {
                ifindex,
                source,
                destination,
            }) => {
                *lookup = question.answered(ifindex, source, destination);
                true
            }
            Some(FibAnswer::Kernel) | None => false,
        }
    }

    fn way_out(&self, ifindex: u32) -> Option<CrossConnect> {
        let to = self.tables.way_out(ifindex);
        self.note(Lookup::WayOut { ifindex, to });
        to
    }

    fn serve<F: Frame>(&self, frame: &mut F, received: ServiceFrame) -> u32 {
        self.served.set(true);
        forward::serve(frame, self, received)
    }

    fn hash_seed(&self) -> u32 {
        self.tables.hash_seed()
    }

    fn expect(&self, _label: Label) {
        self.begun.set(true);
    }

    fn count(&self, _slot: u32, _bytes: usize) {}

    fn count_reason(&self, _port: u32, _reason: Reason, _bytes: usize) {}
}
