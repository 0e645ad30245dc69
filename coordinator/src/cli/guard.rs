//! The flags of `serve` that say who may ask, and unseen by others: keys of clients, TLS.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use binfer_console as console;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{self, API_KEY_VARIABLE, ConfigError};
use crate::front::ApiKeys;
use crate::report::Report;
use crate::transport::{Tls, TlsFiles};

/// Bytes of a file of keys.
const KEY_FILE_BYTES_MAX: u64 = 1 << 20;

/// Who may ask.
#[derive(Args, Clone, Debug, Default)]
pub struct GuardArgs {
    /// A key that clients must show, as Authorization: Bearer KEY; may be given several times.
    /// Other users of the machine can see it here, and not in BINFER_API_KEY or a file
    #[arg(long, value_name = "KEY")]
    pub api_key: Vec<SecretArg>,
    /// A file of such keys, one a line
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Encrypt connections, with this certificate and those between it and its authority, in PEM.
    /// Files are read again at SIGHUP
    #[arg(long, alias = "ssl-certfile", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM
    #[arg(long, alias = "ssl-keyfile", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Take only clients that show a certificate of one of these authorities
    #[arg(long, alias = "ssl-ca-certs", value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
}

/// An argument that is not shown.
#[derive(Clone)]
pub struct SecretArg(String);

impl FromStr for SecretArg {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for SecretArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("...")
    }
}

impl GuardArgs {
    /// The keys of all flags and of the environment together.
    ///
    /// # Errors
    /// When one cannot be a key, or the file cannot be read or holds none.
    pub(super) fn keys(&self) -> Result<Arc<ApiKeys>, ConfigError> {
        self.keys_with(config::api_key())
    }

    /// What connections are encrypted with, if they are.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub(super) fn tls(&self) -> Result<Option<Tls>, ConfigError> {
        let (Some(cert), Some(key)) = (self.tls_cert.clone(), self.tls_key.clone()) else {
            return Ok(None);
        };
        let files = TlsFiles { cert, key, client_ca: self.tls_client_ca.clone() };
        Tls::open(files).map(Some).map_err(|error| ConfigError(format!("TLS: {error}")))
    }

    fn keys_with(&self, variable: Option<String>) -> Result<Arc<ApiKeys>, ConfigError> {
        let text = self.api_key_file.as_deref().map(read_keys).transpose()?;
        let of_file = text.iter().flat_map(|text| lines(text));
        let sources = (self.api_key.iter().map(|key| ("--api-key", key.0.as_str())))
            .chain(variable.iter().map(|key| (API_KEY_VARIABLE, key.as_str())))
            .chain(of_file.map(|key| ("--api-key-file", key)));
        let keys: Vec<_> = sources.collect();
        for (source, key) in &keys {
            ApiKeys::new([*key]).map_err(|error| ConfigError(format!("{source}: {error}")))?;
        }
        let keys = ApiKeys::new(keys.into_iter().map(|(_, key)| key));
        keys.map(Arc::new).map_err(|error| ConfigError(error.to_string()))
    }
}

/// Reads the files of `tls` again at each SIGHUP, and reports it. What is wrong is always said.
///
/// # Errors
/// When the system refuses a handler.
pub(super) fn reload_at_hangup(tls: Tls, report: Report) -> io::Result<impl Future<Output = ()>> {
    let mut hangups = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangups.recv().await.is_some() {
            match tls.reload() {
                Ok(()) => report.line("TLS: certificates and keys were read again"),
                Err(error) => console::message(format_args!(
                    "TLS: {error}; what was read before stays in use"
                )),
            }
        }
    })
}

/// What people should know who bind to `address`.
pub(super) fn warning(address: SocketAddr, keys: &ApiKeys, tls: Option<&Tls>) -> Option<String> {
    let is_local = address.ip().to_canonical().is_loopback();
    let is_guarded = !keys.is_empty() || tls.is_some_and(Tls::asks_clients);
    (!is_local && !is_guarded).then(|| {
        format!(
            "warning: whoever reaches {address} may use this server: set {API_KEY_VARIABLE} or \
             --api-key-file, or bind to 127.0.0.1"
        )
    })
}

fn read_keys(path: &Path) -> Result<String, ConfigError> {
    let failed = |cause: &dyn fmt::Display| {
        ConfigError(format!("--api-key-file {}: {cause}", path.display()))
    };
    let mut text = String::new();
    let read = fs::File::open(path)
        .and_then(|file| file.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text));
    read.map_err(|error| failed(&error))?;
    if text.len() as u64 > KEY_FILE_BYTES_MAX {
        return Err(failed(&format!("expected {KEY_FILE_BYTES_MAX} bytes at most")));
    }
    if lines(&text).next().is_none() {
        return Err(failed(&"expected a key a line, and there is none"));
    }
    Ok(text)
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests;
