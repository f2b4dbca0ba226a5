//! Pages for people: their files, embedded in the program, and the headers that protect them.
//!
//! A page is the same for everybody; its script asks the server for the rest. Nothing here knows what
//! a page shows: [`api`](super::api) serves the waiting room, and [`ops`](super::ops) its own page.

mod join_url;

use std::fmt::Write;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

pub use self::join_url::JoinUrl;

/// Scripts, styles, pictures and requests of this server only, nothing inline, and no page of another
/// site around it.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
);

/// The page names its assets by their version, so what such a path leads to never changes.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// For the page itself, and for an asset of another version: during an update, a browser may have the page of
/// one process and ask another one for its assets.
const REVALIDATED: HeaderValue = HeaderValue::from_static("no-cache");

/// Bytes of the hash that is the version.
const VERSION_BYTES: usize = 10;

/// A file that a page loads.
pub(super) struct Asset {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
}

/// A page with its assets.
pub(super) struct Page {
    html: Bytes,
    assets: &'static [Asset],
    version: String,
}

impl Page {
    /// `{{version}}` in the text becomes the version of the assets, and `{{name}}` the value of that
    /// name.
    pub(super) fn new(html: &str, assets: &'static [Asset], values: &[(&str, &str)]) -> Self {
        let escaped = values.iter().map(|(name, value)| (*name, escape(value)));
        let html = escaped.fold(html.to_owned(), |html, (name, value)| {
            html.replace(&["{{", name, "}}"].concat(), &value)
        });
        let texts = assets.iter().map(|asset| asset.text).chain([html.as_str()]);
        let version = version(texts);
        let html = html.replace("{{version}}", &version);
        Self { html: html.into(), assets, version }
    }

    /// The page, or 304 if the browser has it.
    pub(super) fn html(&self, status: StatusCode, headers: &HeaderMap) -> Response {
        let tag = HeaderValue::try_from(["\"", &self.version, "\""].concat());
        let tag = (header::ETAG, tag.expect("a quoted hexadecimal number"));
        let cache = (header::CACHE_CONTROL, REVALIDATED);
        if status == StatusCode::OK && self.is_known(headers) {
            return (StatusCode::NOT_MODIFIED, [tag, cache]).into_response();
        }
        let media_type = HeaderValue::from_static("text/html; charset=utf-8");
        let headers = [
            tag,
            cache,
            (header::CONTENT_TYPE, media_type),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        ];
        (status, headers, self.html.clone()).into_response()
    }

    pub(super) fn asset(&self, version: &str, name: &str) -> Response {
        let Some(asset) = self.assets.iter().find(|asset| asset.name == name) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let cache = if version == self.version { IMMUTABLE } else { REVALIDATED };
        let headers = [
            (header::CACHE_CONTROL, cache),
            (header::CONTENT_TYPE, HeaderValue::from_static(media_type(name))),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        ];
        (headers, asset.text).into_response()
    }

    /// A compressed representation has `-gzip` or the like after its tag.
    fn is_known(&self, headers: &HeaderMap) -> bool {
        let values = headers.get_all(header::IF_NONE_MATCH).iter();
        let mut texts = values.filter_map(|value| value.to_str().ok());
        texts.any(|text| text.contains(&["\"", &self.version].concat()))
    }
}

fn version<'t>(texts: impl Iterator<Item = &'t str>) -> String {
    let digest = texts.fold(Sha256::new(), Sha256::chain_update).finalize();
    digest.iter().take(VERSION_BYTES).fold(String::new(), |mut version, byte| {
        write!(version, "{byte:02x}").expect("writing to a String does not fail");
        version
    })
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        _svg => "image/svg+xml",
    }
}

/// For an attribute of HTML.
fn escape(value: &str) -> String {
    value
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASSETS: &[Asset] = &[Asset { name: "a.js", text: "1" }];

    fn page(value: &str) -> Page {
        Page::new("<a href=\"{{url}}\">{{version}}</a>", ASSETS, &[("url", value)])
    }

    #[test]
    fn values_stay_in_their_attribute() {
        let html = page("/a?b=1&c=\"><script>").html;
        let html = std::str::from_utf8(&html).unwrap();
        assert!(html.contains("href=\"/a?b=1&amp;c=&quot;&gt;&lt;script&gt;\""), "{html}");
    }

    #[test]
    fn another_page_has_another_tag() {
        let tag = |page: &Page| {
            page.html(StatusCode::OK, &HeaderMap::new()).headers()[header::ETAG].clone()
        };
        let (one, other) = (page("/one"), page("/other"));
        assert_ne!(tag(&one), tag(&other));
        let weak = format!("W/\"{}-gzip\"", one.version);
        for known in [tag(&one), HeaderValue::try_from(weak).unwrap()] {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, known)]);
            assert_eq!(one.html(StatusCode::OK, &headers).status(), StatusCode::NOT_MODIFIED);
            assert_eq!(other.html(StatusCode::OK, &headers).status(), StatusCode::OK);
        }
    }

    #[test]
    fn an_asset_of_another_version_is_not_kept() {
        let page = page("/");
        let cache =
            |version: &str| page.asset(version, "a.js").headers()[header::CACHE_CONTROL].clone();
        assert_eq!(cache(&page.version), IMMUTABLE);
        assert_eq!(cache("0"), REVALIDATED);
        assert_eq!(page.asset("0", "b.js").status(), StatusCode::NOT_FOUND);
    }
}
