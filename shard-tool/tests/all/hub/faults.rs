//! What breaks, comes wrong or is refused, and what comes of it.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use binfer_shard::hub::{DownloadEvent, HubError, ModelId};

use super::{Client, WEIGHTS, fixture, id, ranges, storage_asked_from};
use crate::folder_writer::with_header;
use crate::hub_server::{Fault, HubServer, etag};

#[test]
fn a_broken_connection_goes_on_where_it_broke() {
    let server = HubServer::of_folder(&fixture("qwen3"));
    let client = Client::new(&server, "broken");
    server.fault("GET /model.safetensors", Fault::BreakAfter(1000));
    server.fault("GET /model.safetensors", Fault::BreakAfter(500));
    let last = fs::metadata(fixture("qwen3").join(WEIGHTS)).unwrap().len() - 1;
    client.pull().unwrap();
    let wanted = [0, 1000, 1500].map(|start| format!("bytes={start}-{last}"));
    assert_eq!(ranges(&server), wanted);
}

#[test]
fn a_broken_download_goes_on_where_it_was_with_every_piece() {
    // Two pieces.
    let bytes: Vec<u8> = (0..70_u32 << 20).map(|at| (at % 251) as u8).collect();
    let (length, piece) = (bytes.len(), 64 << 20);
    let server = HubServer::of(BTreeMap::from([("m.gguf".to_owned(), bytes)]));
    let client = Client::new(&server, "pieces");
    let [first, second] = [0, piece].map(storage_asked_from);
    let [first_again, second_again] = [1000, piece + 2000].map(storage_asked_from);
    server.fault(&first, Fault::BreakAfter(1000));
    server.fault(&second, Fault::BreakAfter(2000));
    for range in [&first_again, &second_again] {
        server.fault(range, Fault::Answer("403 Forbidden", String::new()));
    }
    assert!(matches!(client.pull(), Err(HubError::Refused(_))));
    assert!(client.blobs()[0].ends_with(".binfer.incomplete"), "{:?}", client.blobs());
    server.mend();
    server.seen();
    let found = std::sync::atomic::AtomicU64::new(0);
    let watch = |event| {
        if let DownloadEvent::Found { bytes_done, bytes_total } = event {
            assert_eq!(bytes_total, length as u64);
            found.fetch_max(bytes_done, std::sync::atomic::Ordering::Relaxed);
        }
    };
    let path = client.hub().pull(&id(), &watch).unwrap();
    assert!([1000, 2000, 3000].contains(&found.into_inner()));
    // One piece failed for good, which may have stopped the other before it began.
    let (mut asked, mut resumed) = (ranges(&server), 0);
    asked.sort();
    for (range, [start, again]) in
        asked.iter().zip([[&first, &first_again], [&second, &second_again]])
    {
        let is = |line: &str| line.ends_with(range.split_inclusive('-').next().unwrap());
        assert!(is(start) || is(again), "{asked:?}");
        resumed += usize::from(is(again));
    }
    assert!(asked.len() == 2 && resumed > 0, "{asked:?}");
    let bytes = fs::read(path).unwrap();
    assert_eq!(bytes.len(), length);
    assert_eq!(client.blobs(), [etag("m.gguf", &bytes)]);
    fs::remove_dir_all(&client.cache).unwrap();
}

#[test]
fn an_overloaded_hub_is_given_the_time_it_asks_for() {
    let server = HubServer::of_folder(&fixture("qwen3"));
    let client = Client::new(&server, "overloaded");
    let wait = "Retry-After: 1\r\n".to_owned();
    server.fault("/api/models", Fault::Answer("429 Too Many Requests", wait));
    server.fault("GET /model.safetensors", Fault::Answer("503 Unavailable", String::new()));
    let began = Instant::now();
    client.pull().unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn what_arrives_wrong_is_thrown_away() {
    let server = HubServer::of_folder(&fixture("qwen3"));
    let client = Client::new(&server, "wrong");
    for part in [
        "GET /some-org/tiny.model/resolve/0123456789abcdef0123456789abcdef01234567/config",
        "GET /model.saf",
    ] {
        server.fault(part, Fault::WrongByte);
        let error = client.pull().unwrap_err();
        assert!(matches!(&error, HubError::Damaged(cause) if cause.contains("digest")), "{error}");
        assert!(client.hub().cached(&id()).is_none());
    }
    let incomplete = client.blobs().into_iter().find(|name| name.ends_with(".incomplete"));
    assert_eq!(incomplete, None);
    client.pull().unwrap();
}

#[test]
fn an_answer_of_other_bytes_than_were_asked_for_is_refused() {
    let server = HubServer::of_folder(&fixture("qwen3"));
    let client = Client::new(&server, "ranges");
    let part = "GET /model.safetensors";
    server.fault(part, Fault::Header("Content-Range", "Content-Range: bytes 1-9/99\r\n".into()));
    server.fault(part, Fault::Header("Content-Range", String::new()));
    server.fault(part, Fault::Header("Content-Length", "Content-Length: 12\r\n".into()));
    for _ in 0..3 {
        let error = client.pull().unwrap_err();
        assert!(matches!(&error, HubError::Answer(cause) if cause.contains("the server sends")));
    }
    // The whole file in place of its first and only piece will do; not in place of its rest.
    server.fault(part, Fault::BreakAfter(1000));
    server.fault(part, Fault::Whole);
    let error = client.pull().unwrap_err();
    assert!(matches!(&error, HubError::Answer(cause) if cause.contains("ranges")), "{error}");
    fs::remove_dir_all(&client.cache).unwrap();
    server.fault(part, Fault::Whole);
    client.pull().unwrap();
}

#[test]
fn refusals_say_what_to_do() {
    let server = HubServer::of_folder(&fixture("qwen3"));
    let mut client = Client::new(&server, "refusals");
    let gated =
        || "X-Error-Code: GatedRepo\r\nX-Error-Message: Access is restricted.\r\n".to_owned();
    let cases = [
        (Fault::Answer("401 Unauthorized", String::new()), "the token may not see it"),
        (Fault::Answer("401 Unauthorized", gated()), "ask for it on http"),
        (Fault::Answer("403 Forbidden", gated()), "Access is restricted."),
    ];
    for (fault, words) in cases {
        server.fault("/api/models", fault);
        let error = client.pull().unwrap_err();
        assert!(matches!(&error, HubError::Refused(cause) if cause.contains(words)), "{error}");
        assert!(!error.to_string().contains("secret"));
    }
    client.settings.token = None;
    server.fault("/api/models", Fault::Answer("401 Unauthorized", String::new()));
    assert!(client.pull().unwrap_err().to_string().contains("set HF_TOKEN"));
    let absent = |id: ModelId| client.hub().pull(&id, &|_| {}).unwrap_err();
    let error = absent(ModelId::parse("some-org/other").unwrap());
    assert!(matches!(&error, HubError::Absent(cause) if cause.contains("some-org/other")));
    let error = absent(id().at_revision("v9").unwrap());
    assert!(matches!(&error, HubError::Absent(cause) if cause.contains("no such revision")));
    assert!(!client.repository().exists(), "refused before anything is written");
}

#[test]
fn two_tensors_of_one_name_are_refused_before_anything_is_fetched() {
    let entry = r#""a":{"dtype":"F32","shape":[1],"data_offsets":"#;
    let twice = format!("{{{entry}[0,4]}},{entry}[4,8]}}}}");
    let files = [
        ("config.json", fs::read(fixture("qwen3").join("config.json")).unwrap()),
        ("tokenizer.json", b"{}".to_vec()),
        (WEIGHTS, with_header(&twice, &[0; 8])),
    ];
    let server = HubServer::of(files.map(|(name, bytes)| (name.to_owned(), bytes)).into());
    let error = Client::new(&server, "twice").hub().describe(&id()).unwrap_err().to_string();
    assert!(error.contains("a: there are two tensors of this name"), "{error}");
}

#[test]
fn names_from_the_hub_do_not_leave_the_cache() {
    for evil in ["../../evil.json", "/etc/evil.json", "a/../b.json", "a\\b.json", ""] {
        let files = ["config.json", WEIGHTS, evil].map(|name| (name.to_owned(), b"{}".to_vec()));
        let server = HubServer::of(files.into());
        let client = Client::new(&server, "evil");
        let error = client.pull().unwrap_err();
        assert!(
            matches!(&error, HubError::Answer(cause) if cause.contains("not the path")),
            "{error}"
        );
        assert!(!client.cache.exists());
    }
    let server = HubServer::of_folder(&fixture("qwen3"));
    let client = Client::new(&server, "etag");
    server.fault("/config.json", Fault::Header("ETag", "ETag: \"../../x\"\r\n".into()));
    let error = client.pull().unwrap_err();
    assert!(matches!(&error, HubError::Answer(cause) if cause.contains("etag")), "{error}");
    let around = format!("Location: {}/api/models/x\r\n", server.endpoint);
    (0..7).for_each(|_| server.fault("/api/models", Fault::Answer("302 Found", around.clone())));
    let error = client.pull().unwrap_err();
    assert!(matches!(&error, HubError::Answer(cause) if cause.contains("redirects")), "{error}");
}
