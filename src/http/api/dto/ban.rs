//! A ban.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::Ban;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Ban)]
pub(in crate::http::api) struct BanDto {
    /// Identifies the ban in requests.
    id: i64,
    /// Always `users`.
    moderator_actor_type: &'static str,
    moderator_actor_id: String,
    moderator_display_name: String,
    /// `users` or `guests`.
    banned_actor_type: &'static str,
    banned_actor_id: String,
    banned_display_name: String,
    /// Unix seconds.
    banned_time: i64,
    /// Only moderators see it.
    internal_note: String,
}

impl From<Ban> for BanDto {
    fn from(ban: Ban) -> Self {
        let (moderator, moderator_display_name) = ban.moderator;
        Self {
            id: ban.id,
            moderator_actor_type: moderator.kind.name(),
            moderator_actor_id: moderator.id,
            moderator_display_name,
            banned_actor_type: ban.actor.kind.name(),
            banned_actor_id: ban.actor.id,
            banned_display_name: ban.display_name,
            banned_time: ban.created_at,
            internal_note: ban.note,
        }
    }
}
