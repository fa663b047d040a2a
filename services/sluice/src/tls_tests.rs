//! Good pairs are used, bad ones are named, and new ones take over.

use sluice_brokers::Authority;

use super::*;

/// A folder with the certificate and key of somebody.
struct Folder {
    folder: tempfile::TempDir,
    files: TlsConfig,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = TlsConfig { certificate: folder.path().join("a.crt"), key: folder.path().join("a.key") };
        Self { folder, files }
    }

    fn put(&self, (certificate, key): &(String, String)) {
        std::fs::write(&self.files.certificate, certificate).unwrap();
        std::fs::write(&self.files.key, key).unwrap();
    }

    fn error(&self) -> String {
        Tls::load(&self.files).unwrap_err().to_string()
    }
}

#[test]
fn what_cannot_be_used_is_named_by_its_key() {
    let folder = Folder::new();
    let authority = Authority::new("test").unwrap();
    let (one, other) = (authority.issue("one").unwrap(), authority.issue("other").unwrap());
    let missing = folder.error();
    assert!(missing.starts_with("tls.certificate: ") && missing.contains("a.crt: No such file"), "{missing}");
    folder.put(&one);
    assert!(Tls::load(&folder.files).is_ok());
    folder.put(&(one.1.clone(), one.1.clone()));
    assert!(folder.error().ends_with("a.crt: expected PEM with at least one certificate"), "{}", folder.error());
    folder.put(&(one.0.clone(), one.0.clone()));
    let error = folder.error();
    assert!(error.starts_with("tls.key: ") && error.contains("expected PEM with a private key"), "{error}");
    folder.put(&(one.0.clone(), other.1.clone()));
    let error = folder.error();
    assert!(error.starts_with("tls.key: ") && error.contains("expected the key of the certificate in"), "{error}");
    folder.put(&(one.0.clone(), format!("{}{}", one.1, " ".repeat(MAX_PEM as usize - one.1.len()))));
    assert!(Tls::load(&folder.files).is_ok());
    folder.put(&(one.0.clone(), format!("{}{}", one.1, " ".repeat(MAX_PEM as usize - one.1.len() + 1))));
    assert!(folder.error().ends_with("expected at most 1048576 bytes"), "{}", folder.error());
    assert!(!folder.error().contains("BEGIN"));
    let nobody = folder.folder.path().join("nobody.pem");
    let error = connector("--ca", &nobody).err().unwrap().to_string();
    assert!(error.starts_with("--ca: ") && error.contains("nobody.pem"), "{error}");
}

#[test]
fn a_new_pair_takes_over_and_a_bad_one_does_not() {
    let folder = Folder::new();
    let authority = Authority::new("test").unwrap();
    let (one, other) = (authority.issue("one").unwrap(), authority.issue("other").unwrap());
    folder.put(&one);
    let tls = Tls::load(&folder.files).unwrap();
    let current = || Arc::as_ptr(&tls.current.load_full()) as usize;
    let first = current();
    tls.refresh();
    assert_eq!(current(), first, "nothing has changed");
    // Half of a change: the key comes later.
    folder.put(&(other.0.clone(), one.1));
    tls.refresh();
    assert_eq!(current(), first);
    folder.put(&other);
    tls.refresh();
    let second = current();
    assert_ne!(second, first);
    std::fs::remove_file(&folder.files.key).unwrap();
    tls.refresh();
    assert_eq!(current(), second);
}
