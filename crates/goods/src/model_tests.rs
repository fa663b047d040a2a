//! The model of this build, its frozen answers, and every kind of damage to its file.

use proptest::prelude::*;
use sluice_data::DataError;

use super::*;

const EMBEDDED: &[u8] = include_bytes!("../model.slm");
/// Version, then a line a title: what it is taken for, to two digits.
const ANSWERS: &str = include_str!("../fixtures/answers.txt");
/// Texts that were made to do harm; the fuzz target starts from them.
const HOSTILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/goods_text");

fn answer(model: &Model, title: &str) -> String {
    let said = model.judge(title, None);
    let department = &model.about().departments[usize::from(said.department)];
    let held = if said.review { "held" } else { "decided" };
    format!(
        "{title} => {} {:.2} {held}, {department} {:.2}",
        said.handling.name(),
        said.confidence,
        said.department_confidence
    )
}

#[test]
fn answers_are_frozen() {
    let model = Model::embedded().unwrap();
    let titles = ANSWERS.lines().skip(1).map(|line| line.split_once(" => ").unwrap().0);
    let mut now = format!("{:08x}\n", model.version());
    titles.for_each(|title| now += &(answer(&model, title) + "\n"));
    if std::env::var_os("SLUICE_UPDATE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/answers.txt");
        std::fs::write(path, &now).unwrap();
    }
    assert_eq!(now, ANSWERS, "a new model needs new fixtures: SLUICE_UPDATE_GOLDEN=1");
}

#[test]
fn the_embedded_model_says_where_it_comes_from() {
    let model = Model::embedded().unwrap();
    let about = model.about();
    assert_eq!((about.data.as_str(), about.rows, about.types), ("products.parquet", 91_803, 2_378));
    assert_eq!((about.departments.len(), about.handling.len(), about.makers), (15, 10, false));
    let scores = about.scores.as_ref().unwrap();
    assert!(scores.handling.accuracy > 0.871 && scores.handling.macro_f1 > 0.737, "{scores:?}");
    assert!(scores.departments.accuracy > 0.838 && scores.departments.macro_f1 > 0.665, "{scores:?}");
    assert!(scores.handling.calibration_error < 0.03 && scores.departments.calibration_error < 0.03, "{scores:?}");
    assert!(scores.danger.passed_of_dangerous() < 0.01, "{scores:?}");
    assert!(EMBEDDED.len() < 2_000_000);
}

#[test]
fn a_known_word_is_its_spelling() {
    let model = Model::embedded().unwrap();
    for title in ["SALMON FILLET | 8 OZ", "frozen pizza", "qxqx zzyx | 3 CT", "", "DISH SOAP lemon lemon"] {
        assert_eq!(model.judge(title, None), model.judge_spelled(title, None), "{title}");
    }
}

#[test]
fn who_made_it_counts_only_for_a_model_that_learned_it() {
    let model = Model::embedded().unwrap();
    assert_eq!(model.judge("BREAD", Some("69")), model.judge("BREAD", None));
}

#[test]
fn disguises_change_nothing() {
    let model = Model::embedded().unwrap();
    let plain = model.judge("BOURBON WHISKEY | 750 ML", None);
    assert_eq!(plain.handling.name(), "age_restricted");
    let disguised = [
        "bourbon whiskey | 750 ml",
        "ВОURBОN WHISKEY | 750 ML",
        "bour\u{200b}bon \u{202e}whiskey | 750 ml",
        "ＢＯＵＲＢＯＮ ＷＨＩＳＫＥＹ | 750 ML",
    ];
    for title in disguised {
        assert_eq!(model.judge(title, None), plain, "{title}");
    }
}

#[test]
fn hostile_texts_are_judged_like_others() {
    let model = Model::embedded().unwrap();
    let mut texts: Vec<Vec<u8>> =
        std::fs::read_dir(HOSTILE).unwrap().map(|f| std::fs::read(f.unwrap().path()).unwrap()).collect();
    assert!(texts.len() >= 12);
    texts.push("a".repeat(100_000).into_bytes());
    texts.push("\u{202e}\u{0}é".repeat(20_000).into_bytes());
    for text in texts {
        crate::check_text(&model, &text);
    }
}

#[test]
fn other_files_are_refused_by_name() {
    let frame = |bytes: &[u8]| match Model::parse(bytes) {
        Err(ModelError::Frame(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(frame(b""), DataError::Short { .. }));
    assert!(matches!(frame(&[b'x'; 100]), DataError::Magic { .. }));
    assert!(matches!(frame(&EMBEDDED[..EMBEDDED.len() - 1]), DataError::Checksum { .. }));
    let mut later = EMBEDDED.to_vec();
    later[8] = 2;
    assert!(matches!(frame(&later), DataError::Checksum { .. }));
    assert!(matches!(Model::parse(&vec![0; LARGEST as usize + 1]), Err(ModelError::TooLong { .. })));
    let missing = Model::load(Path::new("/nowhere/m.slm")).unwrap_err().to_string();
    assert!(missing.contains("/nowhere/m.slm: can't be read"), "{missing}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"SLUICEGM and no more").unwrap();
    let damaged = Model::load(file.path()).unwrap_err().to_string();
    assert!(damaged.contains(&*file.path().to_string_lossy()) && damaged.contains("cut short"), "{damaged}");
}

/// A file with a whole frame, in which one thing was changed.
fn with(change: impl FnOnce(&mut About)) -> Result<Model, ModelError> {
    let mut about = Model::embedded().unwrap().about().clone();
    change(&mut about);
    Model::parse(&encode(&about, &[("beer", [1; LANES])], &[(7, [1; LANES])]).unwrap())
}

#[test]
fn contents_that_do_not_fit_are_refused_by_name() {
    assert_eq!(with(|_| ()).unwrap().about().departments.len(), 15);
    let refused = |change: fn(&mut About), part: &str| {
        let error = with(change).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("train it again"), "{error}");
    };
    refused(|about| about.layout = 99, "layout 99");
    refused(|about| about.handling.reverse(), "handling classes");
    refused(|about| about.bias.truncate(3), "3 biases");
    refused(|about| about.departments = vec!["X".into(); 23], "23 departments");
    refused(|about| about.calibration.handling_temperature = 0.0, "temperature");
    refused(|about| about.steps.table = -1.0, "step");
    let beyond = encode(Model::embedded().unwrap().about(), &[("beer", [1; LANES])], &[(ROWS, [1; LANES])]).unwrap();
    assert!(Model::parse(&beyond).unwrap_err().to_string().contains("beyond the table"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_damage_passes(at in 0..EMBEDDED.len(), bit in 0u8..8, cut in any::<bool>()) {
        let mut bytes = EMBEDDED.to_vec();
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << bit;
        }
        prop_assert!(Model::parse(&bytes).is_err());
    }

    #[test]
    fn any_text_is_judged(text in any::<String>()) {
        thread_local!(static MODEL: Model = Model::embedded().unwrap());
        MODEL.with(|model| crate::check_text(model, text.as_bytes()));
    }
}
