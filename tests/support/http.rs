//! A small real HTTP server for tests: it keeps every request as it came, and answers with whatever manners
//! one asks for. A script says how it treats the next requests; when it is used up, it answers 200.

#![allow(dead_code, missing_docs)]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// How one request is treated.
#[derive(Debug, Clone)]
pub enum Manners {
    /// A status, further header lines, and a body.
    Answer(u16, &'static str, Vec<u8>),
    /// No answer, and the connection stays open.
    Stall,
    /// This status, and then a body that never ends.
    Endless(u16),
    /// The answer comes a byte at a time, for ever.
    Drip,
    /// Bytes that are no HTTP.
    Garbage,
    /// The connection is closed without a word.
    Close,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Everything before the body.
    pub head: String,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let all: Vec<&str> = self.headers(name);
        assert!(all.len() < 2, "{name} came {} times: {}", all.len(), self.head);
        all.first().copied()
    }

    pub fn headers(&self, name: &str) -> Vec<&str> {
        let lines = self.head.split("\r\n").skip(1);
        lines
            .filter_map(|line| line.split_once(':'))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("the body is UTF-8")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

struct Shared {
    requests: Mutex<Vec<Request>>,
    script: Mutex<VecDeque<Manners>>,
    stop: AtomicBool,
}

pub struct HttpServer {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
}

impl HttpServer {
    pub fn plain() -> Self {
        Self::start(None)
    }

    pub fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            requests: Mutex::default(),
            script: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.stop.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), shared, tls) = (stream, Arc::clone(&serving), tls.clone()) else { continue };
                thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(120)));
                    let _ = match tls {
                        None => serve(stream, &shared),
                        Some(config) => {
                            let connection = ServerConnection::new(config).unwrap();
                            serve(StreamOwned::new(connection, stream), &shared)
                        }
                    };
                });
            }
        });
        Self { address, scheme, shared }
    }

    /// An address below this server.
    pub fn url(&self, path: &str) -> String {
        format!("{}://127.0.0.1:{}{path}", self.scheme, self.address.port())
    }

    /// How the next requests are treated.
    pub fn next(&self, manners: impl IntoIterator<Item = Manners>) {
        self.shared.script.lock().unwrap().extend(manners);
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Method and target of every request.
    pub fn lines(&self) -> Vec<String> {
        self.requests().iter().map(|r| format!("{} {}", r.method, r.target)).collect()
    }

    pub fn last(&self) -> Request {
        self.requests().pop().expect("a request")
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: impl Read + Write, shared: &Shared) -> io::Result<()> {
    let request = read(&mut stream)?;
    shared.requests.lock().unwrap().push(request);
    let manners = shared.script.lock().unwrap().pop_front();
    let stopped = || shared.stop.load(Ordering::SeqCst);
    match manners.unwrap_or(Manners::Answer(200, "", b"OK".to_vec())) {
        Manners::Answer(status, headers, body) => {
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
            )?;
            stream.write_all(&body)?;
        }
        Manners::Stall => {
            while !stopped() {
                thread::sleep(Duration::from_millis(20));
            }
        }
        Manners::Endless(status) => {
            write!(stream, "HTTP/1.1 {status} X\r\nconnection: close\r\n\r\n")?;
            while !stopped() {
                stream.write_all(&[b'A'; 4096])?;
            }
        }
        Manners::Drip => {
            for byte in b"HTTP/1.1 200 OK\r\nx-slow: ".iter().chain(std::iter::repeat(&b'a')) {
                if stopped() {
                    break;
                }
                stream.write_all(&[*byte])?;
                stream.flush()?;
                thread::sleep(Duration::from_millis(50));
            }
        }
        Manners::Garbage => stream.write_all(b"\x00\xff\x1b[2Jnonsense\r\n\r\n")?,
        Manners::Close => {}
    }
    stream.flush()
}

fn read(stream: &mut impl Read) -> io::Result<Request> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut first = head.lines().next().unwrap_or_default().split(' ').map(str::to_owned);
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let mut request = Request { method, target, head, body: Vec::new() };
    let length = request.header("content-length").map_or(0, |n| n.parse().unwrap());
    request.body = vec![0; length];
    stream.read_exact(&mut request.body)?;
    Ok(request)
}
