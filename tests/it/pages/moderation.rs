//! What moderators see and do, beside a guest who waits.

use serde_json::json;

use super::{OPEN, WAITING, barriers::check, set_lobby};
use crate::support::{app::TestApp, database::Kind};

on_every_database!(crate::support::app::TestApp::new: a_moderator_sees_who_waits_and_opens_moves_and_closes,);

async fn a_moderator_sees_who_waits_and_opens_moves_and_closes(app: TestApp) {
    let owner = app.user("owner").await;
    let room = app.webinar(&owner, None).await;
    let moderator = app.page_of("owner", &room).await;
    moderator.shows("#headline", "Participants have to wait").await;
    moderator.shows("#waiting-title", "Nobody is waiting").await;
    let guest = app.guest_page("Carol", &room).await;
    guest.shows("#headline", WAITING).await;
    assert!(!guest.has("#moderation").await);
    moderator.shows("#waiting", "Carol").await;

    moderator.click("#open-now").await;
    guest.shows("#headline", OPEN).await;
    moderator.shows("#headline", OPEN).await;
    moderator.becomes("return document.activeElement.id === 'close-again'").await;
    moderator.click("#close-again").await;
    guest.shows("#headline", WAITING).await;
    moderator.shows("#timer-form button", "Set a timer").await;

    let tomorrow = "const field = document.getElementById('timer');
        const day = new Date(Date.now() + 86400e3 - new Date().getTimezoneOffset() * 60000);
        field.value = day.toISOString().slice(0, 11) + '10:00';";
    moderator.run(tomorrow).await;
    moderator.click("#timer-form button").await;
    guest.shows("#opens", "10:00").await;
    guest.shows("#countdown", "h").await;
    moderator.shows("#timer-form button", "Move the timer").await;
    moderator.shows("#moderation-done", "Done.").await;
    let timer = owner.get(&format!("/room/{room}")).await.expect(200).data();
    assert!(timer["lobbyTimer"].as_i64().unwrap() > app.database.now().await);

    moderator.run("document.getElementById('timer').value = '2020-01-01T00:00'").await;
    moderator.click("#timer-form button").await;
    moderator.shows("#moderation-error", "This time has passed").await;
    moderator.becomes("return document.getElementById('moderation-done').textContent === ''").await;
}

/// The API lets only users set the lobby.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_who_moderates_sees_who_waits() {
    let app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let room = app.webinar(&owner, None).await;
    let carol = app.guest_page("Carol", &room).await;
    carol.shows("#headline", WAITING).await;
    let list = format!("/room/{room}/participants");
    let all = owner.get(&list).await.expect(200).data();
    let guest = all.as_array().unwrap().iter().find(|each| each["actorType"] == "guests").unwrap();
    let promote = json!({ "attendeeId": guest["attendeeId"] });
    owner.post(&format!("/room/{room}/moderators"), promote).await.expect(200);
    carol.shows("#waiting-title", "Nobody is waiting").await;
    let dave = app.guest_page("Dave", &room).await;
    dave.shows("#headline", WAITING).await;
    carol.shows("#waiting", "Dave").await;
    assert!(!carol.has("#open-now").await && !carol.has("#timer").await);
    carol.shows("#guest-moderator", "Moderators with an account can open it").await;
    check(&carol, "guest-moderator").await;
    set_lobby(&owner, &room, 0, None).await;
    carol.shows("#headline", OPEN).await;
    assert!(!carol.has("#moderation").await);
    check(&carol, "guest-moderator-open").await;
}
