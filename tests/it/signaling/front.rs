//! A reverse proxy in front of a signaling server, as sites have one: it records each request before
//! it passes it on, and can refuse it, hold it, or cut the connection.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::support::{eventually, signaling::SignalingServer};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is passed on.
    Pass,
    /// It is passed on after this time.
    Late(Duration),
    /// It is answered with this status.
    Status(u16),
    /// It is answered with a redirect to this port.
    Redirect(u16),
    /// It is held until another answer is set.
    Hold,
    /// The connection is closed without an answer.
    Cut,
    /// It is passed on, and the connection is closed without the answer.
    CutAfter,
}

/// A request that was received.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub at: Instant,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Recorded {
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    #[track_caller]
    pub fn properties(&self) -> Value {
        self.json()["update"]["properties"].clone()
    }

    /// The ids of the users that are told.
    #[track_caller]
    pub fn users(&self) -> Vec<String> {
        serde_json::from_value(self.json()["update"]["userids"].clone()).unwrap_or_default()
    }
}

struct State {
    answers: watch::Sender<Answers>,
    requests: Mutex<Vec<Recorded>>,
    /// Requests without answer now and at most, by path.
    at_once: Mutex<BTreeMap<String, (usize, usize)>>,
    target: u16,
    client: Client<HttpConnector, Full<Bytes>>,
}

struct Answers {
    of_all: Answer,
    by_path: BTreeMap<String, Answer>,
}

impl Answers {
    fn of(&self, path: &str) -> Answer {
        self.by_path.get(path).copied().unwrap_or(self.of_all)
    }
}

pub struct Front {
    pub port: u16,
    state: Arc<State>,
    _connections: JoinSet<()>,
}

impl Front {
    pub async fn of(signaling: &SignalingServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers = Answers { of_all: Answer::Pass, by_path: BTreeMap::new() };
        let state = Arc::new(State {
            answers: watch::Sender::new(answers),
            requests: Mutex::default(),
            at_once: Mutex::default(),
            target: signaling.server.port,
            client: Client::builder(TokioExecutor::new()).build_http(),
        });
        let shared = Arc::clone(&state);
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _peer) = listener.accept().await.unwrap();
                let state = Arc::clone(&shared);
                let service = service_fn(move |request| serve(Arc::clone(&state), request));
                open.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { port, state, _connections: connections }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The answer to requests for all rooms without an answer of their own.
    pub fn set(&self, answer: Answer) {
        self.state.answers.send_modify(|answers| answers.of_all = answer);
    }

    /// The answer to requests for a room.
    pub fn set_for(&self, token: &str, answer: Option<Answer>) {
        self.state.answers.send_modify(|answers| {
            match answer {
                Some(answer) => answers.by_path.insert(path_of(token), answer),
                None => answers.by_path.remove(&path_of(token)),
            };
        });
    }

    pub fn all_requests(&self) -> Vec<Recorded> {
        self.state.requests.lock().clone()
    }

    /// The requests for a room, oldest first.
    pub fn requests(&self, token: &str) -> Vec<Recorded> {
        let path = path_of(token);
        self.all_requests().into_iter().filter(|request| request.path == path).collect()
    }

    /// Waits until a room had so many requests, and returns all of them.
    pub async fn receives(&self, token: &str, number: usize) -> Vec<Recorded> {
        eventually(&format!("{number} requests for {token}"), || async {
            Some(self.requests(token)).filter(|requests| requests.len() >= number)
        })
        .await
    }

    /// How many requests for a room had no answer at the same time, at most.
    pub fn most_at_once(&self, token: &str) -> usize {
        self.state.at_once.lock().get(&path_of(token)).map_or(0, |(_now, most)| *most)
    }
}

fn path_of(token: &str) -> String {
    format!("/api/v1/room/{token}")
}

/// Counts a request until it is answered or its client is gone.
struct Pending {
    state: Arc<State>,
    path: String,
}

impl Pending {
    fn new(state: &Arc<State>, path: &str) -> Self {
        let mut at_once = state.at_once.lock();
        let (now, most) = at_once.entry(path.to_owned()).or_default();
        *now += 1;
        *most = (*most).max(*now);
        drop(at_once);
        Self { state: Arc::clone(state), path: path.to_owned() }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.state.at_once.lock().get_mut(&self.path).unwrap().0 -= 1;
    }
}

async fn serve(state: Arc<State>, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let _pending = Pending::new(&state, &path);
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    state.requests.lock().push(Recorded {
        at: Instant::now(),
        path: path.clone(),
        headers: head.headers.clone(),
        body: body.to_vec(),
    });
    let mut answers = state.answers.subscribe();
    let settled = answers.wait_for(|answers| answers.of(&path) != Answer::Hold).await;
    let answer = settled.map_err(io::Error::other)?.of(&path);
    let cut = || io::Error::other("the connection is cut");
    match answer {
        Answer::Status(status) => return Ok(with_status(status)),
        Answer::Redirect(port) => {
            let target = format!("http://127.0.0.1:{port}{path}");
            let mut response = with_status(302);
            response.headers_mut().insert(header::LOCATION, target.parse().unwrap());
            return Ok(response);
        }
        Answer::Cut => return Err(cut()),
        Answer::Late(time) => sleep(time).await,
        Answer::Pass | Answer::CutAfter | Answer::Hold => {}
    }
    let mut onward = Request::new(Full::new(body));
    *onward.method_mut() = head.method;
    *onward.uri_mut() = format!("http://127.0.0.1:{}{path}", state.target).parse().unwrap();
    *onward.headers_mut() = head.headers;
    let Ok(response) = state.client.request(onward).await else { return Ok(with_status(502)) };
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    if answer == Answer::CutAfter {
        return Err(cut());
    }
    Ok(Response::from_parts(head, Full::new(body)))
}

fn with_status(status: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}
