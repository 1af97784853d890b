//! Connects to where an address leads, and says nothing there: no request is sent that could count as a ping.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::ConfigVerifierExt as _;

/// Host, port and whether it is encrypted: the part of an address that is no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    host: String,
    port: u16,
    tls: bool,
}

impl Origin {
    /// That of an address; none for one without a host or of an unknown kind.
    pub fn of(url: &Url) -> Option<Self> {
        let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
        Some(Self { host, port: url.port_or_known_default()?, tls: url.scheme() == "https" })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Opens a connection, makes sure of the certificate where there is one, and closes it. Blocks for at most a
/// few times `timeout`, beside the look-up of the name, which may take as long as the system's resolver likes.
pub fn connect(origin: Option<Origin>, timeout: Duration) -> Result<String, String> {
    let origin = origin.ok_or("its address names no host")?;
    match try_connect(&origin, timeout) {
        Ok(()) if origin.tls => Ok(format!("{origin} is reached, and its certificate is trusted")),
        Ok(()) => Ok(format!("{origin} is reached")),
        Err(error) => Err(format!("cannot reach {origin}: {error}")),
    }
}

fn try_connect(origin: &Origin, timeout: Duration) -> io::Result<()> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (origin.host.as_str(), origin.port).to_socket_addrs()?.take(4) {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                return if origin.tls { handshake(origin, stream) } else { Ok(()) };
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn handshake(origin: &Origin, mut stream: TcpStream) -> io::Result<()> {
    let config = rustls::ClientConfig::with_platform_verifier().map_err(io::Error::other)?;
    let name = ServerName::try_from(origin.host.clone()).map_err(io::Error::other)?;
    let mut session = rustls::ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    while session.is_handshaking() {
        session.complete_io(&mut stream).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                io::Error::new(io::ErrorKind::TimedOut, "the other end does not answer")
            }
            _ => error,
        })?;
    }
    session.send_close_notify();
    // The other end may be gone already; nothing was to be said to it.
    let _ = session.write_tls(&mut stream).and_then(|_| stream.flush());
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read(&mut [0; 64]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn origin(text: &str) -> Option<Origin> {
        Origin::of(&Url::parse(text).unwrap())
    }

    #[test]
    fn the_secret_part_of_an_address_is_left_out() {
        let found = origin("https://hc.example.org/ping/hunter2?x=hunter2").unwrap();
        assert_eq!((found.to_string().as_str(), found.tls), ("hc.example.org:443", true));
        assert_eq!(origin("http://[::1]:8000/x").unwrap().to_string(), "::1:8000");
        assert_eq!(origin("data:text/plain,hunter2"), None);
    }

    #[test]
    fn a_connection_is_made_and_nothing_is_said() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/ping/hunter2", listener.local_addr().unwrap());
        let patience = Duration::from_secs(60);
        let found = connect(origin(&url), patience).unwrap();
        assert!(found.ends_with(" is reached") && !found.contains("hunter2"), "{found}");
        let mut said = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"");
        drop(listener);
        let error = connect(origin(&url), patience).unwrap_err();
        assert!(error.contains("refused") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn an_end_that_takes_the_connection_and_is_silent_is_given_up() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        let error = connect(origin(&url), Duration::from_millis(100)).unwrap_err();
        assert!(error.contains("does not answer"), "{error}");
    }
}
