//! Proxies that the environment names.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::peers::webdav::{WebDav, certificates};
use crate::use_webdav;
use crate::world::{Setup, World, output};

/// A proxy that knows CONNECT, and leads every name to one server.
struct ConnectProxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl ConnectProxy {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        // It ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), seen) = (client, Arc::clone(&seen)) else { continue };
                thread::spawn(move || connect(client, server, &seen));
            }
        });
        Self { address, asked }
    }
}

fn connect(mut client: TcpStream, server: SocketAddr, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    seen.lock().unwrap().push(head.clone());
    if head.contains("blocked.example.test") {
        return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").ok();
    }
    let mut upstream = TcpStream::connect(server).ok()?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    let (mut back, mut to_client) = (upstream.try_clone().ok()?, client.try_clone().ok()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut back, &mut to_client);
        let _ = to_client.shutdown(std::net::Shutdown::Both);
    });
    let _ = std::io::copy(&mut client, &mut upstream);
    upstream.shutdown(std::net::Shutdown::Both).ok()
}

#[test]
fn the_proxy_of_the_environment_is_used_and_left_out_where_it_says_so() {
    let world = World::with(Setup { nas: true, ..Setup::default() });
    // A name that no resolver knows: only the proxy leads there.
    let (authority, tls) = certificates(world.root(), "DNS:dav.example.test,DNS:localhost");
    let server = WebDav::rclone(&world.path("nas"), Some(&tls));
    let proxy = ConnectProxy::to(server.address);
    let port = server.address.port();
    let (far, near) = (format!("https://dav.example.test:{port}/"), format!("https://localhost:{port}/"));
    use_webdav(&world, "nas", &far, &format!("ca_file = \"{}\"", authority.display()));

    let backup = |exception: &str| {
        let mut command = world.agent(&["backup", "web", "--json"]);
        command.env("HTTPS_PROXY", format!("http://{}", proxy.address)).env("NO_PROXY", exception);
        output(command)
    };
    backup("").expect(0);
    assert_eq!(world.stored("nas").len(), 1);
    let asked = std::mem::take(&mut *proxy.asked.lock().unwrap());
    let line = format!("CONNECT dav.example.test:{port} HTTP/1.1\r\n");
    assert!(!asked.is_empty() && asked.iter().all(|head| head.starts_with(&line)), "{asked:?}");
    assert!(asked.iter().all(|head| !head.to_lowercase().contains("\r\nauthorization:")), "{asked:?}");

    world.edit_config(&far, &near);
    backup("localhost").expect(0);
    assert!(proxy.asked.lock().unwrap().is_empty(), "the exception was not heeded");
    backup("").expect(0);
    assert!(!proxy.asked.lock().unwrap().is_empty());

    world.edit_config(&near, "https://blocked.example.test/");
    let out = backup("").expect(4);
    let wants = format!("the proxy {} wants a login", proxy.address);
    assert!(out.all().contains(&wants), "{}", out.all());
}

#[test]
fn a_proxy_that_is_away_or_no_proxy_is_what_the_error_is_about() {
    let world = World::with(Setup { nas: true, ..Setup::default() });
    let server = WebDav::rclone(&world.path("nas"), None);
    let address = format!("http://{}/", server.address);
    use_webdav(&world, "nas", &address, "");
    let closed = "127.0.0.1:1"; // nobody listens there
    let backup = |variable: &str, proxy: &str| {
        let mut command = world.agent(&["backup", "web", "--json"]);
        command.env(variable, proxy).env("NO_PROXY", "");
        output(command).expect(4).all()
    };
    let away = backup("http_proxy", &format!("http://user:canary@{closed}"));
    assert!(away.contains(&format!("through the proxy {closed}")), "{away}");
    // Going straight there instead would pass by what somebody wanted in between.
    let wrong = backup("HTTPS_PROXY", "http://user:canary@");
    assert!(wrong.contains("HTTPS_PROXY of the environment is no address of a proxy"), "{wrong}");
    assert!(world.stored("nas").is_empty());
    assert!(!away.contains("canary") && !wrong.contains("canary"));
}
