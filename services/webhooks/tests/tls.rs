//! Only whom a certificate says it is, is told anything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what must hold")]

mod support;

use std::{pin::Pin, sync::Arc};

use openssl::{
    asn1::Asn1Time,
    bn::BigNum,
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    rsa::Rsa,
    ssl::{Ssl, SslAcceptor, SslMethod},
    x509::{
        X509, X509NameBuilder,
        extension::{BasicConstraints, SubjectAlternativeName},
    },
};
use serde_json::json;
use sluice_webhooks::{call::Caller, testing::Receiver};
use support::{Scripted, Setup, TRACKED};

/// A certificate for `name` that signs itself.
fn certificate(name: &str) -> (X509, PKey<Private>) {
    let key = PKey::from_rsa(Rsa::generate(2_048).unwrap()).unwrap();
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(&subject).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    builder.append_extension(BasicConstraints::new().ca().build().unwrap()).unwrap();
    let names = SubjectAlternativeName::new().dns(name).build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(names).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    (builder.build(), key)
}

/// A receiver that speaks TLS as `name`.
async fn receiver(certificate: &X509, key: &PKey<Private>) -> Receiver {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate(certificate).unwrap();
    acceptor.set_private_key(key).unwrap();
    let acceptor = acceptor.build();
    let (receiver, listener) = Receiver::bind("127.0.0.1").await.unwrap();
    let serving = receiver.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let ssl = Ssl::new(acceptor.context()).unwrap();
            let serving = serving.clone();
            tokio::spawn(async move {
                let mut stream = tokio_openssl::SslStream::new(ssl, stream).unwrap();
                if Pin::new(&mut stream).accept().await.is_ok() {
                    serving.serve(stream).await;
                }
            });
        }
    });
    receiver
}

#[tokio::test]
async fn a_trusted_name_is_told_and_any_other_is_not() {
    let (trusted, key) = certificate("shop.example");
    let (strange, strange_key) = certificate("shop.example");
    let (good, fake) = (receiver(&trusted, &key).await, receiver(&strange, &strange_key).await);
    let setup = Setup { resolver: Scripted::new(vec![vec!["127.0.0.1"]]), ..Setup::default() };
    let caller =
        Caller::trusting(&setup.config, Arc::clone(&setup.resolver), |tls| tls.cert_store_mut().add_cert(trusted));
    let node = setup.start_with(caller.unwrap());
    let endpoint = async |host: &str, receiver: &Receiver| {
        let url = format!("https://{host}:{}/hooks", receiver.address().port());
        node.endpoint(json!({"url": url})).await.0
    };
    let (right, wrong_name) = (endpoint("shop.example", &good).await, endpoint("other.example", &good).await);
    let unknown = endpoint("shop.example", &fake).await;
    let id = setup.feed.tell("m-1", 1, TRACKED, 1);
    let arrived = good.wait_for(1).await;
    assert_eq!(arrived[0].header("webhook-id"), id);
    assert!(node.get(&format!("/v1/webhooks/{right}")).await.ok(200)["status"] == "active");
    for refused in [wrong_name, unknown] {
        let path = format!("/v1/webhooks/{refused}/deliveries");
        let log = node.until(&path, |log| log["deliveries"][0]["attempts"].as_u64() > Some(1)).await;
        let error = log["deliveries"][0]["error"].as_str().unwrap();
        assert!(error.starts_with("TLS: ") && error.contains("certificate verify failed"), "{error}");
    }
    assert_eq!((good.arrived().len(), fake.arrived().len()), (1, 0));
    node.stop().await;
}
