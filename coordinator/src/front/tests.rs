//! The core and its streams against a scripted serve loop.

use super::stream_buffer::StreamBuffer;
use super::testing::{self, Act, Scripted, content, greedy, say};
use super::*;
use crate::sched::{FailCause, Finish, Refused, RequestId};
use crate::text::{Message, TextEnd, TextKind, TextPieces};
use binfer_proto::{Bias, Sampling, SamplingField};
use std::sync::Arc;
use std::time::Duration;

fn hello() -> GenerateRequest {
    greedy(Prompt::Text("hello".into()))
}

fn scripted(scripts: Vec<Vec<Act>>) -> Scripted {
    testing::scripted(scripts, UNREAD_BYTES_MAX)
}

async fn rest(mut stream: AnswerStream) -> (String, StreamEvent) {
    let mut text = String::new();
    loop {
        match stream.next().await {
            StreamEvent::Text(more) => text.push_str(&more.text_of(TextKind::Content)),
            end => return (text, end),
        }
    }
}

#[tokio::test]
async fn a_request_goes_through_and_gives_its_text_back() {
    let emoji = "é😀".as_bytes();
    let script = vec![Act::Say(emoji[..4].into()), Act::Say(emoji[4..].into())];
    let script = [script, vec![Act::Finish(Finish::Length)]].concat();
    let mut server = scripted(vec![script.clone(), script]);
    for read_mode in [ReadMode::Streamed, ReadMode::Whole] {
        let stream = server.core.generate(GenerateRequest { read_mode, ..hello() }).await.unwrap();
        let (text, end) = rest(stream).await;
        assert_eq!(text, "é😀");
        let StreamEvent::End(End::Done { finish: Finish::Length, usage, .. }) = end else {
            panic!("{end:?}")
        };
        assert_eq!((usage.prompt, usage.generated), (1, 6));
        let seen = server.seen.recv().await.unwrap();
        assert_eq!(seen.request.prompt, [262]);
        assert_eq!((seen.request.max_tokens, seen.request.weights), (255, 7));
    }
    assert!(server.cancelled.try_recv().is_err(), "an ended request is not cancelled");
}

#[tokio::test]
async fn a_stop_string_that_is_a_control_token_is_found_by_the_token() {
    let script = vec![Act::Finish(Finish::Stop)];
    let mut server = scripted(vec![script.clone(), script.clone(), script]);
    for (stop, ignore_eos, ends) in [
        ("<|im_start|>", false, vec![1, 2]),
        ("<|im_start|>", true, vec![1]),
        ("<|im_start", true, vec![2]),
    ] {
        let asked = GenerateRequest { stop: vec![stop.into()], ignore_eos, ..hello() };
        server.core.generate(asked).await.unwrap();
        let seen = server.seen.recv().await.unwrap().request;
        assert_eq!((&*seen.end_ids, seen.ignore_eos), (&*ends, ignore_eos && ends == [2]));
    }
}

#[tokio::test]
async fn chats_are_rendered_and_seeds_drawn() {
    let script = vec![Act::Finish(Finish::Stop)];
    let mut server = scripted(vec![script.clone(), script.clone(), script]);
    let chat = vec![Message::new("user", "hello")];
    for seed in [None, None, Some(5)] {
        let ask = GenerateRequest { seed, ..greedy(Prompt::Chat(chat.clone())) };
        rest(server.core.generate(ask).await.unwrap()).await;
    }
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(server.seen.recv().await.unwrap().request);
    }
    assert_eq!(seen[0].prompt[0], 1, "begins with <|im_start|>");
    assert!(seen[0].id != seen[1].id && seen[0].seed != seen[1].seed);
    assert_eq!(seen[2].seed, 5);
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_with_its_field() {
    let server = scripted(Vec::new());
    let long = "x".repeat(14 * 256);
    let sampling = Sampling { top_p: -0.5, ..Sampling::GREEDY };
    let biases = vec![Bias { token: 264, value: 1.0 }];
    let penalty = Sampling { presence_penalty: 2.5, ..Sampling::GREEDY };
    let asked = MaxTokens::Asked;
    for (request, field, part) in [
        (greedy(Prompt::Text(String::new())), Field::Prompt, "holds no token"),
        (greedy(Prompt::Text(long)), Field::Prompt, "3584 bytes"),
        (greedy(Prompt::Text("x".repeat(256))), Field::Prompt, "no room"),
        (greedy(Prompt::Tokens(vec![264])), Field::Prompt, "264"),
        (greedy(Prompt::Chat(Vec::new())), Field::Prompt, "empty"),
        (GenerateRequest { max_tokens: asked(256), ..hello() }, Field::MaxTokens, "255"),
        (GenerateRequest { max_tokens: asked(0), ..hello() }, Field::MaxTokens, "at least 1"),
        (
            GenerateRequest { sampling, ..hello() },
            Field::Sampling(SamplingField::TopP),
            "-0.5 is not",
        ),
        (
            GenerateRequest { sampling: penalty, ..hello() },
            Field::Sampling(SamplingField::PresencePenalty),
            "2.5 is not",
        ),
        (GenerateRequest { biases, ..hello() }, Field::Sampling(SamplingField::LogitBias), "264"),
        (GenerateRequest { stop: vec![String::new()], ..hello() }, Field::Stop, "empty"),
        (GenerateRequest { stop: vec!["x".repeat(257)], ..hello() }, Field::Stop, "257"),
        (GenerateRequest { stop: vec!["x".into(); 17], ..hello() }, Field::Stop, "17"),
    ] {
        let error = server.core.generate(request).await.unwrap_err();
        let (SubmitError::Invalid(error) | SubmitError::TooLong { error, .. }) = error else {
            panic!("{error:?}")
        };
        assert_eq!(error.field, field, "{error}");
        assert!(error.cause.contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_default_length_gives_way_to_the_context() {
    let mut server = scripted(vec![vec![Act::Finish(Finish::Length)]]);
    let prompt = Prompt::Tokens(vec![5; 250]);
    let ask = GenerateRequest { max_tokens: MaxTokens::AtMost(16), ..greedy(prompt) };
    rest(server.core.generate(ask).await.unwrap()).await;
    assert_eq!(server.seen.recv().await.unwrap().request.max_tokens, 6);
}

#[tokio::test]
async fn the_schedulers_refusals_keep_their_kind() {
    let queue_full = Refused::QueueFull { requests: 9, tokens: 99 };
    let too_long = Refused::TooLong { prompt: 1, context_max: 1 };
    let refusals = [queue_full, Refused::Draining, too_long];
    let server = scripted(refusals.map(|why| vec![Act::Refuse(why)]).into());
    let next = async || server.core.generate(hello()).await.unwrap_err();
    assert!(matches!(next().await, SubmitError::Busy { .. }));
    assert!(matches!(next().await, SubmitError::Unavailable { .. }));
    let SubmitError::TooLong { context_max: 256, error } = next().await else { panic!() };
    assert_eq!(error.field, Field::Prompt);
    server.readiness.send(Readiness::Lost("rank 1 is gone".into())).unwrap();
    let error = next().await;
    assert!(matches!(error, SubmitError::Unavailable { .. }));
    assert_eq!(error.to_string(), "rank 1 is gone");
}

#[tokio::test]
async fn dropping_a_stream_cancels_its_request() {
    let mut server = scripted(vec![vec![say("text"), Act::Hold]]);
    let mut stream = server.core.generate(hello()).await.unwrap();
    let id = stream.id();
    assert_eq!(stream.next().await, StreamEvent::Text(content("text")));
    drop(stream);
    assert_eq!(server.cancelled.recv().await, Some((id, 0)));
}

#[tokio::test]
async fn the_reader_with_the_most_unread_text_pays_for_the_cap() {
    let greedy: Vec<Act> = (0..200).map(|_| say("0123456789")).collect();
    let mut server = testing::scripted(vec![vec![say("small"), Act::Hold], greedy], 1000);
    let modest = server.core.generate(hello()).await.unwrap();
    let slow = server.core.generate(hello()).await.unwrap();
    assert_eq!(server.cancelled.recv().await, Some((slow.id(), "small".len() as u64)));
    let (text, end) = rest(slow).await;
    assert_eq!(text, "");
    assert!(
        matches!(end, StreamEvent::End(End::Failed { kind: FailKind::SlowReader, .. })),
        "{end:?}"
    );
    let id = modest.id();
    drop(modest);
    assert_eq!(server.cancelled.recv().await, Some((id, 0)));
}

/// A reader without a core: its buffer is open at `outbox`, and `readers` admitted it.
fn admitted(id: RequestId, outbox: &Outbox, readers: &mut Readers) -> Arc<StreamBuffer> {
    let read_counter = Arc::new(ReadCounter::default());
    let buffer = Arc::new(StreamBuffer::new(ReadMode::Streamed, Arc::clone(&read_counter)));
    outbox.open(id, Arc::clone(&buffer));
    readers.admit(id, read_counter, Ok(()));
    buffer
}

async fn take(buffer: &StreamBuffer) -> (String, Option<End>) {
    let mut text = TextPieces::default();
    let end = std::future::poll_fn(|cx| buffer.poll_take(cx, &mut text)).await;
    (text.text_of(TextKind::Content), end)
}

/// Sends what `readers` said and dispatches it.
async fn deliver(readers: &mut Readers, outbox: &Outbox) {
    readers.send();
    let Err(_) = tokio::time::timeout(Duration::ZERO, outbox.dispatch()).await;
}

#[tokio::test]
async fn the_first_end_is_the_only_one() {
    let buffer = StreamBuffer::new(ReadMode::Streamed, Arc::default());
    buffer.admission(Ok(()));
    buffer.text(TextKind::Content, "a");
    buffer.end(End::Failed { message: "rank 0".into(), kind: FailKind::WorkerLost });
    buffer.text(TextKind::Content, "b");
    buffer.end(End::Done {
        finish: Finish::Stop,
        usage: crate::sched::Usage::default(),
        text: TextEnd::default(),
    });
    buffer.admitted().await.unwrap();
    let (text, end) = take(&buffer).await;
    assert_eq!(text, "a");
    assert!(matches!(end, Some(End::Failed { kind: FailKind::WorkerLost, .. })));
    let again = take(&buffer);
    assert!(tokio::time::timeout(Duration::from_millis(5), again).await.is_err());
    assert!(!buffer.close());
}

#[tokio::test]
async fn updates_keep_their_order_however_late_they_are_dispatched() {
    let outbox = Arc::new(Outbox::default());
    let mut readers = Readers::new(Arc::clone(&outbox), 100);
    let [one, two] = [1, 2].map(|id| admitted(RequestId(id), &outbox, &mut readers));
    for piece in ["a", "é", "", "c"] {
        readers.text(RequestId(1), &content(piece));
        readers.text(RequestId(2), &content("x"));
        readers.send();
    }
    readers.done(RequestId(1), Finish::Stop, crate::sched::Usage::default(), TextEnd::default());
    readers.text(RequestId(1), &content("past the end"));
    deliver(&mut readers, &outbox).await;
    let (text, end) = take(&one).await;
    assert_eq!(text, "aéc");
    assert!(matches!(end, Some(End::Done { finish: Finish::Stop, .. })));
    assert_eq!(take(&two).await, ("xxxx".to_owned(), None));
}

#[tokio::test]
async fn text_counts_until_it_is_read_or_nobody_will_read_it() {
    let outbox = Arc::new(Outbox::default());
    let mut readers = Readers::new(Arc::clone(&outbox), 7);
    let [over, slow, gone] = [1, 2, 3].map(|id| admitted(RequestId(id), &outbox, &mut readers));
    for (id, text) in [(1, "one"), (2, "four"), (3, "gone away")] {
        readers.text(RequestId(id), &content(text));
    }
    deliver(&mut readers, &outbox).await;
    assert_eq!(readers.unread_bytes(), 16);
    gone.close();
    assert_eq!((readers.unread_bytes(), readers.slowest()), (7, None));
    readers.done(RequestId(1), Finish::Stop, crate::sched::Usage::default(), TextEnd::default());
    readers.text(RequestId(2), &content("!"));
    deliver(&mut readers, &outbox).await;
    assert_eq!(
        readers.slowest(),
        Some(RequestId(2)),
        "an answer that ended counts, but cannot pay"
    );
    readers.fail(RequestId(2), FailKind::SlowReader, "read too slowly");
    assert_eq!(
        (readers.unread_bytes(), readers.slowest()),
        (3, None),
        "before the update is there"
    );
    deliver(&mut readers, &outbox).await;
    assert_eq!(take(&slow).await.0, "");
    assert_eq!(take(&over).await.0, "one");
    assert_eq!(readers.unread_bytes(), 0);
}

#[tokio::test]
async fn readers_turn_a_failed_finish_into_a_failure() {
    let outbox = Arc::new(Outbox::default());
    let mut readers = Readers::new(Arc::clone(&outbox), 100);
    for (cause, kind) in [
        (FailCause::NonFinite, FailKind::NonFinite),
        (FailCause::QueueTimeout, FailKind::QueueTimeout),
    ] {
        let buffer = admitted(RequestId(1), &outbox, &mut readers);
        readers.done(
            RequestId(1),
            Finish::Failed(cause),
            crate::sched::Usage::default(),
            TextEnd::default(),
        );
        assert!(readers.is_empty());
        deliver(&mut readers, &outbox).await;
        assert_eq!(take(&buffer).await.1, Some(End::Failed { message: cause.to_string(), kind }));
    }
}

#[tokio::test]
async fn a_serve_loop_that_ends_leaves_nobody_waiting() {
    let server = scripted(vec![vec![say("text"), Act::Hold], vec![Act::Vanish]]);
    let running = server.core.generate(hello()).await.unwrap();
    let error = server.core.generate(hello()).await.unwrap_err();
    assert!(matches!(error, SubmitError::Unavailable { .. }), "{error:?}");
    let (text, end) = rest(running).await;
    assert_eq!(text, "text");
    assert!(
        matches!(end, StreamEvent::End(End::Failed { kind: FailKind::Internal, .. })),
        "{end:?}"
    );
    let error = server.core.generate(hello()).await.unwrap_err();
    assert!(matches!(error, SubmitError::Unavailable { .. }), "{error:?}");
}
