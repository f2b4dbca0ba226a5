//! Names of headers that RFC 9110 does not have: what clients of Talk send and read, and what
//! browsers and proxies add.

use axum::http::HeaderName;

/// Clients of Nextcloud send it with every request. A page of another site cannot: browsers ask for
/// permission first, which only the pages of [`Origins`](super::Origins) get.
pub(super) const OCS_API_REQUEST: HeaderName = HeaderName::from_static("ocs-apirequest");

pub(super) const PREFER: HeaderName = HeaderName::from_static("prefer");
pub(super) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// A client that connects to an event stream again says which event it has.
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Asks nginx not to hold a response back until it is complete.
pub(super) const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(super) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Identifies the server's configuration: clients reload the capabilities when it changes.
pub(super) const TALK_HASH: HeaderName = HeaderName::from_static("x-nextcloud-talk-hash");

/// A time before a list was read, for `modifiedSince` of the next request.
pub(super) const MODIFIED_BEFORE: HeaderName =
    HeaderName::from_static("x-nextcloud-talk-modified-before");

/// Id of the last message that every user of the room has read.
pub(super) const LAST_COMMON_READ: HeaderName = HeaderName::from_static("x-chat-last-common-read");

/// Id of the last message of a response, for the next request.
pub(super) const LAST_GIVEN: HeaderName = HeaderName::from_static("x-chat-last-given");
