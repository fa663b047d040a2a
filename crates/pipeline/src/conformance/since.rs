//! Where in the feed a time is.

use super::{Make, Told, accept, order};

fn sorted(mut events: Vec<Told>) -> Vec<Told> {
    events.sort_by_key(|event| (event.order, event.sequence));
    events
}

pub fn events_are_found_by_time(make: Make<'_>) {
    let mut harness = make();
    let mut moments = vec![0];
    for round in 0..4 {
        let orders: Vec<_> = (0..3).map(|n| order(&*harness, format!("since-{round}-{n}"), &["c0"])).collect();
        accept(&mut *harness, &orders);
        moments.push(harness.moment());
        if round == 1 {
            harness.restart();
        }
    }
    let all = sorted(harness.events());
    assert_eq!(all.len(), 12);
    let mut before = Vec::new();
    for (round, &moment) in moments.iter().enumerate() {
        let found = sorted(harness.events_since(moment));
        assert_eq!(found.len(), all.len() - 3 * round, "all that was decided since then, and nothing else");
        assert!(found.iter().all(|event| all.contains(event)));
        assert!(round == 0 || found.iter().all(|event| before.contains(event)), "later ones");
        before = found;
    }
    assert_eq!(harness.events_since(moments[4] + 366 * 86_400_000), []);
}
