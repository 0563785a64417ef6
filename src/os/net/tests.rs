//! Two members, a stranger, and what goes wrong between them.

use std::time::Duration;

use openraft_rt_tokio::TokioRuntime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn identity(node: u64) -> Identity {
    Identity { node: NodeId(node), cluster: "test".into() }
}

async fn member(node: u64) -> (OsNetwork, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let network = OsNetwork::on(Tcp, listener, identity(node), None);
    (network, Peer { node: NodeId(node), address, incarnation: Incarnation(node) })
}

/// Answers every greeting of the network with its own number as the store.
fn serve(network: OsNetwork, incarnation: u64) {
    drop(tokio::spawn(async move {
        while let Some(incoming) = network.accept(Incarnation(incarnation)).await {
            let members = BTreeMap::from([(incoming.from, Incarnation(incarnation))]);
            incoming.reply.send(wire::Response::Hello {
                incarnation: Incarnation(incarnation),
                cluster: "test".into(),
                initialised: true,
                members,
            });
        }
    }));
}

async fn hello(caller: &OsNetwork, peer: &Peer) -> Result<Response<TokioRuntime>, NetworkError> {
    caller.call(peer, wire::Request::<TokioRuntime>::Hello, SECOND).await
}

#[tokio::test]
async fn a_call_brings_its_answer_and_says_who_called() {
    let ((one, _), (two, to_two)) = (member(1).await, member(2).await);
    serve(two, 2);
    sleep(Duration::from_millis(20)).await;
    for _ in 0..3 {
        let Ok(wire::Response::Hello { incarnation, members, .. }) = hello(&one, &to_two).await
        else {
            panic!("no answer");
        };
        assert_eq!(incarnation, Incarnation(2));
        assert!(members.contains_key(&NodeId(1)));
    }
}

#[tokio::test]
async fn a_member_on_another_store_is_not_the_one_that_was_called() {
    let ((one, _), (two, to_two)) = (member(1).await, member(2).await);
    serve(two, 7);
    sleep(Duration::from_millis(20)).await;
    assert_eq!(hello(&one, &to_two).await.unwrap_err(), NetworkError::WrongIncarnation(NodeId(2)));
}

#[tokio::test]
async fn nobody_there_is_known_at_once_and_a_silent_one_after_the_deadline() {
    let (one, _) = member(1).await;
    let gone = Peer {
        node: NodeId(2),
        address: "127.0.0.1:1".into(),
        incarnation: Incarnation::default(),
    };
    assert_eq!(hello(&one, &gone).await.unwrap_err(), NetworkError::Unreachable(NodeId(2)));
    // It listens and never says a word, as a frozen host does.
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = frozen.local_addr().unwrap().to_string();
    let began = Instant::now();
    let answer = hello(&one, &Peer { address, ..gone }).await;
    assert!(answer.is_err() && began.elapsed() < SECOND * 2);
}

#[tokio::test]
async fn strangers_garbage_and_four_gigabytes_leave_the_member_well() {
    let ((one, _), (two, to_two)) = (member(1).await, member(2).await);
    serve(two, 2);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0, 0, 0, 2, b'{', b'}'], &[]] {
        let mut stranger = TcpStream::connect(&to_two.address).await.unwrap();
        stranger.write_all(bytes).await.unwrap();
        stranger.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // Nothing is promised to a stranger but an end.
        let _ = tokio::time::timeout(SECOND * 5, stranger.read_to_end(&mut answer)).await.unwrap();
    }
    assert!(hello(&one, &to_two).await.is_ok());
}

#[tokio::test]
async fn strangers_who_say_nothing_keep_no_member_out() {
    let ((one, _), (two, to_two)) = (member(1).await, member(2).await);
    serve(two, 2);
    let mut strangers = Vec::new();
    for _ in 0..server::CONNECTIONS_MAX + 10 {
        strangers.push(TcpStream::connect(&to_two.address).await.unwrap());
    }
    assert!(hello(&one, &to_two).await.is_ok());
}

#[tokio::test]
async fn another_cluster_and_another_protocol_are_told_so() {
    let (two, to_two) = member(2).await;
    serve(two, 2);
    sleep(Duration::from_millis(20)).await;
    let good = Greeting {
        protocol: PROTOCOL,
        cluster: "test".into(),
        from: NodeId(1),
        incarnation: Incarnation::default(),
    };
    let cases = [
        (Greeting { protocol: 99, ..good.clone() }, "protocol 99"),
        (Greeting { cluster: "other".into(), ..good.clone() }, "belongs to the cluster other"),
    ];
    let written = |greeting: &Greeting| serde_json::to_vec(greeting).unwrap();
    let mut cases = cases.map(|(greeting, expected)| (written(&greeting), expected)).to_vec();
    // Another version's greeting may have nothing else in common.
    cases.push((
        br#"{"protocol":0,"name":"n1","store":[1]}"#.to_vec(),
        "protocol 0, and n2 speaks 1",
    ));
    for (body, expected) in cases {
        let mut stream = TcpStream::connect(&to_two.address).await.unwrap();
        stream.write_u32(u32::try_from(body.len()).unwrap()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut answer = vec![0; stream.read_u32().await.unwrap() as usize];
        stream.read_exact(&mut answer).await.unwrap();
        let Ok(Welcome::Refused(why)) = serde_json::from_slice(&answer) else {
            panic!("{} was let in", String::from_utf8_lossy(&body));
        };
        assert!(why.contains(expected), "{why}");
    }
}

#[tokio::test]
async fn a_member_that_comes_back_is_reached_again() {
    let (one, _) = member(1).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let peer = Peer { node: NodeId(2), address: address.to_string(), incarnation: Incarnation(2) };
    let before = OsNetwork::on(Tcp, listener, identity(2), None);
    let serving = tokio::spawn({
        let before = before.clone();
        async move {
            while let Some(incoming) = before.accept(Incarnation(2)).await {
                drop(incoming.reply);
            }
        }
    });
    sleep(Duration::from_millis(20)).await;
    let unanswered = one.call(&peer, wire::Request::Hello, Duration::from_millis(200)).await;
    assert_eq!(unanswered.unwrap_err(), NetworkError::TimedOut(NodeId(2)));
    serving.abort();
    drop(before);
    sleep(Duration::from_millis(50)).await;
    let again = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    };
    serve(OsNetwork::on(Tcp, again, identity(2), None), 2);
    let began = Instant::now();
    while hello(&one, &peer).await.is_err() {
        assert!(began.elapsed() < SECOND * 10, "it was never reached again");
        sleep(Duration::from_millis(50)).await;
    }
}
