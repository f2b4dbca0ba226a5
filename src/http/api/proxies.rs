//! Trusted proxies: the address of a client behind them, and the user that they have authenticated.
//!
//! Headers that a proxy sets count only if they come from a network that the configuration names;
//! otherwise every client could set them. [`auth`](super::auth) asks this module first.

use std::net::{IpAddr, SocketAddr};
use std::sync::Once;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::ocs::OcsError;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The header of RFC 7239. It is not read: a proxy that sends the other ones may pass it on as the
/// client sent it.
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Carries the secret that makes a proxy's `user_header` count.
const SECRET: HeaderName = HeaderName::from_static("x-lobbyd-proxy-secret");

/// Largest networks in which each address may name users without a secret, by their prefixes.
const MIN_PREFIX_V4: u8 = 24;
const MIN_PREFIX_V6: u8 = 64;

/// The proxies whose headers are trusted.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    networks: Vec<IpNet>,
    user_header: Option<UserHeader>,
}

/// The header in which proxies name the user that they have authenticated.
#[derive(Debug, Clone)]
pub struct UserHeader {
    name: HeaderName,
    /// Digest of the secret that has to come with it.
    secret: Option<[u8; 32]>,
}

impl UserHeader {
    pub fn new(name: &str, secret: Option<&str>) -> Result<Self, String> {
        let name = name.parse().map_err(|error| format!("{name:?}: {error}"))?;
        Ok(Self { name, secret: secret.map(|secret| Sha256::digest(secret).into()) })
    }
}

/// Where a request comes from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Origin<'h> {
    pub(super) address: IpAddr,
    /// Whether the client uses TLS.
    pub(super) secure: bool,
    /// Id of the user that the proxy has authenticated.
    pub(super) user: Option<&'h str>,
}

impl Proxies {
    /// Trusts proxies in these networks, also to name an authenticated user.
    pub fn new(networks: &[IpNet], user_header: Option<UserHeader>) -> Result<Self, String> {
        if user_header.as_ref().is_some_and(|header| header.secret.is_none()) {
            if networks.is_empty() {
                return Err(
                    "only a proxy in http.trusted_proxies may name users; name one".to_owned()
                );
            }
            let is_large = |network: &&IpNet| match network {
                IpNet::V4(network) => network.prefix_len() < MIN_PREFIX_V4,
                IpNet::V6(network) => network.prefix_len() < MIN_PREFIX_V6,
            };
            if let Some(network) = networks.iter().find(is_large) {
                return Err(format!(
                    "each client in {network} of http.trusted_proxies could name users; name a \
                     smaller network, or set http.user_header_secret"
                ));
            }
        }
        Ok(Self { networks: networks.to_vec(), user_header })
    }

    /// The origin of a request that arrived from `peer`.
    pub(super) fn origin<'h>(
        &self,
        peer: IpAddr,
        headers: &'h HeaderMap,
    ) -> Result<Origin<'h>, OcsError> {
        if !self.trusts(peer) {
            return Ok(Origin { address: peer, secure: false, user: None });
        }
        let user = match &self.user_header {
            Some(header) => header.user(headers)?,
            None => None,
        };
        let secure = uses_tls(headers);
        Ok(Origin { address: self.client_address(headers).unwrap_or(peer), secure, user })
    }

    /// The address of the client behind a request that arrived from `peer`.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if self.trusts(peer) {
            return self.client_address(headers).unwrap_or_else(|| {
                report_unknown_client(peer, headers);
                peer
            });
        }
        if headers.contains_key(FORWARDED_FOR) {
            // Once, because every client can send the header.
            static REPORTED: Once = Once::new();
            REPORTED.call_once(|| {
                tracing::warn!(
                    client.address = %peer,
                    "X-Forwarded-For ignored: if this is your proxy, name it in http.trusted_proxies"
                );
            });
        }
        peer
    }

    /// Removes the name of the user that the proxy has authenticated.
    pub(super) fn forget_user(&self, headers: &mut HeaderMap) {
        if let Some(header) = &self.user_header {
            headers.remove(&header.name);
        }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The last forwarded address that is not one of a trusted proxy.
    fn client_address(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let forwarded: Vec<&str> = forwarded(headers).collect();
        forwarded.into_iter().rev().map_while(parse_address).find(|address| !self.trusts(*address))
    }
}

/// The forwarded addresses, as they are written.
fn forwarded(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Logs once why clients of a trusted proxy share the limits of its address.
fn report_unknown_client(proxy: IpAddr, headers: &HeaderMap) {
    static UNREADABLE: Once = Once::new();
    static OTHER_HEADER: Once = Once::new();
    if forwarded(headers).any(|address| parse_address(address).is_none()) {
        UNREADABLE.call_once(|| {
            tracing::warn!(
                proxy.address = %proxy,
                "X-Forwarded-For of a trusted proxy contains no address: its clients share one limit"
            );
        });
    } else if headers.contains_key(FORWARDED) && !headers.contains_key(FORWARDED_FOR) {
        OTHER_HEADER.call_once(|| {
            tracing::warn!(
                proxy.address = %proxy,
                "Forwarded ignored: its clients share one limit; have it send X-Forwarded-For"
            );
        });
    }
}

/// Whether the client uses TLS. Of several proxies, the first has seen the client.
fn uses_tls(headers: &HeaderMap) -> bool {
    let first = headers.get(FORWARDED_PROTO).and_then(|value| value.to_str().ok());
    let first = first.and_then(|value| value.split(',').next());
    first.is_some_and(|protocol| protocol.trim().eq_ignore_ascii_case("https"))
}

/// Reads an address as proxies write it: some add the port, brackets or a zone, some write IPv4 as
/// IPv6.
fn parse_address(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse().ok().map(|socket: SocketAddr| socket.ip());
    let alone = text.trim_start_matches('[').trim_end_matches(']').split('%').next()?;
    let address = alone.parse().ok().or_else(with_port)?;
    Some(IpAddr::to_canonical(&address))
}

impl UserHeader {
    /// The user that it names. If there are two headers, one may come from the client, so neither
    /// counts.
    fn user<'h>(&self, headers: &'h HeaderMap) -> Result<Option<&'h str>, OcsError> {
        let mut values = headers.get_all(&self.name).iter();
        let (value, more) = (values.next(), values.next());
        let user = value.map(|value| std::str::from_utf8(value.as_bytes()));
        match (user, more) {
            (None | Some(Ok("")), None) => Ok(None),
            (Some(Ok(id)), None) if self.is_proven(headers) => Ok(Some(id)),
            (Some(Ok(_)), None) => {
                let message = format!("the proxy has to send its secret in {SECRET}");
                Err(OcsError::new(StatusCode::UNAUTHORIZED, message))
            }
            _unclear => {
                let message = format!("the proxy has to name one user in {}, in UTF-8", self.name);
                Err(OcsError::new(StatusCode::BAD_REQUEST, message))
            }
        }
    }

    /// Digests are compared, because the time of a comparison tells how far two texts are the same.
    fn is_proven(&self, headers: &HeaderMap) -> bool {
        let digest = |value: &HeaderValue| -> [u8; 32] { Sha256::digest(value).into() };
        self.secret
            .is_none_or(|secret| headers.get(SECRET).is_some_and(|value| digest(value) == secret))
    }
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
        let client = |peer, headers: &HeaderMap| proxies.origin(peer, headers).unwrap().address;
        let forwarded = headers(&[(FORWARDED_FOR, "192.0.2.66, 192.0.2.7, 10.1.1.1")]);
        let outsider = address("203.0.113.5");
        assert_eq!(client(outsider, &forwarded), outsider);
        let proxy = address("10.2.2.2");
        assert_eq!(client(proxy, &forwarded), address("192.0.2.7"));
        assert_eq!(client(proxy, &HeaderMap::new()), proxy);
        for unknown in ["nonsense", "unknown", "_hidden", "192.0.2.66, unknown"] {
            assert_eq!(client(proxy, &headers(&[(FORWARDED_FOR, unknown)])), proxy, "{unknown}");
        }
        assert_eq!(client(proxy, &headers(&[(FORWARDED, "for=192.0.2.66")])), proxy);
        for same in [
            "192.0.2.7, ::ffff:10.0.0.1",
            "192.0.2.7:4711",
            "::ffff:192.0.2.7",
            "[::ffff:192.0.2.7]",
            "[::ffff:192.0.2.7]:4711",
        ] {
            let forwarded = headers(&[(FORWARDED_FOR, same)]);
            assert_eq!(client(proxy, &forwarded), address("192.0.2.7"), "{same}");
        }
        let zone = headers(&[(FORWARDED_FOR, "fe80::1%eth0")]);
        assert_eq!(client(proxy, &zone), address("fe80::1"));
    }

    #[test]
    fn the_first_proxy_says_whether_the_client_uses_tls() {
        for (protocols, secure) in [
            ("https", true),
            ("HTTPS", true),
            ("https, http", true),
            ("http, https", false),
            ("", false),
        ] {
            assert_eq!(uses_tls(&headers(&[(FORWARDED_PROTO, protocols)])), secure, "{protocols}");
        }
    }

    #[test]
    fn proxies_that_name_users_are_few_or_have_a_secret() {
        let refused = |network: &str, secret: Option<&str>| {
            let header = UserHeader::new("x-user", secret).unwrap();
            Proxies::new(&[network.parse().unwrap()], Some(header)).is_err()
        };
        assert!(!refused("10.1.2.0/24", None) && refused("10.1.0.0/16", None));
        assert!(!refused("fd00::/64", None) && refused("fd00::/56", None));
        assert!(!refused("0.0.0.0/0", Some("secret")));
        assert!(UserHeader::new("x user", None).is_err());
    }

    #[test]
    fn a_proxy_names_one_user_or_none() {
        let name = HeaderName::from_static("x-user");
        let named = |values: &[&'static str]| {
            let pairs: Vec<_> = values.iter().map(|value| (name.clone(), *value)).collect();
            let header = UserHeader::new("x-user", None).unwrap();
            header.user(&headers(&pairs)).map(|id| id.map(ToOwned::to_owned)).ok()
        };
        assert_eq!(named(&["alice"]), Some(Some("alice".to_owned())));
        assert_eq!((named(&[]), named(&[""])), (Some(None), Some(None)));
        assert_eq!(named(&["mallory", "alice"]), None);
    }

    #[test]
    fn a_user_counts_only_with_the_secret() {
        let header = UserHeader::new("x-user", Some("secret")).unwrap();
        let user = |pairs: &[(HeaderName, &'static str)]| {
            header.user(&headers(pairs)).map(|id| id.map(ToOwned::to_owned)).ok()
        };
        let named = (HeaderName::from_static("x-user"), "alice");
        assert_eq!(user(&[named.clone(), (SECRET, "secret")]), Some(Some("alice".to_owned())));
        assert_eq!(user(&[named.clone(), (SECRET, "guess")]), None);
        assert_eq!(user(&[named]), None);
        assert_eq!(user(&[]), Some(None), "others log in with a password");
    }
}
