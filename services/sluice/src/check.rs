//! `sluice check`: verifies a stopped data folder, and names what is wrong with it.

use std::{io::ErrorKind, path::PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sluice_engine_embedded::check::{CheckProgress, CheckReport, check};
use sluice_pipeline::LogError;

use crate::{
    exit,
    output::{self, count},
};

const EXAMPLES: &str = "\
Examples:
  sluice check sluice-data
  sluice check sluice-data --json | jq .damage

Nothing is changed. Exit codes: 0 sound; 1 damaged; 2 no data folder; 74 it can't be read; 75 a process is using it.";

/// Verifies every byte of a stopped data folder: the journal's checksums, the store's files and entries, and that they fit
/// together. Names any damage by file and offset.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// The data folder
    #[arg(value_name = "DATA_DIR")]
    pub data_dir: PathBuf,
    /// Print the report as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Checks, and gives the exit code.
#[must_use]
pub fn command(args: &CheckArgs) -> u8 {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("checking [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec}") {
        bar.set_style(style.progress_chars("=> "));
    }
    let mut tell = |now: CheckProgress| {
        bar.set_length(now.total);
        bar.set_position(now.done);
    };
    let checked = check(&args.data_dir, &mut tell);
    bar.finish_and_clear();
    match checked {
        Ok(report) => {
            if args.json {
                output::json(&report);
            } else {
                output::result(text(&report));
            }
            if report.sound { exit::OK } else { exit::FOUND_WRONG }
        }
        Err(error) => {
            output::fault(&error);
            match error {
                LogError::Io { source, .. } if source.kind() == ErrorKind::NotFound => exit::USAGE,
                LogError::Io { source, .. } if source.kind() == ErrorKind::WouldBlock => exit::IN_USE,
                _ => exit::IO,
            }
        }
    }
}

/// The report for people.
fn text(report: &CheckReport) -> String {
    let mut lines = vec![
        format!(
            "journal: {} segments, {} groups, {} orders, {} deltas",
            count(report.segments),
            count(report.groups),
            count(report.orders),
            count(report.deltas)
        ),
        format!(
            "store:   {} rows, {} index entries, {} look-up entries, checkpoint {}",
            count(report.rows),
            count(report.index_entries),
            count(report.lookup_entries),
            report.checkpoint
        ),
        format!("read:    {} bytes in {:.2} s", count(report.bytes), report.seconds),
    ];
    for torn in &report.torn {
        lines.push(format!(
            "torn:    {} at byte {}: an unfinished last write, which the next start cuts off",
            torn.file, torn.offset
        ));
    }
    for damage in &report.damage {
        lines.push(format!("DAMAGE:  {} at byte {}: {}", damage.file, damage.offset, damage.what));
    }
    if report.damage_found > report.damage.len() as u64 {
        lines.push(format!("         … {} pieces of damage in all", count(report.damage_found)));
    }
    lines.extend(report.skipped.iter().map(|what| format!("skipped: {what}")));
    lines.push(if report.sound { "SOUND".into() } else { "DAMAGED: restore the folder from a copy".into() });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use sluice_engine_embedded::check::{Damage, Torn};

    use super::*;

    #[test]
    fn damage_is_named_by_file_and_offset() {
        let mut report = CheckReport { sound: true, orders: 12_345, ..CheckReport::default() };
        report.torn.push(Torn { file: "journal/0".into(), offset: 4_096 });
        let sound = text(&report);
        assert!(sound.ends_with("SOUND") && sound.contains("12,345 orders") && sound.contains("byte 4096"), "{sound}");
        report.sound = false;
        report.damage_found = 200;
        report.damage.push(Damage { file: "journal/1".into(), offset: 77, what: "checksum".into() });
        let damaged = text(&report);
        assert!(damaged.contains("DAMAGE:  journal/1 at byte 77: checksum"), "{damaged}");
        assert!(damaged.contains("200 pieces of damage in all") && damaged.contains("DAMAGED"), "{damaged}");
    }

    #[test]
    fn a_folder_that_is_none_is_wrong_usage() {
        assert_eq!(command(&CheckArgs { data_dir: "/nowhere/data".into(), json: false }), exit::USAGE);
    }
}
