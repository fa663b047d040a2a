//! The API over TLS: nothing in the clear, a load run to its end, and a certificate that is replaced while it runs.

use std::{fs, time::Duration};

use sluice::{
    load::{Link, Target},
    tls::connector,
};
use sluice_brokers::Authority;

use crate::support::{
    block_on,
    engine::{Engine, on_both_engines},
    orders::order,
    process::{Process, program},
    setup::{GOOD, Setup},
    wait_for,
    world::World,
};

on_both_engines!(everything_goes_over_tls_and_the_certificate_is_replaced);

/// Gives the server a certificate by a new authority, whose own is written to `name`.
fn certify(world: &World, name: &str) {
    let authority = Authority::new(name).unwrap();
    let (certificate, key) = authority.issue("sluice").unwrap();
    for (file, pem) in [(name, authority.pem().unwrap()), ("tls.crt", certificate), ("tls.key", key)] {
        fs::write(world.folder().join(file), pem).unwrap();
    }
}

/// Asks whether the server is ready, believing the authority `name`.
fn readiness(world: &World, name: &str) -> Result<u16, String> {
    let url = format!("https://{}", world.address());
    let trust = connector("--ca", &world.folder().join(name)).map_err(|error| error.to_string())?;
    let target = url.parse::<Target>()?.trusting(trust)?;
    block_on(async {
        let mut link = Link::to(world.address(), &target);
        let request = b"GET /readyz HTTP/1.1\r\nhost: sluice\r\n\r\n";
        let reply = link.exchange(request, Duration::from_secs(10)).await;
        reply.map(|reply| reply.status).map_err(|error| error.to_string())
    })
}

fn everything_goes_over_tls_and_the_certificate_is_replaced(engine: &Engine) {
    let mut world = World::on(engine, Setup::new(&[GOOD]));
    let file = |name: &str| world.folder().join(name).display().to_string();
    let tls = format!("[tls]\ncertificate = {:?}\nkey = {:?}\n", file("tls.crt"), file("tls.key"));
    world.setup.top += &tls;
    let ended = world.serve_in_vain();
    assert!(ended.code == Some(2) && ended.log.contains("tls.certificate"), "{ended:?}");
    certify(&world, "first.pem");
    let server = world.serve();
    let plain = world.client();
    let key = "idempotency-key: k";
    let json = "content-type: application/json";
    let body = order().to_string();
    plain.try_send("POST /v1/orders", &[json, key], body.as_bytes()).expect_err("nothing is answered in the clear");
    wait_for("it is ready", || (readiness(&world, "first.pem") == Ok(200)).then_some(()));

    let mut load = program(&["load", "--json", "--rate", "100", "--duration", "1s", "--connections", "4"]);
    load.args(["--verify", "all", "--merchant", "m-1:key-1", "--url", &format!("https://{}", world.address())]);
    load.arg("--ca").arg(world.folder().join("first.pem"));
    let ended = Process::run(load, world.folder(), "load");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&report["orders_accepted"], &report["orders_lost"]), (&100.into(), &0.into()), "{report}");

    certify(&world, "second.pem");
    server.hang_up();
    wait_for("the certificate is replaced", || (readiness(&world, "second.pem") == Ok(200)).then_some(()));
    assert!(readiness(&world, "first.pem").is_err());
    // One that can't be used changes nothing, and is told.
    fs::write(world.folder().join("tls.key"), "no key at all").unwrap();
    server.hang_up();
    wait_for("it is told", || server.log().contains("the old one stays").then_some(()));
    assert_eq!(readiness(&world, "second.pem"), Ok(200));
}
