//! Exceptions from the real program, through AF_XDP sockets and back, in a network namespace without a name. Needs
//! root.
//!
//! ```text
//!   far ======veth, 4 queues====== port [program, sockets] --redirect--> out ===veth=== sink
//!   packet socket: sends frames,   02:00:00:00:00:01
//!   takes what the sockets send
//! ```

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use aya::programs::{TestRun, TestRunOptions};
use mplsxdp::dataplane::Tables;
use mplsxdp::dataplane::XdpMode;
use mplsxdp::dataplane::kernel::KernelTables;
use mplsxdp::dataplane::loader::{Loader, Sizes};
use mplsxdp::dataplane::port::{Attachment, attach};
use mplsxdp::kernel::ethtool::receive_queues;
use mplsxdp::lfib::Lfib;
use mplsxdp::slowpath::xsk::{Layout, TransmitError, XskPort};
use mplsxdp_common::abi::{Counter, Loss, Police, Reason, Settings, TtlMode, UnknownPolicy};
use mplsxdp_tests::conformance::lab;
use mplsxdp_tests::conformance::notation::Frame;
use mplsxdp_tests::wait::open_sockets;
use nix::errno::Errno;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::{Pid, geteuid};

const PORT: u16 = 3;
const QUEUES: u32 = 4;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// Longer than a chunk, but short enough for a program without multi-buffer support.
const MTU: usize = 3400;
/// How long to wait for an expected frame.
const PATIENCE: Duration = Duration::from_secs(20);

/// One frame for each reason that the slow path handles.
const PUNTED: [(Reason, &str); 7] = [
    (Reason::TtlExpired, "[100 1] ip"),
    (Reason::NoRoute, "[999 64] ip"),
    (Reason::Unresolved, "[180 64] ip"),
    (Reason::TooBig, "[170 64] ip size 200"),
    (Reason::RouterAlert, "[1 64] [100 64] ip"),
    (Reason::Oam, "[13 64] hex 1000000100000000"),
    (Reason::LspPing, "ip ttl 1 to 127.0.0.1 udp 3503"),
];
/// Frames of some reasons that it does not handle.
const DROPPED: [(Reason, &str); 3] = [
    (Reason::ImplicitNull, "[3 64] ip"),
    (Reason::SpecialLabel, "[15 64] ip"),
    (Reason::Malformed, "[100 64 -]"),
];

fn bytes(text: &str) -> Vec<u8> {
    Frame::parse(text).to_bytes()
}

fn needs_root() {
    assert!(
        geteuid().is_root(),
        "this test loads the XDP program and makes network namespaces: run it as root, as `cargo xtask test` does"
    );
}

fn loader(police: Police) -> Loader {
    let sizes = Sizes {
        labels: lab::CAPACITY.labels,
        stacks: lab::CAPACITY.stacks,
        groups: lab::CAPACITY.groups,
        backups: lab::CAPACITY.backups,
        counter_slots: lab::CAPACITY.counter_slots,
    };
    Loader::new(sizes).unwrap().with_police(police)
}

fn settings() -> Settings {
    Settings::new(PORT.into(), TtlMode::Uniform, 255, false, false)
}

/// The namespace with the program on `port`.
struct Switch {
    lfib: Lfib<KernelTables>,
    far: PacketSocket,
    attachment: Attachment,
    _loader: Loader,
}

impl Switch {
    /// Runs a test in its own namespace, with a tokio runtime.
    fn run(police: Police, test: impl AsyncFnOnce(Switch) + Send + 'static) {
        needs_root();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            // Only the test's frames.
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            let queues = format!("numrxqueues {QUEUES} numtxqueues {QUEUES}");
            run(&format!(
                "ip link add port address 02:00:00:00:00:01 {queues} type veth peer name far {queues}"
            ));
            run("ip link add out type veth peer name sink");
            for link in ["port", "far"] {
                run(&format!("ip link set {link} mtu {MTU} up"));
            }
            for link in ["out", "sink"] {
                run(&format!("ip link set {link} up"));
            }
            // A veth accepts redirected frames if its peer has NAPI.
            run("ethtool -K sink gro on");

            let loader = loader(police);
            let mut tables = KernelTables::open(loader.pins(), 0).unwrap();
            tables.store_port(PORT, lab::port_word("core"));
            tables.set_tx_port(lab::TX_PORTS[0], ifindex("out")).unwrap();
            let lfib = lab::install(tables);
            let attachment = attach(loader.program(settings()).unwrap(), ifindex("port"), XdpMode::Native).unwrap();
            let switch = Switch {
                lfib,
                far: PacketSocket::open("far"),
                attachment,
                _loader: loader,
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(test(switch));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    /// Opens the port's sockets, in the layout of this kernel, and has exceptions punted to them.
    fn listen(&mut self) -> XskPort {
        let queues = receive_queues("port").unwrap();
        let port = open_sockets("port", || XskPort::open("port", queues)).unwrap();
        self.punt_to(port)
    }

    /// The same in a given layout.
    fn listen_as(&mut self, layout: Layout) -> XskPort {
        let queues = receive_queues("port").unwrap();
        let port = open_sockets("port", || XskPort::open_as("port", queues, layout)).unwrap();
        self.punt_to(port)
    }

    fn punt_to(&mut self, port: XskPort) -> XskPort {
        for (queue, socket) in port.receiver.sockets() {
            self.lfib.tables_mut().set_listener(PORT, queue, socket).unwrap();
        }
        port
    }

    fn counter(&self, reason: Reason) -> Counter {
        self.lfib.tables().reason_counter(PORT, reason).unwrap()
    }

    fn lost(&self, reason: Reason, loss: Loss) -> u64 {
        self.lfib.tables().loss_counter(PORT, reason, loss).unwrap().packets
    }
}

/// Receives `count` frames.
async fn receive(port: &mut XskPort, count: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while frames.len() < count {
        let readable = tokio::time::timeout_at(deadline, port.receiver.readable()).await;
        let Ok(readable) = readable else {
            panic!("{} of {count} frames came up", frames.len());
        };
        readable.unwrap();
        port.receiver
            .receive(count - frames.len(), |frame| frames.push(frame.to_vec()));
    }
    frames
}

/// Repeats until everything is sent: the kernel takes it at once only if the socket's buffer has room and the interface
/// is not busy.
fn flush(port: &mut XskPort) {
    let deadline = Instant::now() + PATIENCE;
    while port.transmitter.flush().unwrap() > 0 {
        assert!(Instant::now() < deadline, "the frames do not go out");
    }
}

/// Receives everything that has arrived, and returns the number of frames.
async fn drain(port: &mut XskPort, mut each: impl FnMut(&[u8])) -> u64 {
    let mut frames = 0;
    while tokio::time::timeout(Duration::from_millis(200), port.receiver.readable())
        .await
        .is_ok()
    {
        frames += port.receiver.receive(256, &mut each) as u64;
    }
    frames
}

#[test]
fn exceptions_come_up_untouched_each_on_its_queue() {
    Switch::run(Police::UNLIMITED, async |mut switch| {
        assert_eq!(receive_queues("port").unwrap(), QUEUES);
        let mut port = switch.listen();
        let mut sent = Vec::new();
        for (_, text) in PUNTED {
            sent.push(bytes(text));
        }
        // Many flows, which the kernel spreads over the queues.
        for source in 0..200 {
            let mut frame = bytes("ip ttl 1 to 127.0.0.1 udp 3503");
            frame[34..36].copy_from_slice(&u16::to_be_bytes(5000 + source));
            sent.push(frame);
        }
        for frame in &sent {
            switch.far.send(frame);
        }
        for (_, text) in DROPPED {
            switch.far.send(&bytes(text));
        }

        // The frames of one queue keep their order, but which queue comes first is open.
        let mut received = receive(&mut port, sent.len()).await;
        received.sort();
        sent.sort();
        assert_eq!(received, sent);
        assert_eq!(drain(&mut port, |_| ()).await, 0, "what is not punted came up");

        let statistics: Vec<_> = port.receiver.statistics().map(Result::unwrap).collect();
        println!("{statistics:?}");
        assert!(statistics.iter().filter(|queue| queue.received > 10).count() > 1);
        assert_eq!(statistics.iter().map(|queue| queue.received).sum::<u64>(), 207);
        for (reason, text) in PUNTED.into_iter().chain(DROPPED) {
            let expected = if reason == Reason::LspPing { 201 } else { 1 };
            let length = bytes(text).len() as u64;
            assert_eq!(
                switch.counter(reason),
                Counter {
                    packets: expected,
                    bytes: expected * length
                },
                "{reason:?}"
            );
        }
        for (reason, _) in PUNTED {
            assert_eq!(Loss::ALL.iter().map(|&loss| switch.lost(reason, loss)).sum::<u64>(), 0);
        }
    });
}

#[test]
fn a_policer_admits_its_burst_for_each_reason_and_counts_the_rest() {
    // A second without a token, in which all frames arrive.
    Switch::run(Police::new(1, 50), async |mut switch| {
        let mut port = switch.listen();
        let start = Instant::now();
        let offered = 300;
        for _ in 0..offered {
            for (_, text) in PUNTED {
                switch.far.send(&bytes(text));
            }
        }
        let mut received: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        drain(&mut port, |frame| *received.entry(frame.to_vec()).or_default() += 1).await;
        let elapsed = start.elapsed();
        for (reason, text) in PUNTED {
            let admitted = received[&bytes(text)];
            assert_eq!(admitted + switch.lost(reason, Loss::Policed), offered, "{reason:?}");
            assert!(
                (50..=50 + elapsed.as_secs() + 1).contains(&admitted),
                "{admitted} {reason:?} in {elapsed:?}"
            );
            assert_eq!(switch.counter(reason).packets, offered, "policed or not");
            assert_eq!(switch.lost(reason, Loss::NoListener), 0);
        }
    });
}

#[test]
fn a_policer_is_exact_on_all_cpus_together() {
    needs_root();
    // All CPUs draw on the burst at the same time, for half of the run.
    let (burst, frames) = (500_000, 1_000_000);
    let loader = loader(Police::new(1, burst));
    let mut tables = KernelTables::open(loader.pins(), 0).unwrap();
    tables.store_port(PORT, lab::port_word("core"));
    let lfib = lab::install(tables);
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert!(cpus > 1, "one CPU alone cannot race");
    let ready = Arc::new(Barrier::new(cpus));
    let threads: Vec<_> = (0..cpus)
        .map(|cpu| {
            let program = loader.program(settings()).unwrap();
            let ready = ready.clone();
            std::thread::spawn(move || {
                let mut set = CpuSet::new();
                set.set(cpu).unwrap();
                sched_setaffinity(Pid::from_raw(0), &set).unwrap();
                let frame = bytes("[999 64] ip");
                let options = TestRunOptions {
                    data_in: Some(&frame),
                    repeat: frames,
                    ..TestRunOptions::new()
                };
                ready.wait();
                let start = Instant::now();
                // An exception leaves the frame unchanged, so that it can be run again.
                program.xdp().test_run(options).unwrap();
                (start, Instant::now())
            })
        })
        .collect();
    let times: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let (starts, ends): (Vec<_>, Vec<_>) = times.into_iter().unzip();
    let elapsed = *ends.iter().max().unwrap() - *starts.iter().min().unwrap();

    let lost = |loss| {
        let counter = lfib.tables().loss_counter(PORT, Reason::NoRoute, loss).unwrap();
        counter.packets
    };
    // Without a listener, admitted frames are counted there.
    let (admitted, policed) = (lost(Loss::NoListener), lost(Loss::Policed));
    println!("{admitted} admitted, {policed} policed in {elapsed:?}");
    assert_eq!(admitted + policed, u64::from(frames) * cpus as u64);
    let burst = u64::from(burst);
    assert!((burst..=burst + elapsed.as_secs() + 1).contains(&admitted));
}

#[test]
fn without_a_listener_exceptions_are_dropped_and_counted_so() {
    Switch::run(Police::UNLIMITED, async |mut switch| {
        let frame = bytes("[999 64] ip");
        for _ in 0..10 {
            switch.far.send(&frame);
        }
        assert_eq!(switch.lost(Reason::NoRoute, Loss::NoListener), 10);
        assert_eq!(switch.lost(Reason::NoRoute, Loss::Policed), 0);

        let mut port = switch.listen();
        switch.far.send(&frame);
        receive(&mut port, 1).await;
        // The entry disappears with the socket.
        drop(port);
        switch.far.send(&frame);
        assert_eq!(switch.lost(Reason::NoRoute, Loss::NoListener), 11);
        assert_eq!(switch.counter(Reason::NoRoute).packets, 12);
    });
}

#[test]
fn unknown_labels_are_dropped_or_passed_where_the_settings_say_so() {
    needs_root();
    let loader = loader(Police::UNLIMITED);
    let mut tables = KernelTables::open(loader.pins(), 0).unwrap();
    tables.store_port(PORT, lab::port_word("core"));
    let lfib = lab::install(tables);
    let policies = [
        (UnknownPolicy::Punt, XDP_DROP, 1),
        (UnknownPolicy::Drop, XDP_DROP, 1),
        (UnknownPolicy::Pass, XDP_PASS, 1),
    ];
    for (count, (policy, action, without_listener)) in (1..).zip(policies) {
        let program = loader.program(settings().with_unknown(policy)).unwrap();
        let run = |text: &str| {
            let frame = bytes(text);
            let mut out = vec![0; frame.len()];
            let options = TestRunOptions {
                data_in: Some(&frame),
                data_out: Some(&mut out),
                ..TestRunOptions::new()
            };
            let result = program.xdp().test_run(options).unwrap();
            assert_eq!(out, frame, "an exception leaves the frame as it was");
            result.return_value
        };
        assert_eq!(run("[999 64] [100 64] ip"), action, "{policy:?}");
        let counter = |reason| lfib.tables().reason_counter(PORT, reason).unwrap().packets;
        let unheard = |reason| {
            let counter = lfib.tables().loss_counter(PORT, reason, Loss::NoListener).unwrap();
            counter.packets
        };
        assert_eq!(counter(Reason::NoRoute), count, "{policy:?}");
        // Only where it would have been punted.
        assert_eq!(unheard(Reason::NoRoute), without_listener, "{policy:?}");

        // Other reasons are not affected.
        assert_eq!(run("[100 1] ip"), XDP_DROP);
        assert_eq!(unheard(Reason::TtlExpired), count);
        assert_eq!(run("[3 64] ip"), XDP_DROP);
        assert_eq!(counter(Reason::ImplicitNull), count);
    }
}

#[test]
fn what_is_transmitted_arrives_byte_for_byte() {
    Switch::run(Police::UNLIMITED, async |mut switch| {
        let mut port = switch.listen();
        // More frames than there is memory for: the memory is reused.
        for round in 0..100u8 {
            let frames: Vec<_> = (0..50u8)
                .map(|index| {
                    let mut frame = bytes("for 02:00:00:00:00:fe [100 64] ip");
                    frame.extend([round, index]);
                    frame.resize(frame.len() + usize::from(round) * 7, index);
                    frame
                })
                .collect();
            for frame in &frames {
                port.transmitter.transmit(frame).unwrap();
            }
            flush(&mut port);
            for frame in frames {
                assert_eq!(switch.far.receive(), frame);
            }
        }
        assert_eq!(port.transmitter.transmit(&[]), Ok(()));
        // As many chunks as a packet has fragments, or one.
        let too_long = port.transmitter.transmit(&[0; 70_000]).unwrap_err();
        assert!(
            matches!(too_long, TransmitError::TooLong { most: 30_464 | 3840 }),
            "{too_long}"
        );
    });
}

#[test]
fn what_is_not_flushed_fills_the_memory_and_nothing_is_lost() {
    Switch::run(Police::UNLIMITED, async |mut switch| {
        let mut port = switch.listen();
        let frame = bytes("[100 64] ip size 1000");
        let mut queued = 0;
        while port.transmitter.transmit(&frame) != Err(TransmitError::Full) {
            queued += 1;
        }
        assert_eq!(queued, 512);
        flush(&mut port);
        for _ in 0..queued {
            assert_eq!(switch.far.receive(), frame);
        }
        assert_eq!(port.transmitter.transmit(&frame), Ok(()), "memory is free again");
    });
}

#[test]
fn a_flood_of_exceptions_takes_nothing_from_valid_frames_and_other_reasons() {
    // Hardly any token during the flood, however long it lasts: the receive ring has room for all admitted frames.
    Switch::run(Police::new(1, 200), async |mut switch| {
        let mut port = switch.listen();
        let (unknown, valid) = (bytes("[999 64] ip"), bytes("[100 64] ip"));
        let expired = bytes("[100 1] ip");
        let arrived_before = received_packets("sink");
        for round in 0..1000 {
            for _ in 0..100 {
                switch.far.send(&unknown);
            }
            for _ in 0..10 {
                switch.far.send(&valid);
            }
            if round % 10 == 0 {
                switch.far.send(&expired);
            }
        }
        let (mut unknowns, mut others) = (0, 0);
        drain(&mut port, |frame| {
            if frame == unknown {
                unknowns += 1;
            } else {
                assert_eq!(frame, expired);
                others += 1;
            }
        })
        .await;
        let policed = switch.lost(Reason::NoRoute, Loss::Policed);
        println!("{unknowns} of the flood came up, {policed} were policed");
        assert_eq!(received_packets("sink") - arrived_before, 10_000, "valid frames");
        assert_eq!(others, 100, "frames of another reason");
        assert_eq!(switch.lost(Reason::TtlExpired, Loss::Policed), 0);
        assert_eq!(switch.counter(Reason::NoRoute).packets, 100_000);
        assert_eq!(unknowns + policed, 100_000);
        assert!(policed > 50_000);
    });
}

#[test]
fn frames_larger_than_a_chunk_come_up_and_go_out_whole() {
    large_frames_come_up_and_go_out_whole(Layout::ScatterGather);
}

#[test]
fn a_chunk_takes_the_largest_frame_where_a_frame_cannot_be_in_several() {
    large_frames_come_up_and_go_out_whole(Layout::OneChunk);
}

fn large_frames_come_up_and_go_out_whole(layout: Layout) {
    Switch::run(Police::UNLIMITED, async move |mut switch| {
        let mut port = switch.listen_as(layout);
        // Around the limits of small chunks, one of which holds 1792 bytes, and between small frames.
        for size in [60, 1791, 1792, 1793, 46, MTU + 14] {
            let mut frame = bytes("[999 64] ip");
            frame.resize(size.max(frame.len()), 0);
            for (index, byte) in frame.iter_mut().enumerate().skip(18) {
                *byte = (index % 251) as u8;
            }
            switch.far.send(&frame);
            assert!(
                receive(&mut port, 1).await == std::slice::from_ref(&frame),
                "{size} {layout:?}"
            );
            port.transmitter.transmit(&frame).unwrap();
            flush(&mut port);
            assert!(switch.far.receive() == frame, "{size} {layout:?}");
        }
        // Several at once, more than a batch.
        let frames: Vec<_> = (0..150u8)
            .map(|index| {
                let mut frame = bytes("[999 64] ip");
                frame.resize(3000, index);
                frame
            })
            .collect();
        for frame in &frames {
            switch.far.send(frame);
        }
        assert!(receive(&mut port, frames.len()).await == frames, "{layout:?}");
    });
}

#[test]
fn sockets_are_bound_again_soon_after_they_are_closed() {
    Switch::run(Police::UNLIMITED, async |mut switch| {
        let frame = bytes("[999 64] ip");
        for _ in 0..5 {
            let mut port = switch.listen();
            switch.far.send(&frame);
            assert_eq!(receive(&mut port, 1).await, std::slice::from_ref(&frame));
        }
        // Two sockets on one queue are not possible: the error says where.
        let port = switch.listen();
        let Err(error) = XskPort::open("port", 1) else {
            panic!("a queue was bound twice")
        };
        assert!(
            error.is_busy() && error.to_string().contains("queue 0 of port"),
            "{error}"
        );
        drop(port);
        // The program goes first, then the sockets.
        let port = switch.listen();
        drop(switch.attachment);
        drop(port);
    });
}

#[test]
fn an_interface_that_is_not_there_is_an_error_that_says_so() {
    Switch::run(Police::UNLIMITED, async |_| {
        let Err(error) = XskPort::open("nowhere", 1) else {
            panic!("there is no such interface")
        };
        assert!(error.to_string().contains("nowhere"), "{error}");
        assert!(receive_queues("nowhere").is_err());
        // Loopback does not report channels.
        assert_eq!(receive_queues("lo").unwrap(), 1);
    });
}

#[test]
fn the_fill_ring_is_never_empty_however_slow_the_slow_path_is() {
    Switch::run(Police::UNLIMITED, async |mut switch| {
        let mut port = switch.listen();
        let frame = bytes("[999 64] ip");
        // Nothing is read during the first half, then a little at a time.
        for _ in 0..50_000 {
            switch.far.send(&frame);
        }
        for index in 0..50_000 {
            switch.far.send(&frame);
            if index % 500 == 0 {
                let _ = tokio::time::timeout(Duration::from_millis(1), port.receiver.readable()).await;
                port.receiver.receive(100, |received| assert_eq!(received, frame));
            }
        }
        drain(&mut port, |received| assert_eq!(received, frame)).await;

        assert_eq!(switch.counter(Reason::NoRoute).packets, 100_000);
        let statistics: Vec<_> = port.receiver.statistics().map(Result::unwrap).collect();
        println!("{statistics:?}");
        for queue in &statistics {
            assert_eq!((queue.fill_ring_empty, queue.dropped), (0, 0));
        }
        let (received, ring_full) = statistics.iter().fold((0, 0), |(received, full), queue| {
            (received + queue.received, full + queue.ring_full)
        });
        assert_eq!(received + ring_full, 100_000);
        assert!(ring_full > 50_000 - 1024, "the burst was no burst");
        assert!(received > 2000, "{received}");
    });
}

/// A socket whose frames are those on the wire of one interface.
struct PacketSocket(OwnedFd);

impl PacketSocket {
    fn open(interface: &str) -> Self {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: makes a descriptor, which is owned from here on.
        let socket = unsafe {
            let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            assert!(socket >= 0, "{}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(socket)
        };
        let set = |level, option, value: libc::c_int| {
            // SAFETY: the value lives until the call returns.
            let result = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    level,
                    option,
                    (&raw const value).cast(),
                    size_of_val(&value) as u32,
                )
            };
            assert_eq!(result, 0, "{}", io::Error::last_os_error());
        };
        set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1);
        set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20);
        // SAFETY: zero is a value for each of its fields.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = ifindex(interface).cast_signed();
        // SAFETY: the address lives until the call returns.
        let result = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        Self(socket)
    }

    fn send(&self, frame: &[u8]) {
        // Some kernels report that a veth had no room, and the frame is gone: it is sent again.
        let sent = loop {
            match nix::unistd::write(&self.0, frame) {
                Err(Errno::ENOBUFS) => std::thread::yield_now(),
                sent => break sent,
            }
        };
        assert_eq!(sent, Ok(frame.len()));
    }

    fn receive(&self) -> Vec<u8> {
        let mut frame = vec![0; 65_536];
        let deadline = Instant::now() + PATIENCE;
        loop {
            // SAFETY: the buffer has the given length.
            let length = unsafe {
                libc::recv(
                    self.0.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            if let Ok(length) = usize::try_from(length) {
                frame.truncate(length);
                return frame;
            }
            assert!(Instant::now() < deadline, "no frame arrived");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn run(line: &str) {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    let output = command
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// sysfs shows another namespace's interfaces.
fn ifindex(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).unwrap()
}

/// From this thread's namespace.
fn received_packets(interface: &str) -> u64 {
    let interfaces = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let prefix = format!("{interface}:");
    let line = interfaces
        .lines()
        .find_map(|line| line.trim().strip_prefix(&prefix))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
