//! A cache that others write to as well: other programs, which leave it half full, and other users,
//! who plant links and files in it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use binfer_shard::hub::{Hub, HubSettings};

use super::{Client, WEIGHTS, fixture, id};
use crate::hub_server::{COMMIT, Fault, HubServer, etag};
use crate::shards::absent;

const SETTINGS: [&str; 2] = ["generation_config.json", "tokenizer_config.json"];

/// A whole model in the cache, two of its files then removed, and nothing noted of what it lacks:
/// as a program leaves it that fetches only what it reads itself.
fn half_full(test: &str) -> (HubServer, Client, PathBuf) {
    let server = HubServer::of_folder(&fixture("qwen3"));
    let client = Client::new(&server, test);
    let path = client.pull().unwrap();
    for name in SETTINGS {
        fs::remove_file(path.join(name)).unwrap();
    }
    fs::remove_dir_all(client.repository().join(".no_exist")).unwrap();
    server.seen();
    (server, client, path)
}

fn lines(server: &HubServer) -> Vec<String> {
    server.seen().into_iter().map(|seen| seen.line).collect()
}

#[test]
fn a_half_full_snapshot_is_completed_at_its_commit_with_what_it_lacks_and_no_more() {
    let (server, client, path) = half_full("half-full");
    // Blobs of other programs' making may be gone with their links.
    let blob = client
        .repository()
        .join("blobs")
        .join(etag(SETTINGS[0], &fs::read(fixture("qwen3").join(SETTINGS[0])).unwrap()));
    fs::remove_file(blob).unwrap();
    let found = client.hub().model(&id(), &|_| {}).unwrap();
    assert_eq!((found.path, found.note), (path.clone(), None));
    for name in SETTINGS {
        assert_eq!(
            fs::read(path.join(name)).unwrap(),
            fs::read(fixture("qwen3").join(name)).unwrap()
        );
    }
    let asked = lines(&server);
    let of_commit = format!("GET /api/models/some-org/tiny.model/revision/{COMMIT}");
    assert!(asked[0].starts_with(&of_commit), "{asked:?}");
    let fits = |line: &String| SETTINGS.iter().any(|name| line.contains(name));
    assert!(asked[1..].iter().all(fits), "{asked:?}");
    // Known from now on, with what the commit does not have.
    assert!(client.repository().join(".no_exist").join(COMMIT).join("added_tokens.json").exists());
    assert_eq!(client.hub().model(&id(), &|_| {}).unwrap().note, None);
    assert_eq!(lines(&server), Vec::<String>::new());
}

#[test]
fn a_half_full_snapshot_without_a_hub_is_served_and_its_gaps_are_told() {
    let (server, client, path) = half_full("half-offline");
    for _ in 0..6 {
        server.fault("/api/models", Fault::Answer("503 Unavailable", String::new()));
    }
    let found = client.hub().model(&id(), &|_| {}).unwrap();
    let note = found.note.unwrap();
    for word in [SETTINGS[0], SETTINGS[1], "503", "answers differ"] {
        assert!(note.contains(word), "{note}");
    }
    assert_eq!((found.path, lines(&server).len()), (path.clone(), 1), "asked once, not again");
    let settings = HubSettings { offline: Some("TRANSFORMERS_OFFLINE"), ..client.settings.clone() };
    let offline = Hub::new(&settings).unwrap();
    let note = offline.model(&id(), &|_| {}).unwrap().note.unwrap();
    assert!(note.contains(SETTINGS[0]) && note.contains("TRANSFORMERS_OFFLINE is set"), "{note}");
    fs::remove_file(path.join("tokenizer.json")).unwrap();
    let error = offline.model(&id(), &|_| {}).unwrap_err().to_string();
    assert!(error.contains("it lacks tokenizer.json, and TRANSFORMERS_OFFLINE is set"), "{error}");
    assert_eq!(lines(&server), Vec::<String>::new());
}

/// Plants `make` at `place` of the repository before a pull, and says how the pull went.
fn planted(test: &str, place: &str, make: impl FnOnce(&Path)) -> Result<PathBuf, String> {
    let server = HubServer::of_folder(&fixture("qwen3"));
    let client = Client::new(&server, test);
    let place = client.cache.join(place);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    make(&place);
    client.pull().map_err(|error| error.to_string())
}

#[test]
fn what_is_planted_in_the_cache_is_neither_written_to_nor_removed() {
    let elsewhere = absent("hub-planted-elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let precious = elsewhere.join("precious");
    fs::write(&precious, "precious").unwrap();
    let weights = etag(WEIGHTS, &fs::read(fixture("qwen3").join(WEIGHTS)).unwrap());
    let repository = "models--some-org--tiny.model";
    // The names of earlier versions, which could be foreseen, and their like.
    let partial = format!("{repository}/blobs/{weights}.binfer.incomplete");
    let path = planted("planted-partial", &partial, |at| symlink(&precious, at).unwrap());
    assert!(path.unwrap().join(WEIGHTS).is_file());
    let path = planted("planted-name", &partial, |at| fs::hard_link(&precious, at).unwrap());
    assert!(path.unwrap().join(WEIGHTS).is_file());
    let refs = format!("{repository}/refs/main.binfer");
    planted("planted-ref", &refs, |at| symlink(&precious, at).unwrap()).unwrap();
    let refs = format!("{repository}/refs/main");
    planted("planted-main", &refs, |at| symlink(&precious, at).unwrap()).unwrap();
    let dangling = format!("{repository}/snapshots/{COMMIT}/config.json");
    let path = planted("planted-dangling", &dangling, |at| {
        symlink(elsewhere.join("made"), at).unwrap();
    });
    assert!(path.unwrap().join("config.json").is_file());
    let lock = format!(".locks/{repository}/binfer.lock");
    let error = planted("planted-lock", &lock, |at| symlink(&precious, at).unwrap()).unwrap_err();
    assert!(error.contains("symbolic link"), "{error}");
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
}

#[test]
fn links_to_folders_of_the_cache_are_followed_if_the_user_made_them() {
    let elsewhere = absent("hub-linked-elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let repository = "models--some-org--tiny.model";
    let path = planted("linked", repository, |at| symlink(&elsewhere, at).unwrap()).unwrap();
    assert!(path.join(WEIGHTS).is_file() && elsewhere.join("blobs").is_dir());
    if fs::metadata("/proc/self").is_ok_and(|of| std::os::unix::fs::MetadataExt::uid(&of) == 0) {
        fs::remove_dir_all(&elsewhere).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        let error = planted("linked-by-others", repository, |at| {
            symlink(&elsewhere, at).unwrap();
            std::os::unix::fs::lchown(at, Some(4321), Some(4321)).unwrap();
        });
        assert!(error.unwrap_err().contains("a link that user 4321 made, to /"));
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }
}

#[test]
fn a_partial_download_that_was_given_up_long_ago_is_cleared_and_no_other() {
    let old = SystemTime::now() - Duration::from_secs(15 * 24 * 60 * 60);
    let given_up = format!("{}.0123456789abcdef.binfer.incomplete", "a".repeat(64));
    let recent = format!("{}.1123456789abcdef.binfer.incomplete", "b".repeat(64));
    let of_the_library = format!("{}.incomplete", "c".repeat(64));
    let other_name = format!("{}.notes.binfer.incomplete", "d".repeat(64));
    let names = [&given_up, &recent, &of_the_library, &other_name];
    let blob = format!("models--some-org--tiny.model/blobs/{given_up}");
    let path = planted("given-up", &blob, |at| {
        for name in names {
            let file = fs::File::create(at.with_file_name(name)).unwrap();
            if *name != recent {
                file.set_modified(old).unwrap();
            }
        }
    });
    let blobs = path.unwrap().join("../../blobs");
    assert_eq!(names.map(|name| blobs.join(name).exists()), [false, true, true, true]);
}

#[test]
fn what_a_killed_process_was_putting_in_its_place_is_cleared_and_nothing_else() {
    let name = ".binfer.0123456789abcdef.tmp";
    let left = format!("models--some-org--tiny.model/{name}");
    let path = planted("left", &left, |at| {
        fs::write(at, "a commit").unwrap();
        symlink("nowhere", at.with_file_name(".binfer.1123456789abcdef.tmp")).unwrap();
        fs::write(at.with_file_name(".binfer.notes.tmp"), "somebody's").unwrap();
        fs::create_dir(at.with_file_name(".binfer.2123456789abcdef.tmp")).unwrap();
    });
    let root = path.unwrap().join("../..");
    assert!(!root.join(name).exists());
    assert!(root.join(".binfer.1123456789abcdef.tmp").symlink_metadata().is_err());
    assert!(root.join(".binfer.notes.tmp").exists());
    assert!(root.join(".binfer.2123456789abcdef.tmp").exists());
}
