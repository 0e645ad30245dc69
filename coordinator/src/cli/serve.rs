//! `binfer serve`: the server, over HTTP and gRPC.

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use binfer_console as console;
use clap::Args;

use super::guard::{self, GuardArgs};
use crate::config::{self, ConfigError};
use crate::error::LaunchError;
use crate::front;
use crate::grpc::{self, GrpcConfig};
use crate::http::{self, HttpConfig};
use crate::launch::{LaunchOptions, launch};
use crate::model_args::ModelArgs;
use crate::report::{Report, Verbosity};
use crate::text::ReasoningParserName;
use crate::transport::{Access, AllowedHost, AllowedOrigin, TransportConfig};

/// The longest drain, a week, which is more than any supervisor waits.
const DRAIN_SECONDS_MAX: u64 = 7 * 24 * 3600;

/// Arguments of `binfer serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The model and how to run it.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Read control tokens that occur in messages of a chat as text; those that the template writes
    /// steer the model all the same
    #[arg(long)]
    pub split_special_tokens: bool,
    /// How answers in chats tell the model's reasoning from the answer
    #[arg(long, value_enum, default_value = "auto", value_name = "FORMAT")]
    pub reasoning_parser: ReasoningParserName,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Port for gRPC, on the same address; 0 takes a free one. Without it gRPC is off
    #[arg(long, value_name = "PORT")]
    pub grpc_port: Option<u16>,
    /// A host name that requests may be addressed to, besides those of this machine's own loopback,
    /// or * for any; may be given several times. Bound to another address than a loopback one, the
    /// server answers to any name unless this is given
    #[arg(long, value_name = "NAME")]
    pub allowed_host: Vec<AllowedHost>,
    /// An origin (as https://app.example.com) whose web pages may use the server, or * for any; may
    /// be given several times
    #[arg(long, value_name = "ORIGIN")]
    pub allowed_origin: Vec<AllowedOrigin>,
    /// Who may ask
    #[command(flatten)]
    pub guard: GuardArgs,
    /// After SIGTERM, how long running requests may go on
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=DRAIN_SECONDS_MAX))]
    pub drain: u64,
}

/// Serves until a signal comes or a worker is lost.
pub fn run(args: &ServeArgs) -> Result<ExitCode> {
    let keys = args.guard.keys().map_err(LaunchError::from)?;
    let tls = args.guard.tls().map_err(LaunchError::from)?;
    let (listener, address) = listen(&args.host, "--port", args.port)?;
    let grpc = args.grpc_port.map(|port| listen(&args.host, "--grpc-port", port)).transpose()?;
    let options = LaunchOptions {
        args: &args.model,
        drain: Duration::from_secs(args.drain),
        random_weights: false,
        split_special_tokens: args.split_special_tokens,
        reasoning_parser: args.reasoning_parser,
    };
    let access = Access { hosts: args.allowed_host.clone(), origins: args.allowed_origin.clone() };
    let report = Report::new(args.model.verbosity());
    if let Some(warning) = guard::warning(address, &keys, tls.as_ref()) {
        console::message(warning);
    }
    let fronts_max = if grpc.is_some() { 2 } else { 1 };
    let transport = TransportConfig { tls: tls.clone(), ..TransportConfig::default() };
    let transport = transport.within(config::raise_descriptors() / fronts_max);
    let grpc_config = GrpcConfig {
        access: access.clone(),
        keys: Arc::clone(&keys),
        transport: transport.clone(),
        ..GrpcConfig::default()
    };
    let told = report.clone();
    let config = HttpConfig { access, keys, report, transport, ..HttpConfig::default() };
    let quiet = args.model.verbosity() == Verbosity::Quiet;
    let grpc_address = grpc.as_ref().map(|(_, address)| *address);
    let mut fronts = vec![http::front(listener, config)];
    fronts.extend(grpc.map(|(listener, _)| grpc::front(listener, grpc_config)));
    let serve = async move |context| {
        // Only now model and flags are checked and connections accepted.
        if !quiet {
            let scheme = if tls.is_some() { "https" } else { "http" };
            console::message(format_args!("listening on {scheme}://{address}"));
            if let Some(address) = grpc_address {
                console::message(format_args!("listening for gRPC on {address}"));
            }
        }
        if let Some(tls) = tls {
            tokio::spawn(guard::reload_at_hangup(tls, told)?);
        }
        front::serve_all(fronts, context).await
    };
    launch(options, serve)?.value?;
    Ok(ExitCode::SUCCESS)
}

/// Binds a socket before anything is read, so that a port in use is refused at once. `flag` gave
/// the port.
fn listen(host: &str, flag: &str, port: u16) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((host, port)).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => format!("; choose another with {flag}"),
            _ => String::new(),
        };
        LaunchError::from(ConfigError(format!("--host {host} {flag} {port}: {error}{hint}")))
    })?;
    let address = listener.local_addr().context("the listening socket has no address")?;
    Ok((listener, address))
}
