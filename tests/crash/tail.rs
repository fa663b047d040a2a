//! What a crash can leave at the end of the journal is cut off; the same in its midst is damage, and stops the start.

use std::path::Path;

use crate::{
    http::operation::post_batch,
    support::{
        journal::{Group, HEAD, flip, groups, overwrite},
        judge::{Acked, judge},
        setup::{GOOD, Setup},
        world::World,
    },
};

/// A world whose server was killed, and what was acknowledged in it.
fn killed(batches: usize) -> (World, Vec<Acked>) {
    let world = World::new(Setup::new(&[GOOD]));
    let server = world.serve();
    let acked = post(&world, "before", batches);
    server.kill();
    (world, acked)
}

fn post(world: &World, name: &str, batches: usize) -> Vec<Acked> {
    let client = world.client();
    let ids = (0..batches).flat_map(|batch| post_batch(&client, &format!("{name}-{batch}"), 40));
    ids.map(|id| Acked { id, key: client.key.clone() }).collect()
}

fn last(data_dir: &Path) -> Group {
    groups(data_dir).pop().unwrap()
}

/// Starts on what was left, posts more, and starts once more: everything acknowledged is there each time.
fn assert_goes_on(world: &World, mut acked: Vec<Acked>, torn: bool) {
    let server = world.serve();
    assert_eq!(server.log().contains("an unfinished last write was cut off"), torn, "{}", server.log());
    acked.extend(post(world, "after", 3));
    let classes = judge(world, &acked);
    assert_eq!(classes.finished, acked.len());
    server.kill();
    let server = world.serve();
    assert_eq!(judge(world, &acked), classes);
    server.drain();
    assert_eq!(world.check().code, Some(0));
}

#[test]
fn garbage_behind_the_last_group_is_cut_off() {
    let (world, acked) = killed(10);
    let last = last(world.data_dir());
    overwrite(&last.file, last.offset + last.len(), &[0xAB; 3 * 4_096 + 17]);
    assert_goes_on(&world, acked, true);
}

#[test]
fn a_group_that_was_half_written_is_cut_off() {
    let (world, acked) = killed(10);
    let last = last(world.data_dir());
    // The head of the next group, as it would be, and only the first of its blocks.
    let mut head: [u8; HEAD] = last.head;
    head[16..24].copy_from_slice(&(last.sequence() + 1).to_le_bytes());
    head[24..32].copy_from_slice(&(last.position() + last.len()).to_le_bytes());
    head[32..36].copy_from_slice(&100_000_u32.to_le_bytes());
    let mut half = vec![0x5A; 4_096];
    half[..HEAD].copy_from_slice(&head);
    overwrite(&last.file, last.offset + last.len(), &half);
    assert_goes_on(&world, acked, true);
}

#[test]
fn nothing_behind_the_last_group_is_as_good() {
    let (world, acked) = killed(10);
    assert_goes_on(&world, acked, false);
}

#[test]
fn damage_before_the_last_group_stops_the_start_by_name() {
    let (world, _) = killed(20);
    let all = groups(world.data_dir());
    let hurt = &all[all.len() / 2];
    for at in [0, 8, 20, HEAD as u64 + 1, HEAD as u64 + hurt.payload() - 1] {
        flip(&hurt.file, hurt.offset + at);
        let ended = world.serve_in_vain();
        assert_eq!(ended.code, Some(1), "{at}: {}", ended.log);
        for named in [hurt.file_name(), hurt.offset.to_string()] {
            assert!(ended.log.contains(&named), "{at}: {named} isn't named: {}", ended.log);
        }
        // Refusing changes nothing: the same byte turned back, and it starts.
        flip(&hurt.file, hurt.offset + at);
    }
    let server = world.serve();
    server.drain();
}
