//! `web`: a page that shows an instance live. This is a client of the control socket that only reads: it serves the page,
//! and what the page asks for.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::load::block_on;
use super::{Failure, Session};
use crate::control::Instance;
use crate::control::api;
use crate::control::client::{Client, ClientError};
use crate::http::{self, Request, Response};

/// The whole page: it needs nothing else, neither from here nor from another server.
const PAGE: &str = include_str!("web.html");
/// In the page, in the place of the word by which the browser knows its script and its style.
const NONCE: &str = "@NONCE@";
/// Only a page of this server may use what it serves.
const SAME_ORIGIN: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The instance is asked at most that often, however many pages there are.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// More next hops are not drawn.
const NEXT_HOPS: usize = 1000;
/// How many of the busiest routes are listed, and how long frames are counted for that.
const BUSIEST: u32 = 20;
const COUNTED_MS: u32 = 500;

/// Where the page is unless something else is asked for.
pub const LISTEN: &str = "127.0.0.1:8177";

pub fn web(session: &Session, listen: SocketAddr) -> Result<(), Failure> {
    // It must run, and let this user read, before anybody opens the page.
    let mut client = session.connect()?;
    let name = client.status()?.instance;
    let site = Arc::new(Site {
        instance: client.instance().clone(),
        started: Instant::now(),
        state: Mutex::default(),
        busiest: Mutex::default(),
    });
    drop(client);
    block_on(serve(listen, &name, site))?
}

async fn serve(listen: SocketAddr, instance: &str, site: Arc<Site>) -> Result<(), Failure> {
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|error| {
        Failure::Refused(format!(
            "cannot serve the page at {listen}: {error}: `--listen` names another \
                                                           address and port"
        ))
    })?;
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        writeln!(
            io::stderr(),
            "mplsxdp: warning: whoever reaches {address} can read the state of the instance, without a password: let only \
             those who may through a firewall, or listen on 127.0.0.1 and use `ssh -L {port}:127.0.0.1:{port}`",
            port = address.port()
        )?;
    }
    let mut out = io::stdout();
    writeln!(out, "instance {instance}: http://{address}/")?;
    out.flush()?;
    let answer = move |request: Request| {
        let site = Arc::clone(&site);
        async move { site.answer(&request).await }
    };
    http::serve(async || Ok(Some(listener.accept().await?.0)), answer).await;
    Ok(())
}

/// What pages ask for.
struct Site {
    instance: Instance,
    started: Instant,
    state: Mutex<Last>,
    busiest: Mutex<Last>,
}

/// The last answer of the instance, and when it came.
type Last = Option<(Instant, Result<Bytes, String>)>;

#[derive(Serialize)]
struct State {
    /// Since this process began: rates are differences of two states.
    seconds: f64,
    status: api::Status,
    links: Vec<api::Link>,
    neighbors: Vec<api::NextHopState>,
    stats: api::Stats,
}

impl Site {
    async fn answer(&self, request: &Request) -> Response {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        if !host.is_some_and(is_address) {
            return http::plain(
                StatusCode::FORBIDDEN,
                "ask for this page by the address of this server, such as http://127.0.0.1:8177/, or as localhost: under other \
                 names, pages of other sites could read it\n",
            );
        }
        let mut response = match request.uri().path() {
            "/" => page(),
            "/state" => self.state().await,
            "/busiest" => self.busiest().await,
            _ => http::plain(StatusCode::NOT_FOUND, "not found: the page is at /\n"),
        };
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(SAME_ORIGIN, HeaderValue::from_static("same-origin"));
        response
    }

    async fn state(&self) -> Response {
        let started = self.started;
        let read = move |client: &mut Client| {
            let status = client.status()?;
            let links = client.links(true)?;
            let mut neighbors = client.neighbors(false)?;
            neighbors.truncate(NEXT_HOPS);
            let stats = client.stats(false)?;
            Ok(State {
                seconds: started.elapsed().as_secs_f64(),
                status,
                links,
                neighbors,
                stats,
            })
        };
        self.read(&self.state, read).await
    }

    async fn busiest(&self) -> Response {
        let wanted = api::GetBusiestRoutes {
            count: Some(BUSIEST),
            milliseconds: Some(COUNTED_MS),
            ..api::GetBusiestRoutes::default()
        };
        self.read(&self.busiest, move |client| client.busiest_routes(&wanted))
            .await
    }

    /// What the instance answers, as JSON.
    async fn read<T: Serialize>(
        &self,
        last: &Mutex<Last>,
        read: impl FnOnce(&mut Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Response {
        let mut last = last.lock().await;
        let fresh = last.take().filter(|(at, _)| at.elapsed() < INTERVAL);
        let answer = match fresh {
            Some((_, answer)) => answer,
            None => {
                let instance = self.instance.clone();
                let ask = move || -> Result<Bytes, String> {
                    let answer = Client::connect(&instance).and_then(|mut client| {
                        client.set_patience(Some(PATIENCE))?;
                        read(&mut client)
                    });
                    let answer = answer.map_err(|error| error.to_string())?;
                    let json = serde_json::to_vec(&answer).map_err(|error| error.to_string())?;
                    Ok(json.into())
                };
                let asked = tokio::task::spawn_blocking(ask).await;
                asked.unwrap_or_else(|error| Err(error.to_string()))
            }
        };
        *last = Some((Instant::now(), answer.clone()));
        match answer {
            Ok(json) => http::of_type("application/json", json),
            Err(error) => http::plain(StatusCode::SERVICE_UNAVAILABLE, error),
        }
    }
}

/// The page. The browser runs its script and no other, and connects to this server only.
fn page() -> Response {
    let random = || RandomState::new().hash_one(());
    let nonce = format!("{:016x}{:016x}", random(), random());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = http::of_type("text/html; charset=utf-8", PAGE.replace(NONCE, &nonce));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Whether a `Host` is an address, or this machine. A page of another site can make its own name lead to this address
/// (DNS rebinding), and would then count as a page of this server.
fn is_address(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return !address.ip().is_unspecified();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost") || bare.unwrap_or(name).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_localhost() {
        for host in [
            "127.0.0.1:8177",
            "127.0.0.1",
            "[::1]:8177",
            "[::1]",
            "localhost:8177",
            "LOCALHOST",
            "192.0.2.1:80",
        ] {
            assert!(is_address(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8177",
            "127.0.0.1.evil.example",
            "localhost.evil.example:8177",
            "0:x",
        ] {
            assert!(!is_address(host), "{host}");
        }
    }

    /// No word of the page makes a browser ask another server.
    #[test]
    fn the_page_is_complete_in_itself() {
        for outside in [
            "src=",
            "href=\"http",
            "url(",
            "@import",
            "import(",
            "innerHTML",
            "insertAdjacentHTML",
            "eval(",
        ] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        let (one, other) = (page(), page());
        let policy = |response: &Response| response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert_ne!(policy(&one), policy(&other));
        assert_eq!(PAGE.matches(NONCE).count(), 2);
    }
}
