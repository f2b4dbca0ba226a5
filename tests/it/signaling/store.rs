//! What the store promises about what signaling servers have yet to be told, on each database.

use chrono::{DateTime, Utc};
use lobbyd::domain::{CallFlags, RoomType, SignalingUpdate, commands::Command};

use crate::support::fixtures::{
    StoreFixture, at, caller, change, close_until, closed_until, join, send, token,
};

on_every_database! { crate::support::fixtures::StoreFixture::new:
    without_servers_nothing_is_recorded,
    changes_are_passed_on_once_for_each_server_and_room,
    a_claim_is_exclusive_until_it_expires,
    a_claim_can_be_extended_while_it_holds,
    a_room_that_changes_while_it_is_told_is_told_again,
    a_server_that_was_told_after_the_claim_was_lost_is_told_again,
    a_room_is_told_again_after_a_request_that_failed,
    a_refused_room_is_claimed_apart_from_new_ones,
    only_changes_that_servers_tell_are_recorded,
    what_could_not_be_told_is_given_up,
    a_server_that_is_no_longer_configured_is_forgotten,
    changes_are_passed_on_in_parts,
}

const ONE: &str = "http://one.example";
const TWO: &str = "https://two.example/signaling";

impl StoreFixture {
    async fn pass_on(&self) -> usize {
        let mut changes = 0;
        loop {
            match self.store.pass_on_changes("", 16, at(0)).await.unwrap() {
                0 => return changes,
                number => changes += number,
            }
        }
    }

    /// Claims rooms without a failure, for ten seconds.
    async fn claim_for(&self, server: &str, seconds: i64) -> Vec<SignalingUpdate> {
        self.claim_kind(server, false, seconds).await
    }

    async fn claim_kind(&self, server: &str, failed: bool, seconds: i64) -> Vec<SignalingUpdate> {
        let (now, until) = (at(seconds), at(seconds + 10));
        self.store.claim_signaling(server, failed, now, until, 10).await.unwrap()
    }

    /// Has a server with one room that has changed, and claims it at `at(0)`.
    async fn claimed(&self) -> SignalingUpdate {
        self.store.see_signaling_servers(&[ONE], at(0)).await.unwrap();
        self.database.insert_room("a").await;
        self.apply(&change("a", closed_until(None), 1)).await;
        assert_eq!(self.pass_on().await, 1);
        self.claim_for(ONE, 0).await.pop().unwrap()
    }

    async fn told(&self, update: &SignalingUpdate, until: DateTime<Utc>, seconds: i64) {
        self.store.signaling_told(ONE, update, until, at(seconds)).await.unwrap();
    }
}

fn rooms(updates: &[SignalingUpdate]) -> Vec<(&str, i64)> {
    updates.iter().map(|update| (update.token.as_str(), update.changes)).collect()
}

async fn without_servers_nothing_is_recorded(fixture: StoreFixture) {
    fixture.database.insert_room("a").await;
    fixture.apply(&change("a", closed_until(None), 1)).await;
    fixture.store.see_signaling_servers(&[ONE], at(0)).await.unwrap();
    assert_eq!(fixture.pass_on().await, 0);
}

async fn changes_are_passed_on_once_for_each_server_and_room(fixture: StoreFixture) {
    for _ in 0..2 {
        fixture.store.see_signaling_servers(&[ONE, TWO], at(0)).await.unwrap();
    }
    for room in ["a", "b"] {
        fixture.database.insert_room(room).await;
        fixture.apply(&change(room, closed_until(Some(at(5))), 1)).await;
    }
    assert_eq!(fixture.pass_on().await, 2);
    assert_eq!(fixture.fire(at(6)).await.len(), 2);
    assert_eq!(fixture.pass_on().await, 1, "both rooms in one change");
    for server in [ONE, TWO] {
        let claimed = fixture.claim_for(server, 7).await;
        assert_eq!(rooms(&claimed), [("a", 2), ("b", 2)]);
        assert!(claimed.iter().all(|update| update.since == at(0)), "{claimed:?}");
        let backlog = fixture.store.signaling_backlog(server, 2).await.unwrap();
        assert_eq!((backlog.pending, backlog.refused, backlog.oldest), (2, 0, Some(at(0))));
        assert!(!backlog.has_failed);
    }
}

async fn a_claim_is_exclusive_until_it_expires(fixture: StoreFixture) {
    let first = fixture.claimed().await;
    assert_eq!(fixture.claim_for(ONE, 9).await, []);
    assert_eq!(fixture.claim_for(ONE, 10).await, std::slice::from_ref(&first));
    fixture.told(&first, at(20), 11).await;
    assert_eq!(fixture.claim_for(ONE, 1000).await, []);
}

async fn a_claim_can_be_extended_while_it_holds(fixture: StoreFixture) {
    let first = fixture.claimed().await;
    let extend = async |from, until| {
        fixture.store.extend_signaling(ONE, &first.token, at(from), at(until)).await.unwrap()
    };
    assert!(extend(10, 20).await);
    assert_eq!(fixture.claim_for(ONE, 19).await, []);
    assert!(!extend(10, 40).await, "it has another end");
    assert_eq!(fixture.claim_for(ONE, 20).await.len(), 1);
    assert!(!extend(20, 40).await, "somebody else has claimed the room");
    fixture.told(&first, at(30), 21).await;
    assert!(!extend(30, 40).await, "nothing is left to be told");
}

async fn a_room_that_changes_while_it_is_told_is_told_again(fixture: StoreFixture) {
    let first = fixture.claimed().await;
    fixture.apply(&change("a", closed_until(Some(at(50))), 2)).await;
    assert_eq!(fixture.pass_on().await, 1);
    assert_eq!(fixture.claim_for(ONE, 1).await, [], "one request at a time");
    fixture.told(&first, at(10), 2).await;
    let again = fixture.claim_for(ONE, 2).await;
    assert_eq!((rooms(&again), again[0].since), (vec![("a", 2)], at(0)), "when it was passed on");
}

async fn a_server_that_was_told_after_the_claim_was_lost_is_told_again(fixture: StoreFixture) {
    let first = fixture.claimed().await;
    let second = fixture.claim_for(ONE, 10).await.pop().unwrap();
    fixture.told(&second, at(20), 11).await;
    // The first one may have told an older state after that.
    fixture.told(&first, at(10), 12).await;
    let third = fixture.claim_for(ONE, 12).await;
    assert_eq!(rooms(&third), [("a", 1)]);
    // Also if the second one is still under way.
    fixture.told(&first, at(10), 13).await;
    fixture.told(&third[0], at(22), 14).await;
    assert_eq!(rooms(&fixture.claim_for(ONE, 14).await), [("a", 2)]);
}

async fn a_room_is_told_again_after_a_request_that_failed(fixture: StoreFixture) {
    let retried = SignalingUpdate { failures: 1, ..fixture.claimed().await };
    fixture.told(&retried, at(10), 3).await;
    assert_eq!(fixture.claim_for(ONE, 7).await, []);
    let again = fixture.claim_for(ONE, 8).await;
    assert_eq!((rooms(&again), again[0].failures), (vec![("a", 1)], 0));
    fixture.told(&again[0], at(18), 9).await;
    assert_eq!(fixture.claim_for(ONE, 60).await, []);
}

async fn a_refused_room_is_claimed_apart_from_new_ones(fixture: StoreFixture) {
    let refused = SignalingUpdate { failures: 2, ..fixture.claimed().await };
    fixture.store.release_signaling(ONE, &refused, at(10), at(30)).await.unwrap();
    let claim = async |failed, seconds| fixture.claim_kind(ONE, failed, seconds).await.len();
    assert_eq!((claim(true, 29).await, claim(false, 30).await), (0, 0));
    let backlog = fixture.store.signaling_backlog(ONE, 2).await.unwrap();
    assert_eq!((backlog.pending, backlog.refused, backlog.oldest), (1, 1, None));
    assert_eq!(claim(true, 30).await, 1);
    let backlog = fixture.store.signaling_backlog(ONE, 2).await.unwrap();
    assert!(backlog.has_failed, "claimed");
    // Its claim was lost, and the request may arrive yet.
    fixture.store.release_signaling(ONE, &refused, at(10), at(50)).await.unwrap();
    let retried = SignalingUpdate { failures: 0, ..refused.clone() };
    fixture.told(&retried, at(40), 31).await;
    assert_eq!(rooms(&fixture.claim_for(ONE, 31).await), [("a", 2)]);
}

async fn only_changes_that_servers_tell_are_recorded(fixture: StoreFixture) {
    fixture.store.see_signaling_servers(&[ONE], at(0)).await.unwrap();
    fixture.create_room("a").await;
    assert_eq!(fixture.pass_on().await, 1);
    fixture.change("a", "alice", send("hello", None)).await;
    assert_eq!(fixture.pass_on().await, 0);
    fixture.change("a", "alice", close_until(50)).await;
    assert_eq!(fixture.pass_on().await, 1);
    fixture.change("a", "alice", join("s1")).await;
    assert_eq!(fixture.pass_on().await, 0);
    let call = Command::JoinCall(CallFlags::IN_CALL);
    fixture.change("a", "alice", call).await;
    assert_eq!(fixture.pass_on().await, 1);
    // The last participant leaves the room, and so ends the call.
    fixture.change("a", "alice", Command::EndSession("s1".to_owned())).await;
    assert_eq!(fixture.pass_on().await, 1);
    let (room, users) = fixture.store.room_with_users(&token("a")).await.unwrap().unwrap();
    assert_eq!((room.room_type, users), (RoomType::Public, vec![caller("alice").actor.id]));
    assert!(fixture.store.room_with_users(&token("b")).await.unwrap().is_none());
}

async fn what_could_not_be_told_is_given_up(fixture: StoreFixture) {
    let update = fixture.claimed().await;
    let prune = async |before, now| fixture.store.prune_signaling(before, 10, now).await.unwrap();
    assert_eq!(prune(at(1), at(9)).await, 0, "claimed");
    assert_eq!(prune(at(0), at(10)).await, 0, "not old enough");
    let refused = SignalingUpdate { failures: 6, ..update };
    fixture.store.release_signaling(ONE, &refused, at(10), at(60)).await.unwrap();
    assert_eq!(prune(at(1), at(20)).await, 1, "refused, and delayed for longer than a claim");
    fixture.apply(&change("a", closed_until(Some(at(50))), 2)).await;
    assert_eq!((fixture.pass_on().await, fixture.claim_for(ONE, 0).await.len()), (1, 1));
    assert_eq!(prune(at(1), at(10)).await, 1, "the claim has expired");
    assert_eq!(fixture.claim_for(ONE, 60).await, []);
}

async fn a_server_that_is_no_longer_configured_is_forgotten(fixture: StoreFixture) {
    fixture.claimed().await;
    let (hour, day) = (60 * 60, 24 * 60 * 60);
    fixture.store.see_signaling_servers(&[TWO], at(day)).await.unwrap();
    let prune = async |now| fixture.store.prune_signaling(at(0), 10, now).await.unwrap();
    assert_eq!(prune(at(hour + 1)).await, 0, "nothing was given up");
    assert_eq!(fixture.claim_for(ONE, hour).await, []);
    prune(at(day + 1)).await;
    fixture.apply(&change("a", closed_until(Some(at(50))), 2)).await;
    assert_eq!(fixture.pass_on().await, 1);
    let claimed =
        (fixture.claim_for(ONE, day).await.len(), fixture.claim_for(TWO, day).await.len());
    assert_eq!(claimed, (0, 1));
}

async fn changes_are_passed_on_in_parts(fixture: StoreFixture) {
    fixture.store.see_signaling_servers(&[ONE], at(0)).await.unwrap();
    for room in ["a", "b", "c"] {
        fixture.database.insert_room(room).await;
        fixture.apply(&change(room, closed_until(None), 1)).await;
    }
    let (first, made_at) = fixture.store.first_change("").await.unwrap().unwrap();
    assert_eq!(made_at, at(0));
    assert_eq!(fixture.store.pass_on_changes(&first, 1, at(1)).await.unwrap(), 1);
    assert_eq!(rooms(&fixture.claim_for(ONE, 1).await), [("b", 1)]);
    assert_eq!(fixture.store.first_change("").await.unwrap().unwrap().0, first);
    assert_eq!(fixture.pass_on().await, 2);
    assert_eq!(fixture.store.first_change("").await.unwrap(), None);
}
