//! Bodies that never stand in memory as a whole: what is written becomes the body of a request, and the body of
//! an answer is read.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use reqwest::{RequestBuilder, Response};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::http::{Failure, Http, SLOW_ANSWER};

/// How much is handed on at a time.
const PIECE: usize = 256 << 10;
/// How many pieces wait for the network.
const WAITING: usize = 4;

/// Something that is written to, and becomes the body of a request.
///
/// What fits into one piece is sent with its length; of what is longer, the length is told where it was said
/// before the first piece is full, else it goes in chunks.
pub(super) struct Outgoing {
    http: Arc<Http>,
    address: String,
    /// What is sent; none once it is on its way.
    request: Option<RequestBuilder>,
    length: Option<u64>,
    /// How much was handed on.
    sent: u64,
    buffer: BytesMut,
    under_way: Option<UnderWay>,
}

struct UnderWay {
    pieces: mpsc::Sender<Piece>,
    answer: JoinHandle<Result<Response, Failure>>,
}

enum Piece {
    Bytes(Bytes),
    /// It is complete. A sender that goes away without it leaves a body that is broken off.
    End,
}

impl Outgoing {
    /// Sends nothing yet. `address` is for errors.
    pub(super) fn new(http: Arc<Http>, request: RequestBuilder, address: String) -> Self {
        let buffer = BytesMut::with_capacity(PIECE);
        Self { http, address, request: Some(request), length: None, sent: 0, buffer, under_way: None }
    }

    /// Says how long it will be.
    pub(super) fn expect(&mut self, length: u64) {
        if self.under_way.is_none() {
            self.length = Some(length);
        }
    }

    /// The address errors name.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Sends the rest, and gives the answer's head, whatever it says.
    pub(super) fn finish(mut self) -> Result<Response, Failure> {
        let slow = self.http.silence() * SLOW_ANSWER;
        if self.under_way.is_none() {
            let request = self.request.take().ok_or_else(|| Failure::passing("the upload had failed"))?;
            return self.http.send(request.body(self.buffer.split().freeze()), slow);
        }
        self.pass_on()?;
        match self.length {
            None => self.push(Piece::End)?,
            // The body is over with its last byte, and nobody takes anything after it.
            Some(length) if length == self.sent => {}
            Some(length) => {
                return Err(Failure::passing(format!("{} bytes came, {length} were to", self.sent)));
            }
        }
        let Some(UnderWay { answer, pieces }) = self.under_way.take() else {
            return Err(Failure::passing("the upload had failed"));
        };
        let answer = self.http.wait(slow, joined(answer));
        // Not before: its end would break off a body that is still on its way.
        drop(pieces);
        answer
    }

    /// Hands on what is collected.
    fn pass_on(&mut self) -> Result<(), Failure> {
        if self.under_way.is_none() {
            let request = self.request.take().ok_or_else(|| Failure::passing("the upload had failed"))?;
            let (pieces, receiver) = mpsc::channel(WAITING);
            let body = Pieces { receiver, left: self.length, done: false };
            let work = async move {
                let request = request.body(reqwest::Body::wrap(body));
                request.send().await.map_err(|e| Failure::unreached(&e))
            };
            let answer = self.http.spawn(work);
            self.under_way = Some(UnderWay { pieces, answer });
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = self.buffer.split().freeze();
        self.buffer.reserve(PIECE);
        self.sent += piece.len() as u64;
        self.push(Piece::Bytes(piece))
    }

    fn push(&mut self, piece: Piece) -> Result<(), Failure> {
        let Some(UnderWay { pieces, answer }) = self.under_way.take() else {
            return Err(Failure::passing("the upload had failed"));
        };
        // A server that answers before it has everything wants no more.
        let sent = match answer.is_finished() {
            true => Ok(false),
            false => self.http.wait(self.http.silence(), async { Ok(pieces.send(piece).await.is_ok()) }),
        };
        match sent {
            Ok(true) => {
                self.under_way = Some(UnderWay { pieces, answer });
                Ok(())
            }
            Ok(false) => {
                let answer = self.http.wait(self.http.silence(), joined(answer))?;
                let location = super::http::location(&answer);
                Err(match answer.status() {
                    status if status.is_success() => {
                        Failure::passing(format!("the server answered {status} before it had everything"))
                    }
                    status => Failure::refused(status, location.as_deref()),
                })
            }
            Err(_) => Err(Failure::passing(format!(
                "the server took nothing more for {}",
                humantime::format_duration(self.http.silence())
            ))),
        }
    }
}

async fn joined(answer: JoinHandle<Result<Response, Failure>>) -> Result<Response, Failure> {
    answer.await.unwrap_or_else(|e| Err(Failure::passing(format!("the upload stopped: {e}"))))
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() >= PIECE {
            self.pass_on().map_err(|failure| failure.into_io(&self.address))?;
        }
        let taken = bytes.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The other end: the body of the request.
struct Pieces {
    receiver: mpsc::Receiver<Piece>,
    /// How much is still to come, where the length was told.
    left: Option<u64>,
    done: bool,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.done {
            return Poll::Ready(None);
        }
        self.receiver.poll_recv(context).map(|piece| match piece {
            Some(Piece::Bytes(bytes)) => {
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(bytes.len() as u64);
                }
                Some(Ok(Frame::data(bytes)))
            }
            Some(Piece::End) => {
                self.done = true;
                None
            }
            // Without its end it must not look whole to the server.
            None => {
                self.done = true;
                Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the upload was given up")))
            }
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The body of an answer, read.
pub(super) struct Incoming {
    http: Arc<Http>,
    address: String,
    response: Response,
    chunk: Bytes,
    /// How many bytes must still come.
    left: u64,
}

impl Incoming {
    /// A body of which exactly `length` bytes are wanted. One that ends earlier is an error, and what follows
    /// is not read.
    pub(super) fn new(http: Arc<Http>, response: Response, length: u64, address: String) -> Self {
        Self { http, address, response, chunk: Bytes::new(), left: length }
    }

    fn fill(&mut self) -> Result<(), Failure> {
        while self.chunk.is_empty() {
            let next = async { self.response.chunk().await.map_err(|e| Failure::unreached(&e)) };
            match self.http.wait(self.http.silence(), next)? {
                Some(chunk) => self.chunk = chunk,
                None => {
                    let missing = self.left;
                    return Err(Failure::passing(format!("the answer ended {missing} bytes too early")));
                }
            }
        }
        Ok(())
    }

    /// Passes over so many bytes.
    pub(super) fn skip(&mut self, mut bytes: u64) -> Result<(), Failure> {
        while bytes > 0 {
            self.fill()?;
            let passed = (self.chunk.len() as u64).min(bytes);
            self.chunk.advance(passed as usize);
            bytes -= passed;
        }
        Ok(())
    }
}

impl Read for Incoming {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || out.is_empty() {
            return Ok(0);
        }
        self.fill().map_err(|failure| failure.into_io(&self.address))?;
        let got = self.chunk.len().min(out.len()).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.chunk.copy_to_slice(&mut out[..got]);
        self.left -= got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::target::remote::http::HttpSettings;

    /// A server for one connection, which is given to `serve`; and a request to it.
    fn served<T: Send + 'static>(
        silence: Duration,
        serve: impl FnOnce(TcpStream) -> T + Send + 'static,
    ) -> (Outgoing, thread::JoinHandle<T>) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let http = Arc::new(Http::new(&HttpSettings { ca_file: None, silence, threads: 1 }).unwrap());
        let request = http.client().put(&url);
        let server = thread::spawn(move || serve(listener.accept().unwrap().0));
        (Outgoing::new(http, request, url), server)
    }

    fn everything(mut stream: TcpStream) -> String {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes); // a reset is an end, too
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn an_upload_that_is_given_up_never_looks_whole() {
        for length in [None, Some(10 << 20)] {
            let (mut body, server) = served(Duration::from_secs(60), everything);
            if let Some(length) = length {
                body.expect(length);
            }
            // More than waits on the way, so that the server has some of it.
            body.write_all(&vec![b'x'; 8 << 20]).unwrap();
            drop(body);
            let seen = server.join().unwrap();
            assert!(seen.contains("xxxx"), "nothing was sent");
            assert!(!seen.ends_with("0\r\n\r\n"), "it was ended as if it were whole");
            assert_eq!(seen.contains("content-length: 10485760"), length.is_some());
        }
    }

    #[test]
    fn fewer_or_more_bytes_than_told_are_no_success() {
        for told in [4 << 20, 9 << 20] {
            let (mut body, server) = served(Duration::from_secs(5), everything);
            body.expect(told);
            let written = body.write_all(&vec![b'x'; 8 << 20]).map_err(|e| e.to_string());
            let done = written.and_then(|()| body.finish().map(drop).map_err(|failure| failure.reason));
            assert!(done.is_err(), "{told}");
            drop(server.join());
        }
    }

    #[test]
    fn a_refusal_in_the_middle_is_told_and_not_waited_for() {
        let (mut body, server) = served(Duration::from_secs(120), |mut stream| {
            let mut some = [0; 1000];
            stream.read_exact(&mut some).unwrap();
            stream.write_all(b"HTTP/1.1 507 Full\r\ncontent-length: 0\r\n\r\n").unwrap();
            // Not closed before the client gives up: a reset could overtake the answer.
            everything(stream);
        });
        let piece = vec![b'x'; 1 << 20];
        let error = (0..1000).find_map(|_| body.write_all(&piece).err()).expect("it goes on writing");
        drop(body);
        assert!(error.to_string().contains("507"), "{error}");
        assert!(crate::target::is_permanent(&error.into()));
        server.join().unwrap();
    }

    #[test]
    fn a_server_that_takes_nothing_more_is_waited_for_no_longer_than_the_limit() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let (mut body, server) = served(Duration::from_millis(300), move |stream| {
            let _ = wait.recv(); // until the test is over
            drop(stream);
        });
        let piece = vec![b'x'; 1 << 20];
        let error = (0..1000).find_map(|_| body.write_all(&piece).err()).expect("it goes on writing");
        assert!(error.to_string().contains("took nothing more for 300ms"), "{error}");
        drop((done, body));
        server.join().unwrap();
    }
}
