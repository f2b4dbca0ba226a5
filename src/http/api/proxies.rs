//! Trusted proxies: the address of a client behind them, and the user that they have authenticated.
//!
//! Headers that a proxy sets count only if they come from a network that the configuration names;
//! otherwise every client could set them. [`auth`](super::auth) asks this module first.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, StatusCode};
use ipnet::IpNet;

use super::ocs::OcsError;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The proxies whose headers are trusted.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    networks: Vec<IpNet>,
    user_header: Option<HeaderName>,
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
    /// Trusts proxies in these networks, also to name an authenticated user in `user_header`.
    pub fn new(networks: &[IpNet], user_header: Option<&str>) -> Result<Self, String> {
        if user_header.is_some() && networks.is_empty() {
            return Err("only a proxy in http.trusted_proxies may name users; name one".to_owned());
        }
        let user_header = user_header
            .map(|name| name.parse().map_err(|error| format!("{name:?}: {error}")))
            .transpose()?;
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
            Some(name) => named_user(headers, name)?,
            None => None,
        };
        let secure = uses_tls(headers);
        Ok(Origin { address: self.client_address(headers).unwrap_or(peer), secure, user })
    }

    /// The address of the client behind a request that arrived from `peer`.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let forwarded = if self.trusts(peer) { self.client_address(headers) } else { None };
        forwarded.unwrap_or(peer)
    }

    /// Removes the name of the user that the proxy has authenticated.
    pub(super) fn forget_user(&self, headers: &mut HeaderMap) {
        if let Some(name) = &self.user_header {
            headers.remove(name);
        }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The last forwarded address that is not one of a trusted proxy.
    fn client_address(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let forwarded: Vec<&str> = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        forwarded
            .into_iter()
            .rev()
            .map_while(|address| parse_address(address.trim()))
            .find(|address| !self.trusts(*address))
    }
}

/// Whether the client uses TLS. Of several proxies, the first has seen the client.
fn uses_tls(headers: &HeaderMap) -> bool {
    let first = headers.get(FORWARDED_PROTO).and_then(|value| value.to_str().ok());
    let first = first.and_then(|value| value.split(',').next());
    first.is_some_and(|protocol| protocol.trim().eq_ignore_ascii_case("https"))
}

/// Reads an address as proxies write it: some add the port, some write IPv4 as IPv6.
fn parse_address(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse().ok().map(|socket: SocketAddr| socket.ip());
    let address = text.parse().ok().or_else(with_port)?;
    Some(IpAddr::to_canonical(&address))
}

/// The user in the header `name`. If there are two, one may come from the client, so neither
/// counts.
fn named_user<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, OcsError> {
    let mut values = headers.get_all(name).iter();
    let (value, more) = (values.next(), values.next());
    let user = value.map(|value| std::str::from_utf8(value.as_bytes()));
    match (user, more) {
        (None | Some(Ok("")), None) => Ok(None),
        (Some(Ok(id)), None) => Ok(Some(id)),
        _unclear => {
            let message = format!("the proxy has to name one user in {name}, in UTF-8");
            Err(OcsError::new(StatusCode::BAD_REQUEST, message))
        }
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
        assert_eq!(client(proxy, &headers(&[(FORWARDED_FOR, "nonsense")])), proxy);
        for same in ["192.0.2.7, ::ffff:10.0.0.1", "192.0.2.7:4711", "::ffff:192.0.2.7"] {
            let forwarded = headers(&[(FORWARDED_FOR, same)]);
            assert_eq!(client(proxy, &forwarded), address("192.0.2.7"), "{same}");
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
}
