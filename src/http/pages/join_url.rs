//! Where the waiting room leads participants when it is open.

use url::Url;

/// What stands for the room in the template.
const TOKEN: &str = "{token}";

/// A template of a URL or of an absolute path, with the room's token.
#[derive(Debug, Clone)]
pub struct JoinUrl(String);

impl JoinUrl {
    pub fn new(template: &str) -> Result<Self, String> {
        let example = template.replace(TOKEN, "token");
        if example == template {
            return Err(format!(
                "{template:?} does not name the room: write {TOKEN} for its token"
            ));
        }
        let server = Url::parse("https://lobby.invalid").map_err(|error| error.to_string())?;
        let url = Url::options().base_url(Some(&server)).parse(&example);
        let is_web = |url: &Url| matches!(url.scheme(), "http" | "https");
        let is_path = example.starts_with('/');
        // For browsers, `//name` and `/\name` lead to another server.
        match url {
            Ok(url) if is_path && url.host() == server.host() => Ok(Self(template.to_owned())),
            Ok(url) if !is_path && is_web(&url) && url.host() != server.host() => {
                Ok(Self(template.to_owned()))
            }
            Ok(_) | Err(_) => Err(format!(
                "{template:?} is neither a URL with http or https nor a path that begins with /"
            )),
        }
    }

    pub(in crate::http) fn template(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_a_page() {
        for right in [
            "https://cloud.example.org/call/{token}",
            "http://localhost:3000/?room={token}",
            "/rooms/{token}#call",
        ] {
            assert!(JoinUrl::new(right).is_ok(), "{right}");
        }
        for (wrong, hint) in [
            ("https://cloud.example.org/call", "does not name the room"),
            ("javascript:alert('{token}')", "neither"),
            ("//evil.example/{token}", "neither"),
            ("/\\evil.example/{token}", "neither"),
            ("call/{token}", "neither"),
            ("https://{token", "does not name"),
            ("https://a b/{token}", "neither"),
        ] {
            let problem = JoinUrl::new(wrong).unwrap_err();
            assert!(problem.contains(hint), "{wrong}: {problem}");
        }
    }
}
