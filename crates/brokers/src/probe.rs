//! Asks a server the smallest question of its protocol, since an open port alone doesn't mean that it serves.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Bound on one probe's connect, on its writes and on its reads.
const PROBE: Duration = Duration::from_secs(2);
/// Bound on an answer's size, in bytes; an answer beyond it is not one of the protocol's.
const ANSWER: usize = 1 << 20;

/// Asks the first Kafka broker of the list that answers for the cluster's brokers; ok when it names at least one.
pub(crate) fn kafka(bootstrap: &str) -> Result<(), Error> {
    first(bootstrap, |stream| {
        // ApiVersions v0: no body; the answer is an error code (0) and the versions.
        let answer = kafka_call(stream, 18, 0, &[])?;
        if answer.get(..2) != Some(&[0, 0]) {
            return Err(bad("ApiVersions was refused"));
        }
        // Metadata v1 for no topic: the answer opens with the count of brokers that are not fenced.
        let answer = kafka_call(stream, 3, 1, &0_i32.to_be_bytes())?;
        match int(&answer) {
            Some(1..) => Ok(()),
            _ => Err(bad("no broker of the cluster is registered yet")),
        }
    })
}

/// Sends the CQL frame OPTIONS to a store; ok when it answers SUPPORTED.
pub(crate) fn cql(address: &str) -> Result<(), Error> {
    first(address, |stream| {
        // Protocol v4, no flags, stream 0, opcode OPTIONS, empty body.
        stream.write_all(&[0x04, 0, 0, 0, 0x05, 0, 0, 0, 0])?;
        let mut header = [0; 9];
        stream.read_exact(&mut header)?;
        match (header[0], header[4]) {
            (0x84, 0x06) => Ok(()),
            (version, opcode) => Err(bad(&format!("answered frame {version:#x}, opcode {opcode:#x}"))),
        }
    })
}

/// Runs `ask` on the first address of a comma-separated list for which it succeeds.
fn first(addresses: &str, ask: impl Fn(&mut TcpStream) -> Result<(), Error>) -> Result<(), Error> {
    let mut last = bad("no address");
    for address in addresses.split(',').map(str::trim).filter(|address| !address.is_empty()) {
        match address.to_socket_addrs() {
            Ok(resolved) => {
                for socket in resolved {
                    match connect(socket).and_then(|mut stream| ask(&mut stream)) {
                        Ok(()) => return Ok(()),
                        Err(error) => last = error,
                    }
                }
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect(socket: std::net::SocketAddr) -> Result<TcpStream, Error> {
    let stream = TcpStream::connect_timeout(&socket, PROBE)?;
    stream.set_read_timeout(Some(PROBE))?;
    stream.set_write_timeout(Some(PROBE))?;
    Ok(stream)
}

/// One request with the correlation id 7 and no client id; returns the answer after its correlation id.
fn kafka_call(stream: &mut TcpStream, api: i16, version: i16, body: &[u8]) -> Result<Vec<u8>, Error> {
    let mut request = Vec::new();
    request.extend(api.to_be_bytes());
    request.extend(version.to_be_bytes());
    request.extend(7_i32.to_be_bytes());
    request.extend((-1_i16).to_be_bytes());
    request.extend(body);
    let size = i32::try_from(request.len()).map_err(|_| bad("the request is too large"))?;
    stream.write_all(&size.to_be_bytes())?;
    stream.write_all(&request)?;
    let mut prefix = [0; 8];
    stream.read_exact(&mut prefix)?;
    let size = int(&prefix).and_then(|size| usize::try_from(size).ok()).unwrap_or_default();
    if !(4..=ANSWER).contains(&size) || prefix[4..] != 7_i32.to_be_bytes() {
        return Err(bad("the answer is not one of Kafka's protocol"));
    }
    let mut answer = vec![0; size - 4];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// The big-endian 32-bit integer that `bytes` open with.
fn int(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk().map(|chunk| i32::from_be_bytes(*chunk))
}

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}
