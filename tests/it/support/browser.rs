//! A real browser, Debian's chromium without a window, driven by `WebDriver`.
//!
//! The protocol is JSON over HTTP, and only what tests need of it is here. Each [`Browser`] has a
//! profile of its own. Times are those of the browser's machine, which is also the server's.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    sync::OnceLock,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes, header};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

use super::{
    eventually,
    server::{Process, folder, free_port},
    tools::file,
};

/// The name under which `WebDriver` returns a reference to an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// The key that a user presses, as `WebDriver` writes it.
pub const ENTER: &str = "\u{e007}";
pub const TAB: &str = "\u{e004}";

/// A window with a profile of its own.
pub struct Browser {
    session: String,
    connections: legacy::Client<HttpConnector, Full<Bytes>>,
}

/// The port of the driver, which ends with the test process.
fn driver() -> u16 {
    static DRIVER: OnceLock<(u16, Process)> = OnceLock::new();
    let (port, _process) = DRIVER.get_or_init(|| {
        let port = free_port();
        let home = folder("chromedriver-");
        let mut command = Command::new("/usr/bin/chromedriver");
        command
            .arg(format!("--port={port}"))
            .arg("--log-level=INFO")
            .env("HOME", &home)
            .current_dir(&home);
        (port, Process::start(&command, &home.join("log")))
    });
    *port
}

impl Browser {
    pub async fn open() -> Self {
        Self::speaking("en-US").await
    }

    /// A browser whose user reads this language.
    pub async fn speaking(language: &str) -> Self {
        let profile = folder("chromium-");
        let arguments = [
            "--headless=new".to_owned(),
            // Tests may run as root, and where shared memory is small.
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-gpu".to_owned(),
            "--window-size=900,900".to_owned(),
            format!("--accept-lang={language}"),
            format!("--user-data-dir={}", profile.display()),
        ];
        let wanted =
            json!({ "browserName": "chrome", "goog:chromeOptions": { "args": arguments } });
        let wanted = json!({ "capabilities": { "alwaysMatch": wanted } });
        let connections = legacy::Client::builder(TokioExecutor::new()).build_http();
        let mut browser = Self { session: String::new(), connections };
        let opened = eventually("a browser", || async {
            browser.send(Method::POST, "/session", &wanted).await.ok()
        })
        .await;
        opened["sessionId"].as_str().unwrap().clone_into(&mut browser.session);
        browser
    }

    pub async fn go(&self, url: &str) {
        self.command(Method::POST, "/url", &json!({ "url": url })).await;
    }

    /// Runs a function body in the page, and returns what it returns.
    pub async fn run(&self, script: &str) -> Value {
        self.command(Method::POST, "/execute/sync", &json!({ "script": script, "args": [] })).await
    }

    /// A command of Chrome's `DevTools` protocol.
    pub async fn devtools(&self, name: &str, parameters: Value) -> Value {
        let command = json!({ "cmd": name, "params": parameters });
        self.command(Method::POST, "/goog/cdp/execute", &command).await
    }

    /// Runs a script in each page before its own.
    pub async fn prepare(&self, script: &str) {
        let script = json!({ "source": script });
        self.devtools("Page.addScriptToEvaluateOnNewDocument", script).await;
    }

    /// Clicks the element as soon as it can be clicked.
    pub async fn click(&self, selector: &str) {
        eventually(&format!("a click on {selector}"), || async {
            let id = self.find(selector).await?;
            self.try_command(Method::POST, &format!("/element/{id}/click"), &json!({})).await.ok()
        })
        .await;
    }

    /// Types into the element, after what it contains.
    pub async fn write(&self, selector: &str, text: &str) {
        let keys = json!({ "text": text });
        eventually(&format!("{selector} to be written into"), || async {
            let id = self.find(selector).await?;
            self.try_command(Method::POST, &format!("/element/{id}/value"), &keys).await.ok()
        })
        .await;
    }

    /// Presses keys where the focus is.
    pub async fn press(&self, keys: &str) {
        let focused = self.command(Method::GET, "/element/active", &Value::Null).await;
        let id = focused[ELEMENT].as_str().unwrap();
        let keys = json!({ "text": keys });
        self.command(Method::POST, &format!("/element/{id}/value"), &keys).await;
    }

    /// What users can read of the element; empty if it is not shown.
    pub async fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({selector:?})?.innerText ?? ''");
        let text = self.run(&script).await;
        text.as_str().unwrap().trim().replace(['\n', '\u{a0}', '\u{202f}'], " ")
    }

    /// Waits until the element has this text somewhere.
    pub async fn shows(&self, selector: &str, text: &str) {
        eventually(&format!("{text:?} in {selector}"), || async {
            self.text(selector).await.contains(text).then_some(())
        })
        .await;
    }

    /// Waits until the function body returns something true.
    pub async fn becomes(&self, script: &str) {
        eventually(script, || async { (self.run(script).await == true).then_some(()) }).await;
    }

    /// Whether the element is visible.
    pub async fn has(&self, selector: &str) -> bool {
        let script =
            format!("return document.querySelector({selector:?})?.getClientRects().length > 0");
        self.run(&script).await == true
    }

    /// How the user's device looks: its width, and the scheme of colours that the user prefers.
    pub async fn device(&self, width: u32, scheme: &str) {
        let size =
            json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let features = json!([
            { "name": "prefers-color-scheme", "value": scheme },
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// A picture of the whole page in `target/screenshots`, for people to look at.
    pub async fn picture(&self, name: &str) {
        let whole = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.devtools("Page.captureScreenshot", whole).await;
        let picture = STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        let folder: PathBuf = file("target/screenshots");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{name}.png")), picture).unwrap();
    }

    /// What axe-core finds in the page that keeps people from using it.
    pub async fn barriers(&self) -> Vec<String> {
        let source =
            fs::read_to_string(file("target/test-tools/axe/node_modules/axe-core/axe.min.js"));
        let source = source.expect("axe-core; `make tools` installs what the tests run");
        if self.run("return window.axe === undefined").await == true {
            self.run(&source).await;
        }
        let script = "const done = arguments[0]; \
                      axe.run().then((found) => done(found.violations.map((violation) => \
                        `${violation.id}: ${violation.nodes.map((node) => node.html + node.failureSummary).join()}`)))";
        let script = json!({ "script": script, "args": [] });
        let found = self.command(Method::POST, "/execute/async", &script).await;
        serde_json::from_value(found).unwrap()
    }

    async fn find(&self, selector: &str) -> Option<String> {
        let wanted = json!({ "using": "css selector", "value": selector });
        let found = self.try_command(Method::POST, "/element", &wanted).await.ok()?;
        Some(found[ELEMENT].as_str().unwrap().to_owned())
    }

    async fn command(&self, method: Method, path: &str, body: &Value) -> Value {
        let done = self.try_command(method, path, body).await;
        done.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn try_command(&self, method: Method, path: &str, body: &Value) -> Result<Value, String> {
        self.send(method, &format!("/session/{}{path}", self.session), body).await
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value, String> {
        let body = if method == Method::POST { body.to_string() } else { String::new() };
        let request = Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{}{path}", driver()))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body))
            .unwrap();
        let response =
            self.connections.request(request).await.map_err(|error| error.to_string())?;
        let is_done = response.status().is_success();
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_slice(&body.to_bytes()).unwrap();
        let value = answer["value"].take();
        if is_done { Ok(value) } else { Err(value["message"].to_string()) }
    }
}

impl Drop for Browser {
    /// Closes the window.
    fn drop(&mut self) {
        let request = format!(
            "DELETE /session/{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            self.session
        );
        if let Ok(mut driver) = TcpStream::connect(("127.0.0.1", driver())) {
            driver.write_all(request.as_bytes()).ok();
            // The driver keeps the connection open.
            driver.read_exact(&mut [0]).ok();
        }
    }
}
