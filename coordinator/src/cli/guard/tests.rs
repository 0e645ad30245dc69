//! Keys and certificates out of flags, files, environment and signals.

use super::*;
use crate::report::Verbosity;
use rustix::process::{Signal, getpid, kill_process};
use std::time::Duration;

fn args(keys: &[&str], file: Option<&Path>) -> GuardArgs {
    let api_key = keys.iter().map(|key| key.parse().unwrap()).collect();
    GuardArgs { api_key, api_key_file: file.map(Path::to_path_buf), ..GuardArgs::default() }
}

#[test]
fn keys_of_flags_file_and_environment_are_accepted_alike() {
    let folder = std::env::temp_dir().join(format!("binfer-keys-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("keys");
    fs::write(&file, "\n in-file \r\nalso-in-file").unwrap();
    let keys = args(&["flag"], Some(&file)).keys_with(Some("variable".into())).unwrap();
    for key in ["flag", "variable", "in-file", "also-in-file"] {
        assert_eq!(keys.check([format!("Bearer {key}").as_bytes()]), Ok(()), "{key}");
    }
    assert!(keys.check([&b"Bearer else"[..]]).is_err());
    fs::write(&file, " \n\n").unwrap();
    let empty = args(&[], Some(&file)).keys_with(None).unwrap_err();
    assert!(empty.0.contains("there is none"), "an empty file must not open the server");
    fs::remove_dir_all(&folder).unwrap();
    assert!(args(&[], Some(&file)).keys_with(None).unwrap_err().0.contains("--api-key-file"));
    assert!(args(&[], None).keys_with(None).unwrap().is_empty());
}

#[test]
fn a_key_that_cannot_be_one_is_named_by_its_place_and_never_shown() {
    let error = args(&["good", "sec ret"], None).keys_with(None).unwrap_err().0;
    assert!(error.starts_with("--api-key: expected") && !error.contains("ret"), "{error}");
    assert!(args(&[""], None).keys_with(None).is_err(), "an empty key opens nothing");
    let error = args(&[], None).keys_with(Some("sec ret".into())).unwrap_err().0;
    assert!(error.starts_with("BINFER_API_KEY: "), "{error}");
    assert!(!format!("{:?}", args(&["secret"], None)).contains("secret"));
}

#[test]
fn whoever_is_reached_from_elsewhere_without_keys_is_warned() {
    let (none, some) = (ApiKeys::default(), ApiKeys::new(["key"]).unwrap());
    let [mutual, plain] = [Some(cert("ca.pem")), None].map(|client_ca| {
        let tls_args = GuardArgs { tls_client_ca: client_ca, ..tls_args() };
        tls_args.tls().unwrap().unwrap()
    });
    for address in ["0.0.0.0:80", "192.168.0.1:80", "[::]:80"] {
        let address = address.parse().unwrap();
        assert!(warning(address, &none, None).is_some_and(|text| text.starts_with("warning: ")));
        assert_eq!(warning(address, &some, None), None);
        assert_eq!(warning(address, &none, Some(&mutual)), None);
        assert!(warning(address, &none, Some(&plain)).is_some());
    }
    for address in ["127.0.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
        assert_eq!(warning(address.parse().unwrap(), &none, None), None);
    }
}

/// A file of the tests' certificates.
fn cert(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/tests/certs").join(name)
}

fn tls_args() -> GuardArgs {
    GuardArgs {
        tls_cert: Some(cert("server.pem")),
        tls_key: Some(cert("server.key")),
        ..GuardArgs::default()
    }
}

#[test]
fn files_that_cannot_be_used_are_refused_with_path_and_cause() {
    assert!(GuardArgs::default().tls().unwrap().is_none());
    let with = |cert: PathBuf, key: PathBuf, client_ca| GuardArgs {
        tls_cert: Some(cert),
        tls_key: Some(key),
        tls_client_ca: client_ca,
        ..GuardArgs::default()
    };
    let (good, key) = (cert("server.pem"), cert("server.key"));
    for (args, path, cause) in [
        (with("/nowhere.pem".into(), key.clone(), None), "/nowhere.pem", "No such file"),
        (with(key.clone(), key.clone(), None), "server.key", "no certificate in PEM"),
        (with(good.clone(), good.clone(), None), "server.pem", "no private key"),
        (with(good.clone(), cert("renewed.key"), None), "server.pem", "of another certificate"),
        (with(good.clone(), key.clone(), Some(key.clone())), "server.key", "no certificate"),
        (with("/dev/zero".into(), key.clone(), None), "/dev/zero", "bytes at most"),
    ] {
        let error = args.tls().unwrap_err().0;
        assert!(error.contains(path) && error.contains(cause), "{path}, {cause}: {error}");
    }
}

#[tokio::test]
async fn files_are_read_again_at_sighup_and_bad_ones_change_nothing() {
    let folder = std::env::temp_dir().join(format!("binfer-tls-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let args = GuardArgs {
        tls_cert: Some(folder.join("cert")),
        tls_key: Some(folder.join("key")),
        ..GuardArgs::default()
    };
    let put = |name: &str| {
        fs::copy(cert(&format!("{name}.pem")), folder.join("cert")).unwrap();
        fs::copy(cert(&format!("{name}.key")), folder.join("key")).unwrap();
    };
    put("server");
    let tls = args.tls().unwrap().unwrap();
    tokio::spawn(reload_at_hangup(tls.clone(), Report::new(Verbosity::Quiet)).unwrap());
    let read_at_first = tls.generation();
    let hangup = || kill_process(getpid(), Signal::HUP).unwrap();
    let wait = || tokio::time::sleep(Duration::from_millis(10));
    put("renewed");
    hangup();
    for _ in 0..1000 {
        if tls.generation() != read_at_first {
            break;
        }
        wait().await;
    }
    let renewed = tls.generation();
    assert_ne!(renewed, read_at_first, "SIGHUP ends nobody and reads again");
    fs::write(folder.join("key"), "no key").unwrap();
    assert!(tls.reload().is_err());
    assert_eq!(tls.generation(), renewed);
    fs::remove_dir_all(&folder).unwrap();
}
