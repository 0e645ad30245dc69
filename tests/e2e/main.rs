//! The whole program from outside: real processes, a real model, real sockets.
//!
//! | module | tests |
//! |---|---|
//! | `parity` | served text equals transformers', at every rank count, in any company |
//! | `run` | `binfer run` |
//! | `text` | tokenizers that overrun, panic and die: what requests and the server see |
//! | `tokens` | tokenizer and chat template against the goldens |
//! | `bench` | `binfer bench MODEL` |
//! | `bf16` | the demo model as a folder in bfloat16 |
//! | `folder` | a Hugging Face folder, served |
//! | `gpu` | the real program on GPUs |
//! | `hub` | models by their id on the hub |
//! | `logits` | logits against the goldens; their bits in any company |
//! | `masks` | masked steps, on real workers without a coordinator |
//! | `tiny` | tiny checkpoints of all families: logits and tokens at every rank count |
//! | `features` | features of the tiny checkpoints switched off: the goldens notice |
//! | `nccl` | a library for several GPUs that will not do |
//! | `floats` | numbers at the edges of what a float is, in every field that takes one |
//! | `descriptors` | a server that has no descriptor left |
//! | `memory` | limits of a process's memory |
//! | `packed` | a file of mixed packed types, at every rank count |
//! | `trace` | what the decoder asks of a backend |
//! | `timing` | `--profile` and `--trace` |
//! | `plan` | what a model takes, planned and reported |
//! | `api` | the HTTP API, by hand and with OpenAI's client |
//! | `grpc` | the gateway SMG in front, over gRPC |
//! | `kill` | ranks killed at any moment |
//! | `hang` | ranks that stop, and the coordinator's own end |
//! | `signals` | orderly ends |
//! | `reasoning` | reasoning told from content, with a model that says anything |
//! | `refusals` | settings and files that cannot be served |
//! | `shards` | shards: the same answers, the checkpoint gone; what is refused; the cache |
//! | `output` | streams that take nothing, and terminals |
//! | `statuses` | exit statuses, by README's table |
//! | `strangers` | who dials in and is no worker of this cluster |
//! | `digests` | ranks that lie, with scripted workers |
//!
//! One binary, because each links the whole program. `BINFER_TEST_FULL=1` runs the whole matrix.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod api;
mod bench;
mod bf16;
mod descriptors;
mod digests;
mod ends;
mod features;
mod floats;
mod folder;
mod gpu;
mod grpc;
mod hang;
mod harness;
mod hub;
mod kill;
mod libraries;
mod logits;
mod masks;
mod memory;
mod output;
mod packed;
mod parity;
mod plan;
mod prefix;
mod reasoning;
mod refusals;
mod rig;
mod run;
mod scripted;
mod shards;
mod signals;
mod sockets;
mod statuses;
mod strangers;
mod text;
mod timing;
mod tiny;
mod tokens;
mod trace;
mod workers;

#[path = "../../shard-tool/tests/support/blocks.rs"]
mod blocks;
#[path = "../../coordinator/tests/support/corpus.rs"]
mod corpus;
#[path = "../../shard-tool/tests/support/gguf_writer.rs"]
mod gguf_writer;
#[expect(dead_code, reason = "the tests of the shard tool use more of it")]
#[path = "../../shard-tool/tests/support/hub_server.rs"]
mod hub_server;
