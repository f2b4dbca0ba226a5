//! Queries of the chat: messages, and the wait for new ones.
//!
//! They are read from the database, where the lobby must be enforced.

use tokio::time::Instant;

use super::long_poll::poll_until;
use super::{Result, RoomService};
use crate::cache::{Fingerprint, View};
use crate::domain::commands::{Resource, can_read};
use crate::domain::{Caller, ChatPage, MessageQuery, RoomToken};

impl RoomService {
    /// Refuses a caller who may not read the chat.
    pub async fn check_reader(&self, token: &RoomToken, caller: &Caller) -> Result<()> {
        let view = self.view(token, Some(caller)).await?;
        can_read(&view.overview().room, view.attendee().cloned(), Resource::Chat)?;
        Ok(())
    }

    /// Messages of the chat. If newer ones are asked for and there are none, waits for them until
    /// `deadline`.
    pub async fn messages(
        &self,
        token: &RoomToken,
        caller: &Caller,
        query: MessageQuery,
        deadline: Instant,
    ) -> Result<ChatPage> {
        let actor = &caller.actor;
        let mut known = self.view(token, Some(caller)).await?.fingerprint();
        loop {
            let page = self.database.messages(token, actor, query, self.now()).await?;
            if !page.messages.is_empty() && query.mark_read {
                self.cache.invalidate_attendee(token, actor);
            }
            if !page.messages.is_empty() || !query.newer {
                return Ok(page);
            }
            // A new message changes the view, and so does a lobby that closes the chat.
            let is_news = |state: &[Fingerprint; 2]| *state != known;
            let begin = || self.long_polls.begin(caller.into());
            let read = || self.look_up(token, Some(caller));
            let (deadline, state) = (Some(deadline), View::fingerprint);
            let poll = poll_until(deadline, &self.stop, begin, read, state, is_news);
            let (_view, state) = poll.await?;
            if state == known {
                return Ok(page);
            }
            known = state;
        }
    }
}
