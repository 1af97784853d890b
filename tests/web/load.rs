//! Many clients, slow ones, and an end in the middle of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{Stage, parse, start};

/// A disk that hangs takes four threads and not one more; health is answered at once, and so is the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_hangs_does_not_hang_the_server() {
    let stage = Stage::new();
    *stage.delay.lock().unwrap() = Duration::from_secs(300);
    let server = Arc::new(start(&stage).await);
    let asked: Vec<_> = (0..12)
        .map(|_| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.get("/api/v1/status").await.status })
        })
        .collect();
    while stage.reads.load(Ordering::SeqCst) < 4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // At once, or nearly: a machine with other work may stand still, but not each time.
    let mut times = Vec::new();
    while times.iter().all(|took| *took >= Duration::from_secs(1)) {
        assert!(times.len() < 10, "{times:?}");
        let start = Instant::now();
        assert_eq!(server.get("/healthz").await.status, 200);
        times.push(start.elapsed());
    }
    for status in asked {
        assert_eq!(status.await.unwrap(), 503);
    }
    assert_eq!(stage.reads.load(Ordering::SeqCst), 4);
    *stage.delay.lock().unwrap() = Duration::ZERO; // nothing waits for those threads
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused() {
    let server = start(&Stage::new()).await;
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    assert_eq!(server.raw(&request).await.status, 431);
    let many: String = (0..100).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert_eq!(server.raw(&format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n")).await.status, 431);
}

/// An idle connection is closed, an answer under way is finished, a client that says nothing is not waited
/// for.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_drains_and_does_not_wait_for_ever() {
    let stage = Stage::new();
    let mut server = start(&stage).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    silent.write_all(b"GET / HT").await.unwrap();
    let idle = TcpStream::connect(server.address).await.unwrap();
    *stage.delay.lock().unwrap() = Duration::from_secs(300);
    let address = server.address;
    let busy = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        parse(&String::from_utf8(bytes).unwrap()).status
    });
    while stage.reads.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let start = Instant::now();
    server.stop.take().unwrap().send(()).unwrap();
    *stage.delay.lock().unwrap() = Duration::ZERO;
    server.task.await.unwrap().unwrap();
    assert_eq!(busy.await.unwrap(), 200);
    // Whoever is silent would be waited for half a minute.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(TcpStream::connect(address).await.is_err(), "the port is still open");
    drop((silent, idle));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_answers_many_requests() {
    let server = start(&Stage::new()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        // It may come in pieces.
        let (mut answer, mut piece) = (Vec::new(), vec![0; 4096]);
        while !answer.ends_with(b"ok\n") {
            let n = stream.read(&mut piece).await.unwrap();
            assert!(n > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..n]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_clients_than_places_are_all_answered() {
    let server = Arc::new(start(&Stage::new()).await);
    // These hold their places without saying a word.
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(TcpStream::connect(server.address).await.unwrap());
    }
    let asked: Vec<_> = (0..100)
        .map(|_| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.get("/healthz").await.status })
        })
        .collect();
    for status in asked {
        assert_eq!(status.await.unwrap(), 200);
    }
}
