//! Requests to the API of the real program. The name of each original says with which status it has to be
//! answered, so that its changes begin with what the program understands.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use rand::RngExt;
use serde_json::json;

use crate::{
    PATIENCE, Run,
    mutation::{Original, corpus},
    support::{
        app::TestApp,
        database::Kind,
        fixtures::{at, caller, new_room, token},
    },
};

/// Longest request, in bytes: the API takes bodies of up to 512 KiB.
const LONGEST: usize = 600 * 1024;

/// A client waits so long for a response before it sends the end of its data.
const SOON: Duration = Duration::from_millis(200);

/// What the program may take beyond what it has at the beginning, in bytes. The allocator keeps the 19 MiB of a
/// password hash for each of the six threads that make them, and one client may have a quarter of
/// `limits.request_memory` and of `limits.response_memory`, together 24 MiB: two minutes have taken 101 MiB.
const MEMORY: u64 = 200 * 1024 * 1024;

/// What alice sends, as JSON.
const HEAD: &str = "HTTP/1.1\r\nHost: localhost\r\nOCS-APIRequest: true\r\n\
                    Authorization: Basic YWxpY2U6Y29ycmVjdCBob3JzZQ==\r\n\
                    Content-Type: application/json\r\nConnection: close\r\n";

/// A character of twelve bytes.
const LONG_CHARACTER: &str = r"\ud83d\ude00";

/// A room whose token has digits only, each other than the one before.
const DIALABLE: &str = "4713";

/// The message to which one of the corpus replies.
const REPLIED_TO: i64 = 3;

#[test]
fn no_request_breaks_the_api() {
    let originals = || corpus("requests").into_iter().chain(long_requests()).collect();
    let mut run = Run::new("requests", originals, LONGEST);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let app = runtime.block_on(app());
    let begin = app.daemon().memory();
    let mut answers = BTreeMap::<u16, u64>::new();
    while let Some((name, mut request)) = run.next() {
        let is_whole = run.mutation.rng().random_bool(0.5) && repair(&mut request);
        let wait = if name.is_some() { Some(PATIENCE) } else { is_whole.then_some(SOON) };
        let port = app.http_port();
        let answer = run.time(&request, || exchange(port, &request, wait));
        let statuses = statuses(&answer);
        if let Some(name) = name {
            assert_eq!(statuses, expected(&name), "{name}: {}", String::from_utf8_lossy(&answer));
        } else {
            for status in statuses {
                assert_ne!(status, 500, "{}", String::from_utf8_lossy(&request));
                *answers.entry(status).or_default() += 1;
            }
        }
    }
    println!("fuzz: requests: answers to changed requests, by status: {answers:?}");
    // Changed ones are understood as well, read or refused.
    for status in [200, 400] {
        assert!(answers.contains_key(&status), "no {status} in {answers:?}");
    }
    runtime.block_on(app.daemon().ready());
    assert!(!app.log().contains("panicked"), "{}", app.log());
    let taken = app.daemon().peak_memory().saturating_sub(begin);
    println!("fuzz: requests: {} MiB beyond {} MiB", taken / 1024 / 1024, begin / 1024 / 1024);
    assert!(taken < MEMORY, "{taken} bytes");
}

/// The program, with a room `abc` that alice owns and has joined, one that a telephone can dial, and without limits that would soon
/// answer for all others.
async fn app() -> TestApp {
    let mut app = TestApp::new(Kind::Sqlite).await;
    app.set("HTTP__ALLOWED_ORIGINS", "https://example.org");
    app.set("SIP__DIALIN_INFO", "+49 30 123456");
    app.set("SIP__SHARED_SECRET", "secret");
    app.set("LIMITS__CHANGES_PER_MINUTE", "1000000");
    app.set("LIMITS__ROOMS_PER_USER", "1000000");
    app.restart().await;
    let alice = app.user("alice").await;
    let store = app.database.store().await;
    for room in ["abc", DIALABLE] {
        let owner = caller("alice");
        store.create(&token(room), &owner, &new_room(), at(0)).await.unwrap().unwrap();
    }
    alice.join("abc").await;
    let first = alice.post("/chat/abc", json!({"message": "first"})).await.expect(201).data();
    assert_eq!(first["id"], REPLIED_TO);
    app
}

/// Requests near the limits of their bodies.
fn long_requests() -> Vec<Original> {
    let chat = "POST /ocs/v2.php/apps/spreed/api/v1/chat/abc";
    let describe = "PUT /ocs/v2.php/apps/spreed/api/v4/room/abc/description";
    let request = |name: &str, line: &str, body: String| {
        let text = format!("{line} {HEAD}Content-Length: {}\r\n\r\n{body}", body.len());
        Original { name: name.to_owned(), bytes: text.into_bytes() }
    };
    let text = |key: &str, length| format!(r#"{{"{key}":"{}"}}"#, LONG_CHARACTER.repeat(length));
    let padded = |length: usize| {
        let (begin, end) = (r#"{"message":"x","other":""#, r#""}"#);
        format!("{begin}{}{end}", "x".repeat(length - begin.len() - end.len()))
    };
    vec![
        request("long-message-201", chat, text("message", 32_000)),
        request("longer-message-413", chat, text("message", 32_001)),
        request("long-body-201", chat, padded(512 * 1024)),
        request("longer-body-413", chat, padded(512 * 1024 + 1)),
        request("longest-body-413", chat, padded(LONGEST - 1024)),
        request("long-description-200", describe, text("description", 2000)),
        request("longer-description-400", describe, text("description", 2001)),
        request("long-description-body-413", describe, text("description", 3000)),
    ]
}

/// The statuses of the answers, as the name of an input says them: `pipelined-200-404.http`.
fn expected(name: &str) -> Vec<u16> {
    let name = name.split('.').next().unwrap();
    let statuses: Vec<u16> = name.split('-').filter_map(|part| part.parse().ok()).collect();
    assert!(!statuses.is_empty(), "{name}");
    statuses
}

/// The statuses of one answer after the other.
fn statuses(answers: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answers);
    text.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().unwrap()).collect()
}

/// Makes the header say how long the body is, so that the body is read as a whole. Whether the server can
/// answer the request, and close the connection then, without the end of the data.
fn repair(request: &mut Vec<u8>) -> bool {
    let find = |within: &[u8], text: &[u8]| {
        within.windows(text.len()).position(|part| part == text).map(|at| at + text.len())
    };
    let Some(body) = find(request, b"\r\n\r\n") else { return false };
    let header = &request[..body];
    let closes = find(header, b"\r\nConnection: close\r\n").is_some();
    let Some(begin) = find(header, b"\r\nContent-Length: ") else { return closes };
    let digits = header[begin..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let length = (request.len() - body).to_string();
    drop(request.splice(begin..begin + digits, length.into_bytes()));
    closes
}

/// Sends bytes, and returns the answers. With the end of the data, which is sent at once unless an answer
/// is waited for, the server closes the connection soon.
fn exchange(port: u16, request: &[u8], wait: Option<Duration>) -> Vec<u8> {
    let is_late = |kind| [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&kind);
    let hangs = |what| -> ! { panic!("no end of {what} {:?}", String::from_utf8_lossy(request)) };
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    match stream.write_all(request) {
        Err(error) if is_late(error.kind()) => hangs("sending"),
        // The server may have closed it before the end.
        Ok(()) | Err(_) => {}
    }
    let mut answer = Vec::new();
    if let Some(wait) = wait {
        stream.set_read_timeout(Some(wait)).unwrap();
        match stream.read_to_end(&mut answer) {
            Err(error) if is_late(error.kind()) => {}
            Ok(_) | Err(_) => return answer,
        }
    }
    stream.shutdown(Shutdown::Write).ok();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match stream.read_to_end(&mut answer) {
        Err(error) if is_late(error.kind()) => hangs("the answer to"),
        Ok(_) | Err(_) => answer,
    }
}
