//! Who may ask. A browser sends what any web page tells it to, even to a server that only its own
//! machine can reach.
//!
//! The check of the host keeps out pages whose own name was made to lead here (DNS rebinding). The
//! check of the origin keeps out all other pages that were not allowed. Each front gives a refusal
//! its protocol's status.

use axum::http::uri::Authority;
use axum::http::{HeaderValue, Request, Uri, Version, header};
use std::net::IpAddr;
use std::str::FromStr;

/// Hosts and origins that are allowed besides those that always are.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Names that requests may be addressed to.
    pub hosts: Vec<AllowedHost>,
    /// Pages that may ask.
    pub origins: Vec<AllowedOrigin>,
}

/// A name that requests may be addressed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedHost {
    /// Any name.
    Any,
    /// This name, at any port.
    Name(String),
}

/// An origin whose pages may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// Any origin.
    Any,
    /// This origin, as browsers write it.
    Page(HeaderValue),
}

/// Why a flag's value is not a host or an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The value of `--allowed-host` is no host.
    #[error("expected a host name or address without scheme, port and path, or *")]
    Host,
    /// The value of `--allowed-origin` is no origin.
    #[error("expected http:// or https:// with a host and maybe a port, and no path, or *")]
    Origin,
}

impl FromStr for AllowedHost {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, AccessError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let bracketed = text.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6());
        let text = if bracketed { format!("[{text}]") } else { text.to_owned() };
        let authority: Authority = text.parse().map_err(|_| AccessError::Host)?;
        match authority.host() == text {
            true => Ok(Self::Name(normalized(&text))),
            false => Err(AccessError::Host),
        }
    }
}

impl FromStr for AllowedOrigin {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, AccessError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let place =
            OriginParts::of_origin(text.trim_end_matches('/')).ok_or(AccessError::Origin)?;
        let OriginParts { scheme, host, port } = place;
        let text = match port == default_port(scheme) {
            true => format!("{scheme}://{host}"),
            false => format!("{scheme}://{host}:{port}"),
        };
        HeaderValue::from_str(&text).map(Self::Page).map_err(|_| AccessError::Origin)
    }
}

/// Why somebody may not ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessDenied {
    /// The request does not say in order which host it is addressed to.
    #[error("{0}")]
    Malformed(&'static str),
    /// The host or the origin is not one that is allowed.
    #[error("{0}")]
    Forbidden(&'static str),
}

/// Tells those who may ask from those who may not.
#[derive(Clone, Debug)]
pub struct AccessGuard {
    access: Access,
    is_local: bool,
}

impl AccessGuard {
    /// A guard by `access`; `is_local` if only this machine reaches the server.
    pub fn new(access: Access, is_local: bool) -> Self {
        Self { access, is_local }
    }

    /// Checks a request.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check<B>(&self, request: &Request<B>) -> Result<(), AccessDenied> {
        let host = host(request)?;
        if let Some(host) = &host
            && !self.is_allowed_host(host.host())
        {
            return Err(AccessDenied::Forbidden(
                "the Host of this request is not one that this server answers to; name it with \
                 --allowed-host if it is",
            ));
        }
        let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
        let is_allowed = self.access.allows_origin(origin)
            || host.is_some_and(|host| is_same_origin(origin, &host));
        if is_allowed {
            return Ok(());
        }
        Err(AccessDenied::Forbidden(
            "pages of the Origin of this request may not use this server; name it with \
             --allowed-origin if they may",
        ))
    }

    fn is_allowed_host(&self, host: &str) -> bool {
        let host = normalized(host);
        let is_named = self.access.hosts.iter().any(|allowed| match allowed {
            AllowedHost::Any => true,
            AllowedHost::Name(name) => *name == host,
        });
        let is_checked = self.is_local || !self.access.hosts.is_empty();
        !is_checked || is_named || is_loopback(&host)
    }
}

impl Access {
    fn allows_origin(&self, origin: &HeaderValue) -> bool {
        self.origins.iter().any(|allowed| match allowed {
            AllowedOrigin::Any => true,
            AllowedOrigin::Page(page) => page == origin,
        })
    }
}

/// The host that the request is addressed to. HTTP/1.0 may leave it out, and is answered all the
/// same: every browser speaks HTTP/1.1 or later, where a request without a host is refused.
fn host<B>(request: &Request<B>) -> Result<Option<Authority>, AccessDenied> {
    let wrong = AccessDenied::Malformed;
    if let Some(authority) = request.uri().authority() {
        return Ok(Some(authority.clone()));
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if request.version() < Version::HTTP_11 => Ok(None),
        (Some(host), None) => match Authority::try_from(host.as_bytes()) {
            Ok(host) => Ok(Some(host)),
            Err(_) => Err(wrong("the Host header is not a host")),
        },
        _ => Err(wrong("expected one Host header")),
    }
}

/// A host in lower case, without the dot that may end it.
fn normalized(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match address.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Whether a page came from the host and port that it asks.
fn is_same_origin(origin: &HeaderValue, host: &Authority) -> bool {
    let Some(page) = origin.to_str().ok().and_then(OriginParts::of_origin) else { return false };
    let port = host.port_u16().unwrap_or(default_port(page.scheme));
    (page.host, page.port) == (normalized(host.host()), port)
}

/// The parts of an origin.
struct OriginParts {
    scheme: &'static str,
    host: String,
    port: u16,
}

impl OriginParts {
    fn of_origin(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let scheme = ["http", "https"].into_iter().find(|known| uri.scheme_str() == Some(known))?;
        let authority = uri.authority()?;
        let is_alone = !authority.as_str().contains('@') && text.matches('/').count() == 2;
        let port = authority.port_u16().unwrap_or(default_port(scheme));
        is_alone.then(|| Self { scheme, host: normalized(authority.host()), port })
    }
}

fn default_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}
