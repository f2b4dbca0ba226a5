//! The files of the pages, as the server sends them.

use std::fs;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{app::TestApp, database::Kind, tools::file};

/// Most bytes that a page and its assets have together, uncompressed.
const MAX_BYTES: usize = 50_000;

/// A response with its headers, as text.
async fn get(port: u16, path: &str, header: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

/// The value of a header.
fn header<'r>(response: &'r str, name: &str) -> &'r str {
    let line = response.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("no {name} in {response}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_waiting_room_is_small_strict_and_the_same_for_every_room() {
    let mut app = TestApp::new(Kind::Sqlite).await;
    app.set("HTTP__JOIN_URL", "https://cloud.example.org/call/{token}?a=\"b\"");
    app.restart().await;
    let port = app.http_port();
    let page = get(port, "/call/unknown", "").await;
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    let policy = header(&page, "content-security-policy");
    for rule in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(header(&page, "cache-control"), "no-cache");
    assert!(
        page.contains(r#"data-join-url="https://cloud.example.org/call/{token}?a=&quot;b&quot;""#)
    );
    let (_, html) = page.split_once("\r\n\r\n").unwrap();
    for inline in ["<style", "style=", "onclick", "javascript:"] {
        assert!(!html.contains(inline), "{inline} in {html}");
    }
    for script in html.split("<script").skip(1) {
        assert!(script.contains("src=") && script.contains("></script>"), "{script}");
    }
    let other = get(port, "/call/other", "").await;
    assert_eq!(other.split_once("\r\n\r\n").unwrap().1, html);
    let known = format!("If-None-Match: {}\r\n", header(&page, "etag"));
    assert!(get(port, "/call/unknown", &known).await.starts_with("HTTP/1.1 304"));

    let mut bytes = html.len();
    for asset in html.split('"').filter(|text| text.starts_with("/call/assets/")) {
        let response = get(port, asset, "").await;
        assert!(response.starts_with("HTTP/1.1 200"), "{asset}: {response}");
        assert!(header(&response, "cache-control").contains("immutable"), "{asset}");
        assert_eq!(header(&response, "x-content-type-options"), "nosniff");
        bytes += response.split_once("\r\n\r\n").unwrap().1.len();
    }
    println!("the waiting room has {bytes} bytes");
    assert!(bytes < MAX_BYTES, "{bytes} bytes");
    assert!(get(port, "/call/assets/0/page.js", "").await.contains("cache-control: no-cache"));
    assert!(get(port, "/call/assets/0/secret", "").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_with_a_slash_too_many_or_without_its_end_leads_to_the_page() {
    let app = TestApp::new(Kind::Sqlite).await;
    let port = app.http_port();
    let redirected = get(port, "/call/%2f%2fexample.org/", "").await;
    assert!(redirected.starts_with("HTTP/1.1 308"), "{redirected}");
    assert_eq!(header(&redirected, "location"), "/call/%2f%2fexample.org");
    let page = get(port, "/call/", "").await;
    assert!(page.starts_with("HTTP/1.1 404") && page.contains("page.js"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operations_page_is_small_and_strict() {
    let app = TestApp::new(Kind::Sqlite).await;
    let port = app.daemon().ops_port;
    let page = get(port, "/", "").await;
    assert!(header(&page, "content-security-policy").contains("default-src 'none'"));
    let (_, html) = page.split_once("\r\n\r\n").unwrap();
    let mut bytes = html.len();
    for asset in html.split('"').filter(|text| text.starts_with("/assets/")) {
        let response = get(port, asset, "").await;
        assert!(response.starts_with("HTTP/1.1 200"), "{asset}: {response}");
        bytes += response.split_once("\r\n\r\n").unwrap().1.len();
    }
    println!("the operations page has {bytes} bytes");
    assert!(bytes < MAX_BYTES, "{bytes} bytes");
}

#[test]
fn the_page_loads_all_of_its_assets() {
    let folder = file("src/http/pages/assets/call");
    let html = fs::read_to_string(folder.join("page.html")).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "page.html" || html.contains(&format!("/{name}\"")), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_login_leads_from_the_login_to_the_page() {
    let app = TestApp::new(Kind::Sqlite).await;
    app.user("owner").await;
    let refused = get(app.http_port(), "/call?token=abc", "").await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    assert!(header(&refused, "www-authenticate").starts_with("Basic"));
    assert!(refused.contains("<!doctype html>"));
    let login = "Authorization: Basic b3duZXI6Y29ycmVjdCBob3JzZQ==\r\n";
    let accepted = get(app.http_port(), "/call?token=//evil.example/%0d%0a", login).await;
    assert!(accepted.starts_with("HTTP/1.1 303"), "{accepted}");
    assert_eq!(header(&accepted, "location"), "/call/%2F%2Fevil.example%2F%0D%0A");
}
