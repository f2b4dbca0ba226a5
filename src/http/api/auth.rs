//! The requester: a user by HTTP Basic or by a trusted proxy's header, a guest by a cookie, or an
//! anonymous visitor.
//!
//! A client is recognised by a cookie that it gets when it joins a room: a user's clients have a
//! session each, and an anonymous visitor becomes a guest. The cookie is a secret that this server has
//! made. Other participants see only a digest of it and of the room, so guests need no table, and
//! nobody recognises them in another room. Passwords are verified by
//! [`Accounts`](crate::auth::Accounts), and permissions by
//! `domain`. Handlers use the extractors [`Requester`], [`UserOrGuest`] and [`AuthenticatedUser`].

use std::convert::Infallible;
use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum_extra::extract::CookieJar;
use axum_extra::extract::cookie::{Cookie, SameSite};
use headers::authorization::{Basic, Credentials};
use headers::{Authorization, HeaderMapExt};

use super::ocs::OcsError;
use super::origins::FromOtherSite;
use super::params::RoomPath;
use super::proxies::Origin;
use super::{Api, digest};
use crate::auth::{ClientSecret, ClientSecrets, Credential, LoginError, MAX_PASSWORD_BYTES};
use crate::domain::commands::Refusal;
use crate::domain::{Actor, Caller, ClientId, RoomToken};
use crate::http::server::Peer;

/// Name of the cookie with a client's secret, for clients without TLS.
pub(super) const CLIENT_COOKIE: &str = "lobbyd_client";

/// The same for clients with TLS. Browsers accept a cookie of this name only from this host itself,
/// not from another host of its domain.
const SECURE_CLIENT_COOKIE: &str = "__Host-lobbyd_client";

/// Longest `Authorization` header that is decoded: id and password of the greatest length.
const MAX_CREDENTIALS: usize = Basic::SCHEME.len() + 1 + 2 * MAX_PASSWORD_BYTES;

/// The sender of a request.
#[derive(Debug, Clone)]
pub(super) struct Requester {
    /// `None` is an anonymous visitor.
    pub(super) caller: Option<Caller>,
    pub(super) address: IpAddr,
    pub(super) login: Login,
    /// Whether the client uses TLS, as far as a trusted proxy says so.
    secure: bool,
    /// Whether a page of another site sent the request, one that may.
    from_other_site: bool,
}

impl Requester {
    pub(super) fn actor(&self) -> Option<&Actor> {
        self.caller.as_ref().map(|caller| &caller.actor)
    }

    /// The caller as one of their clients, with the cookie to set if it has none. An anonymous
    /// visitor becomes a guest of the room.
    pub(super) fn with_cookie(
        self,
        room: &RoomToken,
        secrets: &ClientSecrets,
    ) -> (Caller, CookieJar) {
        let cookies = CookieJar::new();
        if let Some(caller) = &self.caller
            && caller.client.is_some()
        {
            return (caller.clone(), cookies);
        }
        let secret = secrets.create();
        let client = Some(client_id(&secret));
        let caller = match self.caller {
            Some(user) => Caller { client, ..user },
            None => guest(&secret, room),
        };
        // Browsers give a cookie to a page of another site only if it says so, and only with TLS.
        let is_third_party = self.from_other_site && self.secure;
        let cookie = Cookie::build((client_cookie(self.secure), secret.as_str().to_owned()))
            .path("/")
            .http_only(true)
            .same_site(if is_third_party { SameSite::None } else { SameSite::Lax })
            .partitioned(is_third_party)
            .secure(self.secure);
        (caller, cookies.add(cookie))
    }
}

impl FromRequestParts<Api> for Requester {
    type Rejection = OcsError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, OcsError> {
        let Peer(peer) = *parts.extensions.get().expect("the server adds the peer");
        let headers = &parts.headers;
        let Origin { address, secure, user } = api.proxies.origin(peer, headers)?;
        let credential = if let Some(id) = user {
            Some(find_user(api, id).await?)
        } else if let Some(Authorization(basic)) = credentials(headers)? {
            Some(api.accounts.log_in(basic.username(), basic.password(), address).await?)
        } else {
            None
        };
        let secret = client_secret(headers, secure, &api.clients);
        let caller = match credential.as_ref().map(Credential::user) {
            Some(user) => Some(Caller {
                may_enable_sip: api.service.sip().may_enable(user),
                actor: Actor::user(&user.id),
                client: secret.as_ref().map(client_id),
                display_name: user.display_name.clone(),
            }),
            None => match secret {
                Some(secret) => {
                    let room = RoomPath::from_request_parts(parts, api).await.ok();
                    room.map(|RoomPath(room)| guest(&secret, &room))
                }
                None => None,
            },
        };
        let from_other_site = parts.extensions.get::<FromOtherSite>().is_some();
        let login = Login(credential);
        parts.extensions.insert(login.clone());
        Ok(Self { caller, address, login, secure, from_other_site })
    }
}

/// The login of a request that may wait: it can be revoked meanwhile. As a parameter of a handler, it
/// comes after the requester.
#[derive(Debug, Clone)]
pub(super) struct Login(Option<Credential>);

impl Login {
    /// Refuses what the requester may no longer see.
    pub(super) async fn check(&mut self, api: &Api) -> Result<(), LoginError> {
        if let Self(Some(credential)) = self {
            api.accounts.check(credential).await?;
        }
        Ok(())
    }
}

impl FromRequestParts<Api> for Login {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _api: &Api) -> Result<Self, Infallible> {
        Ok(parts.extensions.remove().expect("the requester comes first"))
    }
}

/// A requester who can take part in a room. For others no room exists: 404.
pub(super) struct UserOrGuest(pub(super) Caller);

impl FromRequestParts<Api> for UserOrGuest {
    type Rejection = OcsError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, OcsError> {
        let caller = Requester::from_request_parts(parts, api).await?.caller;
        caller.map(Self).ok_or_else(|| Refusal::NoRoom.into())
    }
}

/// A requester with an account, for what guests may not even try: 401.
pub(super) struct AuthenticatedUser(pub(super) Caller);

impl FromRequestParts<Api> for AuthenticatedUser {
    type Rejection = OcsError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, OcsError> {
        let caller = Requester::from_request_parts(parts, api).await?.caller;
        let user = caller.filter(|caller| caller.actor.is_user());
        user.map(Self).ok_or_else(|| Refusal::LoginNeeded.into())
    }
}

/// User and password of the `Authorization` header, RFC 7617.
fn credentials(headers: &HeaderMap) -> Result<Option<Authorization<Basic>>, OcsError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let is_usable = |Authorization(basic): &Authorization<Basic>| {
        let (id, password) = (basic.username(), basic.password());
        !id.is_empty() && !id.contains('\0') && password.len() <= MAX_PASSWORD_BYTES
    };
    let decoded = if value.len() <= MAX_CREDENTIALS { headers.typed_get() } else { None };
    match decoded.filter(is_usable) {
        Some(basic) => Ok(Some(basic)),
        None => Err(OcsError::new(StatusCode::UNAUTHORIZED, "log in with HTTP Basic")),
    }
}

async fn find_user(api: &Api, id: &str) -> Result<Credential, OcsError> {
    api.accounts.find_user(id).await?.ok_or_else(|| {
        let message = "this server has no user of the name that the proxy gives";
        OcsError::new(StatusCode::UNAUTHORIZED, message)
    })
}

/// A guest has another id in each room.
fn guest(secret: &ClientSecret, room: &RoomToken) -> Caller {
    Caller {
        actor: Actor::guest(digest([secret.as_str().as_bytes(), b" ", room.as_str().as_bytes()])),
        client: Some(client_id(secret)),
        display_name: String::new(),
        may_enable_sip: false,
    }
}

/// Another digest than that of a guest, which other participants see.
fn client_id(secret: &ClientSecret) -> ClientId {
    ClientId(digest([b"client ", secret.as_str().as_bytes()]))
}

fn client_cookie(secure: bool) -> &'static str {
    if secure { SECURE_CLIENT_COOKIE } else { CLIENT_COOKIE }
}

fn client_secret(
    headers: &HeaderMap,
    secure: bool,
    secrets: &ClientSecrets,
) -> Option<ClientSecret> {
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let cookies = values.flat_map(Cookie::split_parse).flatten();
    let mut ours = cookies.filter(|cookie| cookie.name() == client_cookie(secure));
    ours.find_map(|cookie| secrets.recognise(cookie.value()))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn credentials_are_read_as_rfc_7617_writes_them() {
        let read = |value| credentials(&headers(header::AUTHORIZATION, value));
        let Authorization(basic) = read("Basic YWxpY2U6c2U6Y3JldA==").unwrap().unwrap();
        assert_eq!((basic.username(), basic.password()), ("alice", "se:cret"));
        for wrong in ["Bearer abc", "Basic", "Basic %%%", "Basic YWxpY2U=", "Basic OnNlY3JldA=="] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(credentials(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn a_client_is_recognised_by_a_cookie_that_the_server_has_made() {
        let secrets = ClientSecrets::new("key");
        let secret = secrets.create();
        let cookies =
            format!("a=b; lobbyd_client=invented; lobbyd_client={}; c=d", secret.as_str());
        let plain = headers(header::COOKIE, &cookies);
        assert!(client_secret(&plain, false, &secrets) == Some(secret.clone()));
        assert!(client_secret(&plain, true, &secrets).is_none(), "another host may have set it");
        let secure =
            headers(header::COOKIE, &cookies.replace("lobbyd_client", "__Host-lobbyd_client"));
        assert!(client_secret(&secure, true, &secrets).is_some());
        assert!(client_secret(&secure, false, &secrets).is_none());
        let [one, other] = ["one", "other"].map(|room| RoomToken::parse(room).unwrap());
        let Caller { actor, client, .. } = guest(&secret, &one);
        assert_eq!(actor.id.len(), 40);
        assert!(!client.unwrap().0.contains(&actor.id));
        assert_ne!(actor.id, guest(&secret, &other).actor.id);
    }
}
