//! A disk without room for the next segment, and a device that fails.

use std::sync::atomic::Ordering::SeqCst;

use sluice_domain::order_state::{Class, class_of_row};
use sluice_pipeline::{
    Intake, Receipt,
    conformance::{Harness, Order, answer, submission},
};
use sluice_schemas::outcome::OutcomeKind;

use super::world::{World, tiny};

/// Submits orders until one is refused; gives those accepted.
fn fill(world: &mut World) -> Vec<Order> {
    world.disk().faults.full.store(true, SeqCst);
    let mut accepted = Vec::new();
    for i in 0..10_000 {
        let order = Order::new(format!("fill{i}"), &["c0"; 40]);
        let ticket = world.submit(submission(std::slice::from_ref(&order)));
        world.settle_down();
        match world.receipts(ticket).unwrap()[0] {
            Receipt::Accepted => accepted.push(order),
            Receipt::Busy { retry_after_s, reason } => {
                assert_eq!((retry_after_s, reason), (5, "the disk is full"));
                return accepted;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("the disk does not fill");
}

#[test]
fn without_room_orders_are_refused_and_outcomes_still_taken() {
    let mut world = World::mem(tiny());
    let accepted = fill(&mut world);
    assert!(accepted.len() > 20);
    assert_eq!(world.engine().ready(), Err("the disk is full"));
    let duplicate = world.submit(submission(&accepted[..1]));
    world.settle_down();
    assert_eq!(world.receipts(duplicate), Some(vec![Receipt::Replayed]), "nothing has to be written for it");
    let first = &accepted[0];
    for parcel in 0..40 {
        world.report(vec![answer(first.shipment(parcel, 0), OutcomeKind::Accepted)]);
    }
    world.settle_down();
    assert_eq!(class_of_row(&world.read(first.id()).unwrap().row), Ok(Class::Finished), "from the reserve");
    world.disk().faults.full.store(false, SeqCst);
    let late = Order::new("late", &["c0"]);
    world.engine().journal().prepare().unwrap();
    let ticket = world.submit(submission(std::slice::from_ref(&late)));
    world.settle_down();
    assert_eq!(world.receipts(ticket), Some(vec![Receipt::Accepted]), "room came back");
    assert_eq!(world.engine().ready(), Ok(()));
    let recovered = world.power_cycle();
    assert_eq!(recovered.orders as usize, accepted.len() + 1);
}

#[test]
fn outcomes_without_room_are_held_and_taken_later() {
    let mut world = World::mem(tiny());
    let order = Order::new("a", &["c0"]);
    world.submit(submission(std::slice::from_ref(&order)));
    world.settle_down();
    world.refuse_commits(true);
    world.report(vec![answer(order.shipment(0, 0), OutcomeKind::Accepted)]);
    for _ in 0..5 {
        let steps: Vec<_> = world.live().runners.iter_mut().map(|r| r.step().unwrap().refused).collect();
        assert_eq!(steps.iter().sum::<usize>(), 1, "it is offered again and again");
    }
    assert_eq!(world.engine().counts().in_flight, 1);
    world.engine().request_checkpoint();
    for _ in 0..5 {
        world.live().checkpointer.step().unwrap();
        world.live().runners.iter_mut().for_each(|r| {
            r.step().unwrap();
        });
    }
    assert_eq!(world.engine().checkpoints(), 0, "no checkpoint while an outcome waits that its outbox calls settled");
    world.refuse_commits(false);
    world.settle_down();
    assert_eq!(world.engine().counts().finished, 1);
    assert_eq!(class_of_row(&world.read(order.id()).unwrap().row), Ok(Class::Finished));
}

#[test]
fn a_failed_sync_acknowledges_nothing() {
    let mut world = World::mem(tiny());
    let order = Order::new("a", &["c0"]);
    let ticket = world.submit(submission(std::slice::from_ref(&order)));
    world.step_owners();
    world.disk().faults.fail_sync.store(true, SeqCst);
    let journal = world.engine().journal();
    let crate::WriterStep::Write(group, completions) = journal.begin(false) else { panic!() };
    journal.write(&group).unwrap();
    assert!(journal.sync(&group).is_err());
    drop(completions);
    assert_eq!(world.receipts(ticket), None);
    assert_eq!(world.engine().ready(), Err("the journal has failed"));
    world.submit(submission(&[Order::new("b", &["c0"])]));
    let errors: Vec<_> = world.live().runners.iter_mut().filter_map(|r| r.step().err()).collect();
    assert!(matches!(errors[..], [sluice_pipeline::LogError::Closed]), "{errors:?}");
    world.disk().faults.fail_sync.store(false, SeqCst);
    assert_eq!(world.power_cycle().orders, 0);
    assert!(world.read(order.id()).is_none());
}

#[test]
fn a_failed_write_ends_the_journal() {
    let mut world = World::mem(tiny());
    world.submit(submission(&[Order::new("a", &["c0"])]));
    world.step_owners();
    world.disk().faults.fail_write.store(true, SeqCst);
    let journal = world.engine().journal();
    let crate::WriterStep::Write(group, _) = journal.begin(false) else { panic!() };
    assert!(journal.write(&group).is_err());
    assert!(matches!(journal.begin(false), crate::WriterStep::Done));
}
