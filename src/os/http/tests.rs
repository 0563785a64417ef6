//! Over real sockets: who is taken for whom, HTTP/1.0 checks, slow and rude clients.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::Method;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::api::Caller;
use crate::ids::NodeId;
use crate::os::authority::{Wanted, provide};
use crate::os::net::{Certificates, believing_any_member};
use crate::os::sockets::Tcp;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

async fn who(request: Request) -> String {
    let caller = request.extensions().get::<Caller>().expect("a caller");
    let Caller { loopback, encrypted, certificate } = caller;
    format!("loopback: {loopback}, encrypted: {encrypted}, certificate: {certificate:?}")
}

/// Serves on a free port for as long as the test lasts, and says where.
pub(crate) async fn serve_here(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(tokio::spawn(serve::<Tcp>(listener, router, None)));
    address
}

async fn site() -> String {
    serve_here(Router::new().route("/who", get(who))).await
}

#[tokio::test]
async fn a_request_comes_with_its_caller_and_goes_with_its_answer() {
    let address = site().await;
    let ask = |path: &'static str| HttpRequest {
        method: Method::GET,
        path,
        token: Some("t"),
        body: b"{}".to_vec(),
    };
    let answer = ask("/who").send(&address, None, SECOND).await.unwrap();
    assert_eq!(
        (answer.status, &answer.body[..]),
        (200, &b"loopback: true, encrypted: false, certificate: None"[..])
    );
    assert_eq!(ask("/").send(&address, None, SECOND).await.unwrap().status, 404);
    assert!(matches!(
        ask("no path").send(&address, None, SECOND).await,
        Err(HttpError::NotSent(_))
    ));
    let gone = ask("/who").send("127.0.0.1:1", None, SECOND).await;
    assert!(matches!(gone, Err(HttpError::NotSent(_))), "{gone:?}");
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute_address = mute.local_addr().unwrap().to_string();
    let silence = ask("/who").send(&mute_address, None, Duration::from_millis(100)).await;
    assert!(matches!(silence, Err(HttpError::NoAnswer(_))), "{silence:?}");
}

#[tokio::test]
async fn an_old_check_without_a_host_is_answered_and_garbage_is_not() {
    let address = site().await;
    let mut check = TcpStream::connect(&address).await.unwrap();
    check.write_all(b"OPTIONS /nowhere HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    check.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 404"), "{answer}");
    let mut rude = TcpStream::connect(&address).await.unwrap();
    rude.write_all(&[0xff; 40_000]).await.unwrap();
    let mut answer = Vec::new();
    // Closed, with or without a word.
    let _ = rude.read_to_end(&mut answer).await;
    let mut check = TcpStream::connect(&address).await.unwrap();
    check.write_all(b"HEAD /who HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    check.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("\r\n\r\n"), "{answer}");
}

/// Certificates of a cluster in a folder of their own.
struct Authority(std::path::PathBuf);

impl Authority {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("http-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let wanted = Wanted {
            cluster: "main".into(),
            nodes: [NodeId(1)].into(),
            hosts: Vec::new(),
            folder: folder.clone(),
        };
        provide(&wanted).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.0.join(name)
    }

    fn way(&self, own: Option<&str>) -> TlsConnector {
        let own = own.map(|n| (self.file(&format!("{n}.crt")), self.file(&format!("{n}.key"))));
        let own = own.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
        let config = believing_any_member(&self.file("ca.crt"), own).unwrap();
        TlsConnector::from(std::sync::Arc::new(config))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn over_tls_a_caller_is_known_by_its_certificate_and_the_server_by_its_authority() {
    let authority = Authority::new("own");
    let (ca, cert, key) =
        (authority.file("ca.crt"), authority.file("n1.crt"), authority.file("n1.key"));
    let certificates = Certificates::read(&ca, &cert, &key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new().route("/who", get(who));
    drop(tokio::spawn(serve::<Tcp>(listener, router, Some(certificates.for_anybody()))));
    let ask = || HttpRequest { method: Method::GET, path: "/who", token: None, body: Vec::new() };
    let said = async |tls: Option<&TlsConnector>| {
        let answer = ask().send(&address, tls, SECOND).await.unwrap();
        String::from_utf8(answer.body).unwrap()
    };
    assert!(said(None).await.contains("encrypted: false, certificate: None"));
    assert!(said(Some(&authority.way(None))).await.contains("encrypted: true, certificate: None"));
    let operator = said(Some(&authority.way(Some("operator")))).await;
    assert!(operator.contains("certificate: Some(\"operator.main.pg-replica\")"), "{operator}");

    let other = Authority::new("other");
    let stranger = ask().send(&address, Some(&other.way(None)), SECOND).await;
    assert!(matches!(&stranger, Err(HttpError::NotSent(why)) if why.contains("authority")));
    // A server that shows the operator's certificate is none.
    let (cert, key) = (authority.file("operator.crt"), authority.file("operator.key"));
    let certificates = Certificates::read(&ca, &cert, &key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let false_one = listener.local_addr().unwrap().to_string();
    drop(tokio::spawn(serve::<Tcp>(listener, Router::new(), Some(certificates.for_anybody()))));
    let fooled = ask().send(&false_one, Some(&authority.way(None)), SECOND).await;
    assert!(matches!(fooled, Err(HttpError::NotSent(_))), "{fooled:?}");
    // Whoever begins to greet and says no more is not waited for by others.
    let mut mute = TcpStream::connect(&address).await.unwrap();
    mute.write_all(&[0x16, 3, 1]).await.unwrap();
    assert!(said(None).await.contains("loopback: true"));
}

#[test]
fn a_token_that_others_can_read_is_no_secret() {
    let path = std::env::temp_dir().join(format!("pg_replica-token-{}", std::process::id()));
    std::fs::write(&path, "open-sesame\n").unwrap();
    let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    assert!(read_token(&path).unwrap_err().to_string().contains("chmod 600"));
    mode(0o600);
    assert_eq!(read_token(&path).unwrap(), "open-sesame");
    std::fs::write(&path, " \n").unwrap();
    assert!(read_token(&path).is_err());
    std::fs::remove_file(&path).unwrap();
    assert!(read_token(&path).unwrap_err().to_string().contains("pg_replica-token"));
}
