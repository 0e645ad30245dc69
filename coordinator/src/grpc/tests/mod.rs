//! The gRPC front over real sockets, in front of a scripted serve loop.

mod bounds;
mod guard;
mod health;
mod server;
mod vllm;
mod vllm_refusals;
