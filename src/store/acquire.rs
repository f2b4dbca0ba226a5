//! Takes a connection of the pool, also while the server has fewer than the pool may open.
//!
//! Once sqlx's pool has begun to make a connection it does not look for others: if the server has none
//! left, it fails, or tries again until its deadline, while those that exist are returned and idle.
//! [`connection`](super::connection) bounds the wait.

use std::time::Duration;

use sqlx::Pool;
use sqlx::pool::PoolConnection;
use tokio::time::{sleep, timeout};

use super::dialect::Dialect;

/// After this time without a connection, one that another use returns is waited for as well. Longer than
/// the test of an idle connection.
const RETURNED_AFTER: Duration = Duration::from_millis(1200);

/// How often a use that waits for a returned connection looks for one.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Takes a connection of the pool as soon as it has one. May wait forever if the server has none left.
pub(super) async fn made_or_returned<D: Dialect>(
    pool: &Pool<D>,
) -> sqlx::Result<PoolConnection<D>> {
    let late = async {
        sleep(RETURNED_AFTER).await;
        returned(pool).await
    };
    tokio::select! {
        biased;
        made = pool.acquire() => match made {
            Err(sqlx::Error::Database(error)) if D::is_full(&*error) && pool.size() > 0 => {}
            made => return made,
        },
        connection = late => return Ok(connection),
    }
    Ok(returned(pool).await)
}

/// Waits for a connection that another use returns.
async fn returned<D: Dialect>(pool: &Pool<D>) -> PoolConnection<D> {
    loop {
        if pool.num_idle() > 0
            && let Ok(Ok(connection)) = timeout(RETURNED_AFTER, pool.acquire()).await
        {
            return connection;
        }
        sleep(LOOK_INTERVAL).await;
    }
}
