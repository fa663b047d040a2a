//! Every way that is known to make a URL lead inside, and a few that lead outside as they should.

use super::*;

const GOOD: [(&str, &str); 16] = [
    ("https://shop.example/hooks", "https://shop.example/hooks"),
    ("https://shop.example", "https://shop.example/"),
    ("HTTPS://Shop.Example:443/Hooks?a=b", "https://shop.example/Hooks?a=b"),
    ("https://shop.example:8443/hooks", "https://shop.example:8443/hooks"),
    ("https://shop.example.:1024/", "https://shop.example.:1024/"),
    ("https://a.b.c.shop.co.uk/x/../y", "https://a.b.c.shop.co.uk/y"),
    ("https://bücher.example/", "https://xn--bcher-kva.example/"),
    ("https://93.184.215.14/", "https://93.184.215.14/"),
    ("https://1.1.1.1/dns", "https://1.1.1.1/dns"),
    ("https://0x08080808/", "https://8.8.8.8/"),
    ("https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/", "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/"),
    ("https://[2a00:1450:4001::200e]:8443/", "https://[2a00:1450:4001::200e]:8443/"),
    ("https://172.32.0.1/", "https://172.32.0.1/"),
    ("https://100.128.0.1/", "https://100.128.0.1/"),
    ("https://localhost.example/", "https://localhost.example/"),
    ("https://internal.example/", "https://internal.example/"),
];

const BAD: [(&str, UrlError); 118] = {
    use UrlError::{Address as A, Credentials as C, Fragment as F, Name as N, NotAUrl as U, Port as P, Scheme as S};
    [
        // Other schemes, and none.
        ("", U),
        ("shop.example", U),
        ("//shop.example/", U),
        ("https://", U),
        ("https:///", U),
        ("https://[::1", U),
        ("https://[1::2::3]/", U),
        ("https://1.2.3.4.5/", U),
        ("https://256.1.1.1/", U),
        ("https://0x100000000/", U),
        ("https://a b.example/", U),
        ("https://shop.example/\n", U),
        ("https://shop.exa\tmple/", U),
        (" https://shop.example/", U),
        ("https://127.0.0.1\\@shop.example/", U),
        ("https:\\\\127.0.0.1/", U),
        ("https://shop.example\u{a0}/", U),
        ("https://\u{0}/", U),
        ("https://%00.example/", U),
        ("http://shop.example/", S),
        ("http://127.0.0.1/", S),
        ("ftp://shop.example/", S),
        ("file:///etc/passwd", S),
        ("gopher://127.0.0.1:70/_", S),
        ("dict://127.0.0.1:11211/", S),
        ("javascript:alert(1)", S),
        ("data:text/plain,x", S),
        ("ldap://shop.example/", S),
        ("ws://shop.example/", S),
        // Credentials, fragments and ports.
        ("https://user@shop.example/", C),
        ("https://user:secret@shop.example/", C),
        ("https://@shop.example/", C),
        ("https://:@shop.example/", C),
        ("https://shop.example@127.0.0.1/", C),
        ("https://127.0.0.1@shop.example/", C),
        ("https://shop.example/#fragment", F),
        ("https://shop.example:22/", P),
        ("https://shop.example:25/", P),
        ("https://shop.example:80/", P),
        ("https://shop.example:0/", P),
        ("https://shop.example:1023/", P),
        ("https://shop.example:65536/", U),
        ("https://8.8.8.8:53/", P),
        // Names of the inside.
        ("https://localhost/", N),
        ("https://LOCALHOST:8443/", N),
        ("https://localhost./", N),
        ("https://printer/", N),
        ("https://kafka:9092/", N),
        ("https://foo.localhost/", N),
        ("https://localhost.localdomain/", N),
        ("https://nas.local/", N),
        ("https://metadata.google.internal/computeMetadata/v1/", N),
        ("https://instance-data.ec2.internal/", N),
        ("https://router.lan/", N),
        ("https://x.home.arpa/", N),
        ("https://1.0.0.127.in-addr.arpa/", N),
        ("https://hidden.onion/", N),
        ("https://a..example/", N),
        ("https://.example/", N),
        ("https://ｌｏｃａｌｈｏｓｔ/", N),
        ("https://%6c%6f%63%61%6c%68%6f%73%74/", N),
        // Loopback, in every spelling.
        ("https://127.0.0.1/", A),
        ("https://127.0.0.1./", A),
        ("https://127.255.255.254:8443/", A),
        ("https://127.1/", A),
        ("https://127.0.1/", A),
        ("https://2130706433/", A),
        ("https://0x7f000001/", A),
        ("https://0x7f.1/", A),
        ("https://0x7F.0x0.0x0.0x1/", A),
        ("https://017700000001/", A),
        ("https://0177.0.0.1/", A),
        ("https://0177.0x0.0.1/", A),
        ("https://0000000000177.1/", A),
        ("https://%31%32%37.0.0.1/", A),
        ("https://１２７.０.０.１/", A),
        ("https://127。0。0。1/", A),
        ("https://①②⑦.0.0.1/", A),
        ("https://[::1]/", A),
        ("https://[0:0:0:0:0:0:0:1]:8443/", A),
        // This network, private networks, link-local, metadata.
        ("https://0/", A),
        ("https://0.0.0.0/", A),
        ("https://0.1.2.3/", A),
        ("https://10.0.0.1/", A),
        ("https://10.255.255.255/", A),
        ("https://167772161/", A),
        ("https://012.0.0.1/", A),
        ("https://172.16.0.1/", A),
        ("https://172.31.255.255/", A),
        ("https://192.168.1.1/", A),
        ("https://0xc0a80101/", A),
        ("https://169.254.169.254/latest/meta-data/", A),
        ("https://2852039166/latest/meta-data/", A),
        ("https://0xa9fea9fe/", A),
        ("https://0251.0376.0251.0376/", A),
        ("https://169.254.170.2/v2/credentials", A),
        ("https://100.64.0.1/", A),
        ("https://100.100.100.200/", A),
        ("https://168.63.129.16/", A),
        // Special purposes.
        ("https://192.0.0.192/", A),
        ("https://192.0.2.1/", A),
        ("https://198.18.0.1/", A),
        ("https://198.51.100.7/", A),
        ("https://203.0.113.7/", A),
        ("https://192.88.99.1/", A),
        ("https://224.0.0.1/", A),
        ("https://255.255.255.255/", A),
        ("https://[::]/", A),
        // IPv4 within IPv6, good addresses included: what is embedded is reached over a road of its own.
        ("https://[::ffff:127.0.0.1]/", A),
        ("https://[::ffff:8.8.8.8]/", A),
        ("https://[::127.0.0.1]/", A),
        ("https://[64:ff9b::a00:1]/", A),
        ("https://[64:ff9b:1::808:808]/", A),
        ("https://[2002:7f00:1::]/", A),
        ("https://[2001:0:5ef5:79fd::1]/", A),
        ("https://[fd00:ec2::254]/", A),
        ("https://[fe80::1]/", A),
        ("https://[ff02::1]/", A),
    ]
};

#[test]
fn good_urls_are_taken_in_one_spelling() {
    for (text, kept) in GOOD {
        let target = Target::parse(text, &Guard::default()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(target.url, kept);
        assert!(target.tls);
        let again = Target::parse(&target.url, &Guard::default()).unwrap();
        assert_eq!(again, target, "what is kept reads as the same");
    }
}

#[test]
fn bad_urls_are_refused_for_what_they_are() {
    for (text, why) in BAD {
        assert_eq!(Target::parse(text, &Guard::default()).map(|target| target.url), Err(why), "{text:?}");
    }
    let long = |bytes: usize| format!("https://shop.example/{}", "x".repeat(bytes - 21));
    for (bytes, fits) in [(2_047, true), (2_048, true), (2_049, false)] {
        let taken = Target::parse(&long(bytes), &Guard::default()).map(drop);
        assert_eq!(taken, if fits { Ok(()) } else { Err(UrlError::Length) }, "{bytes}");
    }
}

/// First and last addresses of what isn't public.
const INSIDE: &str = "0.255.255.255 10.0.0.0 100.64.0.0 100.127.255.255 127.255.255.255 169.254.0.0 172.16.0.0 172.31.255.255 \
    192.168.255.255 198.19.255.255 239.255.255.255 240.0.0.0 64:ff9b:: 64:ff9b::ffff:ffff 64:ff9b:1:ffff:: 100::1 \
    2001::1 2001:1ff:ffff::1 2001:db8::1 2002::1 3fff:fff::1 fc00::1 fdff::1 fe80::1 febf::1 fec0::1 feff::1 \
    ff00::1 5f00::1 4000::1 1fff::1 ::2 ::ffff:1.1.1.1 2620:4f:8000::1";

/// What lies just beside it.
const OUTSIDE: &str = "1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255 \
    169.255.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 \
    168.63.129.17 2000::1 2001:200::1 2001:db7::1 2001:db9::1 2003::1 2600::1 3ffd::1 3fff:1000::1";

#[test]
fn the_edges_of_every_block_are_where_they_should_be() {
    let public = |text: &str| address::is_public(text.parse().unwrap());
    INSIDE.split(' ').for_each(|text| assert!(!public(text), "{text}"));
    OUTSIDE.split(' ').for_each(|text| assert!(public(text), "{text}"));
}

struct Answers(Vec<&'static str>);

impl Resolver for Answers {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
        Box::pin(async { Ok(self.0.iter().map(|text| text.parse().unwrap()).collect()) })
    }
}

async fn admit(guard: &Guard, url: &str, answer: &[&'static str]) -> Result<usize, Refused> {
    let target = Target::parse(url, guard).unwrap();
    guard.admit(&target, &Answers(answer.to_vec())).await.map(|addresses| addresses.len())
}

#[tokio::test]
async fn one_bad_address_of_several_is_enough_to_refuse() {
    let guard = Guard::default();
    let url = "https://shop.example/";
    assert_eq!(admit(&guard, url, &["93.184.215.14", "2606:2800:21f::1"]).await, Ok(2));
    for bad in
        ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:93.184.215.14", "64:ff9b::1.1.1.1", "fe80::1"]
    {
        assert_eq!(admit(&guard, url, &["93.184.215.14", bad]).await, Err(Refused::Address), "{bad}");
        assert_eq!(admit(&guard, url, &[bad]).await, Err(Refused::Address), "{bad}");
    }
    assert_eq!(admit(&guard, url, &[]).await, Err(Refused::Unresolved));
    assert_eq!(admit(&guard, url, &["1.1.1.1"; MAX_ADDRESSES]).await, Ok(MAX_ADDRESSES));
    assert_eq!(admit(&guard, url, &["1.1.1.1"; MAX_ADDRESSES + 1]).await, Err(Refused::TooMany));
}

#[tokio::test]
async fn only_what_an_operator_lists_is_reached_inside_and_without_tls() {
    let guard = Guard { allowed: ["127.0.0.0/8", "10.1.0.0/16"].map(|text| text.parse().unwrap()).to_vec() };
    let parse = |url: &str| Target::parse(url, &guard).map(drop);
    assert_eq!(parse("http://127.0.0.1:80/hooks"), Ok(()));
    assert_eq!(parse("https://10.1.2.3/"), Ok(()));
    assert_eq!(parse("http://10.2.0.1/"), Err(UrlError::Scheme), "another private network");
    assert_eq!(parse("https://10.2.0.1/"), Err(UrlError::Address));
    assert_eq!(parse("http://93.184.215.14/"), Err(UrlError::Scheme), "public, but in the clear");
    assert_eq!(parse("https://93.184.215.14:25/"), Err(UrlError::Port));
    assert_eq!(parse("https://[::1]/"), Err(UrlError::Address));
    // Names: what they lead to decides.
    assert_eq!(admit(&guard, "http://shop:8080/", &["127.0.0.2"]).await, Ok(1));
    assert_eq!(admit(&guard, "http://shop:8080/", &["127.0.0.2", "93.184.215.14"]).await, Err(Refused::Address));
    assert_eq!(admit(&guard, "https://shop/", &["127.0.0.2", "93.184.215.14"]).await, Ok(2));
    assert_eq!(admit(&guard, "https://shop:25/", &["93.184.215.14"]).await, Err(Refused::Address));
    assert_eq!(admit(&guard, "http://localhost/", &["127.0.0.1", "::1"]).await, Err(Refused::Address));
    // Not even a list that has everything opens a cloud's metadata.
    let open = Guard { allowed: ["0.0.0.0/0", "::/0"].map(|text| text.parse().unwrap()).to_vec() };
    for metadata in ["169.254.169.254", "100.100.100.200", "168.63.129.16", "fd00:ec2::254"] {
        assert_eq!(admit(&open, "http://shop/", &[metadata]).await, Err(Refused::Address), "{metadata}");
    }
    assert_eq!(admit(&open, "http://shop/", &["10.9.9.9", "::1"]).await, Ok(2));
}

#[test]
fn networks_are_read_and_shown() {
    for text in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "fd00::/8", "127.0.0.1/32", "::1/128"] {
        assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
    }
    assert_eq!("10.0.0.1".parse::<Network>().unwrap().to_string(), "10.0.0.1/32");
    for bad in
        ["", "10.0.0.0/33", "10.0.0.1/8", "::1/64", "10/8", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/-1", "::/129", "x"]
    {
        assert!(bad.parse::<Network>().is_err(), "{bad}");
    }
    assert!(!"::/0".parse::<Network>().unwrap().contains("10.0.0.1".parse().unwrap()));
}
