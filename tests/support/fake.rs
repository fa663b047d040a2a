//! Carriers that say whatever a test wants: the simulated ones only say what sane carriers say.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use serde_json::{Value, json};

/// What a carrier says of a shipment: its id in the path, the shipment, and the result without the shipment's id.
type Say = dyn Fn(&str, &Value) -> Value + Send + Sync;

/// A listener for any number of carriers; dropping it takes no further connections.
pub struct Fake {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Fake {
    pub fn start(say: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (say, stopped): (Arc<Say>, _) = (Arc::new(say), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(SeqCst) {
                    return;
                }
                let (stream, say) = (stream.unwrap(), Arc::clone(&say));
                std::thread::spawn(move || serve(stream, &*say));
            }
        });
        Self { address, stop }
    }

    /// Without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        // Wakes the listener; if it can't be reached, it is gone.
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers manifests until the other side closes.
fn serve(stream: TcpStream, say: &Say) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some((carrier, manifest)) = read_manifest(&mut reader) {
        let result = |shipment: &Value| {
            let mut result = say(&carrier, shipment);
            result["shipment_id"] = shipment["shipment_id"].clone();
            result
        };
        let results: Vec<Value> = manifest["shipments"].as_array().unwrap().iter().map(result).collect();
        let body = json!({ "results": results }).to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        if writer.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

/// The carrier in the path `/carriers/{id}/manifests`, and the body.
fn read_manifest(reader: &mut impl BufRead) -> Option<(String, Value)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let carrier = line.split('/').nth(2)?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().ok()?,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((carrier, serde_json::from_slice(&body).ok()?))
}
