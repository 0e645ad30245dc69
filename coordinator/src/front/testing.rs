//! A scripted serve loop: what the real one does with commands, without scheduler and workers.

use super::{
    Core, CoreLimits, CoreParts, FailKind, FrontContext, GenerateRequest, Load, ModelInfo, Outbox,
    Prompt, Readers, Readiness, ServeCommand, UNREAD_BYTES_MAX,
};
use crate::metrics::Metrics;
use crate::sched::{Delivery, Finish, Refused, Request, RequestId, Usage};
use crate::text::process::TextProcess;
use crate::text::testing::{END, byte_tokens, model, vocab_len};
use crate::text::{
    AskedText, Pushed, ReasoningParserName, TextKind, TextModel, TextPieces, TextStage,
};
use binfer_proto::{Logprob, Sampling, Token};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

/// What happens to a request, in order. Control returns to the runtime after each.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// These bytes are sampled, one token each.
    Say(Vec<u8>),
    /// These tokens are sampled.
    Sample(Vec<Token>),
    /// The answer ends with this token, which is sampled.
    EndWith(Token),
    /// The answer ends.
    Finish(Finish),
    /// The request fails.
    Fail(FailKind, &'static str),
    /// Nothing happens for so long.
    Wait(Duration),
    /// Nothing happens until a reader leaves or unread text is over its cap.
    Hold,
    /// The request is not admitted. Must come first.
    Refuse(Refused),
    /// The serve loop ends without an answer. Must come first.
    Vanish,
}

/// A request as the serve loop saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) request: Request,
    pub(crate) text: AskedText,
}

/// What a test holds of a scripted server.
pub(crate) struct Scripted {
    pub(crate) core: Core,
    pub(crate) readiness: watch::Sender<Readiness>,
    pub(crate) seen: mpsc::UnboundedReceiver<Seen>,
    /// Requests that were cancelled, by the reader or for want of memory, and the bytes that were
    /// unread then.
    pub(crate) cancelled: mpsc::UnboundedReceiver<(RequestId, u64)>,
}

pub(crate) fn say(text: &str) -> Act {
    Act::Say(text.as_bytes().to_vec())
}

/// Text of an answer that is its content.
pub(crate) fn content(text: &str) -> TextPieces {
    let mut pieces = TextPieces::default();
    pieces.push(TextKind::Content, text);
    pieces
}

/// A greedy request for `prompt`, with nothing else said.
pub(crate) fn greedy(prompt: Prompt) -> GenerateRequest {
    GenerateRequest::new(prompt, Sampling::GREEDY)
}

/// What a front works with, over a serve loop that has no dispatcher yet, and what closes it.
pub(crate) fn context(scripts: Vec<Vec<Act>>) -> (FrontContext, watch::Sender<bool>) {
    let Scripted { core, readiness, .. } = undispatched(model(), scripts, UNREAD_BYTES_MAX);
    let (close, closing) = watch::channel(false);
    (FrontContext { core, readiness: readiness.subscribe(), closing }, close)
}

/// Starts a serve loop and a dispatcher on the current runtime. Each request follows the next
/// script.
pub(crate) fn scripted(scripts: Vec<Vec<Act>>, unread_bytes_max: u64) -> Scripted {
    scripted_model(model(), scripts, unread_bytes_max)
}

/// The same with another model, whose answers are parsed as its vocabulary and template say.
pub(crate) fn scripted_model(
    model: TextModel,
    scripts: Vec<Vec<Act>>,
    unread_bytes_max: u64,
) -> Scripted {
    let server = undispatched(model, scripts, unread_bytes_max);
    let core = server.core.clone();
    tokio::spawn(async move { core.dispatch_updates().await });
    server
}

fn undispatched(model: TextModel, scripts: Vec<Vec<Act>>, unread_bytes_max: u64) -> Scripted {
    let (commands, incoming) = mpsc::channel(1024);
    let (readiness, readiness_out) = watch::channel(Readiness::Ready);
    let outbox = Arc::new(Outbox::default());
    let (_, load) = watch::channel(Load { running_max: 8, ..Load::default() });
    let vocab = vocab_len(&model);
    let text = Arc::new(TextProcess::in_thread(Arc::new(model)));
    let facts = Arc::clone(text.facts());
    let reasoning = facts.reasoning().format(ReasoningParserName::Auto).unwrap();
    let core = Core::new(CoreParts {
        commands,
        metrics: Arc::new(Metrics::new("tiny")),
        model: Arc::new(ModelInfo {
            name: "tiny".into(),
            context_max: 256,
            vocab,
            end_ids: vec![END],
            sampling: facts.sampling(),
            reasoning,
            weights: 7,
            created: 0x1234,
        }),
        text,
        readiness: readiness_out,
        load,
        outbox: outbox.clone(),
        limits: CoreLimits::default(),
    });
    let (seen_in, seen) = mpsc::unbounded_channel();
    let (cancelled_in, cancelled) = mpsc::unbounded_channel();
    let serve_loop = ScriptedLoop {
        scripts: scripts.into(),
        readers: Readers::new(outbox, unread_bytes_max),
        text: TextStage::new(facts, reasoning),
        running: Vec::new(),
        seen: seen_in,
        cancelled: cancelled_in,
    };
    tokio::spawn(serve_loop.run(incoming));
    Scripted { core, readiness, seen, cancelled }
}

struct ScriptedLoop {
    scripts: VecDeque<Vec<Act>>,
    readers: Readers,
    text: TextStage,
    running: Vec<Running>,
    seen: mpsc::UnboundedSender<Seen>,
    cancelled: mpsc::UnboundedSender<(RequestId, u64)>,
}

struct Running {
    id: RequestId,
    logprobs: u8,
    acts: VecDeque<Act>,
    /// When the act began.
    since: Instant,
    usage: Usage,
}

impl ScriptedLoop {
    async fn run(mut self, mut incoming: mpsc::Receiver<ServeCommand>) {
        loop {
            let quiet = self.running.iter().all(|one| matches!(one.acts.front(), Some(Act::Hold)));
            let command = if quiet {
                let Some(command) = incoming.recv().await else { return };
                Some(command)
            } else {
                let waits = |one: &Running| matches!(one.acts.front(), Some(Act::Wait(_)));
                match self.running.iter().any(waits) {
                    true => sleep(Duration::from_millis(1)).await,
                    false => tokio::task::yield_now().await,
                }
                incoming.try_recv().ok()
            };
            match command {
                Some(ServeCommand::Submit(_)) if self.vanishes() => return,
                Some(ServeCommand::Submit(submit)) => self.submit(*submit),
                Some(ServeCommand::Cancel(id)) => self.cancel(id),
                Some(ServeCommand::Stop) => self.readers.fail_all(FailKind::Shutdown, "stopped"),
                None => {}
            }
            self.step();
            while let Some(id) = self.readers.slowest() {
                self.readers.fail(id, FailKind::SlowReader, "read too slowly");
                self.cancel(id);
            }
            self.readers.send();
        }
    }

    fn vanishes(&self) -> bool {
        matches!(self.scripts.front().and_then(|acts| acts.first()), Some(Act::Vanish))
    }

    fn submit(&mut self, submit: super::Submit) {
        let super::Submit { request, text, is_chat, read_counter } = submit;
        let id = request.id;
        let prompt = u32::try_from(request.prompt.len()).unwrap();
        let logprobs = request.logprobs;
        let parser = self.text.parser(is_chat, &request.prompt);
        let _ = self.seen.send(Seen { request, text: text.clone() });
        let mut acts: VecDeque<Act> = self.scripts.pop_front().unwrap().into();
        if let Some(Act::Refuse(why)) = acts.front() {
            self.readers.admit(id, read_counter, Err(why.clone()));
            return;
        }
        self.readers.admit(id, read_counter, Ok(()));
        self.text.open(id, text, parser);
        acts.push_back(Act::Hold);
        let usage = Usage { prompt, ..Usage::default() };
        self.running.push(Running { id, logprobs, acts, since: Instant::now(), usage });
    }

    fn cancel(&mut self, id: RequestId) {
        self.running.retain(|one| one.id != id);
        self.readers.fail(id, FailKind::Internal, "the reader left");
        self.text.close(id);
        let _ = self.cancelled.send((id, self.readers.unread_bytes()));
    }

    /// One act of each request.
    fn step(&mut self) {
        for one in &mut self.running {
            let mut end_token = None;
            let (tokens, finish) = match one.acts.front().cloned() {
                Some(Act::Say(bytes)) => (byte_tokens(&bytes), None),
                Some(Act::Sample(tokens)) => (tokens, None),
                Some(Act::Finish(finish)) => (Vec::new(), Some(finish)),
                Some(Act::EndWith(token)) => {
                    one.usage.generated += 1;
                    end_token = Some(token);
                    (Vec::new(), Some(Finish::Stop))
                }
                Some(Act::Fail(kind, message)) => {
                    self.readers.fail(one.id, kind, message);
                    one.acts = [Act::Hold].into();
                    continue;
                }
                Some(Act::Wait(time)) if one.since.elapsed() >= time => (Vec::new(), None),
                _ => continue,
            };
            one.acts.pop_front();
            one.since = Instant::now();
            let logprobs = logprobs(&tokens, one.logprobs);
            one.usage.generated += u32::try_from(tokens.len()).unwrap();
            let tokens = tokens.into();
            let (id, usage) = (one.id, one.usage);
            let delivery = Delivery { id, tokens, logprobs, finish, usage, end_token };
            let pushed = self.text.push(&delivery);
            self.readers.tokens(one.id, &delivery.tokens, one.usage);
            self.readers.logprobs(one.id, &delivery.logprobs);
            self.readers.text(one.id, pushed.text);
            let Pushed { stop, end, .. } = pushed;
            let finish = stop.map(Finish::StopString).or(finish);
            if let Some(finish) = finish {
                self.readers.done(one.id, finish, one.usage, end);
                one.acts = [Act::Hold].into();
            }
        }
    }
}

/// Logprobs of each token: its own, then those of the end token and the tokens after it.
fn logprobs(tokens: &[Token], each: u8) -> Vec<Logprob> {
    let of = |token: &Token| {
        let tops = (END..).zip(1..each).map(|(token, place)| (token, f32::from(place)));
        let all = [(*token, 0.5)].into_iter().chain(tops).take(each.into());
        all.map(|(token, unlikely)| Logprob { token, logprob: -unlikely }).collect::<Vec<_>>()
    };
    tokens.iter().flat_map(of).collect()
}
