//! Today's `.proto` must not break a reader that was built with an older one. Every released version is frozen as a
//! descriptor set, `fixtures/order_event-v<n>.binpb`; whoever changes the `.proto` adds the next with
//! `cargo test -p sluice-schemas regenerate -- --ignored`, which refuses a change that breaks a reader.

use std::{collections::BTreeMap, fs, path::PathBuf};

use prost::Message;
use prost_reflect::{
    DescriptorPool,
    prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet},
};
use protox::{
    Compiler,
    file::{File, FileResolver},
};

use super::{
    PROTO,
    read::{self, HandlingGroup, Outcome, Progress},
    samples::{of_estimates, one_of_each},
};

const NAME: &str = "sluice/events/v1/order_event.proto";

struct InMemory(String);

impl FileResolver for InMemory {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        File::from_source(name, &self.0)
    }
}

/// Compiles the text of a `.proto`, without its comments.
pub(super) fn compile(proto: &str) -> FileDescriptorSet {
    let mut compiler = Compiler::with_file_resolver(InMemory(proto.to_owned()));
    compiler.include_source_info(false).open_file(NAME).unwrap_or_else(|e| panic!("{e}\n{proto}"));
    compiler.file_descriptor_set()
}

pub(super) fn pool(set: &FileDescriptorSet) -> DescriptorPool {
    DescriptorPool::from_file_descriptor_set(set.clone()).unwrap()
}

fn frozen_path(version: usize) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/order_event-v{version}.binpb"))
}

/// Released versions, oldest first.
fn frozen() -> Vec<FileDescriptorSet> {
    let sets = (1..).map_while(|version| fs::read(frozen_path(version)).ok());
    sets.map(|bytes| FileDescriptorSet::decode(&*bytes).unwrap()).collect()
}

/// A version by full names: its messages and enums, however nested.
#[derive(Default)]
struct Version {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
}

impl Version {
    fn of(set: &FileDescriptorSet) -> Self {
        let mut version = Self::default();
        for FileDescriptorProto { package, message_type, enum_type, .. } in &set.file {
            version.add(package.as_deref().unwrap_or_default(), message_type, enum_type);
        }
        version
    }

    fn add(&mut self, scope: &str, messages: &[DescriptorProto], enums: &[EnumDescriptorProto]) {
        for e in enums {
            self.enums.insert(format!("{scope}.{}", e.name()), e.clone());
        }
        for m in messages {
            let name = format!("{scope}.{}", m.name());
            self.add(&name, &m.nested_type, &m.enum_type);
            self.messages.insert(name, m.clone());
        }
    }
}

/// The change that would break a reader of `old` when it meets what a writer of `new` writes, or a program that is built
/// with `new` after `old`; all of them, by name.
fn breaks(old: &FileDescriptorSet, new: &FileDescriptorSet) -> Vec<String> {
    let mut found = Vec::new();
    for file in &old.file {
        match new.file.iter().find(|f| f.name() == file.name()) {
            None => found.push(format!("file {} is gone", file.name())),
            Some(n) if n.package() != file.package() => found.push(format!("package {} is gone", file.package())),
            Some(n) if n.syntax() != file.syntax() => found.push(format!("syntax {} is gone", file.syntax())),
            Some(n) if n.options != file.options => found.push("options of the file changed".to_owned()),
            Some(_) => {}
        }
    }
    let (old, new) = (Version::of(old), Version::of(new));
    for (name, message) in &old.messages {
        match new.messages.get(name) {
            None => found.push(format!("message {name} is gone")),
            Some(today) => broken_fields(name, message, today, &mut found),
        }
    }
    for (name, old) in &old.enums {
        let Some(today) = new.enums.get(name) else {
            found.push(format!("enum {name} is gone"));
            continue;
        };
        for value in &old.value {
            if !today.value.iter().any(|v| (v.number(), v.name()) == (value.number(), value.name())) {
                found.push(format!("{name}: value {} = {} is gone", value.name(), value.number()));
            }
        }
    }
    found
}

fn broken_fields(name: &str, old: &DescriptorProto, new: &DescriptorProto, found: &mut Vec<String>) {
    let reserves =
        |m: &DescriptorProto, number: i32| m.reserved_range.iter().any(|r| (r.start()..r.end()).contains(&number));
    for field in &old.field {
        let (text, number) = (field.name(), field.number());
        let Some(today) = new.field.iter().find(|f| f.number() == number) else {
            if !reserves(new, number) || !new.reserved_name.iter().any(|n| n == text) {
                found.push(format!("{name}: field {text} = {number} is gone and not reserved"));
            }
            continue;
        };
        for (what, before, after) in [
            ("name", field.name(), today.name()),
            ("JSON name", field.json_name(), today.json_name()),
            ("type name", field.type_name(), today.type_name()),
            ("type", field.r#type().as_str_name(), today.r#type().as_str_name()),
            ("label", field.label().as_str_name(), today.label().as_str_name()),
            ("presence", presence(field), presence(today)),
            ("oneof", oneof(old, field), oneof(new, today)),
        ] {
            if before != after {
                found.push(format!("{name}: {what} of field {text} = {number} was {before:?}, is {after:?}"));
            }
        }
    }
    for range in &old.reserved_range {
        for number in (range.start()..range.end()).filter(|n| !reserves(new, *n)) {
            found.push(format!("{name}: number {number} is not reserved any more"));
        }
    }
    for text in old.reserved_name.iter().filter(|n| !new.reserved_name.contains(n)) {
        found.push(format!("{name}: name {text} is not reserved any more"));
    }
}

fn presence(field: &FieldDescriptorProto) -> &'static str {
    if field.proto3_optional() { "optional" } else { "plain" }
}

fn oneof<'a>(message: &'a DescriptorProto, field: &FieldDescriptorProto) -> &'a str {
    let index = field.oneof_index.filter(|_| !field.proto3_optional());
    index.and_then(|i| message.oneof_decl.get(i as usize)).map_or("", |o| o.name())
}

#[test]
fn todays_proto_breaks_no_reader_of_a_released_version() {
    let (frozen, today) = (frozen(), compile(PROTO));
    for (at, old) in frozen.iter().enumerate() {
        assert_eq!(breaks(old, &today), Vec::<String>::new(), "readers of version {}", at + 1);
    }
    assert!(
        frozen.last() == Some(&today),
        "the .proto has changed since it was frozen: freeze the next version, so that nothing of it can go unnoticed"
    );
}

#[test]
fn readers_of_every_released_version_read_todays_events() {
    for set in frozen() {
        let descriptor = pool(&set).get_message_by_name("sluice.events.v1.OrderEvent").unwrap();
        for (name, _, bytes, _) in one_of_each().into_iter().chain(of_estimates()) {
            let event = prost_reflect::DynamicMessage::decode(descriptor.clone(), &*bytes).unwrap();
            assert!(event.has_field_by_name("order_id") && event.has_field_by_name("occurred_at_ms"), "{name}");
        }
    }
}

#[test]
#[ignore = "writes the fixtures; run it when a format gets a new version"]
fn regenerate() {
    let (frozen, today) = (frozen(), compile(PROTO));
    for old in &frozen {
        assert_eq!(breaks(old, &today), Vec::<String>::new());
    }
    if frozen.last() != Some(&today) {
        fs::write(frozen_path(frozen.len() + 1), today.encode_to_vec()).unwrap();
    }
}

/// What `breaks` says when these pieces of today's `.proto` are replaced.
fn planted(edits: &[(&str, &str)]) -> Vec<String> {
    let mut text = PROTO.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "{from} is not in the .proto");
        text = text.replace(from, to);
    }
    breaks(&compile(PROTO), &compile(&text))
}

#[test]
fn planted_breaks_are_found() {
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("field country = 3 is gone and not reserved", &[("  string country = 3;\n", "")]),
        ("field country = 3 is gone and not reserved", &[("  string country = 3;\n", "  reserved 3;\n")]),
        ("field country = 3 is gone and not reserved", &[("  string country = 3;\n", "  reserved \"country\";\n")]),
        ("name of field country = 3 was", &[("string country = 3;", "string region = 3;")]),
        ("type of field country = 3 was", &[("string country = 3;", "bytes country = 3;")]),
        ("type of field unit_price = 3 was", &[("uint64 unit_price = 3;", "sint64 unit_price = 3;")]),
        ("type of field weight_g = 3 was", &[("uint32 weight_g = 3;", "uint64 weight_g = 3;")]),
        ("field currency = 2 is gone", &[("string currency = 2;", "string currency = 20;")]),
        ("type name of field lines = 4 was", &[("repeated Line lines = 4;", "repeated Item lines = 4;")]),
        ("label of field lines = 4 was", &[("repeated Line lines = 4;", "Line lines = 4;")]),
        ("presence of field country = 3 was", &[("string country = 3;", "optional string country = 3;")]),
        ("presence of field parcel_count = 6 was", &[("optional uint32 parcel_count", "uint32 parcel_count")]),
        ("JSON name of field country = 3 was", &[("country = 3;", "country = 3 [json_name = \"land\"];")]),
        ("oneof of field merchant_id = 2 was", &[("string merchant_id = 2;", "oneof who { string merchant_id = 2; }")]),
        ("oneof of field accepted = 10 was", &[("oneof change", "oneof happening")]),
        (
            "oneof of field tracked = 14 was",
            &[
                ("    ParcelTracked tracked = 14;\n", ""),
                ("  oneof change {", "  ParcelTracked tracked = 14;\n  oneof change {"),
            ],
        ),
        ("value OUTCOME_GIVEN_UP = 2 is gone", &[("  OUTCOME_GIVEN_UP = 2;\n", "")]),
        ("value OUTCOME_GIVEN_UP = 2 is gone", &[("OUTCOME_GIVEN_UP = 2;", "OUTCOME_GIVEN_UP = 7;")]),
        ("value OUTCOME_GIVEN_UP = 2 is gone", &[("OUTCOME_GIVEN_UP = 2;", "OUTCOME_EXPIRED = 2;")]),
        (
            "enum sluice.events.v1.Outcome is gone",
            &[("enum Outcome {", "enum Result {"), (" Outcome outcome", " Result outcome")],
        ),
        ("message sluice.events.v1.OrderEvent is gone", &[("message OrderEvent", "message Event")]),
        ("package sluice.events.v1 is gone", &[("package sluice.events.v1;", "package sluice.events.v2;")]),
        ("options of the file changed", &[("\"com.sluice.events.v1\"", "\"com.example\"")]),
    ];
    for (expected, edits) in cases {
        let found = planted(edits);
        assert!(found.iter().any(|b| b.contains(expected)), "{edits:?}: {found:?}");
    }
}

#[test]
fn a_reserved_number_or_name_stays_reserved() {
    let edited = |to: &str| compile(&PROTO.replace("  string country = 3;\n", to));
    let gone = edited("  reserved 3;\n  reserved \"country\";\n");
    assert_eq!(breaks(&compile(PROTO), &gone), Vec::<String>::new());
    for (again, expected) in [
        ("  reserved \"country\";\n  string region = 3;\n", "number 3 is not reserved any more"),
        ("  reserved 3;\n  string country = 30;\n", "name country is not reserved any more"),
    ] {
        let found = breaks(&gone, &edited(again));
        assert!(found.iter().any(|b| b.contains(expected)), "{again}: {found:?}");
    }
}

#[test]
fn growth_breaks_nobody() {
    for edits in [
        [("string country = 3;", "string country = 3; string region = 30;")],
        [("OUTCOME_GIVEN_UP = 2;", "OUTCOME_GIVEN_UP = 2; OUTCOME_VOIDED = 5;")],
        [("OrderDeadLettered dead_lettered = 13;", "OrderDeadLettered dead_lettered = 13; Line added = 99;")],
        [("message Line {", "message More { string text = 1; } message Line {")],
        [("// The merchant who sold.", "// Another comment.")],
    ] {
        assert_eq!(planted(&edits), Vec::<String>::new(), "{edits:?}");
    }
}

/// The names that the JSON form gives to enum values are those of the `.proto`.
#[test]
fn enums_mirror_the_proto() {
    let version = Version::of(&compile(PROTO));
    let values = |name: &str| version.enums[name].value.clone();
    let groups = values("sluice.events.v1.HandlingGroup");
    assert_eq!(groups.len(), 7);
    for value in groups {
        assert_eq!(HandlingGroup::try_from(value.number()).unwrap().name(), value.name());
    }
    let outcomes = values("sluice.events.v1.Outcome");
    assert_eq!(outcomes.len(), 5);
    for value in outcomes {
        assert_eq!(Outcome::try_from(value.number()).unwrap().name(), value.name());
    }
    let progress = values("sluice.events.v1.Progress");
    assert_eq!(progress.len(), 1 + crate::word::Progress::ALL.len());
    for value in progress {
        assert_eq!(Progress::try_from(value.number()).unwrap().name(), value.name());
        let stored = value.number().checked_sub(1).and_then(|n| crate::word::Progress::ALL.get(n as usize));
        let name = stored.map(|p| format!("PROGRESS_{}", p.name().to_uppercase()));
        assert_eq!(name.unwrap_or_else(|| "PROGRESS_UNSPECIFIED".to_owned()), value.name());
    }
    assert_eq!(read::HandlingGroup::try_from(7), Err(prost::UnknownEnumValue(7)));
}
