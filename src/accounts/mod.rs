//! stub
use crate::store::{Database, StoreError, User};
use std::{net::IpAddr, sync::Arc, time::Duration};
pub struct Passwords;
impl Passwords {
    pub fn new() -> Self {
        Self
    }
    pub async fn hash(&self, p: &str) -> String {
        p.to_owned()
    }
    pub async fn fits(&self, p: &str, h: &str) -> bool {
        p == h
    }
}
pub struct Accounts {
    users: Arc<dyn Database>,
    passwords: Arc<Passwords>,
}
#[derive(Debug)]
pub enum LoginError {
    Wrong,
    Throttled(Duration),
    Store(StoreError),
}
impl Accounts {
    pub fn new(users: Arc<dyn Database>, passwords: Arc<Passwords>) -> Self {
        Self { users, passwords }
    }
    pub async fn log_in(&self, id: &str, p: &str, _from: IpAddr) -> Result<User, LoginError> {
        match self.users.user(id).await.map_err(LoginError::Store)? {
            Some((user, hash)) if self.passwords.fits(p, &hash).await => Ok(user),
            _ => Err(LoginError::Wrong),
        }
    }
    pub async fn known(&self, id: &str) -> Result<Option<User>, StoreError> {
        Ok(self.users.user(id).await?.map(|(u, _)| u))
    }
}
