//! Tips for unknown flags: the flag with the meaning that another server's flag has, or one that is
//! spelt almost alike.

use clap::Command;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

/// The tip for a flag of another server.
enum Tip {
    /// The flag that has the same meaning here.
    Flag(&'static str),
    /// What to do, where no flag has that meaning.
    Words(&'static str),
}
use Tip::{Flag, Words};

const MODEL: &str = "the model is the first argument and has no flag";
const PROMPT: &str = "the prompt is the argument after the model, or comes through stdin";
const ALWAYS: &str = "it is always so here; leave the flag away";
const NO_CODE: &str = "no code of a model is ever run; leave the flag away";
const QUANT: &str = "what weights are packed as is read from the checkpoint; leave the flag away";
const HUB: &str = "models lie where HF_HUB_CACHE says, and HF_TOKEN holds the token";
const NAME: &str = "clients call a model by the name of its file or folder, or by its id";
const TOKENIZER: &str = "the tokenizer is the model's own";
const LOGS: &str = "requests are not logged; leave the flag away";

/// The flags of vLLM, SGLang, llama.cpp, TGI and Ollama by meaning.
const FOREIGN: &[(&[&str], Tip)] = &[
    (&["--tensor-parallel-size", "-tp", "--tp-size", "--num-shard"], Flag("--tp")),
    (&["--tensor-split", "-ts", "--split-mode", "-sm", "--num-gpu"], Flag("--tp")),
    (&["--ctx-size", "-c", "--context-length", "--num-ctx", "--max-total-tokens"], MAX_LEN),
    (&["--max-seq-len", "--max-sequence-length", "--max-context-len"], MAX_LEN),
    (&["--parallel", "-np", "--max-running-requests", "--max-concurrent-requests"], SEQUENCES),
    (&["--max-batch-size", "--num-parallel"], SEQUENCES),
    (&["--batch-size", "-b", "--ubatch-size", "-ub", "--chunked-prefill-size"], STEP),
    (&["--max-batch-prefill-tokens", "--max-prefill-tokens"], STEP),
    (&["--mem-fraction-static", "--cuda-memory-fraction"], Flag("--gpu-memory-utilization")),
    (&["--kv-cache-dtype", "--cache-type-k", "-ctk", "--cache-type-v", "-ctv"], Flag("--dtype")),
    (&["--num-gpu-blocks-override", "--max-total-kv-tokens"], Flag("--kv-cache-tokens")),
    (&["--enforce-eager", "--disable-cuda-graph"], Flag("--no-cuda-graphs")),
    (&["--disable-radix-cache"], Flag("--no-enable-prefix-caching")),
    (&["--n-gpu-layers", "-ngl", "--gpu-layers"], Flag("--device")),
    (&["--threads-batch", "-tb", "--num-thread"], Flag("--threads")),
    (&["--hf-revision"], Flag("--revision")),
    (&["--n-predict", "-n", "--predict", "--num-predict", "--max-new-tokens"], MAX_TOKENS),
    (&["--temp"], Flag("--temperature")),
    (&["--repeat-penalty"], Flag("--repetition-penalty")),
    (&["--conversation", "-cnv", "--jinja", "--chat-template"], Flag("--use-template")),
    (&["--model", "-m", "--model-path", "--model-id", "--hf-repo", "-hf", "-hfr"], Words(MODEL)),
    (&["--prompt", "-p", "--file", "-f"], Words(PROMPT)),
    (&["--served-model-name", "--alias", "-a"], Words(NAME)),
    (&["--tokenizer", "--tokenizer-mode", "--tokenizer-path"], Words(TOKENIZER)),
    (&["--trust-remote-code"], Words(NO_CODE)),
    (&["--quantization", "-q4", "--quantize", "--load-in-8bit"], Words(QUANT)),
    (&["--download-dir", "--hf-token", "-hft", "--huggingface-hub-cache"], Words(HUB)),
    (&["--api-keys"], Flag("--api-key")),
    (&["--disable-log-requests", "--disable-log-stats", "--log-disable"], Words(LOGS)),
    (&["--enable-prefix-caching", "--enable-chunked-prefill", "--cont-batching"], Words(ALWAYS)),
    (&["-cb", "--flash-attn", "-fa", "--mlock", "--no-mmap"], Words(ALWAYS)),
];
const MAX_LEN: Tip = Flag("--max-model-len");
const SEQUENCES: Tip = Flag("--max-num-seqs");
const STEP: Tip = Flag("--max-num-batched-tokens");
const MAX_TOKENS: Tip = Flag("--max-tokens");

/// The flags of `run` whose meaning a server leaves to requests.
const SAMPLING: [&str; 3] = ["--max-tokens", "--temperature", "--repetition-penalty"];

/// Gives an error about an unknown flag a tip, if there is one. `args` are the arguments of the
/// process without the program's name.
#[must_use]
pub fn improved(mut error: Error, program: &Command, args: &[String]) -> Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg).cloned() else {
        return error;
    };
    // clap suggests to pass the flag as a value, which nobody means.
    error.remove(ContextKind::Suggested);
    let written = as_written(&unknown, args);
    if let Some(tip) = foreign(written) {
        error.remove(ContextKind::SuggestedArg);
        if written != unknown {
            error.insert(ContextKind::InvalidArg, ContextValue::String(written.to_owned()));
        }
        match tip {
            Flag(ours) if has_flag(program, args, ours) => {
                say(&mut error, &format!("'{ours}' is the flag here"));
            }
            Flag(ours) if SAMPLING.contains(ours) => {
                let field = ours.trim_start_matches('-').replace('-', "_");
                say(&mut error, &format!("requests say it, as '{field}'"));
            }
            Flag(_) => {}
            Words(words) => say(&mut error, words),
        }
    } else if let Some(ContextValue::String(similar)) = error.get(ContextKind::SuggestedArg)
        && !is_slip(&unknown, similar)
    {
        error.remove(ContextKind::SuggestedArg);
    }
    error
}

/// The whole argument that the parser refused. The parser reads `-ngl` as several flags of one
/// letter and names only `-n`.
fn as_written<'a>(unknown: &'a str, args: &'a [String]) -> &'a str {
    let is_letter = !unknown.starts_with("--");
    let whole = args.iter().map(|arg| arg.split('=').next().unwrap_or(arg));
    let mut whole = whole.filter(|arg| is_letter && arg.starts_with(unknown) && arg.len() > 2);
    whole.find(|arg| foreign(arg).is_some()).unwrap_or(unknown)
}

fn foreign(flag: &str) -> Option<&'static Tip> {
    let flag = flag.split('=').next().unwrap_or(flag).replace('_', "-");
    FOREIGN.iter().find(|(names, _)| names.contains(&flag.as_str())).map(|(_, tip)| tip)
}

/// Whether the command that was called has this flag.
fn has_flag(program: &Command, args: &[String], flag: &str) -> bool {
    let command = args.first().and_then(|name| program.find_subcommand(name));
    let mut flags = command.into_iter().flat_map(Command::get_arguments);
    flags.any(|argument| argument.get_long() == flag.strip_prefix("--"))
}

/// Whether one flag may be a typing error for the other. Long flags may differ in more letters.
fn is_slip(written: &str, meant: &str) -> bool {
    strsim::osa_distance(written, meant) <= 1 + written.len() / 8
}

fn say(error: &mut Error, words: &str) {
    let tip = StyledStr::from(words.to_owned());
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
}

#[cfg(test)]
mod tests {
    use clap::{Parser, Subcommand};

    use super::*;
    use crate::cli::{run::RunArgs, serve::ServeArgs};

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Role,
    }

    #[derive(Subcommand)]
    enum Role {
        Run(RunArgs),
        Serve(ServeArgs),
    }

    /// What is said of a line.
    fn said(line: &str) -> String {
        use clap::CommandFactory;
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let words = ["binfer".to_owned()].into_iter().chain(args.clone());
        let Err(error) = Cli::try_parse_from(words) else { panic!("{line} is fine") };
        improved(error, &Cli::command(), &args).to_string()
    }

    #[test]
    fn a_flag_of_another_server_is_answered_with_the_one_that_means_it() {
        for (line, tip) in [
            ("serve demo --tensor-parallel-size 2", "tip: '--tp' is the flag here"),
            ("serve demo --tensor_parallel_size=2", "tip: '--tp' is the flag here"),
            ("serve demo -ngl 99", "tip: '--device' is the flag here"),
            ("serve demo --ctx-size 4096", "tip: '--max-model-len' is the flag here"),
            ("run demo -n 20", "tip: '--max-tokens' is the flag here"),
            ("run demo --repeat-penalty 1.1", "tip: '--repetition-penalty' is the flag here"),
            ("serve demo --n-predict 5", "tip: requests say it, as 'max_tokens'"),
            ("serve --model demo", "tip: the model is the first argument"),
            ("serve demo --served-model-name x", "tip: clients call a model by the name"),
            ("serve demo --trust-remote-code", "tip: no code of a model is ever run"),
        ] {
            assert!(said(line).contains(tip), "{line}: {}", said(line));
            assert!(!said(line).contains("similar"), "{line}: {}", said(line));
        }
    }

    #[test]
    fn only_a_slip_is_answered_by_spelling() {
        assert!(said("run demo --max-token 4").contains("similar argument exists: '--max-tokens'"));
        assert!(said("serve demo --drian 4").contains("similar argument exists: '--drain'"));
        let line = "serve demo --schedule-conservativeness 1";
        assert!(!said(line).contains("tip:"), "{}", said(line));
    }
}
