//! A small HTTP server for reading (RFC 9110). Clients are bounded in number, time and size, so none holds up another.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::descriptors::Shortage;

pub type Request = hyper::Request<Incoming>;
pub type Response = hyper::Response<Full<Bytes>>;

/// Connections at once. If there are more, the oldest one ends.
pub const CONNECTIONS: usize = 8;
/// For a request's head, which is also bounded in size.
const HEAD_TIME: Duration = Duration::from_secs(5);
pub const HEAD_BYTES: usize = 16 << 10;
/// For one connection, which has one request.
const CONNECTION_TIME: Duration = Duration::from_secs(30);
/// After a client could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves clients for ever. `accept` returns a connection, or `None` for a client that is turned away. What is not GET or
/// HEAD is refused without asking `answer`.
pub async fn serve<S, A>(
    accept: impl AsyncFn() -> io::Result<Option<S>>,
    answer: impl Fn(Request) -> A + Clone + Send + Sync + 'static,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Future<Output = Response> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut open: Vec<AbortHandle> = Vec::new();
    loop {
        let accepted = tokio::select! {
            biased;
            Some(_) = connections.join_next() => continue,
            accepted = accept() => accepted,
        };
        match accepted {
            Ok(Some(stream)) => {
                open.retain(|connection| !connection.is_finished());
                if open.len() >= CONNECTIONS {
                    open.remove(0).abort();
                }
                open.push(connections.spawn(timeout(CONNECTION_TIME, converse(stream, answer.clone()))));
            }
            Ok(None) => {}
            Err(error) => {
                let hint = Shortage::of(&error).map(|shortage| format!(": {shortage}"));
                warn!("cannot accept an HTTP client: {error}{}", hint.unwrap_or_default());
                sleep(PAUSE).await;
            }
        }
    }
}

async fn converse<A: Future<Output = Response>>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: impl Fn(Request) -> A,
) {
    let answer = service_fn(|request: Request| {
        let answered = match *request.method() {
            Method::GET | Method::HEAD => Ok(answer(request)),
            _ => Err(not_for_reading()),
        };
        async move {
            Ok::<_, Infallible>(match answered {
                Ok(answer) => answer.await,
                Err(refusal) => refusal,
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    // A client that goes away, or sends something else, concerns nobody.
    let _ = connection.await;
}

fn not_for_reading() -> Response {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "it can only be read, by GET\n");
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

/// A response of this type.
pub fn of_type(content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A response for people, such as an error.
pub fn plain(status: StatusCode, text: impl Into<String>) -> Response {
    let mut response = of_type("text/plain; charset=utf-8", text.into());
    *response.status_mut() = status;
    response
}
