//! A small real SMTP server for tests: ESMTP on a free loopback port, TLS from the start or by STARTTLS
//! with certificates made for the occasion, login, and every kind of bad manners one asks for.
//!
//! It keeps what it accepted. A script says how it treats the next messages, one entry a connection or
//! message; when the script is used up it accepts.

#![allow(dead_code, missing_docs)]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    Plain,
    StartTls,
    Tls,
}

/// How one message or connection is treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manners {
    Accept,
    /// Answers MAIL, RCPT, DATA or the end of the data (`.`) or the greeting (`CONNECT`) with this.
    Refuse(&'static str, u16, &'static str),
    /// Takes the connection and never says a word.
    Stall,
    /// Takes the data and never answers.
    StallAfterData,
    /// Keeps the message and closes the connection without an answer.
    DropAfterData,
}

#[derive(Debug, Clone)]
pub struct Mail {
    pub from: String,
    pub to: Vec<String>,
    pub data: Vec<u8>,
    pub encrypted: bool,
    pub user: Option<String>,
}

impl Mail {
    /// The mail as Python's `email` package, which is no relative of the library that wrote it, reads it:
    /// `{"headers": [[name, value]...], "subject", "text", "html", "types": [...]}`.
    pub fn parsed(&self) -> serde_json::Value {
        const SCRIPT: &str = r#"
import email, email.policy, json, sys
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
body = lambda kind: (m.get_body(preferencelist=(kind,)) or email.message.EmailMessage())
text = lambda kind: body(kind).get_content().replace("\r\n", "\n") if m.get_body(preferencelist=(kind,)) else None
json.dump({"headers": [[k, str(v)] for k, v in m.items()], "subject": str(m["subject"]), "type": m.get_content_type(),
  "text": text("plain"), "html": text("html"), "types": [p.get_content_type() for p in m.walk()],
  "defects": [str(d) for p in m.walk() for d in p.defects]}, sys.stdout)
"#;
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        child.stdin.take().unwrap().write_all(&self.data).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "python3 could not read the mail");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// All values of a header.
    pub fn headers(&self, name: &str) -> Vec<String> {
        self.parsed()["headers"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|h| h[0].as_str().unwrap().eq_ignore_ascii_case(name))
            .map(|h| h[1].as_str().unwrap().to_owned())
            .collect()
    }

    pub fn header(&self, name: &str) -> String {
        let values = self.headers(name);
        assert_eq!(values.len(), 1, "{name}: {values:?}");
        values[0].clone()
    }
}

/// Certificates made by openssl: an authority, and a server certificate for 127.0.0.1 and localhost.
pub struct Certificates {
    pub authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificates {
    pub fn make(dir: &Path) -> Self {
        let file = |name: &str| dir.join(name);
        let run = |args: &[&str]| {
            let output = Command::new("openssl").args(args).current_dir(dir).output().expect("openssl runs");
            assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        run(&[
            &[
                "req",
                "-x509",
                "-subj",
                "/CN=test authority",
                "-days",
                "2",
                "-keyout",
                "ca.key",
                "-out",
                "ca.pem",
            ],
            &curve[..],
        ]
        .concat());
        run(&[&["req", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"], &curve[..]]
            .concat());
        std::fs::write(
            file("server.ext"),
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n",
        )
        .unwrap();
        run(&[
            "x509",
            "-req",
            "-in",
            "server.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "server.ext",
            "-out",
            "server.pem",
        ]);
        Self { authority: file("ca.pem"), certificate: file("server.pem"), key: file("server.key") }
    }

    pub fn server_config(&self) -> Arc<ServerConfig> {
        let chain =
            CertificateDer::pem_file_iter(&self.certificate).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }
}

#[derive(Default)]
struct Shared {
    mails: Mutex<Vec<Mail>>,
    script: Mutex<VecDeque<Manners>>,
    transcript: Mutex<Vec<String>>,
    connections: AtomicUsize,
    stop: AtomicBool,
    login: Option<(String, String)>,
}

pub struct SmtpServer {
    pub address: SocketAddr,
    security: Security,
    shared: Arc<Shared>,
}

impl SmtpServer {
    /// Without TLS and login.
    pub fn plain() -> Self {
        Self::start(Security::Plain, None, None)
    }

    pub fn start(
        security: Security,
        certificates: Option<&Certificates>,
        login: Option<(&str, &str)>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            login: login.map(|(user, password)| (user.to_owned(), password.to_owned())),
            ..Default::default()
        });
        let tls = certificates.map(Certificates::server_config);
        let server = Self { address, security, shared: shared.clone() };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::Relaxed) {
                    break;
                }
                let (Ok(stream), shared, tls) = (stream, shared.clone(), tls.clone()) else { continue };
                shared.connections.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || {
                    // A client that goes away is no error here.
                    let _ =
                        Session { stream: Stream::Plain(stream), shared, tls, security, user: None }.serve();
                });
            }
        });
        server
    }

    /// The address for the configuration.
    pub fn url(&self) -> String {
        match self.security {
            Security::Plain => format!("smtp://{}", self.address),
            Security::StartTls => format!("smtp://localhost:{}?tls=required", self.address.port()),
            Security::Tls => format!("smtps://localhost:{}", self.address.port()),
        }
    }

    pub fn next(&self, manners: Manners) {
        self.shared.script.lock().unwrap().push_back(manners);
    }

    /// Treats everything from now on like this, until [`SmtpServer::accept_all`].
    pub fn refuse_all(&self, manners: Manners) {
        self.shared.script.lock().unwrap().extend(std::iter::repeat_n(manners, 10_000));
    }

    /// Ends whatever the script still says.
    pub fn accept_all(&self) {
        self.shared.script.lock().unwrap().clear();
    }

    pub fn mails(&self) -> Vec<Mail> {
        self.shared.mails.lock().unwrap().clone()
    }

    /// Every line clients sent, the data of messages left out.
    pub fn transcript(&self) -> Vec<String> {
        self.shared.transcript.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
    Gone,
}

impl Stream {
    fn io(&mut self) -> &mut dyn ReadWrite {
        match self {
            Stream::Plain(s) => s,
            Stream::Tls(s) => s.as_mut(),
            Stream::Gone => unreachable!(),
        }
    }

    fn close(&mut self) {
        let socket = match self {
            Stream::Plain(s) => s,
            Stream::Tls(s) => &mut s.sock,
            Stream::Gone => return,
        };
        let _ = socket.shutdown(Shutdown::Both);
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

struct Session {
    stream: Stream,
    shared: Arc<Shared>,
    tls: Option<Arc<ServerConfig>>,
    security: Security,
    user: Option<String>,
}

impl Session {
    fn serve(mut self) -> io::Result<()> {
        let first = self.shared.script.lock().unwrap().front().cloned();
        match first {
            Some(Manners::Stall) => {
                self.shared.script.lock().unwrap().pop_front();
                return self.stall();
            }
            Some(Manners::Refuse("CONNECT", code, text)) => {
                self.shared.script.lock().unwrap().pop_front();
                return self.say(code, text);
            }
            _ => {}
        }
        if self.security == Security::Tls {
            self.encrypt()?;
        }
        self.say(220, "test.invalid ESMTP ready")?;
        let (mut from, mut to) = (String::new(), Vec::new());
        loop {
            let line = self.line()?;
            self.shared.transcript.lock().unwrap().push(line.clone());
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => self.hello()?,
                "HELO" | "RSET" | "NOOP" => self.say(250, "ok")?,
                "STARTTLS" if self.security == Security::StartTls && !self.encrypted() => {
                    self.say(220, "go on")?;
                    self.encrypt()?;
                }
                "AUTH" => self.authenticate(&line)?,
                "MAIL" | "RCPT" | "DATA" if self.security == Security::StartTls && !self.encrypted() => {
                    self.say(530, "encrypt first")?;
                }
                "MAIL" | "RCPT" | "DATA" if self.shared.login.is_some() && self.user.is_none() => {
                    self.say(530, "log in first")?;
                }
                "MAIL" => {
                    from = address(&line);
                    to.clear();
                    self.step("MAIL", 250, "ok")?;
                }
                "RCPT" => {
                    if self.step("RCPT", 250, "ok")? {
                        to.push(address(&line));
                    }
                }
                "DATA" => {
                    if !self.step("DATA", 354, "end with a dot")? {
                        continue;
                    }
                    let data = self.data()?;
                    let mail = Mail {
                        from: from.clone(),
                        to: to.clone(),
                        data,
                        encrypted: self.encrypted(),
                        user: self.user.clone(),
                    };
                    let manners = self.shared.script.lock().unwrap().pop_front().unwrap_or(Manners::Accept);
                    match manners {
                        Manners::Refuse(_, code, text) => self.say(code, text)?,
                        Manners::StallAfterData => return self.stall(),
                        Manners::DropAfterData => {
                            self.shared.mails.lock().unwrap().push(mail);
                            self.stream.close();
                            return Ok(());
                        }
                        _ => {
                            self.shared.mails.lock().unwrap().push(mail);
                            self.say(250, "queued")?;
                        }
                    }
                }
                "QUIT" => return self.say(221, "bye"),
                _ => self.say(502, "not known")?,
            }
        }
    }

    /// Answers a command, or refuses it when the script says so. True when it was not refused.
    fn step(&mut self, verb: &str, code: u16, text: &str) -> io::Result<bool> {
        let refusal = {
            let mut script = self.shared.script.lock().unwrap();
            match script.front() {
                Some(Manners::Refuse(at, code, text)) if *at == verb => {
                    let refusal = (*code, *text);
                    script.pop_front();
                    Some(refusal)
                }
                _ => None,
            }
        };
        match refusal {
            Some((code, text)) => self.say(code, text).map(|()| false),
            None => self.say(code, text).map(|()| true),
        }
    }

    fn hello(&mut self) -> io::Result<()> {
        let mut lines = vec!["test.invalid", "8BITMIME", "SMTPUTF8"];
        if self.security == Security::StartTls && !self.encrypted() {
            lines.push("STARTTLS");
        } else if self.shared.login.is_some() {
            lines.push("AUTH PLAIN LOGIN");
        }
        let last = lines.len() - 1;
        let text: String = lines
            .iter()
            .enumerate()
            .map(|(i, line)| format!("250{}{line}\r\n", if i == last { ' ' } else { '-' }))
            .collect();
        self.write(text.as_bytes())
    }

    fn authenticate(&mut self, line: &str) -> io::Result<()> {
        let words: Vec<&str> = line.split(' ').collect();
        let decode = |text: &str| {
            String::from_utf8_lossy(&BASE64.decode(text.trim()).unwrap_or_default()).into_owned()
        };
        let (user, password) = match words.get(1).map(|w| w.to_ascii_uppercase()).as_deref() {
            Some("PLAIN") => {
                let answer = match words.get(2) {
                    Some(answer) => (*answer).to_owned(),
                    None => {
                        self.write(b"334 \r\n")?;
                        self.line()?
                    }
                };
                let answer = decode(&answer);
                let mut parts = answer.split('\0').skip(1).map(str::to_owned);
                (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
            }
            Some("LOGIN") => {
                self.write(b"334 VXNlcm5hbWU6\r\n")?;
                let user = decode(&self.line()?);
                self.write(b"334 UGFzc3dvcmQ6\r\n")?;
                (user, decode(&self.line()?))
            }
            _ => return self.say(504, "not this way"),
        };
        if self.shared.login == Some((user.clone(), password)) {
            self.user = Some(user);
            self.say(235, "welcome")
        } else {
            self.say(535, "5.7.8 authentication credentials invalid")
        }
    }

    fn data(&mut self) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        loop {
            let line = self.raw_line()?;
            if line == b".\r\n" {
                return Ok(data);
            }
            data.extend(line.strip_prefix(b".").unwrap_or(&line));
        }
    }

    fn encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    fn encrypt(&mut self) -> io::Result<()> {
        let Stream::Plain(socket) = std::mem::replace(&mut self.stream, Stream::Gone) else { unreachable!() };
        let tls = self.tls.clone().expect("a server with TLS has certificates");
        let connection = ServerConnection::new(tls).map_err(io::Error::other)?;
        self.stream = Stream::Tls(Box::new(StreamOwned::new(connection, socket)));
        Ok(())
    }

    fn stall(&mut self) -> io::Result<()> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn say(&mut self, code: u16, text: &str) -> io::Result<()> {
        self.write(format!("{code} {text}\r\n").as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let io = self.stream.io();
        io.write_all(bytes)?;
        io.flush()
    }

    fn line(&mut self) -> io::Result<String> {
        let line = self.raw_line()?;
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn raw_line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\n") {
            if self.stream.io().read(&mut byte)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            line.push(byte[0]);
        }
        Ok(line)
    }
}

fn address(line: &str) -> String {
    line.split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
        .map(|(a, _)| a.to_owned())
        .unwrap_or_default()
}
