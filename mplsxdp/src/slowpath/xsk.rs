//! AF_XDP sockets: exceptions come up through them, and frames of the slow path leave through them.
//!
//! A port has one socket on each of its receive queues, each with its own memory (a UMEM); frames are sent by the
//! first. They are always bound in copy mode: on a zero-copy queue every frame that is redirected to another port would
//! have to be copied to a fresh page, and exceptions are few.
//!
//! The memory is divided into chunks, which circulate: fill ring, receive ring, this process, and the fill ring again;
//! for sending, this process, transmit ring, completion ring. A descriptor is the right to use its chunk: [`Chunks`]
//! holds those of this process.
//!
//! The fill ring has more chunks than the receive ring has room for, and each one taken from the receive ring is
//! replaced from a reserve before its frame is looked at. So however slow this process is, the fill ring is never
//! empty: a flood fills the receive ring, and the excess is dropped and counted ([`Statistics::ring_full`]).

use std::error::Error as _;
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use crate::descriptors::hint_unless_short;

/// Descriptors in the receive ring of a queue: enough for a burst while this process is not running.
const RECEIVE_RING: u32 = 1024;
/// Chunks left in the fill ring when the receive ring is full: more than the largest frame takes.
const FILL_RESERVE: u32 = 64;
/// Descriptors taken from a ring at once, and chunks in reserve to replace them.
const BATCH: u32 = 64;
/// Chunks for sending, and descriptors in the rings for them.
const TRANSMIT_RING: u32 = 512;
/// The most chunks for one frame to send: the kernel builds a packet of at most this many fragments (MAX_SKB_FRAGS).
const MOST_CHUNKS: usize = 17;
/// In all but the last descriptor of a frame (linux/if_xdp.h).
const XDP_PKT_CONTD: u32 = 1;

/// When to retry a busy queue. The kernel frees a queue some time after the close of its last socket has returned: it
/// needs the lock under which all interfaces are added and removed, which takes seconds on a busy machine. A queue that
/// stays busy belongs to another program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    const LENGTH: Duration = Duration::from_secs(5);
    const FIRST_PAUSE: Duration = Duration::from_millis(10);
    const LONGEST_PAUSE: Duration = Duration::from_millis(250);

    /// Begins with the first failed attempt.
    pub fn new(now: Instant) -> Self {
        Self {
            until: now + Self::LENGTH,
            pause: Self::FIRST_PAUSE,
        }
    }

    /// When the next attempt is due; `None` after the last.
    pub fn next(&mut self, now: Instant) -> Option<Instant> {
        let due = now + self.pause;
        self.pause = (self.pause * 2).min(Self::LONGEST_PAUSE);
        (now < self.until).then_some(due)
    }
}

/// The layout of frames in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// In chunks of 2 KiB; a longer frame takes several. Linux 6.6 and later.
    ScatterGather,
    /// In one chunk of 4 KiB. The contents of a driver's first buffer, a page at most, always fit; the kernel leaves
    /// out the rest of a multi-buffer frame.
    OneChunk,
}

impl Layout {
    const fn chunk_bytes(self) -> u32 {
        match self {
            Self::ScatterGather => 2048,
            Self::OneChunk => 4096,
        }
    }

    fn bind_flags(self) -> BindFlags {
        let always = BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP;
        match self {
            Self::ScatterGather => always | BindFlags::XDP_USE_SG,
            Self::OneChunk => always,
        }
    }
}

/// A socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    #[error("{0:?} is not a valid interface name")]
    Name(String),
    #[error(
        "cannot have {bytes} bytes of memory for an AF_XDP socket: {source}{}",
        hint_unless_short(
            .source,
            "this needs a kernel with CONFIG_XDP_SOCKETS, CAP_NET_RAW, and CAP_IPC_LOCK or a larger memlock limit (`ulimit -l`)"
        )
    )]
    Memory { bytes: u64, source: io::Error },
    #[error("cannot bind an AF_XDP socket to queue {queue} of {interface}: {source}{}", bind_hint(.source))]
    Bind {
        interface: String,
        queue: u32,
        source: io::Error,
    },
    #[error("cannot wait for an AF_XDP socket: {0}")]
    Wait(#[source] io::Error),
}

impl XskError {
    /// Whether another socket has the queue, or had it a moment ago: see [`Patience`].
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Bind { source, .. } if source.raw_os_error() == Some(libc::EBUSY))
    }
}

fn bind_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            "; another program has an AF_XDP socket there: end it (`ss --xdp --processes` names it on a kernel with \
             CONFIG_XDP_SOCKETS_DIAG)"
        }
        Some(libc::EPERM) => "; this needs CAP_NET_RAW",
        _ => "",
    }
}

/// The sockets of a port: those that receive, and the one that sends. They can be used separately.
pub struct XskPort {
    pub receiver: Receiver,
    pub transmitter: Transmitter,
}

impl XskPort {
    /// Opens sockets on the first `queues` queues of an interface in this process's network namespace. Needs a tokio
    /// runtime.
    pub fn open(interface: &str, queues: u32) -> Result<Self, XskError> {
        match Self::open_as(interface, queues, Layout::ScatterGather) {
            // The kernel's answer to an unknown flag.
            Err(XskError::Bind { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
                Self::open_as(interface, queues, Layout::OneChunk)
            }
            result => result,
        }
    }

    /// The same in a given layout.
    pub fn open_as(interface: &str, queues: u32, layout: Layout) -> Result<Self, XskError> {
        let (first, transmitter) = open_queue(interface, 0, layout, TRANSMIT_RING)?;
        let mut receivers = vec![first];
        for queue in 1..queues {
            let (receiver, _) = open_queue(interface, queue, layout, 0)?;
            receivers.push(receiver);
        }
        let receiver = Receiver {
            layout,
            queues: receivers.into_iter().map(register).collect::<Result<_, _>>()?,
            next: 0,
        };
        Ok(Self { receiver, transmitter })
    }
}

/// The sockets that receive the exceptions of one port.
pub struct Receiver {
    layout: Layout,
    queues: Vec<AsyncFd<ReceiveQueue>>,
    /// The queue to look at first next time.
    next: usize,
}

impl Receiver {
    /// Listens on additional queues, so that there are `queues`. If that fails, nothing has changed.
    pub fn extend(&mut self, interface: &str, queues: u32) -> Result<(), XskError> {
        let mut more = Vec::new();
        for queue in self.queues.len() as u32..queues {
            let (receiver, _) = open_queue(interface, queue, self.layout, 0)?;
            more.push(register(receiver)?);
        }
        self.queues.append(&mut more);
        Ok(())
    }

    /// The sockets and their queues, for the XSKMAP. An entry disappears from that when its socket is closed.
    pub fn sockets(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        self.queues.iter().zip(0..).map(|(queue, number)| {
            // SAFETY: the queue owns the socket, and is borrowed for as long.
            (number, unsafe { BorrowedFd::borrow_raw(queue.as_raw_fd()) })
        })
    }

    /// Whether frames lack the part that was not in the driver's first buffer.
    pub fn trims(&self) -> bool {
        self.layout == Layout::OneChunk
    }

    /// Waits until a frame has arrived. Can be dropped and called again at any time.
    pub async fn readable(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_readable(context)).await
    }

    /// As [`Receiver::readable`], to wait for several ports at once.
    pub fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut result = Poll::Pending;
        // Poll all of them, so that each wakes the task.
        for queue in &mut self.queues {
            if let Poll::Ready(ready) = queue.poll_read_ready(context) {
                result = Poll::Ready(ready.map(drop));
            }
        }
        result
    }

    /// Passes up to `budget` complete frames to `each`, one after the other, and returns how many. Fewer than `budget`
    /// means that there are no more. The queues take turns at being first.
    pub fn receive(&mut self, budget: usize, mut each: impl FnMut(&[u8])) -> usize {
        let mut left = budget;
        let first = self.next;
        self.next = (first + 1) % self.queues.len();
        let (before, from_first) = self.queues.split_at_mut(first);
        for queue in from_first.iter_mut().chain(before) {
            // A queue that may have more stays ready; an empty one waits to be woken.
            let _ = queue.try_io_mut(Interest::READABLE, |queue| {
                left -= queue.receive(left, &mut each);
                if left > 0 {
                    Err(io::Error::from(io::ErrorKind::WouldBlock))
                } else {
                    Ok(())
                }
            });
        }
        budget - left
    }

    /// What happened to the frames of each queue.
    pub fn statistics(&self) -> impl Iterator<Item = io::Result<Statistics>> {
        self.queues.iter().map(|queue| queue.get_ref().statistics())
    }
}

/// Counts of one queue since its socket was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Frames handed to the slow path.
    pub received: u64,
    /// Frames dropped because the slow path did not keep up: the receive ring was full.
    pub ring_full: u64,
    /// Frames dropped because they were longer than a chunk (without multi-buffer), or for lack of memory.
    pub dropped: u64,
    /// How often the kernel found no chunk for a frame. Always zero, by construction.
    pub fill_ring_empty: u64,
}

/// Receives on one queue.
struct ReceiveQueue {
    umem: Umem,
    ring: RxQueue,
    fill: FillQueue,
    /// The descriptors that [`ReceiveQueue::receive`] is working on.
    received: Chunks,
    /// [`BATCH`] chunks, less those in `received`.
    reserve: Chunks,
    /// The frame whose first chunks have arrived.
    partial: Vec<u8>,
    frames: u64,
}

impl ReceiveQueue {
    /// Returns how many frames there were; fewer than `budget` if the ring is empty.
    fn receive(&mut self, budget: usize, mut each: impl FnMut(&[u8])) -> usize {
        let mut frames = 0;
        while frames < budget {
            let most = (BATCH as usize).min(budget - frames);
            // SAFETY: descriptors of this ring's own UMEM come from it.
            self.received
                .take_back(most, |chunks| unsafe { self.ring.consume(chunks) });
            if self.received.0.is_empty() {
                break;
            }
            // In copy mode the kernel never needs to be woken for the fill ring: it looks there for each frame. SAFETY:
            // the chunks belong to this ring's UMEM, and to nobody else any more.
            let refilled = self
                .reserve
                .hand_over(self.received.0.len(), |chunks| unsafe { self.fill.produce(chunks) });
            debug_assert_eq!(refilled, self.received.0.len(), "the fill ring has room for all chunks");
            for chunk in &self.received.0 {
                // SAFETY: the chunk has come out of the ring, so the kernel is done with it; it is only read here.
                let bytes = unsafe { self.umem.data(chunk) }.contents();
                if self.partial.is_empty() && !chunk.has_more_frames() {
                    frames += 1;
                    each(bytes);
                    continue;
                }
                self.partial.extend_from_slice(bytes);
                if !chunk.has_more_frames() {
                    frames += 1;
                    each(&self.partial);
                    self.partial.clear();
                }
            }
            self.reserve.0.append(&mut self.received.0);
        }
        self.frames += frames as u64;
        frames
    }

    fn statistics(&self) -> io::Result<Statistics> {
        let kernel = self.ring.fd().xdp_statistics()?;
        Ok(Statistics {
            received: self.frames,
            ring_full: kernel.rx_ring_full(),
            dropped: kernel.rx_dropped(),
            fill_ring_empty: kernel.rx_fill_ring_empty_descs(),
        })
    }
}

impl AsRawFd for ReceiveQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.fd().as_raw_fd()
    }
}

/// A frame was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TransmitError {
    #[error("all memory for frames to send is in use")]
    Full,
    #[error("the frame is longer than {most} bytes, which is all that an AF_XDP socket of this kernel sends")]
    TooLong { most: usize },
}

/// Sends frames out of one port.
pub struct Transmitter {
    umem: Umem,
    ring: TxQueue,
    completion: CompQueue,
    idle: Chunks,
    chunk_bytes: usize,
    /// The most chunks for one frame.
    most_chunks: usize,
}

impl Transmitter {
    /// Queues a frame as it is on the wire. [`Transmitter::flush`] sends it.
    pub fn transmit(&mut self, frame: &[u8]) -> Result<(), TransmitError> {
        let needed = frame.len().div_ceil(self.chunk_bytes);
        if needed > self.most_chunks {
            return Err(TransmitError::TooLong {
                most: self.most_chunks * self.chunk_bytes,
            });
        }
        if self.idle.0.len() < needed {
            self.reclaim();
        }
        let Some(first) = self.idle.0.len().checked_sub(needed) else {
            return Err(TransmitError::Full);
        };
        let chunks = self.idle.0.get_mut(first..).unwrap_or_default();
        for (index, (chunk, bytes)) in chunks.iter_mut().zip(frame.chunks(self.chunk_bytes)).enumerate() {
            chunk.set_options(if index + 1 < needed { XDP_PKT_CONTD } else { 0 });
            // SAFETY: only this side uses an idle chunk.
            let mut data = unsafe { self.umem.data_mut(chunk) };
            let mut cursor = data.cursor();
            cursor.set_pos(0);
            // A chunk has room for its share.
            let _ = cursor.write_all(bytes);
        }
        // SAFETY: the chunks belong to this ring's UMEM, and to nobody else any more.
        let queued = self
            .idle
            .hand_over(needed, |chunks| unsafe { self.ring.produce(chunks) });
        debug_assert_eq!(queued, needed, "the transmit ring has room for all chunks");
        Ok(())
    }

    /// Makes the kernel send what is queued. Returns how many chunks it did not take, because the interface's queue or
    /// the socket's buffer is full: they are sent by a later call.
    pub fn flush(&mut self) -> io::Result<usize> {
        let mut queued = self.queued();
        while queued > 0 {
            if self.ring.needs_wakeup() {
                self.ring.wakeup()?;
            }
            let left = self.queued();
            if left == queued {
                break;
            }
            queued = left;
        }
        Ok(queued)
    }

    /// How many chunks the kernel has not taken yet.
    pub fn queued(&mut self) -> usize {
        (TRANSMIT_RING - self.ring.nb_free_exact()) as usize
    }

    /// Takes back the chunks of sent frames.
    fn reclaim(&mut self) {
        // SAFETY: descriptors of this ring's own UMEM come from it.
        self.idle.take_back(TRANSMIT_RING as usize, |chunks| unsafe {
            self.completion.consume(chunks)
        });
    }
}

/// Chunks owned by this side: each can be in one list, or in a ring, and nowhere else.
struct Chunks(Vec<FrameDesc>);

impl Chunks {
    fn new(chunks: impl Iterator<Item = FrameDesc>, most: u32) -> Self {
        let mut list = Vec::with_capacity(most as usize);
        list.extend(chunks);
        Self(list)
    }

    /// Offers the last `count` chunks to a ring, which returns how many of them it took.
    fn hand_over(&mut self, count: usize, ring: impl FnOnce(&[FrameDesc]) -> usize) -> usize {
        let first = self.0.len().saturating_sub(count);
        let taken = ring(self.0.get(first..).unwrap_or_default());
        self.0.drain(first..first + taken);
        taken
    }

    /// Takes up to `most` chunks from a ring, which returns how many it gave.
    fn take_back(&mut self, most: usize, ring: impl FnOnce(&mut [FrameDesc]) -> usize) {
        let before = self.0.len();
        self.0.resize(before + most, FrameDesc::default());
        let given = ring(self.0.get_mut(before..).unwrap_or_default());
        self.0.truncate(before + given);
    }
}

fn register(queue: ReceiveQueue) -> Result<AsyncFd<ReceiveQueue>, XskError> {
    // SAFETY: the queue owns the socket whose descriptor it shows, and does not replace it.
    unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) }
        .map_err(|error| XskError::Wait(error.into_parts().1))
}

/// A socket on one queue, which can have up to `sending` chunks on their way out.
fn open_queue(
    interface: &str,
    queue: u32,
    layout: Layout,
    sending: u32,
) -> Result<(ReceiveQueue, Transmitter), XskError> {
    let name: Interface = interface.parse().map_err(|_| XskError::Name(interface.to_owned()))?;
    let receiving = RECEIVE_RING + FILL_RESERVE + BATCH;
    let count = NonZeroU32::new(receiving + sending).unwrap_or(NonZeroU32::MIN);
    let memory_error = |source| XskError::Memory {
        bytes: u64::from(count.get()) * u64::from(layout.chunk_bytes()),
        source,
    };
    let invalid = |error: &dyn std::fmt::Display| memory_error(io::Error::other(error.to_string()));
    let ring = |size: u32| QueueSize::new(size.next_power_of_two()).map_err(|error| invalid(&error));
    let umem_config = UmemConfig::builder()
        .frame_size(FrameSize::new(layout.chunk_bytes()).map_err(|error| invalid(&error))?)
        .fill_queue_size(ring(receiving)?)
        .comp_queue_size(ring(sending)?)
        .build()
        .map_err(|error| invalid(&error))?;
    let socket_config = SocketConfig::builder()
        .rx_queue_size(ring(RECEIVE_RING)?)
        .tx_queue_size(ring(sending)?)
        .bind_flags(layout.bind_flags())
        // The program is ours, and puts frames into the socket by its XSKMAP.
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .build();
    let (umem, mut chunks) =
        Umem::new(umem_config, count, false).map_err(|error| memory_error(os_error(error.source())))?;

    let (tx, rx, fill, completion) = bind(interface, &name, queue, socket_config, &umem)?;
    let mut receiver = ReceiveQueue {
        umem: umem.clone(),
        ring: rx,
        fill,
        received: Chunks::new(std::iter::empty(), BATCH),
        reserve: Chunks::new(chunks.drain(..receiving as usize), receiving),
        partial: Vec::new(),
        frames: 0,
    };
    // SAFETY: the chunks belong to this ring's UMEM, and to nobody else.
    receiver
        .reserve
        .hand_over((receiving - BATCH) as usize, |chunks| unsafe {
            receiver.fill.produce(chunks)
        });
    let transmitter = Transmitter {
        chunk_bytes: umem_config.mtu() as usize,
        most_chunks: match layout {
            Layout::ScatterGather => MOST_CHUNKS,
            Layout::OneChunk => 1,
        },
        umem,
        ring: tx,
        completion,
        idle: Chunks::new(chunks.into_iter(), sending),
    };
    Ok((receiver, transmitter))
}

type Rings = (TxQueue, RxQueue, FillQueue, CompQueue);

/// Makes a socket and binds it.
fn bind(interface: &str, name: &Interface, queue: u32, config: SocketConfig, umem: &Umem) -> Result<Rings, XskError> {
    // SAFETY: libxdp is told not to load a program, and the UMEM has no other socket.
    let source = match unsafe { Socket::new(config, umem, name, queue) } {
        Ok((tx, rx, Some((fill, completion)))) => return Ok((tx, rx, fill, completion)),
        Ok((_, _, None)) => io::ErrorKind::AlreadyExists.into(),
        Err(failed) => os_error(failed.source()),
    };
    Err(XskError::Bind {
        interface: interface.to_owned(),
        queue,
        source,
    })
}

/// The system's error, from an error of xsk-rs.
fn os_error(source: Option<&(dyn std::error::Error + 'static)>) -> io::Error {
    match source.and_then(|error| error.downcast_ref::<io::Error>()) {
        Some(error) => match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::other(error.to_string()),
        },
        None => io::Error::other(source.map_or("no reason was given".to_owned(), ToString::to_string)),
    }
}
