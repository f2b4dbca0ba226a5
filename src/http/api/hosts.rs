//! The names under which clients may reach the API.
//!
//! A page of another site can have its own name lead to this server (DNS rebinding). For the browser,
//! both are one site then, so only the `Host` header tells them apart.

use axum::extract::Request;
use axum::http::header;
use axum::http::uri::Authority;

/// Empty for any name.
#[derive(Debug, Clone, Default)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// Accepts names and addresses, without a port.
    pub fn new(names: &[String]) -> Result<Self, String> {
        let parse = |name: &String| match name.parse::<Authority>() {
            Ok(authority) if authority.host() == name => Ok(name.to_ascii_lowercase()),
            Ok(_) | Err(_) => Err(format!("{name:?} is no name of a host without a port")),
        };
        names.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether each name that the request gives is one of these.
    pub(super) fn allow<B>(&self, request: &Request<B>) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let in_target = request.uri().authority().cloned().map(Some);
        let headers = request.headers().get_all(header::HOST).iter();
        let in_headers = headers.map(|value| value.to_str().ok()?.parse::<Authority>().ok());
        let mut named = in_target.into_iter().chain(in_headers).peekable();
        named.peek().is_some()
            && named.all(|authority| authority.is_some_and(|authority| self.has(authority.host())))
    }

    fn has(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        self.0.iter().any(|name| name.eq_ignore_ascii_case(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_names_are_allowed() {
        let hosts = Hosts::new(&["Lobby.example".to_owned(), "[::1]".to_owned()]).unwrap();
        let allows = |target: &str, names: &[&str]| {
            let request = names
                .iter()
                .fold(Request::get(target), |request, name| request.header(header::HOST, *name));
            hosts.allow(&request.body(()).unwrap())
        };
        for name in ["lobby.example", "LOBBY.EXAMPLE:8080", "lobby.example.", "[::1]:8080"] {
            assert!(allows("/", &[name]), "{name}");
        }
        for name in ["evil.example", "lobby.example.evil.example", "", "127.0.0.1:8080"] {
            assert!(!allows("/", &[name]), "{name}");
        }
        assert!(!allows("/", &[]));
        assert!(!allows("/", &["lobby.example", "evil.example"]));
        assert!(!allows("http://evil.example/", &["lobby.example"]));
        assert!(Hosts::default().allow(&Request::get("/").body(()).unwrap()));
        for wrong in ["https://lobby.example", "lobby.example:8080", "a b", ""] {
            assert!(Hosts::new(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
