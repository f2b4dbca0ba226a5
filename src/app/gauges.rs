//! The gauges that are looked up when the metrics are scraped.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::Handle;

use super::api_runtime::ApiRuntime;
use crate::metrics::{Collect, TASKS};
use crate::store::Database;
use crate::tasks::BacklogGauges;

/// The backlog in the database, and the tasks of both runtimes.
pub(super) struct Gauges {
    backlog: BacklogGauges,
    runtimes: [(&'static str, Handle); 2],
}

impl Gauges {
    /// Called on the main runtime.
    pub(super) fn new(api_database: Arc<dyn Database>, api_runtime: &ApiRuntime) -> Self {
        Self {
            backlog: BacklogGauges::new(api_database),
            runtimes: [("main", Handle::current()), ("api", api_runtime.handle().clone())],
        }
    }
}

#[async_trait]
impl Collect for Gauges {
    async fn collect(&self) {
        for (name, runtime) in &self.runtimes {
            let tasks = u32::try_from(runtime.metrics().num_alive_tasks()).unwrap_or(u32::MAX);
            metrics::gauge!(TASKS, "runtime" => *name).set(tasks);
        }
        self.backlog.collect().await;
    }
}
