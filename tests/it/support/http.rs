//! A client of the HTTP API that knows only its paths.
//!
//! Tests can choose every byte of a request, and see the response as the server sent it. `harness`
//! tests this client.

use std::{
    collections::BTreeMap,
    fmt,
    io::Read,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::read::GzDecoder;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request,
    body::{Bytes, Incoming},
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::time::timeout;
use url::form_urlencoded;

use super::PATIENCE;

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// Prefix of the paths of rooms and calls.
const ROOMS: &str = "/ocs/v2.php/apps/spreed/api/v4";

/// Prefix of the paths of the chat and of guests.
const CHAT: &str = "/ocs/v2.php/apps/spreed/api/v1";

/// A server and the open connections to it.
pub struct Api {
    port: u16,
    connections: legacy::Client<HttpConnector, Full<Bytes>>,
}

impl Api {
    pub fn new(port: u16) -> Self {
        Self { port, connections: legacy::Client::builder(TokioExecutor::new()).build_http() }
    }

    /// A client that sends this login with every request.
    pub fn user(&self, name: &str, password: &str) -> Client {
        let credentials = STANDARD.encode(format!("{name}:{password}"));
        self.guest().header("authorization", &format!("Basic {credentials}"))
    }

    /// A client without login and cookies, as a new browser window.
    pub fn guest(&self) -> Client {
        Client {
            port: self.port,
            connections: self.connections.clone(),
            headers: HeaderMap::new(),
            cookies: Arc::default(),
        }
    }
}

/// A client. Clones share its cookies.
#[derive(Clone)]
pub struct Client {
    port: u16,
    connections: legacy::Client<HttpConnector, Full<Bytes>>,
    headers: HeaderMap,
    cookies: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Client {
    /// The same client, which sends this header with each request, instead of a usual header of
    /// this name.
    pub fn header(&self, name: &str, value: &str) -> Self {
        let mut same = self.clone();
        same.headers.insert(header_name(name), HeaderValue::from_str(value).unwrap());
        same
    }

    pub async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, usual_headers(None), Bytes::new()).await
    }

    pub async fn post(&self, path: &str, body: impl Into<Value>) -> Response {
        self.json(Method::POST, path, &body.into()).await
    }

    pub async fn put(&self, path: &str, body: impl Into<Value>) -> Response {
        self.json(Method::PUT, path, &body.into()).await
    }

    pub async fn delete(&self, path: &str, body: impl Into<Value>) -> Response {
        self.json(Method::DELETE, path, &body.into()).await
    }

    /// Sends these parameters as the form of a web page does.
    pub async fn form(&self, method: &str, path: &str, parameters: &[(&str, &str)]) -> Response {
        let body =
            form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        self.send(method.parse().unwrap(), path, usual_headers(Some(FORM)), body.into()).await
    }

    /// Sends this body, and no headers except these, the login, the cookies and those of
    /// [`header`](Self::header). A header may occur several times.
    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response {
        let given = headers
            .iter()
            .map(|(name, value)| (header_name(name), HeaderValue::from_str(value).unwrap()));
        let mut headers = HeaderMap::new();
        headers.extend(given);
        self.send(method.parse().unwrap(), path, headers, body.into()).await
    }

    async fn json(&self, method: Method, path: &str, body: &Value) -> Response {
        self.send(method, path, usual_headers(Some(JSON)), body.to_string().into()).await
    }

    /// Sends a request, and returns its response when that has begun.
    pub(super) async fn open(&self, path: &str) -> Result<hyper::Response<Incoming>, String> {
        let request = self.request(Method::GET, path, usual_headers(None), Bytes::new());
        self.connections.request(request).await.map_err(|error| error.to_string())
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Request<Full<Bytes>> {
        let uri = format!("http://127.0.0.1:{}{}", self.port, absolute(path));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().unwrap();
        *request.headers_mut() = headers;
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        if let Some(cookies) = self.cookies() {
            request.headers_mut().insert(header::COOKIE, cookies.parse().unwrap());
        }
        request
    }

    async fn send(&self, method: Method, path: &str, headers: HeaderMap, body: Bytes) -> Response {
        let request_line = format!("{method} {path}");
        // The server may hold a request for a minute until something changes.
        timeout(PATIENCE * 2, self.try_send(method, path, headers, body))
            .await
            .unwrap_or_else(|_elapsed| panic!("{request_line}: no response in time"))
            .unwrap_or_else(|error| panic!("{request_line}: {error}"))
    }

    async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, String> {
        let request_line = format!("{method} {path}");
        let request = self.request(method, path, headers, body);
        let response = self.connections.request(request).await.map_err(|error| error.to_string());
        let (head, body) = response?.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes().to_vec();
        self.keep_cookies(&head.headers);
        Ok(Response { request_line, status: head.status.as_u16(), headers: head.headers, body })
    }

    /// As [`put`](Self::put), to a server that may not answer.
    pub async fn try_put(&self, path: &str, body: &Value) -> Result<Response, String> {
        let headers = usual_headers(Some(JSON));
        self.try_send(Method::PUT, path, headers, body.to_string().into()).await
    }

    /// The value of the `Cookie` header that it sends.
    pub fn cookies(&self) -> Option<String> {
        let cookies = self.cookies.lock().unwrap();
        let pairs: Vec<String> =
            cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    fn keep_cookies(&self, headers: &HeaderMap) {
        let mut cookies = self.cookies.lock().unwrap();
        for cookie in headers.get_all(header::SET_COOKIE) {
            let mut parts = cookie.to_str().unwrap().split(';').map(str::trim);
            let (name, value) = parts.next().unwrap().split_once('=').unwrap();
            if parts.any(|attribute| attribute.eq_ignore_ascii_case("max-age=0")) {
                cookies.remove(name);
            } else {
                cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }
}

fn header_name(name: &str) -> HeaderName {
    name.parse().unwrap()
}

/// The headers that clients of Nextcloud send with each request.
fn usual_headers(content_type: Option<&'static str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("ocs-apirequest", HeaderValue::from_static("true"));
    headers.insert(header::ACCEPT, HeaderValue::from_static(JSON));
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    headers
}

fn absolute(path: &str) -> String {
    let base = match path.split(['/', '?']).nth(1) {
        Some("room" | "call") => ROOMS,
        Some("chat" | "guest") => CHAT,
        _ => "",
    };
    format!("{base}{path}")
}

/// A response.
pub struct Response {
    request_line: String,
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Response {
    /// Returns the response if it has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The data, without the envelope.
    #[track_caller]
    pub fn data(&self) -> Value {
        let json = self.json();
        json.pointer("/ocs/data").unwrap_or_else(|| panic!("no data in {self:?}")).clone()
    }

    /// The status in the envelope.
    #[track_caller]
    pub fn meta_status(&self) -> i64 {
        let json = self.json();
        let status = json.pointer("/ocs/meta/statuscode").and_then(Value::as_i64);
        status.unwrap_or_else(|| panic!("no status in the envelope of {self:?}"))
    }

    /// The response as it was before it was compressed.
    #[track_caller]
    pub fn decompressed(self) -> Self {
        assert_eq!(self.header("content-encoding"), Some("gzip"), "{:?}", self.headers);
        let mut body = Vec::new();
        GzDecoder::new(self.body.as_slice()).read_to_end(&mut body).unwrap();
        assert!(body.len() > 2 * self.body.len(), "{} bytes of {}", self.body.len(), body.len());
        Self { body, ..self }
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl fmt::Debug for Response {
    /// The first line of the request, then the response as it was sent.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}\n{}", self.request_line, self.status)?;
        for (name, value) in &self.headers {
            writeln!(formatter, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        write!(formatter, "\n{}", String::from_utf8_lossy(&self.body))
    }
}
