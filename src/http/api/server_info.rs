//! The server itself: its capabilities, and the user who is logged in.
//!
//! Client libraries ask for both before anything else. They exist in both versions of OCS, so
//! [`routes()`] is nested twice.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::auth::{AuthenticatedUser, Requester};
use super::header_names::TALK_HASH;
use super::ocs::{Ocs, OcsResponse, OcsResult};
use super::{Api, Routes, digest};
use crate::domain::commands::MAX_DESCRIPTION_CHARS;
use crate::domain::{Actor, MAX_MESSAGE_CHARS};
use crate::rooms::Sip;

/// Talk's names of the features that lobbyd has.
const FEATURES: [&str; 27] = [
    "audio",
    "video",
    "chat-v2",
    "conversation-v4",
    "conversation-call-flags",
    "chat-permission",
    "empty-group-room",
    "guest-display-names",
    "in-call-flags",
    "last-room-activity",
    "multi-room-users",
    "no-ping",
    "publishing-permissions",
    "room-description",
    "sip-support",
    "sip-support-nopin",
    "start-call-flag",
    "system-messages",
    "webinary-lobby",
    "chat-reference-id",
    "chat-replies",
    "delete-messages",
    "ban-v1",
    "read-only-rooms",
    "chat-read-status",
    "mention-flag",
    "direct-mention-flag",
];

/// The version of Nextcloud whose API this follows, for clients that ask.
const NEXTCLOUD: (u32, u32, u32) = (31, 0, 0);

pub(super) fn routes() -> Routes {
    vec![routes!(capabilities), routes!(user)]
}

#[derive(Serialize, ToSchema)]
pub(super) struct Server {
    version: ServerVersion,
    capabilities: Capabilities,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ServerVersion {
    major: u32,
    minor: u32,
    micro: u32,
    string: String,
    edition: &'static str,
    extended_support: bool,
}

#[derive(Serialize, ToSchema)]
struct Capabilities {
    /// Talk's internal name.
    spreed: Spreed,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct Spreed {
    features: Vec<&'static str>,
    /// Features that exist only for rooms of this server: none.
    features_local: Vec<&'static str>,
    config: Settings,
    /// Settings that apply only to rooms of this server: none.
    config_local: BTreeMap<&'static str, Vec<&'static str>>,
    version: &'static str,
}

#[derive(Serialize, ToSchema)]
struct Settings {
    call: CallSettings,
    chat: ChatSettings,
    conversations: ConversationSettings,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct CallSettings {
    enabled: bool,
    sip_enabled: bool,
    /// Dial-in instructions for users; may be empty.
    sip_dialin_info: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct ChatSettings {
    max_length: usize,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct ConversationSettings {
    can_create: bool,
    description_length: usize,
}

impl Server {
    fn of(sip: &Sip, can_create: bool) -> Self {
        let (major, minor, micro) = NEXTCLOUD;
        let string = format!("{major}.{minor}.{micro}");
        Self {
            version: ServerVersion {
                major,
                minor,
                micro,
                string,
                edition: "",
                extended_support: false,
            },
            capabilities: Capabilities {
                spreed: Spreed {
                    features: FEATURES.to_vec(),
                    features_local: Vec::new(),
                    config: Settings {
                        call: CallSettings {
                            enabled: true,
                            sip_enabled: sip.configured,
                            sip_dialin_info: sip.dialin_info.clone(),
                        },
                        chat: ChatSettings { max_length: MAX_MESSAGE_CHARS },
                        conversations: ConversationSettings {
                            can_create,
                            description_length: MAX_DESCRIPTION_CHARS,
                        },
                    },
                    config_local: BTreeMap::new(),
                    version: env!("CARGO_PKG_VERSION"),
                },
            },
        }
    }
}

/// Changes when the capabilities change.
pub(super) fn talk_hash(sip: &Sip) -> String {
    let server = serde_json::to_vec(&Server::of(sip, true)).unwrap_or_default();
    digest([&server])
}

/// Get the server's capabilities
#[utoipa::path(
    get, path = "/capabilities", tag = "server", operation_id = "getCapabilities",
    security(("basic" = []), ("guest" = []), ()),
    responses((status = 200, description = "The capabilities", body = inline(Ocs<Server>)))
)]
pub(super) async fn capabilities(State(api): State<Api>, requester: Requester) -> OcsResult {
    let is_user = requester.actor().is_some_and(Actor::is_user);
    Ok(OcsResponse::ok(Server::of(api.service.sip(), is_user))
        .header(TALK_HASH, api.talk_hash.clone()))
}

#[derive(Serialize, ToSchema)]
pub(super) struct Account {
    /// With which the user logs in.
    id: String,
    displayname: String,
    /// Equal to `displayname`: Nextcloud uses both names.
    #[serde(rename = "display-name")]
    display_name: String,
    enabled: bool,
}

/// Get the current user
#[utoipa::path(
    get, path = "/user", tag = "server", operation_id = "getUser", security(("basic" = [])),
    responses((status = 200, description = "The user", body = inline(Ocs<Account>)))
)]
pub(super) async fn user(AuthenticatedUser(caller): AuthenticatedUser) -> OcsResult {
    Ok(OcsResponse::ok(Account {
        id: caller.actor.id,
        displayname: caller.display_name.clone(),
        display_name: caller.display_name,
        enabled: true,
    }))
}
