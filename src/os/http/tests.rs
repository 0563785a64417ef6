//! Over real sockets: who is taken for whom, HTTP/1.0 checks, slow and rude clients.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::Method;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::api::Caller;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

async fn who(request: Request) -> String {
    let caller = request.extensions().get::<Caller>().expect("a caller");
    format!("loopback: {}", caller.loopback)
}

/// Serves on a free port for as long as the test lasts, and says where.
pub(crate) async fn serve_here(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(tokio::spawn(serve(listener, router)));
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
    let answer = ask("/who").send(&address, SECOND).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"loopback: true"[..]));
    assert_eq!(ask("/").send(&address, SECOND).await.unwrap().status, 404);
    assert!(matches!(ask("no path").send(&address, SECOND).await, Err(HttpError::NotSent(_))));
    let gone = ask("/who").send("127.0.0.1:1", SECOND).await;
    assert!(matches!(gone, Err(HttpError::NotSent(_))), "{gone:?}");
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute_address = mute.local_addr().unwrap().to_string();
    let silence = ask("/who").send(&mute_address, Duration::from_millis(100)).await;
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
