//! One connection to the SMTP server of the tests: what the client says, and what it is answered.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{Mail, Manners, Security, Shared};

pub(super) struct Session {
    stream: Stream,
    shared: Arc<Shared>,
    tls: Option<Arc<ServerConfig>>,
    security: Security,
    user: Option<String>,
}

impl Session {
    pub(super) fn new(
        stream: TcpStream,
        shared: Arc<Shared>,
        tls: Option<Arc<ServerConfig>>,
        security: Security,
    ) -> Self {
        Self { stream: Stream::Plain(stream), shared, tls, security, user: None }
    }

    pub(super) fn serve(mut self) -> io::Result<()> {
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

fn address(line: &str) -> String {
    line.split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
        .map(|(a, _)| a.to_owned())
        .unwrap_or_default()
}
