//! Rules of the chat.

use super::changes::Announcement;
use super::context::invalid;
use super::{Changes, CommandContext, Refusal, RoomChange};
use crate::domain::{
    Attendee, Content, MAX_MESSAGE_CHARS, Message, NewMessage, Permissions, Reason,
};

pub(super) fn send(context: &CommandContext<'_>, message: &NewMessage) -> Result<Changes, Refusal> {
    let me = writer(context)?;
    if message.body.trim().is_empty() {
        return Err(invalid("message", "the message must not be empty"));
    }
    if message.body.chars().count() > MAX_MESSAGE_CHARS {
        return Err(Refusal::TooLong);
    }
    if message.reply_to.is_some() && !context.message.is_some_and(Message::is_comment) {
        return Err(invalid("reply-to", "the message to reply to is not in this conversation"));
    }
    let announcement = Announcement::about(Reason::MessageSent, me);
    let sent = Changes::of(context.room, RoomChange::None, announcement, context.now);
    Ok(sent.message(me.id, message.clone(), context.mentioned))
}

/// Moderators delete any comment, others their own. It remains as a deleted one.
pub(super) fn delete_message(context: &CommandContext<'_>) -> Result<Changes, Refusal> {
    let me = writer(context)?;
    let message = context.message.ok_or(Refusal::NoMessage)?;
    match &message.content {
        Content::Comment(_) => {}
        Content::Deleted { .. } | Content::System { .. } => return Err(Refusal::NotDeletable),
    }
    let moderates = me.participant_type.is_moderator() && context.room.is_configurable();
    if message.actor != me.actor && !moderates {
        return Err(Refusal::Forbidden("only moderators may delete messages of others"));
    }
    let announcement = Announcement::of(Reason::MessageDeleted);
    let deleted = Changes::of(context.room, RoomChange::None, announcement, context.now);
    Ok(deleted.delete_message(message.id))
}

fn writer<'a>(context: &CommandContext<'a>) -> Result<&'a Attendee, Refusal> {
    let me = context.admitted()?;
    context.writable()?;
    if !me.effective_permissions(context.room).contains(Permissions::CHAT) {
        return Err(Refusal::Forbidden("this participant may not post in the chat"));
    }
    Ok(me)
}
