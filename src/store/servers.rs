//! The servers of the database, and which of them is used.
//!
//! The URLs, and the addresses of their names, lead to servers of which one can write: the others are
//! standbys, frozen or gone. After a use that failed, all of them are asked at once, and the first one
//! that can write is used; the one in use comes first. With a single server this does nothing.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesOrdered;
use parking_lot::Mutex;
use sqlx::{Connection as _, Pool};
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

use super::dialect::{ConnectOptions, Dialect, Endpoint};

/// Longest bound of the attempt at one server.
const ATTEMPT: Duration = Duration::from_millis(1500);

/// Time between two searches.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);

type Server<D> = (Endpoint, ConnectOptions<D>);

pub(super) struct Servers<D: Dialect> {
    choice: Mutex<Choice<D>>,
    /// Whether the server in use may not be the one that can write.
    is_suspect: AtomicBool,
    are_several: AtomicBool,
    /// When the last search ended.
    searching: tokio::sync::Mutex<Option<Instant>>,
    /// Bound of the attempt at one server, and of a wait for a connection before another server is
    /// looked for.
    pub(super) attempt: Duration,
}

struct Choice<D: Dialect> {
    /// How to connect by each URL.
    urls: Vec<ConnectOptions<D>>,
    /// The server in use; `None` until one was chosen of several.
    current: Option<Endpoint>,
    /// How often the URLs or the server were replaced, and when last.
    changes: u64,
    changed_at: Option<Instant>,
}

impl<D: Dialect> Servers<D> {
    /// The servers of these URLs, for uses that may take up to `limit`. The first one is used until
    /// there was a choice.
    pub(super) fn new(urls: Vec<ConnectOptions<D>>, limit: Duration) -> Self {
        Self {
            choice: Mutex::new(Choice { urls, current: None, changes: 0, changed_at: None }),
            is_suspect: AtomicBool::new(true),
            are_several: AtomicBool::new(false),
            searching: tokio::sync::Mutex::default(),
            attempt: ATTEMPT.min(limit / 3),
        }
    }

    /// Uses the servers of these URLs from now on.
    pub(super) fn replace(&self, pool: &Pool<D>, urls: Vec<ConnectOptions<D>>) {
        let mut choice = self.choice.lock();
        if let Some(first) = urls.first() {
            pool.set_connect_options(first.clone());
        }
        (choice.urls, choice.current) = (urls, None);
        choice.record_change();
        self.suspect();
    }

    /// Whether a connection of this age may have been started before the server was changed;
    /// connecting takes up to `limit`.
    pub(super) fn outdate(&self, age: Duration, limit: Duration) -> bool {
        let changed_at = self.choice.lock().changed_at;
        changed_at.is_some_and(|changed_at| age + limit > changed_at.elapsed())
    }

    /// How often the server was changed.
    pub(super) fn changes(&self) -> u64 {
        self.choice.lock().changes
    }

    pub(super) fn are_several(&self) -> bool {
        self.are_several.load(Ordering::Relaxed)
    }

    /// Has the next use look for the server that can write.
    pub(super) fn suspect(&self) {
        self.is_suspect.store(true, Ordering::Relaxed);
    }

    /// Looks for the server that can write, if the last use failed, unless another use does so. May be
    /// dropped at any time.
    pub(super) async fn settle(&self, pool: &Pool<D>) {
        if !self.is_suspect.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(searched_at) = self.searching.try_lock() {
            self.search_after(searched_at, pool).await;
        }
    }

    /// Looks for the server that can write, because the one in use does not answer. Returns whether
    /// it was changed meanwhile. May be dropped at any time.
    pub(super) async fn replace_silent(&self, pool: &Pool<D>) -> bool {
        let before = self.changes();
        self.suspect();
        self.search_after(self.searching.lock().await, pool).await;
        self.changes() != before
    }

    async fn search_after(
        &self,
        mut searched_at: tokio::sync::MutexGuard<'_, Option<Instant>>,
        pool: &Pool<D>,
    ) {
        if searched_at.is_some_and(|at| at.elapsed() < SEARCH_INTERVAL) {
            return;
        }
        if self.search(pool).await {
            self.is_suspect.store(false, Ordering::Relaxed);
        }
        *searched_at = Some(Instant::now());
    }

    /// Returns whether the server in use can write, as far as there is a choice.
    async fn search(&self, pool: &Pool<D>) -> bool {
        let (urls, current, number) = {
            let choice = self.choice.lock();
            (choice.urls.clone(), choice.current.clone(), choice.changes)
        };
        let found = join_all(urls.into_iter().map(|options| self.servers_of(options))).await;
        let mut servers: Vec<Server<D>> = found.into_iter().flatten().collect();
        self.are_several.store(servers.len() > 1, Ordering::Relaxed);
        if servers.len() == 1
            && let Some(only) = servers.pop()
        {
            if current.is_some() {
                self.choose(pool, only, number);
            }
            return true;
        }
        servers.sort_by_key(|(endpoint, _options)| Some(endpoint) != current.as_ref());
        let mut answers: FuturesOrdered<_> = servers
            .into_iter()
            .map(|server| async {
                let writable = timeout(self.attempt, is_writable::<D>(&server.1)).await;
                matches!(writable, Ok(Ok(true))).then_some(server)
            })
            .collect();
        while let Some(answer) = answers.next().await {
            if let Some(server) = answer {
                self.choose(pool, server, number);
                return true;
            }
        }
        // Files have no endpoints.
        !self.are_several()
    }

    /// Uses this server, unless the URLs were replaced since there were so many changes.
    fn choose(&self, pool: &Pool<D>, (endpoint, options): Server<D>, number: u64) {
        let mut choice = self.choice.lock();
        if choice.changes != number || choice.current.as_ref() == Some(&endpoint) {
            return;
        }
        tracing::info!(server = %endpoint, "database server chosen");
        pool.set_connect_options(options);
        choice.current = Some(endpoint);
        // The first choice leaves nothing behind.
        if pool.size() > 0 {
            choice.record_change();
        }
    }

    /// The servers that a URL leads to now: the addresses of its name, and if none of them answers, the
    /// name itself, which a proxy may need.
    async fn servers_of(&self, options: ConnectOptions<D>) -> Vec<Server<D>> {
        let Some(endpoint) = D::endpoint(&options) else { return Vec::new() };
        let addresses = if endpoint.is_fixed { Vec::new() } else { self.look_up(&endpoint).await };
        let mut servers = Vec::new();
        if addresses.len() > 1 {
            for address in addresses {
                let host = address.to_string();
                let options = D::with_host(options.clone(), &host);
                servers.push((Endpoint { host, ..endpoint.clone() }, options));
            }
        }
        servers.push((endpoint, options));
        servers
    }

    /// The addresses of a name; none if it is not known.
    async fn look_up(&self, endpoint: &Endpoint) -> Vec<IpAddr> {
        let looking = lookup_host((endpoint.host.as_str(), endpoint.port));
        let Ok(Ok(found)) = timeout(self.attempt, looking).await else { return Vec::new() };
        let mut addresses = Vec::new();
        for address in found.map(|address| address.ip()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }
}

impl<D: Dialect> Choice<D> {
    fn record_change(&mut self) {
        self.changes += 1;
        self.changed_at = Some(Instant::now());
    }
}

async fn is_writable<D: Dialect>(options: &ConnectOptions<D>) -> sqlx::Result<bool> {
    let mut connection = D::Connection::connect_with(options).await?;
    let is_writable = D::is_writable(&mut connection).await;
    connection.close().await.ok();
    is_writable
}
