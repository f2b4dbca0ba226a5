"""Drives a server with nc_py_api, a client library of Nextcloud that knows nothing of lobbyd.

A moderator creates conversations, writes, and closes one until a timer; another user waits in the
lobby, enters, and leaves. Ends with "ok", or with the assertion that did not hold.

Environment: URL, MODERATOR, MODERATOR_PASSWORD, VISITOR, VISITOR_PASSWORD. Neither of the two may
have a conversation yet.
"""

import os
import time
import warnings

from nc_py_api import Nextcloud, NextcloudException
from nc_py_api.talk import (
    Conversation,
    ConversationType,
    ParticipantType,
    SipEnabledStatus,
    WebinarLobbyStates,
)

ROOMS = "/ocs/v2.php/apps/spreed/api/v4/room"
PASSWORD = "Open, Sesame! 1001"
CLOSED_SECONDS = 3
# Only decides how soon a failure is reported, so it leaves room for a busy machine.
PATIENCE_SECONDS = 180


def log_in(role):
    # The library prefers its asynchronous classes, which send the same requests.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=__name__)
    return Nextcloud(
        nextcloud_url=os.environ["URL"],
        nc_auth_user=os.environ[role],
        nc_auth_pass=os.environ[f"{role}_PASSWORD"],
    )


def read_all(thing):
    """Reads every property of the library's class: each reads fields of the response."""
    for kind in type(thing).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, property):
                try:
                    getattr(thing, name)
                except (KeyError, TypeError, ValueError) as error:
                    raise AssertionError(f"{thing._raw_data}: no {name}: {error!r}") from error
    return thing


def refused_with(status, call, *arguments, **named):
    try:
        answer = call(*arguments, **named)
    except NextcloudException as error:
        assert error.status_code == status, f"{error}, expected {status}"
    else:
        raise AssertionError(f"{call.__name__}{arguments} was not refused: {answer!r}")


def outlast_overlap():
    """Lists of modified rooms overlap by five seconds. Waits until they have passed."""
    time.sleep(6.1)


def the_one(messages, message_id):
    found = [message for message in messages if message.message_id == message_id]
    assert len(found) == 1, f"message {message_id} is {len(found)} times in {messages}"
    return read_all(found[0])


def server(nextcloud, name):
    missing = nextcloud.check_capabilities(
        ["spreed.features.webinary-lobby", "spreed.features.sip-support"]
    )
    assert nextcloud.talk.available, f"Talk is not among the capabilities {nextcloud.capabilities}"
    assert missing == [], f"missing capabilities: {missing}"
    assert nextcloud.user == name, f"logged in as {nextcloud.user!r}"
    assert isinstance(nextcloud.srv_version["major"], int), nextcloud.srv_version


def conversations(talk):
    group = read_all(talk.create_conversation(ConversationType.GROUP, room_name="Preparation"))
    assert group.conversation_type == ConversationType.GROUP, group._raw_data
    public = read_all(talk.create_conversation(ConversationType.PUBLIC, room_name="Webinar"))
    assert public.conversation_type == ConversationType.PUBLIC, public._raw_data
    for conversation, name in ((group, "Preparation"), (public, "Webinar")):
        raw = conversation._raw_data
        assert (conversation.name, conversation.display_name) == (name, name), raw
        assert conversation.participant_type == ParticipantType.OWNER, raw
        assert conversation.lobby_state == WebinarLobbyStates.NO_LOBBY, raw
        assert conversation.lobby_timer == 0, raw
        assert conversation.sip_enabled == SipEnabledStatus.DISABLED, raw
        assert not conversation.has_password, raw
    assert group.token != public.token, group.token

    outlast_overlap()
    both = {group.token, public.token}
    listed = {read_all(conversation).token for conversation in talk.get_user_conversations()}
    assert both <= listed, f"{both} are not in the list {listed}"
    assert talk.modified_since > 0, talk.modified_since
    assert talk.config_sha, "no hash of the configuration"
    unchanged = talk.get_user_conversations(modified_since=True)
    assert unchanged == [], f"nothing was changed, but {unchanged} are listed"

    talk.rename_conversation(group, "Rehearsal")
    changed = [changed.token for changed in talk.get_user_conversations(modified_since=True)]
    assert changed == [group.token], f"{group.token} was renamed, but {changed} are listed"
    talk.set_conversation_description(group, "Who says what, & when?")
    group = read_all(talk.get_conversation_by_token(group.token))
    assert group.name == "Rehearsal", group._raw_data
    assert group.description == "Who says what, & when?", group._raw_data

    talk.set_conversation_public(public, False)
    public = talk.get_conversation_by_token(public)
    assert public.conversation_type == ConversationType.GROUP, public._raw_data
    talk.set_conversation_public(public, True)
    talk.set_conversation_password(public, PASSWORD)
    public = talk.get_conversation_by_token(public)
    assert public.conversation_type == ConversationType.PUBLIC, public._raw_data
    assert public.has_password, public._raw_data

    participants = [read_all(participant) for participant in talk.list_participants(group)]
    assert len(participants) == 1, participants
    assert participants[0].participant_type == ParticipantType.OWNER, participants[0]._raw_data
    assert participants[0].actor_id == os.environ["MODERATOR"], participants[0]._raw_data
    return group, public


def chat(talk, group):
    question = read_all(talk.send_message("Is the sound all right? <&ü>", group))
    answer = read_all(talk.send_message("It is.", group, reply_to_message=question))
    assert question.token == group.token, question._raw_data
    history = talk.receive_messages(group)
    for sent in (question, answer):
        found = the_one(history, sent.message_id)
        raw = found._raw_data
        assert found.message == sent.message, raw
        assert (found.actor_type, found.actor_id) == ("users", os.environ["MODERATOR"]), raw
        assert (found.message_type, found.system_message) == ("comment", ""), raw
        assert found.reference_id == sent.reference_id != "", raw
    parent = the_one(history, answer.message_id).parent
    assert parent["id"] == question.message_id, f"the reply belongs to {parent}"
    ids = [message.message_id for message in history]
    assert ids == sorted(ids, reverse=True), f"the history is not from new to old: {ids}"
    newest = talk.receive_messages(group, limit=1)
    assert [message.message_id for message in newest] == [answer.message_id], newest
    forward = [message.message_id for message in talk.receive_messages(group, look_in_future=True)]
    assert forward == sorted(ids), f"from the beginning: {forward}, history: {ids}"
    last = talk.get_conversation_by_token(group).last_message
    assert last.message_id == answer.message_id, last._raw_data


def webinar(moderator, visitor, public):
    path = f"{ROOMS}/{public.token}"

    def close_until(timer):
        lobby = {"state": int(WebinarLobbyStates.NON_MODERATORS), "timer": timer}
        return Conversation(moderator._session.ocs("PUT", f"{path}/webinar/lobby", json=lobby))

    # An hour for what happens in the closed room, however busy the machine is.
    timer = int(time.time()) + 3600
    closed = close_until(timer)
    for seen in (closed, moderator.talk.get_conversation_by_token(public)):
        assert seen.lobby_state == WebinarLobbyStates.NON_MODERATORS, seen._raw_data
        assert seen.lobby_timer == timer, seen._raw_data

    # The library has no call for joining.
    join = {"password": PASSWORD}
    read_all(Conversation(visitor._session.ocs("POST", f"{path}/participants/active", json=join)))
    waiting = read_all(visitor.talk.get_conversation_by_token(public))
    assert waiting.lobby_state == WebinarLobbyStates.NON_MODERATORS, waiting._raw_data
    refused_with(412, visitor.talk.send_message, "Hello?", public)

    timer = int(time.time()) + CLOSED_SECONDS
    close_until(timer)
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        seen = visitor.talk.get_conversation_by_token(public)
        if seen.lobby_state == WebinarLobbyStates.NO_LOBBY:
            break
        assert time.monotonic() < give_up, f"the lobby was not opened: {seen._raw_data}"
        time.sleep(0.1)
    assert time.time() >= timer, f"opened before {timer}"
    assert seen.lobby_timer == 0, seen._raw_data
    opened = moderator.talk.get_conversation_by_token(public)
    assert opened.lobby_state == WebinarLobbyStates.NO_LOBBY, opened._raw_data

    greeting = visitor.talk.send_message("Here I am.", public)
    history = moderator.talk.receive_messages(public)
    assert the_one(history, greeting.message_id).actor_id == os.environ["VISITOR"], history
    kind = "lobby_timer_reached"
    reached = [read_all(message) for message in history if message.system_message == kind]
    assert len(reached) == 1, f"{kind} is {len(reached)} times in {history}"
    assert reached[0].message_type == "system", reached[0]._raw_data
    assert reached[0].timestamp >= timer, reached[0]._raw_data


def leaving(moderator, visitor, group, public):
    refused_with(404, visitor.talk.get_conversation_by_token, group)
    refused_with(404, visitor.talk.receive_messages, group)
    listed = [conversation.token for conversation in visitor.talk.get_user_conversations()]
    assert listed == [public.token], f"the second user lists {listed}"

    visitor.talk.leave_conversation(public)
    listed = visitor.talk.get_user_conversations()
    assert listed == [], f"after leaving there are {listed}"
    # With its only user, the conversation ends.
    moderator.talk.leave_conversation(public)
    moderator.talk.delete_conversation(group)
    for conversation in (group, public):
        refused_with(404, moderator.talk.get_conversation_by_token, conversation)
    listed = moderator.talk.get_user_conversations()
    assert listed == [], f"after deleting there are {listed}"


def main():
    moderator, visitor = log_in("MODERATOR"), log_in("VISITOR")
    server(moderator, os.environ["MODERATOR"])
    server(visitor, os.environ["VISITOR"])
    group, public = conversations(moderator.talk)
    chat(moderator.talk, group)
    webinar(moderator, visitor, public)
    leaving(moderator, visitor, group, public)
    print("ok")


if __name__ == "__main__":
    main()
