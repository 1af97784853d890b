//! A small real SMTP server for tests: ESMTP on a free loopback port, TLS from the start or by STARTTLS
//! with certificates made for the occasion, login, and every kind of bad manners one asks for.
//!
//! It keeps what it accepted. A script says how it treats the next messages, one entry a connection or
//! message; when the script is used up it accepts.

#![allow(dead_code, missing_docs)]

#[path = "smtp_session.rs"]
mod session;

use std::collections::VecDeque;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use session::Session;

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
    listener: Option<thread::JoinHandle<()>>,
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
        let mut server = Self { address, security, shared: shared.clone(), listener: None };
        server.listener = Some(thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::Relaxed) {
                    break;
                }
                let (Ok(stream), shared, tls) = (stream, shared.clone(), tls.clone()) else { continue };
                shared.connections.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || {
                    // A client that goes away is no error here.
                    let _ = Session::new(stream, shared, tls, security).serve();
                });
            }
        }));
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
        // Whoever comes from now on is refused.
        if TcpStream::connect(self.address).is_ok() {
            let _ = self.listener.take().map(thread::JoinHandle::join);
        }
    }
}
