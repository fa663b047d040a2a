//! `sluice goods train`.

use std::{
    fs::Permissions,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use serde::Serialize;
use sluice_goods::{About, Model, train};

use super::{Bar, catalogue, percent};
use crate::{exit, output, output::count};

const EXAMPLES: &str = "\
Examples:
  sluice goods train data/products.parquet --out goods.slm
  sluice goods train data/products.parquet --rows mine.csv --manufacturer --out goods.slm

A catalogue has the columns product_type (or title) and handling, and may have package_size, department and
manufacturer_id. Handling classes are those of the pipeline; rows without a type are left out. The same rows, options and
seed give the same file on the same kind of machine.

Exit codes: 0 written; 2 a catalogue can't be used; 74 the file can't be written.";

/// Trains a model on a catalogue, and writes its file.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct TrainArgs {
    /// CSV or Parquet file of products with their handling classes
    #[arg(value_name = "CATALOGUE")]
    pub catalogue: PathBuf,
    /// Where to write the model; a file that is there is replaced at once, when the model is whole
    #[arg(long, value_name = "FILE", default_value = "model.slm")]
    pub out: PathBuf,
    /// In which order examples are learned follows from it
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// More products to learn from, with the same columns; may be given several times
    #[arg(long, value_name = "FILE")]
    pub rows: Vec<PathBuf>,
    /// Learn from manufacturers, too; lines are then judged better if theirs is known, and worse if it isn't
    #[arg(long)]
    pub manufacturer: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What was written.
#[derive(Serialize)]
struct Trained<'a> {
    file: &'a Path,
    bytes: usize,
    version: String,
    seconds: f64,
    about: &'a About,
}

pub(super) fn command(args: &TrainArgs) -> u8 {
    let begun = Instant::now();
    let (model, bytes) = match trained(args) {
        Ok(trained) => trained,
        Err(error) => {
            output::fault(error);
            return exit::USAGE;
        }
    };
    if let Err(error) = write(&args.out, &bytes) {
        output::fault(format_args!("{}: can't be written: {error}", args.out.display()));
        return exit::IO;
    }
    let trained = Trained {
        file: &args.out,
        bytes: bytes.len(),
        version: format!("{:08x}", model.version()),
        seconds: begun.elapsed().as_secs_f64(),
        about: model.about(),
    };
    if args.json {
        output::json(&trained)
    } else {
        output::result(text(&trained))
    }
    exit::OK
}

fn trained(args: &TrainArgs) -> Result<(Model, Vec<u8>), Box<dyn std::error::Error>> {
    let mut all = catalogue::read(&args.catalogue)?;
    for more in &args.rows {
        all.products.extend(catalogue::read(more)?.products);
    }
    let bar = Bar::new("training");
    let options = train::Options { name: name(&args.catalogue), seed: args.seed, makers: args.manufacturer };
    let bytes = train::train(&all, &options, &|done, all| bar.show(done, all))?;
    Ok((Model::parse(&bytes)?, bytes))
}

/// What a catalogue is called: its file's name.
pub(super) fn name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Replaces the file at once: whoever reads it meanwhile has the old one or the new one, whole.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    // Temporary files are for their owner alone; a model is no secret.
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn text(trained: &Trained<'_>) -> String {
    let about = trained.about;
    let mut text = format!(
        "{}: model {}, {} bytes, trained on {} products of {} types in {:.1} s\n",
        trained.file.display(),
        trained.version,
        count(trained.bytes as u64),
        count(about.rows),
        count(about.types),
        trained.seconds
    );
    if let Some(scores) = &about.scores {
        let tasks = [("handling classes", &scores.handling), ("departments", &scores.departments)];
        for (name, task) in tasks {
            text.push_str(&format!(
                "{name:>18}: accuracy {:.3}, macro-F1 {:.3} on types held back\n",
                task.accuracy, task.macro_f1
            ));
        }
    }
    let (above, others) = (about.calibration.review_above_risk, about.calibration.review_others_above_risk);
    let held = about.scores.as_ref().map_or(0.0, |scores| scores.danger.held);
    text.push_str(&format!(
        "{:>18}: above a risk of {above:.4} if they seem to be plain ambient goods, else of {others:.4}: {} of those",
        "held for review",
        percent(held)
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small catalogue whose classes follow from its words.
    pub(super) fn small() -> String {
        let kinds =
            [("FROZEN", "frozen"), ("CHILLED", "chilled"), ("CANNED", "ambient_food"), ("SOAP", "ambient_general")];
        let mut csv = "product_type,package_size,handling\n".to_owned();
        for number in 0..30 {
            for (word, handling) in kinds {
                csv.push_str(&format!("{word} THING{number},{number} OZ,{handling}\n"));
            }
        }
        csv
    }

    fn args(folder: &Path, catalogue: &str) -> TrainArgs {
        let path = folder.join("c.csv");
        std::fs::write(&path, catalogue).unwrap();
        TrainArgs {
            catalogue: path,
            out: folder.join("out.slm"),
            seed: 7,
            rows: Vec::new(),
            manufacturer: false,
            json: true,
        }
    }

    #[test]
    fn a_model_is_written_and_the_same_for_the_same_seed() {
        let folder = tempfile::tempdir().unwrap();
        let args = args(folder.path(), &small());
        assert_eq!(command(&args), exit::OK);
        let first = std::fs::read(&args.out).unwrap();
        assert_eq!(command(&args), exit::OK);
        assert!(first == std::fs::read(&args.out).unwrap());
        let model = Model::load(&args.out).unwrap();
        assert_eq!(model.judge("FROZEN SOMETHING | 3 OZ", None).handling.name(), "frozen");
        assert_eq!((model.about().rows, model.about().types, model.about().data.as_str()), (120, 120, "c.csv"));
        assert!(std::fs::read_dir(folder.path()).unwrap().count() == 2);
        command(&TrainArgs { seed: 8, ..args.clone() });
        assert!(first != std::fs::read(&args.out).unwrap());
    }

    #[test]
    fn more_rows_are_learned_too() {
        let folder = tempfile::tempdir().unwrap();
        let more = folder.path().join("more.csv");
        std::fs::write(&more, "title,handling\nzzyqx bombs,hazmat_check\nzzyqx,hazmat_check\n").unwrap();
        let args = TrainArgs { rows: vec![more.clone()], ..args(folder.path(), &small()) };
        assert_eq!(command(&args), exit::OK);
        let model = Model::load(&args.out).unwrap();
        assert_eq!((model.about().rows, model.judge("ZZYQX", None).handling.name()), (122, "hazmat_check"));
        std::fs::write(&more, "title\nzzyqx\n").unwrap();
        assert_eq!(command(&args), exit::USAGE);
    }

    #[test]
    fn what_can_not_be_done_is_told_by_its_code() {
        let folder = tempfile::tempdir().unwrap();
        let too_few = args(folder.path(), "title,handling\nBrie,chilled\n");
        assert_eq!(command(&too_few), exit::USAGE);
        assert!(!too_few.out.exists());
        let nowhere = TrainArgs { out: folder.path().join("no/such/folder.slm"), ..args(folder.path(), &small()) };
        assert_eq!(command(&nowhere), exit::IO);
    }
}
