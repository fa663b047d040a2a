//! The health check of our containers, run against servers that are ready, are not, and are not there.

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::Command,
    thread,
};

use super::files::root;

/// Runs the check against a server that answers one request with `answer`, and gives its verdict and the request.
fn check(answer: &'static str) -> Option<(bool, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut part = [0; 1024];
            let length = stream.read(&mut part).unwrap();
            assert_ne!(length, 0, "the request ends early: {}", request.escape_ascii());
            request.extend_from_slice(&part[..length]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    let ok = verdict(port)?;
    Some((ok, server.join().unwrap()))
}

/// `None` where there is no bash.
fn verdict(port: u16) -> Option<bool> {
    let script = root().join("deploy/ready.sh");
    match Command::new("bash").arg(script).args(["127.0.0.1", &port.to_string()]).output() {
        Ok(output) => Some(output.status.success()),
        Err(error) => {
            sluice_brokers::skipped(format_args!("there is no bash here: {error}"));
            None
        }
    }
}

#[test]
fn only_200_is_ready() {
    let Some((ok, request)) = check("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n") else { return };
    assert!(ok && request.starts_with("GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
    assert!(request.ends_with("\r\n\r\n"), "{request}");
    assert!(!check("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").unwrap().0);
    assert!(!check("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").unwrap().0);
    assert!(!check("").unwrap().0);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(verdict(closed), Some(false));
}
