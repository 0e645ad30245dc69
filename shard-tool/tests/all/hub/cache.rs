//! What lies in the cache, what is asked of the hub for it, and of whom.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use binfer_shard::Checkpoint;
use binfer_shard::hub::{DownloadEvent, Hub, HubError, HubSettings, ModelId};

use super::{Client, WEIGHTS, fixture, id};
use crate::gguf_writer::TINY;
use crate::hub_server::{COMMIT, HubServer, REPOSITORY, etag};
use crate::scratch;

#[test]
fn a_model_lies_in_the_cache_as_the_hubs_own_library_puts_it() {
    let folder = fixture("qwen3");
    let server = HubServer::of_folder(&folder);
    let client = Client::new(&server, "layout");
    let path = client.pull().unwrap();
    assert_eq!(path, client.repository().join("snapshots").join(COMMIT));
    let wanted = [
        "config.json",
        "generation_config.json",
        WEIGHTS,
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let mut found: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
    found.sort();
    assert_eq!(found, wanted);
    let mut etags = Vec::new();
    for name in wanted {
        let bytes = fs::read(folder.join(name)).unwrap();
        let etag = etag(name, &bytes);
        let link = fs::read_link(path.join(name)).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(&etag));
        assert!(fs::read(path.join(name)).unwrap() == bytes, "{name}");
        etags.push(etag);
    }
    etags.sort();
    assert_eq!(client.blobs(), etags);
    assert_eq!(fs::read_to_string(client.repository().join("refs/main")).unwrap(), COMMIT);
    assert_eq!(Checkpoint::open(&path).unwrap().spec().architecture, "qwen3");
}

#[test]
fn the_token_is_shown_to_the_hub_and_to_nobody_else() {
    let server = HubServer::of_folder(&fixture("qwen3"));
    Client::new(&server, "token").pull().unwrap();
    let seen = server.seen();
    assert!(seen.iter().any(|seen| seen.by_storage));
    for seen in seen {
        let shown = seen.authorization.is_some_and(|text| text == "Bearer secret");
        assert_eq!(shown, !seen.by_storage, "{}", seen.line);
    }
}

#[test]
fn what_the_cache_has_is_not_fetched_again() {
    let server = HubServer::of_folder(&fixture("llama31"));
    let client = Client::new(&server, "again");
    // No tokenizer: never whole, so it is asked for, but nothing is fetched twice.
    client.hub().model(&id(), &|_| {}).unwrap();
    assert!(client.hub().cached(&id()).is_none());
    server.seen();
    client.hub().model(&id(), &|_| {}).unwrap();
    let seen = server.seen();
    let fetched = seen.iter().filter(|seen| seen.line.starts_with("GET /some"));
    assert_eq!(fetched.count(), 0, "{seen:?}");

    let server = HubServer::of_folder(&fixture("qwen3"));
    let client = Client::new(&server, "whole");
    let path = client.pull().unwrap();
    server.seen();
    assert_eq!(client.hub().model(&id(), &|_| {}).unwrap().path, path);
    let pinned = || id().at_revision(COMMIT).unwrap();
    assert_eq!(client.hub().model(&pinned(), &|_| {}).unwrap().path, path);
    assert!(server.seen().is_empty());
    let offline =
        Hub::new(&HubSettings { offline: Some("HF_HUB_OFFLINE"), ..client.settings.clone() })
            .unwrap();
    let found = offline.model(&id(), &|_| {}).unwrap();
    assert_eq!((found.path, found.note), (path.clone(), None));
    fs::remove_file(path.join(WEIGHTS)).unwrap();
    let error = offline.model(&id(), &|_| {}).unwrap_err();
    assert!(matches!(&error, HubError::Offline(cause) if cause.contains("HF_HUB_OFFLINE")));
    assert!(server.seen().is_empty());
}

#[test]
fn a_gguf_file_is_described_by_its_header_and_fetched_by_its_quantisation() {
    let whole = scratch("hub-described.gguf");
    TINY.writer().write(&whole);
    let bytes = fs::read(&whole).unwrap();
    let spec = Checkpoint::open(&whole).unwrap().spec().clone();
    let other = ("m-Q8_0.gguf".to_owned(), b"another".to_vec());
    let mut files = BTreeMap::from([("m-F16.gguf".to_owned(), bytes), other]);
    for (number, part) in (1..).zip(TINY.writer().split(2)) {
        files.insert(format!("s-Q4_1-{number:05}-of-00002.gguf"), part.bytes());
    }
    let server = HubServer::of(files);
    let client = Client::new(&server, "gguf");
    let id = |tag| ModelId::parse(&format!("{REPOSITORY}:{tag}")).unwrap();
    for tag in ["F16", "q4_1"] {
        assert_eq!(client.hub().describe(&id(tag)).unwrap().spec, spec);
    }
    assert!(!client.cache.exists(), "nothing is kept");
    let error = client.hub().describe(&id("Q8_0")).unwrap_err();
    assert!(error.to_string().contains("m-Q8_0.gguf: not a GGUF file"), "{error}");
    for tag in ["F16", "q4_1"] {
        let path = client.hub().model(&id(tag), &|_| {}).unwrap().path;
        assert_eq!(*Checkpoint::open(&path).unwrap().spec(), spec);
        server.seen();
        assert_eq!(client.hub().model(&id(tag), &|_| {}).unwrap().path, path);
        assert!(server.seen().is_empty());
    }
    assert!(matches!(client.pull(), Err(HubError::Unfit(cause)) if cause.contains("say which")));
}

#[test]
fn one_process_at_a_time_writes_to_a_repository() {
    let server = HubServer::of_folder(&fixture("qwen3"));
    let client = Client::new(&server, "lock");
    let path = client.cache.join(".locks/models--some-org--tiny.model/binfer.lock");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let other = fs::File::create(path).unwrap();
    other.lock().unwrap();
    let (tell, told) = mpsc::channel();
    let hub = client.hub();
    let pull =
        std::thread::spawn(move || hub.pull(&id(), &|event| tell.send(event).unwrap_or_default()));
    assert_eq!(told.recv_timeout(Duration::from_secs(60)).unwrap(), DownloadEvent::Waiting);
    assert!(server.seen().iter().all(|seen| seen.line.starts_with("GET /api")));
    drop(other);
    assert!(pull.join().unwrap().unwrap().join(WEIGHTS).is_file());
}
