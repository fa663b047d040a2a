//! What machine a figure comes from: without that it says little.

use std::fs;

/// Processor, cores, memory and kernel in one line; a question mark for what the system doesn't tell.
#[must_use]
pub fn describe() -> String {
    let unknown = || "?".to_owned();
    let line = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let found = text.lines().find(|line| line.starts_with(key)).and_then(|line| line.split_once(':'));
        found.map_or_else(unknown, |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kib: u64 = line("/proc/meminfo", "MemTotal").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| unknown(), |text| text.trim().to_owned());
    let (cpu, gib) = (line("/proc/cpuinfo", "model name"), kib >> 20);
    format!("{cpu}, {cores} cores, {gib} GiB, Linux {kernel}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_machine_has_cores_and_memory() {
        let text = super::describe();
        assert!(text.contains(" cores, ") && text.contains(" GiB, ") && !text.contains('\n'), "{text}");
    }
}
