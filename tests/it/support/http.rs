//! A client of the HTTP API that knows no more of it than the paths: what it sends can be chosen to
//! the byte, and what comes back is kept as it came.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request,
    body::Bytes,
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

/// Where paths of rooms and calls begin.
const ROOMS: &str = "/ocs/v2.php/apps/spreed/api/v4";

/// Where paths of the chat and of guests begin.
const CHAT: &str = "/ocs/v2.php/apps/spreed/api/v1";

/// A server, and the connections to it that are kept.
pub struct Api {
    port: u16,
    connections: legacy::Client<HttpConnector, Full<Bytes>>,
}

impl Api {
    pub fn new(port: u16) -> Self {
        Self { port, connections: legacy::Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Somebody who logs in with every request.
    pub fn user(&self, name: &str, password: &str) -> Client {
        let credentials = STANDARD.encode(format!("{name}:{password}"));
        self.guest().header("authorization", &format!("Basic {credentials}"))
    }

    /// Somebody without a login, as a browser that was just opened.
    pub fn guest(&self) -> Client {
        Client {
            port: self.port,
            connections: self.connections.clone(),
            headers: HeaderMap::new(),
            cookies: Arc::default(),
        }
    }
}

/// One caller. Clones are the same caller, with the same cookies.
#[derive(Clone)]
pub struct Client {
    port: u16,
    connections: legacy::Client<HttpConnector, Full<Bytes>>,
    headers: HeaderMap,
    cookies: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Client {
    /// The same caller, who sends this header with each request, in place of a usual one of this
    /// name.
    pub fn header(&self, name: &str, value: &str) -> Self {
        let mut same = self.clone();
        same.headers.insert(header_name(name), HeaderValue::from_str(value).unwrap());
        same
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, usual_headers(None), Bytes::new()).await
    }

    pub async fn post(&self, path: &str, body: impl Into<Value>) -> Answer {
        self.json(Method::POST, path, &body.into()).await
    }

    pub async fn put(&self, path: &str, body: impl Into<Value>) -> Answer {
        self.json(Method::PUT, path, &body.into()).await
    }

    pub async fn delete(&self, path: &str, body: impl Into<Value>) -> Answer {
        self.json(Method::DELETE, path, &body.into()).await
    }

    /// Sends these parameters as a form of a web page does.
    pub async fn form(&self, method: &str, path: &str, parameters: &[(&str, &str)]) -> Answer {
        let body =
            form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        self.send(method.parse().unwrap(), path, usual_headers(Some(FORM)), body.into()).await
    }

    /// Sends this body, and of headers only these besides the login, the cookies and those that the
    /// caller always sends. A header may be there several times.
    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let given = headers
            .iter()
            .map(|(name, value)| (header_name(name), HeaderValue::from_str(value).unwrap()));
        let mut headers = HeaderMap::new();
        headers.extend(given);
        self.send(method.parse().unwrap(), path, headers, body.into()).await
    }

    async fn json(&self, method: Method, path: &str, body: &Value) -> Answer {
        self.send(method, path, usual_headers(Some(JSON)), body.to_string().into()).await
    }

    async fn send(&self, method: Method, path: &str, headers: HeaderMap, body: Bytes) -> Answer {
        let asked = format!("{method} {path}");
        let uri = format!("http://127.0.0.1:{}{}", self.port, absolute(path));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().unwrap();
        *request.headers_mut() = headers;
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        if let Some(cookies) = self.cookies_to_send() {
            request.headers_mut().insert(header::COOKIE, cookies);
        }
        // A request may be held for a minute until something changes.
        let answering = async {
            let answer = self.connections.request(request).await.map_err(|error| error.to_string());
            let (head, body) = answer?.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?;
            Ok::<_, String>((head, body.to_bytes().to_vec()))
        };
        let (head, body) = timeout(PATIENCE * 2, answering)
            .await
            .unwrap_or_else(|_elapsed| panic!("{asked}: no answer in time"))
            .unwrap_or_else(|error| panic!("{asked}: {error}"));
        self.keep_cookies(&head.headers);
        Answer { asked, status: head.status.as_u16(), headers: head.headers, body }
    }

    fn cookies_to_send(&self) -> Option<HeaderValue> {
        let cookies = self.cookies.lock().unwrap();
        let pairs: Vec<String> =
            cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (!pairs.is_empty()).then(|| pairs.join("; ").parse().unwrap())
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

/// What clients of Nextcloud send with each request.
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

/// What came back.
pub struct Answer {
    asked: String,
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// Itself, if it has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What was asked for, without the envelope.
    #[track_caller]
    pub fn data(&self) -> Value {
        let json = self.json();
        json.pointer("/ocs/data").unwrap_or_else(|| panic!("no data in {self:?}")).clone()
    }

    /// The status as the envelope says it.
    #[track_caller]
    pub fn meta_status(&self) -> i64 {
        let json = self.json();
        let status = json.pointer("/ocs/meta/statuscode").and_then(Value::as_i64);
        status.unwrap_or_else(|| panic!("no status in the envelope of {self:?}"))
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl fmt::Debug for Answer {
    /// As it came over the wire, after the request's first line.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}\n{}", self.asked, self.status)?;
        for (name, value) in &self.headers {
            writeln!(formatter, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        write!(formatter, "\n{}", String::from_utf8_lossy(&self.body))
    }
}
