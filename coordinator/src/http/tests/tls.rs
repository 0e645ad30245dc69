//! TLS with real connections: both protocols within it, certificates of clients, and handshakes
//! that are none.

use super::client::{SOON, Server, bounded, read_answer, read_until, send, server_with};
use super::http2_client::{Http2Client, next_piece};
use crate::front::Readiness;
use crate::front::testing::{Act, say};
use crate::sched::Finish;
use crate::transport::{Tls, TlsFiles, TransportConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const PLAIN: &str = "/v1/completions";
const WHOLE: &str = "{\"prompt\": \"a\"}";
const STREAMED: &str = "{\"prompt\": \"a\", \"stream\": true}";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/tests/certs").join(name)
}

fn tls(client_ca: Option<&str>) -> Tls {
    let (cert, key) = (file("server.pem"), file("server.key"));
    Tls::open(TlsFiles { cert, key, client_ca: client_ca.map(file) }).unwrap()
}

fn secured(tls: Tls, config: TransportConfig, scripts: Vec<Vec<Act>>) -> Server {
    server_with(scripts, bounded(TransportConfig { tls: Some(tls), ..config }), u64::MAX)
}

fn answer(text: &str) -> Vec<Act> {
    vec![say(text), Act::Finish(Finish::Stop)]
}

/// A client's connection that trusts the tests' authority and shows a certificate of this name.
async fn connect(
    server: &Server,
    alpn: &[u8],
    identity: Option<&str>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let chain = vec![CertificateDer::from_pem_file(file(&format!("{name}.pem"))).unwrap()];
            let key = PrivateKeyDer::from_pem_file(file(&format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let socket = server.connect().await;
    timeout(SOON, connector.connect("localhost".try_into().unwrap(), socket)).await.unwrap()
}

/// Whether a request is answered. Over TLS 1.3 a client hears only behind the handshake that its
/// certificate is refused.
async fn is_answered(server: &Server, identity: Option<&str>) -> bool {
    let Ok(mut socket) = connect(server, b"http/1.1", identity).await else { return false };
    let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut bytes = [0; 12];
    socket.write_all(request).await.is_ok()
        && timeout(SOON, socket.read_exact(&mut bytes)).await.unwrap().is_ok()
        && bytes == *b"HTTP/1.1 200"
}

#[tokio::test]
async fn both_protocols_are_spoken_within_tls() {
    let scripts = vec![answer("one"), answer("two"), answer("three")];
    let server = secured(tls(None), TransportConfig::default(), scripts);
    let mut socket = connect(&server, b"http/1.1", None).await.unwrap();
    for (body, text) in [(STREAMED, "one"), (WHOLE, "two")] {
        send(&mut socket, "POST", PLAIN, body).await;
        let answer = read_answer(&mut socket).await;
        assert!(answer.status == 200 && answer.body.contains(text), "{answer:?}");
    }
    let client = Http2Client::over(connect(&server, b"h2", None).await.unwrap()).await;
    assert_eq!(client.ask("POST", PLAIN, WHOLE).await.json()["choices"][0]["text"], "three");
}

#[tokio::test]
async fn with_an_authority_only_its_clients_are_answered() {
    let server = secured(tls(Some("ca.pem")), TransportConfig::default(), Vec::new());
    assert!(is_answered(&server, Some("client")).await);
    for identity in [None, Some("stranger"), Some("server")] {
        assert!(!is_answered(&server, identity).await, "{identity:?}");
    }
    assert!(is_answered(&server, Some("client")).await);
}

#[tokio::test]
async fn certificates_that_were_read_again_are_for_connections_that_come() {
    let folder = std::env::temp_dir().join(format!("binfer-reload-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (cert, key) = (folder.join("cert"), folder.join("key"));
    let put = |name: &str| {
        std::fs::copy(file(&format!("{name}.pem")), &cert).unwrap();
        std::fs::copy(file(&format!("{name}.key")), &key).unwrap();
    };
    put("server");
    let files = TlsFiles { cert: cert.clone(), key: key.clone(), client_ca: None };
    let tls = Tls::open(files).unwrap();
    let server = secured(tls.clone(), TransportConfig::default(), Vec::new());
    let mut before = connect(&server, b"http/1.1", None).await.unwrap();
    let shown = |socket: &TlsStream<TcpStream>| {
        socket.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let of_file = |name: &str| CertificateDer::from_pem_file(file(name)).unwrap();
    assert_eq!(shown(&before), of_file("server.pem"));

    std::fs::write(&cert, "damaged").unwrap();
    assert!(tls.reload().unwrap_err().to_string().contains("no certificate"));
    let still = connect(&server, b"http/1.1", None).await.unwrap();
    assert_eq!(shown(&still), of_file("server.pem"), "what was good stays");

    put("renewed");
    tls.reload().unwrap();
    let after = connect(&server, b"http/1.1", None).await.unwrap();
    assert_eq!(shown(&after), of_file("renewed.pem"));
    send(&mut before, "GET", "/health", "").await;
    assert_eq!(read_answer(&mut before).await.status, 200, "open connections go on");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn handshakes_that_are_none_or_do_not_end_harm_nobody() {
    let head_timeout = Duration::from_millis(200);
    let config = TransportConfig { head_timeout, ..TransportConfig::default() };
    let server = secured(tls(None), config, Vec::new());
    // The beginning of a greeting, of the longest record there is.
    let slow: &[u8] = &[22, 3, 1, 0x40, 0];
    let began = Instant::now();
    let mut sockets = Vec::new();
    for bytes in [
        &b""[..],
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0; 1000],
        &[255; 100_000],
        &[22, 3, 1, 255, 255, 1, 255, 255, 255],
        slow,
    ] {
        let mut socket = server.connect().await;
        let _ = socket.write_all(bytes).await;
        sockets.push(socket);
    }
    for mut socket in sockets {
        let mut rest = Vec::new();
        let _ = timeout(SOON, socket.read_to_end(&mut rest)).await.expect("it ends");
        assert!(!rest.starts_with(b"HTTP"), "nothing is answered without encryption");
    }
    assert!(began.elapsed() >= head_timeout, "the silent one has its time");
    assert!(is_answered(&server, None).await);
}

#[tokio::test]
async fn clients_that_leave_are_cancelled_within_tls_too() {
    let scripts = vec![vec![say("held"), Act::Hold]; 3];
    let mut server = secured(tls(None), TransportConfig::default(), scripts);
    for body in [STREAMED, WHOLE] {
        let mut socket = connect(&server, b"http/1.1", None).await.unwrap();
        send(&mut socket, "POST", PLAIN, body).await;
        server.scripted.seen.recv().await.unwrap();
        drop(socket);
        assert!(timeout(SOON, server.scripted.cancelled.recv()).await.unwrap().is_some());
    }
    let client = Http2Client::over(connect(&server, b"h2", None).await.unwrap()).await;
    let held = client.send("POST", PLAIN, STREAMED).await;
    server.scripted.seen.recv().await.unwrap();
    client.connection.abort();
    assert!(timeout(SOON, server.scripted.cancelled.recv()).await.unwrap().is_some());
    drop(held);
}

#[tokio::test]
async fn a_write_that_stalls_ends_the_connection_within_tls_too() {
    let write_timeout = Duration::from_millis(200);
    let config = TransportConfig { write_timeout, ..TransportConfig::default() };
    let mut flood = vec![Act::Say(vec![b'x'; 64 << 10]); 200];
    flood.push(Act::Hold);
    let mut server = secured(tls(None), config, vec![flood]);
    let mut socket = connect(&server, b"http/1.1", None).await.unwrap();
    send(&mut socket, "POST", PLAIN, STREAMED).await;
    server.scripted.seen.recv().await.unwrap();
    let cancelled = timeout(SOON, server.scripted.cancelled.recv()).await.unwrap();
    assert!(cancelled.is_some());
}

#[tokio::test]
async fn draining_lets_answers_end_within_tls() {
    let slow = [say("slow "), Act::Wait(Duration::from_millis(200)), say("end")];
    let slow = || [slow.to_vec(), vec![Act::Finish(Finish::Stop)]].concat();
    let mut server = secured(tls(None), TransportConfig::default(), vec![slow(), slow()]);
    let client = Http2Client::over(connect(&server, b"h2", None).await.unwrap()).await;
    let running = client.send("POST", PLAIN, STREAMED).await;
    server.scripted.seen.recv().await.unwrap();
    let mut socket = connect(&server, b"http/1.1", None).await.unwrap();
    send(&mut socket, "POST", PLAIN, STREAMED).await;
    server.scripted.seen.recv().await.unwrap();
    server.scripted.readiness.send_replace(Readiness::Draining);
    let (_, mut stream) = timeout(SOON, running).await.unwrap().unwrap().into_parts();
    let mut text = Vec::new();
    while let Some(piece) = next_piece(&mut stream).await {
        text.extend_from_slice(&piece.unwrap());
    }
    assert!(text.ends_with(b"data: [DONE]\n\n"));
    timeout(SOON, client.connection).await.expect("GOAWAY").unwrap().unwrap();
    assert!(read_until(&mut socket, "the end").await.ends_with("0\r\n\r\n"));
}
