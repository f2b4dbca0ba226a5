//! Requests to the API of the real program.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
};

use crate::{
    PATIENCE, Run,
    support::{app::TestApp, database::Kind},
};

/// What the program may take beyond what it has at the beginning, in bytes. A hash of a password takes
/// 19 MiB, which the allocator keeps for a while for each thread that has made one.
const MEMORY: u64 = 400 * 1024 * 1024;

#[test]
fn no_request_breaks_the_api() {
    let mut run = Run::new("requests");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let app = runtime.block_on(async {
        let app = TestApp::new(Kind::Sqlite).await;
        app.user("alice").await;
        app.database.insert_room("abc").await;
        app
    });
    let begin = app.daemon().memory();
    let mut answered = 0;
    while let Some(request) = run.next() {
        let port = app.http_port();
        let answer = run.time(&request, || exchange(port, &request));
        answered += u64::from(answer.starts_with(b"HTTP/1.1 "));
    }
    println!("fuzz: requests: {answered} were answered");
    assert!(answered > 0);
    runtime.block_on(app.daemon().ready());
    assert!(!app.log().contains("panicked"), "{}", app.log());
    let taken = app.daemon().peak_memory().saturating_sub(begin);
    assert!(taken < MEMORY, "{taken} bytes");
}

/// Sends bytes, and returns the answer. The server closes the connection soon after that.
fn exchange(port: u16, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The server may have closed it before the end.
    if stream.write_all(request).is_ok() {
        stream.shutdown(Shutdown::Write).ok();
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
            panic!("no end of the answer to {:?}", String::from_utf8_lossy(request))
        }
        Ok(_) | Err(_) => answer,
    }
}
