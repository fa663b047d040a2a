//! How many shipments a second one core can tell a carrier. Figures, not judgements: run them by name, in release mode,
//! with `--ignored --nocapture`.

use std::{
    fs, io,
    net::TcpListener,
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sluice_pipeline::{Answer, HealthBoard, LogError, Outbox, OutboxBatch, OutboxEntry, OutcomeReport, Outcomes};
use tokio::sync::Notify;

use super::{
    Driver, Endpoint, Moment, Next, Notifier, NotifierConfig, read_results,
    testing::{RealClock, accept_all, batch, shipment},
    write_manifest,
};
use crate::{
    simulated::{Behaviour, SimulatedCarrier, SimulatedConfig, serve},
    webhook::Secret,
};

/// Two orders, again and again, under ascending positions and ids of their own.
struct Endless {
    source: OutboxBatch,
    next: u64,
    end: u64,
}

impl Outbox for Endless {
    fn poll_entries(
        &mut self,
        _: &mut Context<'_>,
        max: usize,
        out: &mut OutboxBatch,
    ) -> Poll<Result<usize, LogError>> {
        let most = (max as u64).min(self.end - self.next);
        for position in self.next..self.next + most {
            let entry = &self.source.entries[0];
            let start = out.bytes.len();
            out.bytes.extend_from_slice(&self.source.bytes[entry.record.clone()]);
            let record = start..out.bytes.len();
            let id = shipment(position);
            // The record's id follows its version byte.
            out.bytes[start + 1..start + 17].copy_from_slice(&id.order.0.to_be_bytes());
            out.bytes.extend_from_slice(&self.source.bytes[entry.items.clone()]);
            let items = record.end..out.bytes.len();
            out.entries.push(OutboxEntry { position, shipment: id, record, items, ..entry.clone() });
        }
        self.next += most;
        if most == 0 { Poll::Pending } else { Poll::Ready(Ok(most as usize)) }
    }
    fn settled(&mut self, _: u64) {}
    fn mark_sending(&mut self, _: u64) {}
    fn sending_mark(&self) -> u64 {
        u64::MAX
    }
}

#[derive(Default)]
struct Count {
    seen: Mutex<(u64, u64)>,
    done: Notify,
}

impl Outcomes for Count {
    fn report(&self, _: &mut Context<'_>, reports: &mut Vec<OutcomeReport>) {
        let mut seen = self.seen.lock();
        seen.0 += reports.len() as u64;
        reports.clear();
        if seen.0 >= seen.1 {
            self.done.notify_one();
        }
    }
}

/// Seconds this thread has spent on a CPU.
fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

#[test]
#[ignore = "prints figures"]
fn core_and_wire() {
    let shipments = 2_000_000;
    let mut outbox = Endless { source: batch(1..2), next: 1, end: shipments + 1 };
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut notifier = Notifier::new(NotifierConfig::new("acme", true), 1);
    let (mut entries, mut body, mut core, mut wire, mut parse) = (OutboxBatch::default(), Vec::new(), 0.0, 0.0, 0.0);
    let (mut done, mut bytes) = (0, 0);
    let now = Moment { wall_ms: 1, mono_us: 1 };
    while done < shipments {
        entries.bytes.clear();
        entries.entries.clear();
        let _ = outbox.poll_entries(&mut cx, notifier.room().min(512), &mut entries);
        let started = Instant::now();
        notifier.push(&entries, now);
        core += started.elapsed().as_secs_f64();
        loop {
            let started = Instant::now();
            let next = notifier.next(now, u64::MAX);
            core += started.elapsed().as_secs_f64();
            let Next::Send(call, manifest) = next else { break };
            body.clear();
            let started = Instant::now();
            write_manifest(&manifest, &mut body);
            wire += started.elapsed().as_secs_f64();
            bytes += body.len();
            let Answer::Results(results) = accept_all(&manifest) else { return };
            let results: Vec<_> = results
                .iter()
                .map(|r| {
                    serde_json::json!({"shipment_id": r.shipment.to_string(),
                "outcome": "accepted", "tracking_number": "1Z999AA10123456784"})
                })
                .collect();
            let text = serde_json::json!({ "results": results }).to_string();
            let started = Instant::now();
            let answers = read_results(text.as_bytes()).unwrap().answers;
            parse += started.elapsed().as_secs_f64();
            let started = Instant::now();
            notifier.answered(call, Answer::Results(answers), now);
            notifier.hand_over(|waiting| {
                done += waiting.len() as u64;
                waiting.clear();
            });
            core += started.elapsed().as_secs_f64();
        }
    }
    let each = |seconds: f64| seconds * 1e9 / shipments as f64;
    println!(
        "core {:.0} ns, write {:.0} ns, read {:.0} ns a shipment; {} bytes of JSON each",
        each(core),
        each(wire),
        each(parse),
        bytes as u64 / shipments
    );
}

#[test]
#[ignore = "prints figures"]
fn over_http() -> io::Result<()> {
    let shipments = 3_000_000;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/carriers/acme/manifests", listener.local_addr()?);
    let (folder, secret) = (tempfile::tempdir()?, Secret::from_bytes(&[7; 32]).unwrap());
    let carrier = SimulatedCarrier { id: "acme".into(), secret: secret.clone(), behaviour: Behaviour::default() };
    let config =
        SimulatedConfig { carriers: vec![carrier], ledger: folder.path().join("ledger"), seed: 1, tells: None };
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(listener, config, std::future::pending())).unwrap();
    });
    let outcomes = Arc::new(Count { seen: Mutex::new((0, shipments)), done: Notify::new() });
    let driver = Driver {
        outbox: Box::new(Endless { source: batch(1..2), next: 1, end: shipments + 1 }),
        outcomes: outcomes.clone(),
        endpoint: Endpoint::new(&url, secret).unwrap(),
        clock: Arc::new(RealClock::new()),
        health: Arc::new(HealthBoard::new(1)),
        carrier_no: 0,
        drain: Duration::from_secs(5),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let notifier = Notifier::new(NotifierConfig::new("acme", true), 1);
    let summary = runtime.block_on(driver.run(notifier, outcomes.done.notified())).unwrap();
    let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let n = shipments as f64;
    println!(
        "{:.0} shipments/s; {:.2} of a core, so {:.0} shipments/s a core; {summary:?}",
        n / wall,
        cpu / wall,
        n / cpu
    );
    Ok(())
}
