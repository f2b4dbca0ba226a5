//! Who is asking: a user by HTTP Basic or by a trusted proxy's word, a guest by a cookie, or a
//! stranger.
//!
//! A guest's cookie is a secret; what others see of the guest is a digest of it, so there is nothing
//! to look up. Headers that a proxy sets count only when they come from a proxy that the
//! configuration names.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, StatusCode, header, request::Parts},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ipnet::IpNet;

use super::{Api, digest, ocs::OcsError};
use crate::{
    auth::{LoginError, MAX_PASSWORD_BYTES},
    domain::{Actor, Caller, User, commands::Refusal},
    http::server::Peer,
};

/// Name of a guest's cookie.
const COOKIE: &str = "lobbyd_guest";

/// A guest's secret: bytes of chance, and their length in base 64.
const SECRET_BYTES: usize = 32;
const SECRET_LENGTH: usize = 43;

/// Longest credentials that are looked at, encoded: a name and a password of the longest kind.
const MAX_CREDENTIALS: usize = 2 * MAX_PASSWORD_BYTES;

/// Set by proxies.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Sent by clients of Nextcloud with every request; a form of a foreign page cannot.
const OCS_REQUEST: HeaderName = HeaderName::from_static("ocs-apirequest");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whose headers are believed.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    trusted: Vec<IpNet>,
    user_header: Option<HeaderName>,
}

impl Proxies {
    /// Believes proxies in these networks, also when they name a user in this header.
    ///
    /// # Errors
    ///
    /// The text cannot be the name of a header.
    pub fn new(trusted: &[IpNet], user_header: Option<&str>) -> Result<Self, String> {
        if user_header.is_some() && trusted.is_empty() {
            return Err("only a proxy in http.trusted_proxies may name users; name one".to_owned());
        }
        let user_header = user_header
            .map(|name| name.parse().map_err(|error| format!("{name:?}: {error}")))
            .transpose()?;
        Ok(Self { trusted: trusted.to_vec(), user_header })
    }

    fn trust(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// The client's address: that of the peer, or the last one before the proxies.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.trust(peer) {
            return peer;
        }
        let forwarded: Vec<&str> = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        forwarded
            .iter()
            .rev()
            .map_while(|address| address_of(address.trim()))
            .find(|address| !self.trust(*address))
            .unwrap_or(peer)
    }
}

/// An address as proxies write it: some add the port, some write IPv4 as IPv6.
fn address_of(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse().ok().map(|socket: SocketAddr| socket.ip());
    let address = text.parse().ok().or_else(with_port)?;
    Some(IpAddr::to_canonical(&address))
}

/// The one who sends a request.
#[derive(Debug, Clone)]
pub(super) struct Requester {
    /// Nobody, for somebody without login and cookie.
    pub(super) caller: Option<Caller>,
    /// Where the request comes from.
    pub(super) address: IpAddr,
    /// Whether a cookie may go out over TLS only.
    secure: bool,
}

impl Requester {
    /// The caller, who takes part in some room; for a stranger there is none.
    pub(super) fn participant(self) -> Result<Caller, OcsError> {
        self.caller.ok_or_else(|| Refusal::NoRoom.into())
    }

    /// The actor, if anything can be known of him.
    pub(super) fn actor(&self) -> Option<&Actor> {
        self.caller.as_ref().map(|caller| &caller.actor)
    }

    /// The caller; a stranger becomes a guest, with a cookie to set.
    pub(super) fn or_create_guest(self) -> (Caller, Option<String>) {
        if let Some(caller) = self.caller {
            return (caller, None);
        }
        let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; SECRET_BYTES]>());
        let secure = if self.secure { "; Secure" } else { "" };
        let cookie = format!("{COOKIE}={secret}; Path=/; HttpOnly; SameSite=Lax{secure}");
        (guest(&secret), Some(cookie))
    }
}

/// A user: what guests may not even try.
pub(super) struct AuthenticatedUser(pub(super) Caller);

impl FromRequestParts<Api> for AuthenticatedUser {
    type Rejection = OcsError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, OcsError> {
        match Requester::from_request_parts(parts, api).await?.caller {
            Some(caller) if caller.actor.is_user() => Ok(Self(caller)),
            Some(_) | None => Err(OcsError::login_needed()),
        }
    }
}

impl FromRequestParts<Api> for Requester {
    type Rejection = OcsError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, OcsError> {
        let headers = &parts.headers;
        if !parts.method.is_safe() {
            refuse_foreign_pages(headers)?;
        }
        let Peer(peer) = *parts.extensions.get().expect("the server notes the peer");
        let proxies = &api.proxies;
        let by_proxy = proxies.trust(peer);
        let secure = by_proxy && text(headers, &FORWARDED_PROTO) == Some("https");
        let address = proxies.client(peer, headers);
        let named = match proxies.user_header.as_ref().filter(|_| by_proxy) {
            Some(name) => named_user(headers, name)?,
            None => None,
        };
        let user = match (named, headers.get(header::AUTHORIZATION)) {
            (Some(id), _) => Some(known(api, id).await?),
            (None, Some(basic)) => {
                Some(log_in(api, basic.to_str().unwrap_or_default(), address).await?)
            }
            (None, None) => None,
        };
        let caller = match user {
            Some(user) => Some(Caller {
                may_enable_sip: api.service.sip().may_enable(&user),
                actor: Actor::user(user.id),
                display_name: user.display_name,
            }),
            None => cookie(headers).map(guest),
        };
        Ok(Self { caller, address, secure })
    }
}

/// The user whom a proxy names. Of two names one may be the client's own, so none counts.
fn named_user<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, OcsError> {
    let mut values = headers.get_all(name).iter();
    let (value, more) = (values.next(), values.next());
    let named = value.map(|value| std::str::from_utf8(value.as_bytes()));
    match (named, more) {
        (None | Some(Ok("")), None) => Ok(None),
        (Some(Ok(id)), None) => Ok(Some(id)),
        _unclear => {
            let message = format!("the proxy has to name one user in {name}, in UTF-8");
            Err(OcsError::new(StatusCode::BAD_REQUEST, message))
        }
    }
}

async fn known(api: &Api, id: &str) -> Result<User, OcsError> {
    api.accounts.find_user(id).await?.ok_or_else(|| {
        let message = "this server has no user of the name that the proxy gives";
        OcsError::new(StatusCode::UNAUTHORIZED, message)
    })
}

async fn log_in(api: &Api, authorization: &str, from: IpAddr) -> Result<User, OcsError> {
    let (id, password) = basic_credentials(authorization)
        .ok_or_else(|| OcsError::new(StatusCode::UNAUTHORIZED, "log in with HTTP Basic"))?;
    Ok(api.accounts.log_in(&id, &password, from).await?)
}

impl From<LoginError> for OcsError {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Wrong => Self::new(StatusCode::UNAUTHORIZED, "user or password is wrong"),
            LoginError::Throttled(wait) => Self::throttled(wait),
            LoginError::Store(error) => error.into(),
        }
    }
}

/// User and password of an `Authorization` header, RFC 7617.
fn basic_credentials(authorization: &str) -> Option<(String, String)> {
    let (scheme, encoded) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > MAX_CREDENTIALS {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (id, password) = text.split_once(':')?;
    let usable = !id.is_empty() && !id.contains('\0') && password.len() <= MAX_PASSWORD_BYTES;
    usable.then(|| (id.to_owned(), password.to_owned()))
}

fn guest(secret: &str) -> Caller {
    Caller {
        actor: Actor::guest(digest(secret.as_bytes())),
        display_name: String::new(),
        may_enable_sip: false,
    }
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == COOKIE).then_some(value))
        .filter(|secret| secret.len() == SECRET_LENGTH)
}

/// A browser sends along the login that it remembers, also with a request of a foreign page.
fn refuse_foreign_pages(headers: &HeaderMap) -> Result<(), OcsError> {
    let foreign = match text(headers, &FETCH_SITE) {
        Some(site) => !matches!(site, "same-origin" | "none"),
        // Browsers send it over TLS only; its origin they always send with what changes something.
        None => text(headers, &header::ORIGIN).is_some_and(|origin| {
            let host = origin.split_once("://").map(|(_scheme, host)| host);
            host != text(headers, &header::HOST)
        }),
    };
    if foreign && !headers.contains_key(OCS_REQUEST) {
        let message = "a request from another site needs the header OCS-APIRequest: true";
        return Err(OcsError::new(StatusCode::FORBIDDEN, message));
    }
    Ok(())
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_a_trusted_proxy_may_name_the_client() {
        let proxies = Proxies::new(&["10.0.0.0/8".parse().unwrap()], None).unwrap();
        let forwarded = headers(&[(FORWARDED_FOR, "192.0.2.66, 192.0.2.7, 10.1.1.1")]);
        let stranger = address("203.0.113.5");
        assert_eq!(proxies.client(stranger, &forwarded), stranger);
        let proxy = address("10.2.2.2");
        assert_eq!(proxies.client(proxy, &forwarded), address("192.0.2.7"));
        assert_eq!(proxies.client(proxy, &HeaderMap::new()), proxy);
        assert_eq!(proxies.client(proxy, &headers(&[(FORWARDED_FOR, "nonsense")])), proxy);
        for same in ["192.0.2.7, ::ffff:10.0.0.1", "192.0.2.7:4711", "::ffff:192.0.2.7"] {
            let forwarded = headers(&[(FORWARDED_FOR, same)]);
            assert_eq!(proxies.client(proxy, &forwarded), address("192.0.2.7"), "{same}");
        }
    }

    #[test]
    fn a_proxy_names_one_user_or_none() {
        let name = HeaderName::from_static("x-user");
        let named = |values: &[&'static str]| {
            let pairs: Vec<_> = values.iter().map(|value| (name.clone(), *value)).collect();
            named_user(&headers(&pairs), &name).map(|id| id.map(ToOwned::to_owned)).ok()
        };
        assert_eq!(named(&["alice"]), Some(Some("alice".to_owned())));
        assert_eq!((named(&[]), named(&[""])), (Some(None), Some(None)));
        assert_eq!(named(&["mallory", "alice"]), None);
    }

    #[test]
    fn credentials_are_read_as_rfc_7617_writes_them() {
        let credentials = basic_credentials("Basic YWxpY2U6c2U6Y3JldA==").unwrap();
        assert_eq!(credentials, ("alice".to_owned(), "se:cret".to_owned()));
        for wrong in ["Bearer abc", "Basic", "Basic %%%", "Basic YWxpY2U=", "Basic OnNlY3JldA=="] {
            assert_eq!(basic_credentials(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_guest_is_known_by_a_digest_of_the_cookie() {
        let with = "a=b; lobbyd_guest=0123456789012345678901234567890123456789abc; c=d";
        let with = headers(&[(header::COOKIE, with)]);
        let secret = cookie(&with).unwrap();
        assert_eq!(secret, "0123456789012345678901234567890123456789abc");
        let id = guest(secret).actor.id;
        assert_eq!(id.len(), 40);
        assert!(!id.contains(secret));
        assert_eq!(cookie(&headers(&[(header::COOKIE, "lobbyd_guest=")])), None);
    }

    #[test]
    fn a_foreign_page_cannot_use_a_login_that_the_browser_remembers() {
        assert!(refuse_foreign_pages(&headers(&[(FETCH_SITE, "cross-site")])).is_err());
        let client = headers(&[(FETCH_SITE, "cross-site"), (OCS_REQUEST, "true")]);
        assert!(refuse_foreign_pages(&client).is_ok());
        assert!(refuse_foreign_pages(&HeaderMap::new()).is_ok());
        let page = |origin| headers(&[(header::ORIGIN, origin), (header::HOST, "lobby.example")]);
        assert!(refuse_foreign_pages(&page("http://lobby.example")).is_ok());
        assert!(refuse_foreign_pages(&page("http://evil.example")).is_err());
        assert!(refuse_foreign_pages(&headers(&[(FETCH_SITE, "same-site")])).is_err());
    }
}
