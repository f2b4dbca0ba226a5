//! The runtime of the HTTP API: threads of its own, so that its clients delay no timer.

use std::io;

use rustix::process::nice;
use tokio::runtime::{Builder, Handle, Runtime};

use super::Role;

/// Threads for password hashes and for the resolution of names. Each keeps the memory of a hash.
const BLOCKING_THREADS: usize = 6;

/// How much lower the priority of these threads is in a process that also opens rooms.
const NICENESS: i32 = 10;

/// Dropping it aborts what still runs there, and waits for nothing.
pub(super) struct ApiRuntime(Option<Runtime>);

impl ApiRuntime {
    pub(super) fn start(role: Role) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.enable_all().thread_name("lobbyd-api").max_blocking_threads(BLOCKING_THREADS);
        if role.works() {
            // On Linux, the niceness is that of the calling thread. The threads that it starts, such
            // as those of SQLite's connections, inherit it.
            builder.on_thread_start(|| {
                if let Err(error) = nice(NICENESS) {
                    tracing::debug!(%error, "priority of a thread of the API not lowered");
                }
            });
        }
        builder.build().map(Some).map(Self)
    }

    pub(super) fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it is taken only when it is dropped").handle()
    }
}

impl Drop for ApiRuntime {
    fn drop(&mut self) {
        // A runtime that is dropped in another one would block a thread of that.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
