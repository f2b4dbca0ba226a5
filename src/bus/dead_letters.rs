//! The queue of events that could not be applied, as an administrator reads and empties it.
//!
//! Only the command line uses it. A dead letter that is taken stays in the queue for as long as it is
//! neither replayed nor deleted, and goes back to its place when the reader is closed or killed.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{DeliveryTag, Original, Result};

/// An event that could not be applied.
#[derive(Debug)]
pub struct DeadLetter {
    pub tag: DeliveryTag,
    /// The sender's message id, or else a digest of body and headers.
    pub id: String,
    /// Why it was not applied, if lobbyd or the broker says so.
    pub reason: Option<String>,
    /// Where it was published to.
    pub exchange: String,
    pub routing_key: String,
    pub content_type: Option<String>,
    /// When a worker first received it, or the broker moved it.
    pub since: Option<DateTime<Utc>>,
    pub body: Vec<u8>,
    /// Length of the body as it was published: of a large one, only the beginning is kept.
    pub body_length: usize,
    /// The headers as texts.
    pub headers: BTreeMap<String, String>,
    /// What came with the body.
    pub(super) original: Original,
}

impl DeadLetter {
    /// Whether only the beginning of the body was kept.
    pub fn is_cut(&self) -> bool {
        self.body_length > self.body.len()
    }
}

/// How many messages a queue holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueDepth {
    pub queue: String,
    /// `None` if there is no such queue.
    pub content: Option<QueueContent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueContent {
    /// Messages that no consumer has.
    pub messages: u32,
    pub consumers: u32,
}

/// Reads the queue of dead letters. After an error it cannot be used any further.
#[async_trait]
pub trait DeadLetters: Send {
    /// The number of dead letters that nobody has taken.
    async fn waiting(&mut self) -> Result<u32>;

    /// Takes the next one.
    async fn take(&mut self) -> Result<Option<DeadLetter>>;

    /// Stores an event in the queue of lobby changes again, and then removes it here. Interrupted at
    /// any point, it is in one of the queues at least.
    async fn replay(&mut self, letter: &DeadLetter) -> Result<()>;

    /// Removes a dead letter that was taken.
    async fn delete(&mut self, letter: &DeadLetter) -> Result<()>;

    /// Puts back what was taken and is not removed.
    async fn close(self: Box<Self>) -> Result<()>;
}
