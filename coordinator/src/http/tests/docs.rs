//! docs/api.md says what the code does.

use super::super::HttpConfig;
use super::super::endpoint::Endpoint;
use super::super::request_objects::RequestObject;
use super::super::routes::table;
use crate::blueprint::{QUEUE_MAX, QUEUE_TOKENS_MAX};
use crate::front::{CoreLimits, UNREAD_BYTES_MAX};
use crate::transport::TransportConfig;

const API: &str = include_str!("../../../../docs/api.md");

/// The rows of the table under a heading, by their first cell.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let section = API.split(&format!("## {heading}\n")).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

#[test]
fn every_field_that_is_read_is_in_the_table_of_fields_and_no_other() {
    for (endpoint, word) in [(Endpoint::Completion, "completions"), (Endpoint::Chat, "chats")] {
        let rows = rows("Fields");
        let rows = rows.iter().filter(|row| [word, "both"].contains(&row[1]));
        let mut written: Vec<&str> =
            rows.flat_map(|row| row[0].split(", ").map(|name| name.trim_matches('`'))).collect();
        let mut read: Vec<&str> = RequestObject::Body(endpoint).known().collect();
        written.sort_unstable();
        read.sort_unstable();
        assert_eq!(written, read);
    }
}

#[test]
fn every_path_is_in_the_table_of_paths_and_no_other() {
    let rows = rows("Paths");
    let cells = rows.iter().flat_map(|row| row[0].split(", "));
    let path = |cell: &str| cell.trim_matches('`').split(' ').nth(1).unwrap().to_owned();
    let mut written: Vec<String> = cells.map(path).collect();
    let mut served: Vec<String> = table().iter().map(|route| route.path.to_owned()).collect();
    written.sort_unstable();
    served.sort_unstable();
    assert_eq!(written, served);
}

#[test]
fn the_table_of_bounds_has_the_bounds() {
    let config = HttpConfig::default();
    let transport = TransportConfig::default();
    let limits = CoreLimits::default();
    let mib = |bytes: usize| format!("{} MiB", bytes >> 20);
    let seconds = |time: std::time::Duration| format!("{} s", time.as_secs());
    let unread = usize::try_from(UNREAD_BYTES_MAX).unwrap();
    let head = format!("{} KiB, {} lines", transport.head_bytes_max >> 10, transport.headers_max);
    let stops = format!("{}, of {} bytes", limits.stop_strings_max, limits.stop_string_bytes_max);
    let windows = format!(
        "{} KiB a stream, {} MiB a connection",
        transport.stream_window_bytes >> 10,
        transport.connection_window_bytes >> 20
    );
    let bounds = [
        ("body of a request", mib(config.body_bytes_max)),
        ("bodies above 64 KiB", mib(config.body_memory_bytes)),
        ("head of a request", head),
        ("handshake of TLS", seconds(transport.head_timeout)),
        ("time for the head", seconds(transport.head_timeout)),
        ("time for the body", seconds(config.body_timeout)),
        ("connection without a request", seconds(transport.idle_timeout)),
        ("connections", transport.connections_max.to_string()),
        ("requests at once on a connection", transport.streams_max.to_string()),
        (
            "requests on a connection of HTTP/2 that are taken back",
            transport.resets_max.to_string(),
        ),
        ("bytes that a client of HTTP/2 sends ahead", windows),
        ("write without progress", seconds(transport.write_timeout)),
        ("silence in a stream", seconds(config.comment_interval)),
        ("answers that are being written", seconds(transport.linger)),
        ("messages", limits.messages_max.to_string()),
        ("stop strings", stops),
        ("prompt before it is tokenised", mib(limits.prompt_bytes_max)),
        ("prompts that wait to be tokenised", limits.tokenizing_queue_max.to_string()),
        ("requests that wait to run", format!("{QUEUE_MAX}, of {QUEUE_TOKENS_MAX} tokens")),
        ("text that is not read", mib(unread)),
    ];
    let rows = rows("Bounds");
    assert_eq!(rows.len(), bounds.len());
    for (row, (what, bound)) in rows.iter().zip(bounds) {
        assert!(row[0].starts_with(what) && row[1].contains(&bound), "{row:?}: {what}, {bound}");
    }
}
