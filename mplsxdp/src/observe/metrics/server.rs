//! Serves metrics by HTTP, on a thread of its own. Snapshots are bounded in their frequency, so that all clients together do
//! not keep the event loop busy.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::ACCEPT;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::address::Clients;
use super::listener::{Listener, client};
use super::{Format, Source};
use crate::http::{self, Request, Response};

/// Snapshots begin at most this often. Requests that wait together share one.
const INTERVAL: Duration = Duration::from_millis(100);
/// How often the event loop is probed.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

const PATH: &str = "/metrics";

/// Serves metrics until `stop`. The event loop gets the time at which each probe was sent.
pub fn start(
    listener: Listener,
    allowed: Vec<Clients>,
    source: Source,
    probes: mpsc::Sender<std::time::Instant>,
    stop: CancellationToken,
) -> io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()?;
    info!("metrics are at {}", listener.url());
    let serve = move || {
        runtime.block_on(async {
            let exporter = Arc::new(Exporter {
                source,
                allowed,
                last: Mutex::new(None),
            });
            tokio::select! {
                () = stop.cancelled() => {}
                () = probe(probes) => {}
                served = exporter.serve(&listener) => {
                    if let Err(error) = served {
                        error!(%error, "cannot serve metrics");
                    }
                }
            }
        });
    };
    thread::Builder::new().name("metrics".into()).spawn(serve)
}

/// A probe that the event loop has not taken yet is not followed by another.
async fn probe(probes: mpsc::Sender<std::time::Instant>) {
    let mut due = interval(PROBE_INTERVAL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        if let Err(mpsc::error::TrySendError::Closed(_)) = probes.try_send(std::time::Instant::now()) {
            return std::future::pending().await;
        }
    }
}

struct Exporter {
    source: Source,
    allowed: Vec<Clients>,
    /// When the last snapshot was begun, and what was written of it.
    last: Mutex<Option<Written>>,
}

struct Written {
    begun: Instant,
    format: Format,
    /// Only while somebody sends it: it may be large.
    text: std::sync::Weak<Bytes>,
}

impl Exporter {
    async fn serve(self: Arc<Self>, listener: &Listener) -> io::Result<()> {
        let answer = {
            let exporter = Arc::clone(&self);
            move |request: Request| {
                let exporter = Arc::clone(&exporter);
                async move { exporter.answer(&request).await }
            }
        };
        match listener {
            Listener::Unix(listener, _) => {
                let listener = UnixListener::from_std(listener.try_clone()?)?;
                http::serve(async || Ok(Some(listener.accept().await?.0)), answer).await;
            }
            Listener::Tcp(listener) => {
                let listener = TcpListener::from_std(listener.try_clone()?)?;
                let accept = async || {
                    let (stream, address) = listener.accept().await?;
                    let is_allowed = self.allows(client(address));
                    if !is_allowed {
                        self.source.refused.fetch_add(1, Relaxed);
                    }
                    Ok(is_allowed.then_some(stream))
                };
                http::serve(accept, answer).await;
            }
        }
        Ok(())
    }

    fn allows(&self, client: IpAddr) -> bool {
        client.is_loopback() || self.allowed.iter().any(|clients| clients.include(client))
    }

    async fn answer(&self, request: &Request) -> Response {
        if request.uri().path() != PATH {
            return http::plain(StatusCode::NOT_FOUND, format!("not found: the metrics are at {PATH}\n"));
        }
        let accept = request.headers().get_all(ACCEPT).iter();
        let accept: Vec<_> = accept.filter_map(|value| value.to_str().ok()).collect();
        let format = Format::of(&accept.join(","));
        match self.metrics(format).await {
            Ok(text) => http::of_type(format.content_type(), Bytes::from_owner(Shared(text))),
            Err(error) => http::plain(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        }
    }

    /// Metrics that are not older than this call.
    async fn metrics(&self, format: Format) -> io::Result<Arc<Bytes>> {
        let called = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(last) = &*last {
            if last.begun >= called
                && last.format == format
                && let Some(text) = last.text.upgrade()
            {
                return Ok(text);
            }
            sleep_until(last.begun + INTERVAL).await;
        }
        let begun = Instant::now();
        let snapshot = self.source.gather().await.map_err(io::Error::other)?;
        let written = tokio::task::spawn_blocking(move || format.write(snapshot)).await?;
        let text = Arc::new(Bytes::from(written.map_err(io::Error::other)?));
        *last = Some(Written {
            begun,
            format,
            text: Arc::downgrade(&text),
        });
        Ok(text)
    }
}

/// A text that several responses share.
struct Shared(Arc<Bytes>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpStream};
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;
    use crate::control::Call;
    use crate::control::access::Groups;
    use crate::control::api::{Reply, Request, Stats};
    use crate::http::{CONNECTIONS, HEAD_BYTES};

    /// A switch that has forwarded nothing, and counts the snapshots.
    fn switch() -> (mpsc::Sender<Call>, Arc<AtomicUsize>, thread::JoinHandle<()>) {
        let (calls_in, mut calls) = mpsc::channel::<Call>(8);
        let snapshots = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&snapshots);
        let switch = thread::spawn(move || {
            while let Some(call) = calls.blocking_recv() {
                let reply = match call.request {
                    Request::GetStats { all: true } => {
                        counted.fetch_add(1, SeqCst);
                        Reply::Stats(Stats::default())
                    }
                    Request::ListNeighbors { .. } => Reply::Neighbors {
                        neighbors: Vec::new(),
                        last: None,
                    },
                    Request::ListLinks { .. } => Reply::Links(Vec::new()),
                    Request::GetSync => Reply::Sync(Vec::new()),
                    Request::GetRings => Reply::Rings(Vec::new()),
                    _ => Reply::Done,
                };
                let _ = call.reply.send(Ok(reply));
            }
        });
        (calls_in, snapshots, switch)
    }

    struct Server {
        address: SocketAddr,
        stop: CancellationToken,
        threads: Vec<thread::JoinHandle<()>>,
        probes: mpsc::Receiver<std::time::Instant>,
    }

    impl Server {
        fn start() -> Self {
            let listener = Listener::open(&"127.0.0.1:0".parse().unwrap(), &Groups::default()).unwrap();
            let Listener::Tcp(tcp) = &listener else { panic!() };
            let address = tcp.local_addr().unwrap();
            let (calls, _, switch) = switch();
            let source = Source::new(calls, Arc::default(), Arc::default(), 0);
            let stop = CancellationToken::new();
            let (probe, probes) = mpsc::channel(1);
            let serving = start(listener, Vec::new(), source, probe, stop.clone()).unwrap();
            Self {
                address,
                stop,
                threads: vec![serving, switch],
                probes,
            }
        }

        fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).unwrap()
        }

        /// The whole response.
        fn ask(&self, request: &str) -> String {
            let mut stream = self.connect();
            stream.write_all(request.as_bytes()).unwrap();
            rest(&mut stream)
        }

        fn end(self) {
            self.stop.cancel();
            drop(self.probes);
            self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
    }

    fn rest(stream: &mut TcpStream) -> String {
        let mut response = String::new();
        // The end may be a reset if the request was not read to its end.
        let _ = stream.read_to_string(&mut response);
        response
    }

    #[test]
    fn the_metrics_are_at_one_path_and_can_only_be_read() {
        let server = Server::start();
        let response = server.ask("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n");
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(response.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
        assert!(response.ends_with("# EOF\n") && response.contains("\nmplsxdp_forwarded_packets_total 0\n"));
        let text = server.ask("GET /metrics?x=y HTTP/1.0\r\n\r\n");
        assert!(
            text.contains("content-type: text/plain; version=0.0.4") && !text.contains("EOF"),
            "{text}"
        );
        let head = server.ask("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
        for (request, status) in [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "405"),
            ("DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "405"),
            ("nonsense\r\n\r\n", "400"),
            (
                &format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(HEAD_BYTES)),
                "431",
            ),
        ] {
            let response = server.ask(request);
            assert!(
                response.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request}: {response}"
            );
        }
        server.end();
    }

    /// Clients that send nothing, or take nothing, have a place until others need it.
    #[test]
    fn clients_that_do_nothing_hold_up_nobody() {
        let mut server = Server::start();
        let silent: Vec<_> = (0..3 * CONNECTIONS).map(|_| server.connect()).collect();
        for _ in 0..3 {
            let response = server.ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        }
        // The oldest have ended.
        let oldest = silent.into_iter().take(CONNECTIONS);
        assert!(oldest.map(|mut stream| rest(&mut stream)).all(|rest| rest.is_empty()));
        assert!(server.probes.blocking_recv().is_some());
        server.end();
    }

    /// All of them have come when the first snapshot is ready, and it is older than all but one.
    #[test]
    fn requests_that_wait_together_share_a_snapshot() {
        let (calls, snapshots, switch) = switch();
        let exporter = Exporter {
            source: Source::new(calls, Arc::default(), Arc::default(), 0),
            allowed: Vec::new(),
            last: Mutex::new(None),
        };
        let ask = || exporter.metrics(Format::Text);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let texts = runtime
            .unwrap()
            .block_on(async { tokio::join!(ask(), ask(), ask(), ask()) });
        let (first, second, third, fourth) = texts;
        let (second, third, fourth) = (second.unwrap(), third.unwrap(), fourth.unwrap());
        assert!(!Arc::ptr_eq(&first.unwrap(), &second));
        assert!(Arc::ptr_eq(&second, &third) && Arc::ptr_eq(&second, &fourth));
        assert_eq!(snapshots.load(SeqCst), 2);
        drop(exporter);
        switch.join().unwrap();
    }

    #[test]
    fn only_clients_that_are_allowed_are_served() {
        let (calls, _) = mpsc::channel(1);
        let exporter = Exporter {
            source: Source::new(calls, Arc::default(), Arc::default(), 0),
            allowed: vec!["192.0.2.0/24".parse().unwrap()],
            last: Mutex::new(None),
        };
        let allows = |address: &str| exporter.allows(address.parse().unwrap());
        assert!(allows("192.0.2.1") && allows("127.0.0.1") && allows("::1"));
        assert!(!allows("192.0.3.1") && !allows("2001:db8::1"));
    }
}
