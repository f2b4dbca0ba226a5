//! The servers of the database, and which of them is used.
//!
//! The URLs, and the addresses of their names, lead to servers of which one can write: the others are
//! standbys, frozen or gone. After a use that failed, the first server that can write is looked for,
//! each for a limited time, beginning with the one in use. With a single server this does nothing.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use sqlx::{Connection as _, Pool};
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

use super::dialect::{ConnectOptions, Dialect, Endpoint};

/// Bound of the attempt at one server, and of a wait for a connection before another server is
/// looked for.
pub(super) const SERVER_TIMEOUT: Duration = Duration::from_millis(1500);

/// Time between two searches.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Servers<D: Dialect> {
    /// How to connect by each URL.
    urls: RwLock<Vec<ConnectOptions<D>>>,
    /// The server in use; `None` until there was a choice.
    current: Mutex<Option<Endpoint>>,
    /// When connections made before became outdated.
    renewed: Mutex<Option<Instant>>,
    /// Whether the server in use may not be the one that can write.
    is_suspect: AtomicBool,
    are_several: AtomicBool,
    /// When the last search ended.
    searching: tokio::sync::Mutex<Option<Instant>>,
}

impl<D: Dialect> Servers<D> {
    /// The servers of these URLs. The first one is used until there was a choice.
    pub(super) fn new(urls: Vec<ConnectOptions<D>>) -> Self {
        Self {
            urls: RwLock::new(urls),
            current: Mutex::default(),
            renewed: Mutex::default(),
            is_suspect: AtomicBool::new(true),
            are_several: AtomicBool::new(false),
            searching: tokio::sync::Mutex::default(),
        }
    }

    /// Uses the servers of these URLs from now on.
    pub(super) fn replace(&self, pool: &Pool<D>, urls: Vec<ConnectOptions<D>>) {
        if let Some(first) = urls.first() {
            pool.set_connect_options(first.clone());
        }
        *self.urls.write() = urls;
        *self.current.lock() = None;
        self.renew();
        self.suspect();
    }

    /// Whether a connection of this age may have been started before the server was changed;
    /// connecting takes up to `limit`.
    pub(super) fn outdate(&self, age: Duration, limit: Duration) -> bool {
        let renewed = *self.renewed.lock();
        renewed.is_some_and(|renewed| age + limit > renewed.elapsed())
    }

    pub(super) fn are_several(&self) -> bool {
        self.are_several.load(Ordering::Relaxed)
    }

    /// Has the next use look for the server that can write.
    pub(super) fn suspect(&self) {
        self.is_suspect.store(true, Ordering::Relaxed);
    }

    /// Looks for the server that can write, if the last use failed. May be dropped at any time.
    pub(super) async fn settle(&self, pool: &Pool<D>) {
        if !self.is_suspect.load(Ordering::Relaxed) {
            return;
        }
        let mut searched_at = self.searching.lock().await;
        let is_early = searched_at.is_some_and(|at| at.elapsed() < SEARCH_INTERVAL);
        if is_early || !self.is_suspect.load(Ordering::Relaxed) {
            return;
        }
        if self.search(pool).await {
            self.is_suspect.store(false, Ordering::Relaxed);
        }
        *searched_at = Some(Instant::now());
    }

    /// Returns whether the server in use can write, as far as there is a choice.
    async fn search(&self, pool: &Pool<D>) -> bool {
        let mut servers = self.servers().await;
        self.are_several.store(servers.len() > 1, Ordering::Relaxed);
        if servers.len() < 2 {
            return true;
        }
        let current = self.current.lock().clone();
        servers.sort_by_key(|(endpoint, _options)| Some(endpoint) != current.as_ref());
        for (endpoint, options) in servers {
            if !matches!(timeout(SERVER_TIMEOUT, is_writable::<D>(&options)).await, Ok(Ok(true))) {
                continue;
            }
            if current.as_ref() != Some(&endpoint) {
                tracing::info!(server = %endpoint, "database server chosen");
                pool.set_connect_options(options);
                *self.current.lock() = Some(endpoint);
                self.renew();
            }
            return true;
        }
        false
    }

    /// The servers that the URLs lead to now.
    async fn servers(&self) -> Vec<(Endpoint, ConnectOptions<D>)> {
        let urls = self.urls.read().clone();
        let mut servers = Vec::new();
        for options in urls {
            let Some(endpoint) = D::endpoint(&options) else { continue };
            let addresses =
                if endpoint.is_verified { Vec::new() } else { look_up(&endpoint).await };
            if addresses.len() < 2 {
                servers.push((endpoint, options));
                continue;
            }
            for address in addresses {
                let host = address.to_string();
                let options = D::with_host(options.clone(), &host);
                servers.push((Endpoint { host, ..endpoint.clone() }, options));
            }
        }
        servers
    }

    fn renew(&self) {
        *self.renewed.lock() = Some(Instant::now());
    }
}

/// The addresses of a name; none if it is not known.
async fn look_up(endpoint: &Endpoint) -> Vec<IpAddr> {
    let found = timeout(SERVER_TIMEOUT, lookup_host((endpoint.host.as_str(), endpoint.port))).await;
    let Ok(Ok(found)) = found else { return Vec::new() };
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    addresses.dedup();
    addresses
}

async fn is_writable<D: Dialect>(options: &ConnectOptions<D>) -> sqlx::Result<bool> {
    let mut connection = D::Connection::connect_with(options).await?;
    let is_writable = D::is_writable(&mut connection).await;
    connection.close().await.ok();
    is_writable
}
