//! Encryption of connections: rustls with ring, certificates out of files that can be read again.
//!
//! One [`Tls`] serves all fronts. What it read last is used for connections that come; those that
//! are open keep what they began with.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

/// Protocols within TLS, the preferred first.
const ALPN: [&[u8]; 2] = [HTTP2, b"http/1.1"];
/// What HTTP/2 is called there.
pub(super) const HTTP2: &[u8] = b"h2";
/// Bytes of a file of certificates or keys.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and its authority.
    pub cert: PathBuf,
    /// The private key of the first certificate.
    pub key: PathBuf,
    /// Authorities of clients. With it a client must show a certificate of one of them.
    pub client_ca: Option<PathBuf>,
}

/// What connections are encrypted with.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
}

/// Why files of certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}")]
pub struct TlsError {
    path: String,
    cause: String,
}

impl TlsError {
    fn new(path: &Path, cause: impl fmt::Display) -> Self {
        Self { path: path.display().to_string(), cause: cause.to_string() }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.files.fmt(f)
    }
}

impl Tls {
    /// Reads `files`.
    ///
    /// # Errors
    /// When one of them cannot be read, holds nothing of its kind, or does not fit the others.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(read(&files)?));
        Ok(Self(Arc::new(Shared { files, current })))
    }

    /// Reads the files again, for connections that come from now on.
    ///
    /// # Errors
    /// As [`Tls::open`]. Then what was read before stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = Arc::new(read(&self.0.files)?);
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// Whether clients must show certificates.
    pub fn asks_clients(&self) -> bool {
        self.0.files.client_ca.is_some()
    }

    /// What tells two readings of the files apart.
    #[cfg(test)]
    pub(crate) fn generation(&self) -> *const ServerConfig {
        Arc::as_ptr(&self.0.current.read().unwrap())
    }

    /// Encrypts a connection that begins now.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

fn read(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&files.cert)?;
    let key = pem_of(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            TlsError::new(&files.key, "holds no private key in PEM that is not encrypted")
        }
        error => TlsError::new(&files.key, error),
    })?;
    let provider = Arc::new(ring::default_provider());
    let unfit = |error: rustls::Error| TlsError::new(&files.cert, error);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unfit)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| TlsError::new(path, error))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| TlsError::new(path, error))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let key = files.key.display();
            TlsError::new(&files.cert, format!("the key in {key} is that of another certificate"))
        }
        error => unfit(error),
    })?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = pem_of(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|error| TlsError::new(path, error))?;
    if all.is_empty() {
        return Err(TlsError::new(path, "holds no certificate in PEM"));
    }
    Ok(all)
}

fn pem_of(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| TlsError::new(path, error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::new(path, format!("expected {FILE_BYTES_MAX} bytes at most")));
    }
    Ok(bytes)
}
