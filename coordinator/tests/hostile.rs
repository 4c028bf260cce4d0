//! What nobody sends by mistake, over real TLS against the real doors: messages that are not what
//! they say, and HTTP/2 that is made to cost. Each is refused, and nothing comes of it: the
//! coordinator answers others, and no fact is there that was not before. Who may connect at all is
//! in `tls`, how many in `limits`.

mod bed;

use std::{sync::Arc, time::Duration};

use bed::Bed;
use bytes::Bytes;
use coordinator::store::{Record, Store as _};
use coordinator_core::fleet::Facts;
use h2::client::SendRequest;
use lab_proto::{
    enrolment::{EnrolRequest, enrolment_client::EnrolmentClient},
    operator::StatusRequest,
};
use platform::identity::SERVER_NAME;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::client::TlsStream;
use tonic::Code;

const SET_CONFIG: &str = "/lab.operator.v1.Operator/SetConfig";

/// Everything that is kept.
fn kept(bed: &Bed) -> (Facts, Vec<Record>) {
    let loaded = bed.store.clone().load().expect("loaded");
    (loaded.snapshot, loaded.records)
}

/// Runs an attack; nothing may come of it.
async fn unharmed(bed: &mut Bed, attack: impl AsyncFnOnce(&Bed)) {
    let before = kept(bed);
    attack(bed).await;
    let status = bed.admin.get_status(StatusRequest::default()).await;
    status.expect("it answers others");
    assert!(kept(bed) == before, "facts came of it");
}

/// TLS with the administrator's certificate: nothing is refused for want of a right.
async fn connect(bed: &Bed) -> TlsStream<TcpStream> {
    let config = bed.admin_identity().client_config();
    let stream = TcpStream::connect(bed.server.address()).await.expect("TCP");
    let name = ServerName::try_from(SERVER_NAME).expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.expect("trusted")
}

async fn http2(bed: &Bed) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(connect(bed).await)
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    client
}

/// A message of gRPC as it is sent: whether it is compressed, how long it says it is, and what comes.
fn message(compressed: u8, announced: u32, sent: &[u8]) -> Bytes {
    let mut bytes = vec![compressed];
    bytes.extend(announced.to_be_bytes());
    bytes.extend(sent);
    bytes.into()
}

/// Sends this as the body of a request; the status of the answer. `whole`: nothing follows.
async fn answer(bed: &Bed, encoding: Option<&str>, body: Bytes, whole: bool) -> (Code, String) {
    let mut client = http2(bed).await.ready().await.expect("ready");
    let mut request = http::Request::post(format!("https://coordinator{SET_CONFIG}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(encoding) = encoding {
        request = request.header("grpc-encoding", encoding);
    }
    let request = request.body(()).expect("a request");
    let (response, mut stream) = client.send_request(request, false).expect("sent");
    stream.send_data(body, whole).expect("sent");
    let response = response.await.expect("an answer");
    let mut headers = response.headers().clone();
    if !headers.contains_key("grpc-status") {
        let mut body = response.into_body();
        while body.data().await.is_some() {}
        let trailers = body.trailers().await.expect("readable");
        headers = trailers.expect("a status");
    }
    let text = |name: &str| {
        let value = headers
            .get(name)
            .map(|value| value.to_str().expect("ASCII"));
        value.unwrap_or_default().to_owned()
    };
    let code: i32 = text("grpc-status").parse().expect("a code");
    (Code::from_i32(code), text("grpc-message"))
}

#[tokio::test]
async fn messages_that_are_not_what_they_say_are_refused() {
    let mut bed = Bed::start().await;
    bed.configure().await;
    const LIMIT: u32 = 2 * 1024 * 1024;
    // Field 1 of SetConfigRequest, the document: two bytes that are no UTF-8.
    let no_text = [0x0a, 2, 0xff, 0xfe];
    // The same field, said to be longer than the message.
    let cut = [0x0a, 0x7f, b'{'];
    let table = [
        ("over the limit", None, message(0, LIMIT + 1, &[]), false),
        (
            "4 MiB said, 5 bytes sent",
            None,
            message(0, 2 * LIMIT, b"hello"),
            true,
        ),
        (
            "1 MiB said, 5 bytes sent",
            None,
            message(0, LIMIT / 2, b"hello"),
            true,
        ),
        ("gzip", Some("gzip"), message(1, 5, b"hello"), true),
        (
            "compressed, not said how",
            None,
            message(1, 5, b"hello"),
            true,
        ),
        ("no such flag", None, message(7, 5, b"hello"), true),
        ("no UTF-8", None, message(0, 4, &no_text), true),
        ("cut short inside", None, message(0, 3, &cut), true),
        ("half a prefix", None, Bytes::from_static(&[0, 0]), true),
        ("nothing", None, Bytes::new(), true),
    ];
    for (what, encoding, body, whole) in table {
        unharmed(&mut bed, async |bed| {
            let answered = answer(bed, encoding, body, whole);
            let answered = timeout(Duration::from_secs(10), answered).await;
            let (code, text) = answered.expect("at once");
            assert_ne!(code, Code::Ok, "{what}");
            assert!(!text.is_empty(), "{what}: {code:?} without a reason");
        })
        .await;
    }
}

#[tokio::test]
async fn a_body_that_never_ends_is_not_waited_for() {
    let mut bed = Bed::start().await;
    unharmed(&mut bed, async |bed| {
        let began = Instant::now();
        let answered = answer(bed, None, message(0, 1000, b"{"), false);
        let (code, _) = timeout(Duration::from_secs(60), answered)
            .await
            .expect("given up");
        assert_eq!(code, Code::DeadlineExceeded);
        assert!(began.elapsed() >= Duration::from_secs(29));
    })
    .await;
}

#[tokio::test]
async fn strangers_have_little_to_say() {
    let mut bed = Bed::start().await;
    unharmed(&mut bed, async |bed| {
        let address = bed.server.enrol_address().to_string();
        let channel = bed::plain_tls(bed.directory.path(), &address).await;
        let long = EnrolRequest {
            token: "x".repeat(9 * 1024),
            ..EnrolRequest::default()
        };
        let refused = EnrolmentClient::new(channel).enrol(long).await;
        let refused = refused.expect_err("too long");
        assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    })
    .await;
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Error codes of HTTP/2.
const CANCEL: u32 = 8;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

/// The headers of a request as HPACK, without a table or compression.
fn headers() -> Vec<u8> {
    // POST and https are in the static table; path and authority are names of it.
    let mut block = vec![0x83, 0x87];
    for (name, value) in [(0x04, SET_CONFIG), (0x01, "coordinator")] {
        block.extend([name, u8::try_from(value.len()).expect("short")]);
        block.extend(value.as_bytes());
    }
    block
}

/// Sends these frames on a connection of its own and reads what comes back, until the connection
/// ends or for a while. What kind of frame, of which stream, with which error code.
async fn sent_raw(bed: &Bed, frames: &[u8]) -> Vec<(u8, u32, u32)> {
    let (mut reader, mut writer) = tokio::io::split(connect(bed).await);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frames);
    // It may end while it is being written to.
    let writing = tokio::spawn(async move {
        writer.write_all(&bytes).await.ok();
        writer.flush().await.ok();
        writer
    });
    let mut came = Vec::new();
    let reading = async {
        let mut head = [0; 9];
        while reader.read_exact(&mut head).await.is_ok() {
            let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
            let mut payload = vec![0; number(&head[..3]) as usize];
            if reader.read_exact(&mut payload).await.is_err() {
                return;
            }
            let code = match head[3] {
                RST_STREAM => number(&payload[..4]),
                GOAWAY => number(&payload[4..8]),
                _ => 0,
            };
            came.push((head[3], number(&head[5..9]), code));
        }
    };
    // For those that are not ended: long enough for every answer.
    timeout(Duration::from_secs(3), reading).await.ok();
    drop(writing.await);
    came
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_one_by_one() {
    let mut bed = Bed::start().await;
    unharmed(&mut bed, async |bed| {
        let streams = (0..40u32).map(|n| 2 * n + 1);
        let open = |stream| frame(HEADERS, END_HEADERS, stream, &headers());
        let frames: Vec<u8> = streams.flat_map(open).collect();
        let came = sent_raw(bed, &frames).await;
        let refused = came
            .iter()
            .filter(|(kind, _, code)| *kind == RST_STREAM && *code == REFUSED_STREAM);
        assert_eq!(refused.count(), 40 - 32, "{came:?}");
    })
    .await;
}

#[tokio::test]
async fn requests_taken_back_at_once_end_the_connection() {
    let mut bed = Bed::start().await;
    unharmed(&mut bed, async |bed| {
        let frames: Vec<u8> = (0..2000u32)
            .map(|n| 2 * n + 1)
            .flat_map(|stream| {
                let mut both = frame(HEADERS, END_HEADERS, stream, &headers());
                both.extend(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
                both
            })
            .collect();
        let came = sent_raw(bed, &frames).await;
        let ended =
            |(kind, _, code): &(u8, u32, u32)| *kind == GOAWAY && *code == ENHANCE_YOUR_CALM;
        assert!(came.iter().any(ended), "{came:?}");
    })
    .await;
}

#[tokio::test]
async fn headers_without_end_end_the_connection() {
    let mut bed = Bed::start().await;
    unharmed(&mut bed, async |bed| {
        let mut frames = frame(HEADERS, 0, 1, &headers());
        // A header of its own in each, never indexed: name and value of one letter.
        let more = [0x10, 1, b'a', 1, b'b'].repeat(3000);
        for _ in 0..1000 {
            frames.extend(frame(CONTINUATION, 0, 1, &more));
        }
        let came = sent_raw(bed, &frames).await;
        let ended = |(kind, _, code): &(u8, u32, u32)| *kind == GOAWAY && *code != 0;
        assert!(came.iter().any(ended), "{came:?}");
    })
    .await;
}

#[tokio::test]
async fn headers_that_are_too_long_are_not_read() {
    let mut bed = Bed::start().await;
    unharmed(&mut bed, async |bed| {
        let mut client = http2(bed).await.ready().await.expect("ready");
        let request = http::Request::post(format!("https://coordinator{SET_CONFIG}"))
            .header("content-type", "application/grpc")
            .header("x-long", "x".repeat(20 * 1024));
        let request = request.body(()).expect("a request");
        let answered = match client.send_request(request, true) {
            Ok((response, _)) => response.await.map(|answer| answer.status()),
            Err(error) => Err(error),
        };
        match answered {
            Ok(status) => assert_eq!(status.as_u16(), 431),
            Err(error) => assert!(error.is_remote() || error.is_io(), "{error:?}"),
        }
    })
    .await;
}
