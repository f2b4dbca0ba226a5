//! Identities of events that were applied.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};

use crate::failpoints::{self, Point};
use crate::store::connection::{Connection, Transaction};
use crate::store::dialect::{Columns, Dialect, values};
use crate::store::error::Result;
use crate::store::rows::{time_from_millis, to_json};
use crate::store::statements::inbox as statements;

impl<D: Dialect> Connection<D> {
    /// When events of these identities were last applied.
    pub(crate) async fn applied_at(
        &mut self,
        identities: &BTreeSet<&str>,
    ) -> Result<HashMap<String, DateTime<Utc>>> {
        let row = |row: &D::Row| Ok((row.text("id")?, time_from_millis(row.int("applied_at")?)?));
        let applied =
            self.fetch_all(statements::APPLIED, values![&to_json(identities)], row).await?;
        Ok(applied.into_iter().collect())
    }
}

impl<D: Dialect> Transaction<D> {
    pub(crate) async fn record_applied(
        &mut self,
        identities: &BTreeSet<String>,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let identities = to_json(identities);
        let values = values![now.timestamp_millis(), &identities];
        self.execute(statements::RECORD, values).await?;
        failpoints::reach(Point::InsideInbox);
        Ok(())
    }
}
