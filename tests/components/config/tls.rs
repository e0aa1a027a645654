//! The files of TLS: what is wrong with them is reported when the settings are read.

use std::fs;

use rcgen::{CertificateParams, KeyPair};

use crate::config::support::{Place, shown};

const AMQPS: &str = "amqps://user:password@broker.test/%2f";

/// A certificate that vouches for itself, and its key.
fn pair() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// Files of each kind, and an address with TLS.
fn place() -> Place {
    let ((certificate, key), (_, other_key)) = (pair(), pair());
    let cut = |text: &str| text[..text.len() / 2].to_owned();
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let place = Place::new(&[
        ("cert.pem", &certificate),
        ("key.pem", &key),
        ("other-key.pem", &other_key),
        ("cut-cert.pem", &cut(&certificate)),
        ("cut-key.pem", &cut(&key)),
        ("encrypted.pem", &encrypted),
        ("empty.pem", ""),
    ]);
    fs::create_dir(place.dir.path().join("folder")).unwrap();
    place.env("BROKER__URL", AMQPS)
}

fn files(ca: &str, certificate: &str, key: &str) -> Place {
    let settings = [("CA", ca), ("CERT", certificate), ("KEY", key)];
    settings
        .iter()
        .filter(|(_, file)| !file.is_empty())
        .fold(place(), |place, (name, file)| place.env(&format!("BROKER__TLS_{name}_FILE"), file))
}

#[test]
fn good_files_are_taken_from_the_working_directory_and_shown_by_their_paths() {
    let place = files("cert.pem", "cert.pem", "key.pem");
    let loaded = place.good();
    let tls = &loaded.settings.broker.tls;
    assert_eq!(tls.ca, Some(place.dir.path().join("cert.pem")));
    assert_eq!(tls.identity.as_ref().unwrap().key, place.dir.path().join("key.pem"));
    assert_eq!(shown(&loaded, "broker.tls_key_file").0, "key.pem");
    let read = tls.read().unwrap();
    assert_eq!(read.roots.as_ref().unwrap().len(), 1);
    assert!(!format!("{loaded:?} {read:?} {:?}", read.identity).contains("PRIVATE"));
    assert!(Place::new(&[]).good().settings.broker.tls.is_empty());
}

#[test]
fn each_file_that_cannot_be_used_is_a_fault_of_its_setting() {
    for (ca, certificate, key, setting, fault) in [
        ("absent.pem", "", "", "tls_ca_file", "absent.pem: no such file"),
        ("folder", "", "", "tls_ca_file", "folder: cannot be read"),
        ("empty.pem", "", "", "tls_ca_file", "empty.pem: holds no certificate"),
        ("key.pem", "", "", "tls_ca_file", "key.pem: holds no certificate"),
        ("cut-cert.pem", "", "", "tls_ca_file", "cut-cert.pem: is cut short"),
        ("", "absent.pem", "key.pem", "tls_cert_file", "absent.pem: no such file"),
        ("", "key.pem", "key.pem", "tls_cert_file", "key.pem: holds no certificate"),
        ("", "cert.pem", "absent.pem", "tls_key_file", "absent.pem: no such file"),
        ("", "cert.pem", "cert.pem", "tls_key_file", "cert.pem: holds no private key"),
        ("", "cert.pem", "cut-key.pem", "tls_key_file", "cut-key.pem: is cut short"),
        ("", "cert.pem", "encrypted.pem", "tls_key_file", "encrypted.pem: its key is encrypted"),
        (
            "",
            "cert.pem",
            "other-key.pem",
            "tls_key_file",
            "other-key.pem: its key is not that of the certificate in",
        ),
        ("", "cert.pem", "", "tls_cert_file", "is set without broker.tls_key_file; allowed: both or neither"),
        ("", "", "key.pem", "tls_key_file", "is set without broker.tls_cert_file"),
    ] {
        let faults = files(ca, certificate, key).faults();
        assert_eq!(faults.len(), 1, "{faults:#?}");
        assert!(faults[0].starts_with(&format!("broker.{setting} (")), "{faults:#?}");
        assert!(faults[0].contains(fault), "{fault}: {faults:#?}");
    }
}

#[test]
fn two_bad_files_are_reported_at_once_and_nothing_of_a_key_is_repeated() {
    let place = files("empty.pem", "cert.pem", "broken-key.pem");
    let key = "-----BEGIN PRIVATE KEY-----\npl4nted\n-----END pl4nted KEY-----\n";
    fs::write(place.dir.path().join("broken-key.pem"), key).unwrap();
    let faults = place.faults();
    assert_eq!(faults.len(), 2, "{faults:#?}");
    assert!(!faults.concat().contains("pl4nted"), "{faults:#?}");
}

#[test]
fn files_of_tls_beside_an_address_without_it_are_a_fault() {
    let faults =
        files("cert.pem", "cert.pem", "key.pem").env("BROKER__URL", "amqp://user:password@h").faults();
    assert_eq!(faults.len(), 3, "{faults:#?}");
    for fault in faults {
        assert!(fault.contains("broker.url begins with amqp://, which is not encrypted"), "{fault}");
    }
}
