//! Rules of the chat.

use super::changes::Announcement;
use super::context::invalid;
use super::{Changes, CommandContext, Refusal, RoomChange};
use crate::domain::{MAX_MESSAGE_CHARS, Message, NewMessage, Permissions, Reason};

pub(super) fn send(context: &CommandContext<'_>, message: &NewMessage) -> Result<Changes, Refusal> {
    let me = context.admitted()?;
    if !me.effective_permissions().contains(Permissions::CHAT) {
        return Err(Refusal::Forbidden("this participant may not post in the chat"));
    }
    if message.body.trim().is_empty() {
        return Err(invalid("message", "the message must not be empty"));
    }
    if message.body.chars().count() > MAX_MESSAGE_CHARS {
        return Err(Refusal::TooLong);
    }
    if message.reply_to.is_some() && !context.parent.is_some_and(Message::is_comment) {
        return Err(invalid("reply-to", "the message to reply to is not in this conversation"));
    }
    let announcement = Announcement::about(Reason::MessageSent, me);
    let sent = Changes::of(context.room, RoomChange::None, announcement, context.now);
    Ok(sent.message(me.id, message.clone()))
}
