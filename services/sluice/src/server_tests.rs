//! The server's own bounds: connections, heads, and the time that a slow client may take.

use std::time::Instant;

use axum::{body::Body, routing::get};
use rustls::pki_types::ServerName;
use sluice_brokers::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::tls::{self, TlsConfig};

/// Short, so that whoever is too slow is so soon.
const SHORT: Patience = Patience {
    handshake: Duration::from_millis(300),
    head: Duration::from_millis(300),
    answer: Duration::from_millis(300),
};
/// For whoever is in time, on however busy a machine.
const LONG: Duration = Duration::from_secs(30);

/// More than the kernel holds for a client that doesn't read.
const LARGE: usize = 64 << 20;
const QUICK: &str = "GET /quick HTTP/1.1\r\nhost: x\r\n\r\n";

fn start(connections: u32, patience: Patience, tls: Option<Arc<Tls>>) -> Server {
    let app = Router::new()
        .route("/quick", get(|| async { "ok" }))
        .route("/large", get(|| async { Body::from(vec![b'x'; LARGE]) }));
    let reserved = Server::reserve(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    Server::start(reserved, app, Serving { connections, tls, patience }).unwrap()
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address()).await.unwrap()
}

/// Sends `request` and gives the status of the answer, all of which is read if it is short.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &str) -> u16 {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = [0; 4_096];
    let read = tokio::time::timeout(LONG, stream.read(&mut bytes)).await.unwrap().unwrap();
    std::str::from_utf8(&bytes[9..12.min(read)]).unwrap().parse().unwrap()
}

/// Waits until the server has closed the connection.
async fn closed(stream: &mut TcpStream) {
    // Whether it says goodbye or breaks off is its affair.
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut Vec::new())).await.expect("it is closed in time");
}

#[tokio::test]
async fn one_connection_more_waits_for_one_that_ends() {
    let server = start(2, Patience::default(), None);
    let (mut first, mut second) = (connect(&server).await, connect(&server).await);
    assert_eq!((ask(&mut first, QUICK).await, ask(&mut second, QUICK).await), (200, 200));
    let mut third = connect(&server).await;
    third.write_all(QUICK.as_bytes()).await.unwrap();
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(300), third.read(&mut byte)).await;
    assert!(early.is_err(), "it isn't served while two are");
    assert_eq!(ask(&mut first, QUICK).await, 200);
    drop(first);
    assert_eq!(tokio::time::timeout(LONG, third.read(&mut byte)).await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_head_has_so_many_headers_and_bytes() {
    let server = start(8, Patience::default(), None);
    // The host is one of a hundred.
    for (headers, status) in [(99, 200), (100, 431)] {
        let more: String = (0..headers).map(|n| format!("x-{n}: y\r\n")).collect();
        let request = format!("GET /quick HTTP/1.1\r\nhost: x\r\n{more}\r\n");
        assert_eq!(ask(&mut connect(&server).await, &request).await, status, "{headers}");
    }
    for (bytes, status) in [(HEAD_BYTES - 1, 200), (HEAD_BYTES, 200), (HEAD_BYTES + 1, 431)] {
        let start = "GET /quick HTTP/1.1\r\nhost: x\r\nx-long: ";
        let request = format!("{start}{}\r\n\r\n", "y".repeat(bytes - start.len() - 4));
        assert_eq!(request.len(), bytes);
        assert_eq!(ask(&mut connect(&server).await, &request).await, status, "{bytes}");
    }
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_cut_off() {
    let server = start(1, SHORT, None);
    let mut slow = connect(&server).await;
    let started = Instant::now();
    let (mut read, mut write) = slow.split();
    let drip = async {
        for byte in "GET /quick HTTP/1.1\r\nhost: ".bytes().chain(std::iter::repeat(b'x')) {
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut rest = Vec::new();
    tokio::select! {
        () = drip => {}
        _ = read.read_to_end(&mut rest) => {}
        () = tokio::time::sleep(LONG) => panic!("it is still served"),
    }
    assert!(started.elapsed() >= SHORT.head);
    assert_eq!(ask(&mut connect(&server).await, QUICK).await, 200, "its place is free again");
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = start(1, SHORT, None);
    let mut never = connect(&server).await;
    closed(&mut never).await;
    let mut once = connect(&server).await;
    assert_eq!(ask(&mut once, QUICK).await, 200);
    closed(&mut once).await;
}

#[tokio::test]
async fn who_does_not_take_the_answer_loses_its_place() {
    let server = start(1, SHORT, None);
    let mut deaf = connect(&server).await;
    assert_eq!(ask(&mut deaf, "GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await, 200);
    assert_eq!(ask(&mut connect(&server).await, QUICK).await, 200, "its place is free again");
    let mut bytes = Vec::new();
    let _ = deaf.read_to_end(&mut bytes).await;
    assert!(bytes.len() < LARGE, "it was cut off");
}

#[tokio::test]
async fn a_body_that_nobody_reads_holds_no_place() {
    let server = start(1, Patience::default(), None);
    let mut slow = connect(&server).await;
    let head = "POST /quick HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    assert_eq!(ask(&mut slow, head).await, 405);
    assert_eq!(ask(&mut connect(&server).await, QUICK).await, 200, "its place is free again");
    closed(&mut slow).await;
}

/// A server's certificate, and a connector that trusts it.
fn certified() -> (Arc<Tls>, tokio_rustls::TlsConnector) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let authority = Authority::new("test").unwrap();
    let (certificate, key) = authority.issue("server").unwrap();
    for (name, pem) in [("crt", certificate), ("key", key), ("ca", authority.pem().unwrap())] {
        std::fs::write(at(name), pem).unwrap();
    }
    let tls = Tls::load(&TlsConfig { certificate: at("crt"), key: at("key") }).unwrap();
    (Arc::new(tls), tls::connector("ca", &at("ca")).unwrap())
}

#[tokio::test]
async fn tls_is_spoken_where_there_is_a_certificate() {
    let (tls, connector) = certified();
    let server = start(2, Patience::default(), Some(tls));
    assert!(server.url().starts_with("https://127.0.0.1:"));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = connector.connect(name.clone(), connect(&server).await).await.unwrap();
    assert_eq!((ask(&mut stream, QUICK).await, ask(&mut stream, QUICK).await), (200, 200));
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    // One who speaks in the clear gets no answer, and one who expects another name gives none.
    let mut plain = connect(&server).await;
    plain.write_all(QUICK.as_bytes()).await.unwrap();
    closed(&mut plain).await;
    let other = ServerName::try_from("127.0.0.2").unwrap();
    assert!(connector.connect(other, connect(&server).await).await.is_err());
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_given_up() {
    let (tls, connector) = certified();
    let server = start(1, Patience { handshake: SHORT.handshake, ..Patience::default() }, Some(tls));
    let mut silent = connect(&server).await;
    let mut next = Box::pin(connector.connect(ServerName::try_from("127.0.0.1").unwrap(), connect(&server).await));
    let mut stream = tokio::time::timeout(LONG, &mut next).await.unwrap().unwrap();
    assert_eq!(ask(&mut stream, QUICK).await, 200);
    closed(&mut silent).await;
}
