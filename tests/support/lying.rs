//! An HTTP server that lies: it stands before a real one, passes requests on, and treats some as it was told.
//! One request a connection, so that nothing hides what it does.

#![allow(dead_code, missing_docs)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// How a request is treated.
#[derive(Clone)]
pub enum Lie {
    /// Something else happens before the server sees the request, whose path is told; no lie at all.
    Before(Arc<dyn Fn(&str) + Send + Sync>),
    /// The body is read and thrown away, and the answer is good: a status such as 201.
    DropBody(u16),
    /// Half of the body arrives at the server, and its good answer comes back.
    HalveBody,
    /// One byte of the body arrives as another one.
    FlipByte,
    /// The answer is sent with its true length, and ends in the middle.
    CutAnswer,
    /// The answer is sent with half of its body and that length, as if it were whole.
    HalveAnswer,
    /// The server does the work, and its answer is lost.
    LoseAnswer,
    /// Another answer, with header lines, and the server is not asked.
    Answer(u16, String),
    /// The server sees the request without this header.
    WithoutHeader(&'static str),
}

struct Rule {
    method: String,
    /// What the path must contain.
    path: String,
    lie: Lie,
    left: u64,
}

#[derive(Default)]
struct Shared {
    rules: Mutex<Vec<Rule>>,
    /// Method and path of each request, and whether it was lied about.
    seen: Mutex<Vec<(String, bool)>>,
    /// The head of each request.
    heads: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// The server. It ends with this value.
pub struct LyingServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl LyingServer {
    pub fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if serving.stop.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), shared) = (client, Arc::clone(&serving)) else { continue };
                thread::spawn(move || {
                    let _ = serve(client, server, &shared);
                });
            }
        });
        Self { address, shared }
    }

    /// Lies about the next `times` requests of a method whose path contains something.
    pub fn lie(&self, method: &str, path: &str, lie: Lie, times: u64) {
        let rule = Rule { method: method.to_owned(), path: path.to_owned(), lie, left: times };
        self.shared.rules.lock().unwrap().push(rule);
    }

    /// Tells the truth from now on, and forgets what it saw.
    pub fn repent(&self) {
        self.shared.rules.lock().unwrap().clear();
        self.shared.seen.lock().unwrap().clear();
        self.shared.heads.lock().unwrap().clear();
    }

    /// How many requests were lied about.
    pub fn fired(&self) -> usize {
        self.shared.seen.lock().unwrap().iter().filter(|(_, lied)| *lied).count()
    }

    /// Method and path of each request, in order.
    pub fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }

    /// The head of each request.
    pub fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap().clone()
    }
}

impl Drop for LyingServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lie_for(&self, method: &str, path: &str) -> Option<Lie> {
        let mut rules = self.rules.lock().unwrap();
        let rule =
            rules.iter_mut().find(|rule| rule.left > 0 && rule.method == method && path.contains(&rule.path));
        let lie = rule.map(|rule| {
            rule.left -= 1;
            rule.lie.clone()
        });
        self.seen.lock().unwrap().push((format!("{method} {path}"), lie.is_some()));
        lie
    }
}

struct Message {
    first: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Message {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn remove(&mut self, name: &str) {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    fn head(&self) -> String {
        let lines: String = self.headers.iter().map(|(key, value)| format!("{key}: {value}\r\n")).collect();
        format!("{}\r\n{lines}\r\n", self.first)
    }

    /// Sends it as one of a certain length, of which only `part` bytes go out.
    fn send(&mut self, mut to: &TcpStream, told: usize, part: usize) -> io::Result<()> {
        for name in ["content-length", "transfer-encoding", "connection", "expect"] {
            self.remove(name);
        }
        let has_body = !self.first.starts_with("HTTP/1.1 204") && !self.first.starts_with("HTTP/1.1 304");
        if has_body {
            self.headers.push(("Content-Length".to_owned(), told.to_string()));
        }
        self.headers.push(("Connection".to_owned(), "close".to_owned()));
        to.write_all(self.head().as_bytes())?;
        to.write_all(&self.body[..part])?;
        to.flush()
    }
}

/// Reads a message; `until_end` where a body without a length goes on to the end of the connection.
fn read(stream: &TcpStream, until_end: bool, bodiless: bool) -> io::Result<Message> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    let mut next = |reader: &mut BufReader<&TcpStream>| -> io::Result<String> {
        line.clear();
        reader.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    };
    let first = next(&mut reader)?;
    if first.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut message = Message { first, headers: Vec::new(), body: Vec::new() };
    loop {
        let line = next(&mut reader)?;
        let Some((key, value)) = line.split_once(':') else { break };
        message.headers.push((key.to_owned(), value.trim().to_owned()));
    }
    if bodiless {
        return Ok(message);
    }
    if message.header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        loop {
            let size = next(&mut reader)?;
            let size = u64::from_str_radix(size.split(';').next().unwrap(), 16).map_err(io::Error::other)?;
            (&mut reader).take(size).read_to_end(&mut message.body)?;
            next(&mut reader)?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = message.header("content-length").map(str::to_owned) {
        message.body = vec![0; length.parse().map_err(io::Error::other)?];
        reader.read_exact(&mut message.body)?;
    } else if until_end {
        reader.read_to_end(&mut message.body)?;
    }
    Ok(message)
}

fn serve(client: TcpStream, server: SocketAddr, shared: &Shared) -> io::Result<()> {
    let mut request = read(&client, false, false)?;
    let mut words = request.first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    shared.heads.lock().unwrap().push(request.head());
    let lie = shared.lie_for(&method, &path);
    match &lie {
        Some(Lie::DropBody(status)) => {
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return (&client).write_all(answer.as_bytes());
        }
        Some(Lie::Answer(status, headers)) => {
            let answer =
                format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n");
            return (&client).write_all(answer.as_bytes());
        }
        Some(Lie::Before(happens)) => happens(&path),
        Some(Lie::FlipByte) => {
            let middle = request.body.len() / 2;
            request.body[middle] ^= 1;
        }
        Some(Lie::HalveBody) => request.body.truncate(request.body.len() / 2),
        Some(Lie::WithoutHeader(name)) => request.remove(name),
        _ => {}
    }
    let upstream = TcpStream::connect(server)?;
    let length = request.body.len();
    request.send(&upstream, length, length)?;
    let mut answer = read(&upstream, true, method == "HEAD")?;
    let length = answer.body.len();
    match lie {
        Some(Lie::LoseAnswer) => {}
        Some(Lie::CutAnswer) => answer.send(&client, length, length / 2)?,
        Some(Lie::HalveAnswer) => answer.send(&client, length / 2, length / 2)?,
        _ => answer.send(&client, length, length)?,
    }
    client.shutdown(Shutdown::Both)
}
