//! Points at which a test has the process abort, as a crash or a power failure would end it.
//!
//! With the feature `failpoints`, `LOBBYD_FAILPOINT=after-mark:3` aborts the process when it reaches
//! that point for the third time. Without the feature, which no release has, a point does nothing.
//! Tests in `tests/it` reach each of them on each database of lobbyd's own: `failpoints`, and the modules
//! of that name in `talk` and `signaling`. The modules call [`reach`] between two steps of which a crash
//! could leave only the first.

/// Between which steps a process can abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "failpoints", derive(serde::Deserialize), serde(rename_all = "kebab-case"))]
pub(crate) enum Point {
    /// Rooms are reset, and their events are not written yet.
    InsideReset,
    /// Events count as applied, and their announcements are not written yet.
    InsideInbox,
    BeforeCommit,
    AfterCommit,
    AfterCommitBeforeAck,
    /// A dead letter or a parked event is in both queues.
    AfterTransferBeforeAck,
    AfterClaim,
    AfterCommitBeforePublish,
    AfterPublishBeforeConfirm,
    AfterConfirmBeforeMark,
    AfterMark,
    /// A signaling server has accepted a room.
    AfterTellBeforeMark,
    /// Talk has opened a room.
    AfterTalkBeforeAnnounce,
    /// After each migration, and before the next one.
    MidMigration,
}

#[cfg(not(feature = "failpoints"))]
pub(crate) const fn reach(_point: Point) {}

#[cfg(feature = "failpoints")]
pub(crate) use self::armed::reach;

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde::Deserialize;
    use serde::de::value::{Error, StrDeserializer};

    use super::Point;

    struct Armed {
        point: Point,
        /// How often it is still reached, this time included.
        left: AtomicU32,
    }

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let text = std::env::var("LOBBYD_FAILPOINT").ok()?;
        Some(parse(&text).expect("LOBBYD_FAILPOINT is a point, or a point and a number"))
    });

    fn parse(text: &str) -> Option<Armed> {
        let (name, times) = text.split_once(':').unwrap_or((text, "1"));
        let point = Point::deserialize(StrDeserializer::<Error>::new(name)).ok()?;
        Some(Armed { point, left: AtomicU32::new(times.parse().ok()?) })
    }

    /// Aborts the process if this is the point and the time to do so.
    pub(crate) fn reach(point: Point) {
        if let Some(armed) = &*ARMED
            && armed.point == point
            && armed.left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            tracing::error!(?point, "failpoint reached");
            std::process::abort();
        }
    }
}
