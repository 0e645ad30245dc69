//! HTTP to the hub: one request, its redirects, and the meaning of its status.
//!
//! Redirects are followed here and not by the library, for two reasons. The token goes to the
//! endpoint's own origin and nowhere else. And what the hub says of a file stands in the answer
//! that redirects to the storage, not in the storage's answer.

use std::fmt;
use std::io;
use std::ops::Range;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::retry::Failure;
use super::settings::without_password;
use super::{HubError, HubSettings};

/// The most redirects of a request.
const REDIRECTS_MAX: u32 = 5;
/// The longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time until an answer begins.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection that brings nothing for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest text that is read of an answer. The listings of the largest repositories have some
/// MB.
const TEXT_BYTES_MAX: u64 = 64 << 20;

/// A client of one endpoint.
pub(super) struct HubClient {
    agent: Agent,
    /// The endpoint's URL without a slash at its end.
    endpoint: String,
    /// The endpoint's URL as messages show it.
    place: String,
    origin: Origin,
    token: Option<String>,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestTarget<'a> {
    pub(super) url: &'a str,
    /// The name that messages give it.
    pub(super) name: &'a str,
}

/// The scheme, host and port of a URL. The token is shown to one origin only.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let default = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let host = uri.host()?.to_ascii_lowercase();
        Some(Self { scheme, host, port: Some(uri.port_u16().unwrap_or(default)) })
    }
}

/// Does not show the token.
impl fmt::Debug for HubClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("place", &self.place).finish_non_exhaustive()
    }
}

impl HubClient {
    pub(super) fn new(settings: &HubSettings) -> Result<Self, HubError> {
        let endpoint = settings.endpoint.trim_end_matches('/').to_owned();
        let origin = endpoint.parse().ok().as_ref().and_then(Origin::of);
        let place = without_password(&endpoint).to_owned();
        let wrong = || HubError::Unfit(format!("HF_ENDPOINT {place:?} is not an http(s) URL"));
        let origin = origin.ok_or_else(wrong)?;
        let tls = TlsConfig::builder().root_certs(roots(settings.roots_pem.as_deref())?).build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(RESPONSE_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            .accept_encoding("identity") // lengths and ranges count the file's own bytes
            .user_agent(concat!("binfer/", env!("CARGO_PKG_VERSION")))
            .proxy(settings.proxy.clone())
            .tls_config(tls);
        let agent = config.build().new_agent();
        Ok(Self { agent, endpoint, place, origin, token: settings.token.clone() })
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Fetches a whole small answer.
    pub(super) fn text(&self, target: RequestTarget<'_>) -> Result<Vec<u8>, Failure> {
        let answer = self.follow(target, |uri| self.agent.get(uri), |_| true)?;
        let mut body = answer.into_body();
        let limited = body.with_config().limit(TEXT_BYTES_MAX);
        limited.read_to_vec().map_err(|error| failure(&self.place, error))
    }

    /// Fetches the headers that the hub itself gives for a file. Redirects within its origin are
    /// followed, but not the redirect to its storage.
    pub(super) fn head(&self, target: RequestTarget<'_>) -> Result<HeaderMap, Failure> {
        let own = |uri: &Uri| Origin::of(uri).as_ref() == Some(&self.origin);
        let answer = self.follow(target, |uri| self.agent.head(uri), own)?;
        Ok(answer.headers().clone())
    }

    /// Asks for the bytes `range` of a file. The answer brings these bytes, or the whole file.
    pub(super) fn range(
        &self,
        target: RequestTarget<'_>,
        range: &Range<u64>,
    ) -> Result<Response<Body>, Failure> {
        let wanted = format!("bytes={}-{}", range.start, range.end - 1);
        let get = |uri: Uri| self.agent.get(uri).header(header::RANGE, &wanted);
        self.follow(target, get, |_| true)
    }

    /// Sends a request, and follows its redirects as long as `onwards` allows.
    fn follow(
        &self,
        target: RequestTarget<'_>,
        request: impl Fn(Uri) -> ureq::RequestBuilder<ureq::typestate::WithoutBody>,
        onwards: impl Fn(&Uri) -> bool,
    ) -> Result<Response<Body>, Failure> {
        let refuse = |cause: String| HubError::Answer(format!("{}: {cause}", target.name));
        let mut uri: Uri = target
            .url
            .parse()
            .map_err(|error| refuse(format!("{}: {error}", without_password(target.url))))?;
        for _ in 0..=REDIRECTS_MAX {
            let mut request = request(uri.clone());
            let trusted = Origin::of(&uri).as_ref() == Some(&self.origin);
            if let (true, Some(token)) = (trusted, &self.token) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let host = uri
                .authority()
                .map_or(&*self.place, |authority| without_password(authority.as_str()));
            let answer = request.call().map_err(|error| failure(host, error))?;
            if !answer.status().is_redirection() {
                return self.checked(answer, target.name);
            }
            let next = next(&uri, answer.headers())
                .ok_or_else(|| refuse(format!("{} without a place to go", answer.status())))?;
            if self.origin.scheme == "https" && next.scheme_str() != Some("https") {
                let place =
                    next.authority().map_or("", |authority| without_password(authority.as_str()));
                let cause = format!("it redirects to {place} without https");
                return Err(refuse(cause).into());
            }
            if !onwards(&next) {
                return Ok(answer);
            }
            uri = next;
        }
        Err(refuse(format!("more than {REDIRECTS_MAX} redirects")).into())
    }

    /// Returns an answer that was successful. For another status, says what it means for the user.
    fn checked(&self, answer: Response<Body>, name: &str) -> Result<Response<Body>, Failure> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let said = |key: &str| answer.headers().get(key).and_then(|value| value.to_str().ok());
        let (code, message) = (said("x-error-code"), said("x-error-message"));
        let words = message.map(|message| format!(": {message}")).unwrap_or_default();
        let endpoint = &self.place;
        Err(match (status, code) {
            (StatusCode::FORBIDDEN, _) | (_, Some("GatedRepo")) => HubError::Refused(format!(
                "{name}: access is restricted ({status}{words}); ask for it on {endpoint}, \
                 then set HF_TOKEN to a token of that account"
            ))
            .into(),
            (StatusCode::UNAUTHORIZED, _) if self.token.is_some() => HubError::Refused(format!(
                "{name}: no such model on {endpoint}, or the token may not see it ({status}{words})"
            ))
            .into(),
            (StatusCode::UNAUTHORIZED, _) => HubError::Refused(format!(
                "{name}: no such model on {endpoint}, or it wants a token ({status}{words}); \
                 set HF_TOKEN"
            ))
            .into(),
            (StatusCode::NOT_FOUND, Some("RevisionNotFound")) => {
                HubError::Absent(format!("{name}: no such revision on {endpoint}")).into()
            }
            (StatusCode::NOT_FOUND, Some("EntryNotFound")) => {
                HubError::Absent(format!("{name}: no such file on {endpoint}")).into()
            }
            (StatusCode::NOT_FOUND, _) => {
                HubError::Absent(format!("{name}: there is no such thing on {endpoint}")).into()
            }
            (StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT, _) => {
                Failure::Passing { cause: format!("{status}{words}"), wait: asked(&answer) }
            }
            (status, _) if status.is_server_error() => {
                Failure::Passing { cause: format!("{status}{words}"), wait: asked(&answer) }
            }
            (status, _) => HubError::Answer(format!("{name}: {status}{words}")).into(),
        })
    }
}

/// The target of a redirect, which may be a URL or a path of the same origin.
fn next(from: &Uri, headers: &HeaderMap) -> Option<Uri> {
    let place = headers.get(header::LOCATION)?.to_str().ok()?;
    if place.starts_with('/') && !place.starts_with("//") {
        return format!("{}://{}{place}", from.scheme_str()?, from.authority()?).parse().ok();
    }
    place.parse().ok().filter(|uri: &Uri| uri.host().is_some())
}

/// The seconds of `Retry-After`. A date is not read: then the client's own wait holds.
fn asked(answer: &Response<Body>) -> Option<Duration> {
    let text = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// The failure of an exchange with `host`.
fn failure(host: &str, error: ureq::Error) -> Failure {
    match error {
        // An error of rustls comes as an error of the connection.
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            let cause = format!("{host}: {error}; SSL_CERT_FILE can name roots to trust");
            HubError::Unreachable(cause).into()
        }
        ureq::Error::Io(error) => Failure::passing(format!("{host}: {error}")),
        // The library's words would hold the URL.
        ureq::Error::BadUri(_) => HubError::Answer(format!("{host}: not a URL")).into(),
        error @ (ureq::Error::Http(_)
        | ureq::Error::Tls(_)
        | ureq::Error::Rustls(_)
        | ureq::Error::BodyExceedsLimit(_)) => HubError::Answer(format!("{host}: {error}")).into(),
        error => Failure::passing(format!("{host}: {error}")),
    }
}

/// The roots to trust. Mozilla's are compiled in, so that a bare container can download. A
/// company's proxy or mirror may need others: a file of them replaces Mozilla's.
fn roots(pem: Option<&[u8]>) -> Result<RootCerts, HubError> {
    let Some(pem) = pem else { return Ok(RootCerts::WebPki) };
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(HubError::Unfit(format!("SSL_CERT_FILE: {error}"))),
        }
    }
    if certificates.is_empty() {
        return Err(HubError::Unfit("SSL_CERT_FILE holds no certificate".into()));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}
