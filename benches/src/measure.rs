//! What a run cost, as the system counts it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
    time::{Duration, Instant},
};

fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default();
    line.split_ascii_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Bytes this process has caused to be written to devices.
pub fn written_bytes() -> u64 {
    field("/proc/self/io", "write_bytes:")
}

/// Resident memory now, bytes.
pub fn rss_bytes() -> u64 {
    field("/proc/self/status", "VmRSS:") * 1024
}

/// Begins to watch for the highest resident memory anew (`man 5 proc`, `clear_refs`).
pub fn reset_peak_rss() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Highest resident memory since [`reset_peak_rss`], bytes.
pub fn peak_rss_bytes() -> u64 {
    field("/proc/self/status", "VmHWM:") * 1024
}

/// Resident memory of another process, bytes; 0 if it is gone.
pub fn rss_of(process: u32) -> u64 {
    field(&format!("/proc/{process}/status"), "VmRSS:") * 1024
}

/// Today's date, `2026-01-31`.
pub fn today() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let stamp = sluice_http::rfc3339::format(now.as_millis() as u64);
    String::from_utf8_lossy(&stamp[..10]).into_owned()
}

/// CPU time of this process, all threads.
pub fn cpu() -> Duration {
    cpu_at("/proc/self/stat")
}

/// CPU time of another process, all threads; none if it is gone.
pub fn cpu_of(process: u32) -> Duration {
    cpu_at(&format!("/proc/{process}/stat"))
}

fn cpu_at(path: &str) -> Duration {
    let text = fs::read_to_string(path).unwrap_or_default();
    let after = text.rsplit_once(')').map_or("", |x| x.1);
    let ticks: u64 = after.split_ascii_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Seconds that `bytes` take as bare appends of 4 MiB, each followed by fdatasync, into a new file in `folder`: best of
/// three.
///
/// # Errors
/// What the system says.
pub fn bare_appends(folder: &Path, bytes: u64) -> io::Result<Duration> {
    let mut best = Duration::MAX;
    let block: Vec<u8> = (0..4u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for _ in 0..3 {
        let path = folder.join("ceiling");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
        let started = Instant::now();
        let mut left = bytes;
        while left > 0 {
            let len = left.min(block.len() as u64) as usize;
            file.write_all(&block[..len])?;
            file.sync_data()?;
            left -= len as u64;
        }
        best = best.min(started.elapsed());
        drop(file);
        fs::remove_file(&path)?;
    }
    Ok(best)
}
